import json

import pytest

from recap.errors import RecapError
from recap.hashing import digest_json, sha256_file, stable_fraction
from recap.io import (
    atomic_path,
    iter_jsonl,
    read_json,
    write_evidence,
    write_json,
    write_jsonl,
)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_failing_row_generator_leaves_nothing(tmp_path):
    def rows():
        yield {"a": 1}
        raise RecapError("bad second row")

    with pytest.raises(RecapError):
        write_jsonl(tmp_path / "x.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_jsonl_round_trip_keeps_unicode(tmp_path):
    rows = [{"id": "一", "text": "ä\u2028b"}, {"id": "2", "text": ""}]
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, rows) == 2
    assert list(iter_jsonl(path)) == rows


def test_bad_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    with pytest.raises(RecapError, match=r"rows\.jsonl, line 2"):
        list(iter_jsonl(path))


def test_jsonl_in_another_encoding_names_the_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\r\n{"a": "caf\u00e9"}\n'.encode("latin-1"))
    rows = iter_jsonl(path)
    assert next(rows) == {"a": 1}
    with pytest.raises(RecapError, match=r"rows\.jsonl, line 2: not UTF-8"):
        next(rows)


def test_hashes_ignore_key_order_and_see_content(tmp_path):
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert sha256_file(path).startswith("ba7816bf8f01cfea")


def test_stable_fraction_is_uniform_and_stable():
    values = [stable_fraction("seed", index) for index in range(4000)]
    assert 0.48 < sum(values) / len(values) < 0.52
    assert values == [stable_fraction("seed", index) for index in range(4000)]
    assert stable_fraction("ab", "c") != stable_fraction("a", "bc")


def test_digest_tensors_sees_name_dtype_shape_and_bytes():
    import torch

    from recap.hashing import digest_tensors

    base = digest_tensors({"w": torch.ones(2, 3)})
    variants = [
        {"v": torch.ones(2, 3)},
        {"w": torch.ones(3, 2)},
        {"w": torch.ones(2, 3, dtype=torch.float64)},
        {"w": torch.zeros(2, 3)},
    ]
    assert base == digest_tensors({"w": torch.ones(2, 3)})
    assert all(digest_tensors(variant) != base for variant in variants)
    assert json.dumps(base)


def test_a_failed_gate_leaves_a_copy_that_snakemake_does_not_delete(tmp_path):
    report = tmp_path / "check.json"
    write_evidence(report, {"passed": False}, passed=False)
    assert read_json(tmp_path / "check.failed.json") == {"passed": False}
    write_evidence(report, {"passed": True}, passed=True)
    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]
