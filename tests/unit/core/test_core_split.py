import json
import subprocess
import sys

import pytest

from recap.curate import split
from recap.curate.split import IndexedLines, split_shard
from recap.errors import RecapError
from recap.io import write_json


def corpus(folder, records: int) -> list[bytes]:
    """Lines of unequal length, some of several bytes a character, and their index."""
    lines = [
        json.dumps({"id": str(i), "t": "ü" * (i % 7)}, ensure_ascii=False) for i in range(records)
    ]
    with (folder / "v.jsonl").open("wb") as stream:
        writer = IndexedLines(stream)
        for text in lines:
            writer.write(text + "\n")
    write_json(folder / "v.index.json", writer.index())
    return [text.encode() + b"\n" for text in lines]


def cut(folder, shard: int, count: int, size: int) -> bytes:
    out = folder / "out" / f"{shard:05d}.jsonl"
    written = split_shard(
        folder / "v.jsonl",
        index=folder / "v.index.json",
        shard=shard,
        count=count,
        shard_size=size,
        out=out,
    )
    assert written == out.read_bytes().count(b"\n")
    return out.read_bytes()


def test_the_command_concatenates_to_the_input(tmp_path):
    lines = corpus(tmp_path, 7)
    for index in range(3):
        subprocess.run(
            [
                *(sys.executable, "scripts/split_shard.py"),
                *("--records", tmp_path / "v.jsonl", "--offsets", tmp_path / "v.index.json"),
                *("--index", str(index), "--count", "3", "--shard-size", "3"),
                *("--out", tmp_path / f"{index:05d}.jsonl"),
            ],
            check=True,
        )
    parts = [(tmp_path / f"{index:05d}.jsonl").read_bytes() for index in range(3)]
    assert b"".join(parts) == b"".join(lines)
    assert [part.count(b"\n") for part in parts] == [3, 3, 1]


@pytest.mark.parametrize("stride", [1, 3, 4, 100])
@pytest.mark.parametrize(("records", "size"), [(7, 3), (9, 3), (3, 1), (25, 4)])
def test_shards_concatenate_to_the_input(tmp_path, monkeypatch, records, size, stride):
    monkeypatch.setattr(split, "_STRIDE", stride)
    lines = corpus(tmp_path, records)
    count = -(-records // size)
    parts = [cut(tmp_path, shard, count, size) for shard in range(count)]
    assert b"".join(parts) == b"".join(lines)
    assert all(parts)


def test_a_shard_reads_no_other_shards_bytes(tmp_path, monkeypatch):
    """Every byte outside a shard may be replaced, line ends included."""
    monkeypatch.setattr(split, "_STRIDE", 10)
    lines = corpus(tmp_path, 50)
    for shard in range(5):
        start = sum(map(len, lines[: 10 * shard]))
        own = b"".join(lines[10 * shard : 10 * shard + 10])
        after = sum(map(len, lines)) - start - len(own)
        (tmp_path / "v.jsonl").write_bytes(b"\xff" * start + own + b"\xff" * after)
        assert cut(tmp_path, shard, 5, 10) == own


def test_an_index_of_another_file_is_refused(tmp_path):
    corpus(tmp_path, 9)
    (tmp_path / "v.jsonl").write_bytes((tmp_path / "v.jsonl").read_bytes() + b"{}\n")
    with pytest.raises(RecapError, match=r"is of a file of \d+; validate the corpus again"):
        cut(tmp_path, 0, 3, 3)
    write_json(tmp_path / "v.index.json", {"records": 9})
    with pytest.raises(RecapError, match="is not an index"):
        cut(tmp_path, 0, 3, 3)


def test_too_many_records_for_the_shards_are_refused(tmp_path):
    corpus(tmp_path, 9)
    with pytest.raises(RecapError, match="cannot cut 9 items into 2"):
        cut(tmp_path, 0, 2, 3)
