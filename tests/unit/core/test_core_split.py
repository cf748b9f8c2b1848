import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("records", "size"), [(7, 3), (9, 3), (3, 1)])
def test_shards_concatenate_to_the_input(tmp_path, records, size):
    lines = [json.dumps({"id": str(index)}) + "\n" for index in range(records)]
    (tmp_path / "v.jsonl").write_text("".join(lines), encoding="utf-8")
    count = -(-records // size)
    for index in range(count):
        subprocess.run(
            [
                *(sys.executable, "scripts/split_shard.py"),
                *("--records", tmp_path / "v.jsonl", "--index", str(index)),
                *("--count", str(count), "--shard-size", str(size)),
                *("--out", tmp_path / f"{index:05d}.jsonl"),
            ],
            check=True,
        )
    parts = [(tmp_path / f"{index:05d}.jsonl").read_text() for index in range(count)]
    assert "".join(parts) == "".join(lines)
    assert all(parts)
