import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.errors import RecapError
from recap.shards import (
    expand_ranges,
    fixed_bounds,
    range_flag,
    shard_bounds,
    shard_count,
    shard_names,
    shard_range,
)


@given(st.integers(1, 500), st.data())
def test_balanced_bounds_cover_everything_once(total, data):
    count = data.draw(st.integers(1, total))
    bounds = shard_bounds(total, count)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(total))
    sizes = [stop - start for start, stop in bounds]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 50), st.integers(1, 12), st.data())
def test_fixed_bounds_cover_everything_once_and_are_never_empty(size, count, data):
    total = data.draw(st.integers(count, size * count))
    bounds = fixed_bounds(total, size, count)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(total))
    assert all(0 < stop - start <= size for start, stop in bounds)


def test_a_growing_corpus_keeps_its_finished_shards():
    before = fixed_bounds(280, 100, 3)
    after = fixed_bounds(390, 100, 4)
    assert before[:2] == after[:2] == [(0, 100), (100, 200)]


@pytest.mark.parametrize(("total", "count"), [(0, 1), (3, 4), (3, 0)])
def test_impossible_cuts_are_refused(total, count):
    with pytest.raises(RecapError):
        shard_bounds(total, count)


def test_fixed_bounds_refuse_what_cannot_fit():
    with pytest.raises(RecapError):
        fixed_bounds(301, 100, 3)
    with pytest.raises(RecapError):
        fixed_bounds(2, 100, 3)


def test_shard_count_and_names():
    assert shard_count(400_000, 10_000) == 40
    assert shard_count(1, 10_000) == 1
    assert shard_count(10_001, 10_000) == 2
    assert shard_names(3) == ["00000", "00001", "00002"]


@pytest.mark.parametrize("count", [1, 2, 3, 250])
@pytest.mark.parametrize("pattern", ["a/kept/{}.jsonl", "{}.parquet", "a b/{}", "x{{y/{}.json"])
def test_a_range_of_shards_is_one_word_and_comes_back(count, pattern):
    paths = [pattern.format(name) for name in shard_names(count)]
    word = shard_range(paths)
    assert len(word) < 40
    assert expand_ranges(["--shards", word, "{}"]) == ["--shards", *paths, "{}"]


def test_a_shell_expands_a_range_likewise():
    word = shard_range([f"a/{name}.jsonl" for name in shard_names(12)])
    shell = subprocess.run(
        ["bash", "-c", f"echo {word}"], capture_output=True, text=True, check=True
    )
    assert shell.stdout.split() == expand_ranges([word])


@pytest.mark.parametrize(
    "paths", [["a/00000.j", "a/00002.j"], ["a/00001.j", "a/00000.j"], ["a/00000.j", "b/00001.j"]]
)
def test_files_of_no_range_are_refused(paths):
    with pytest.raises(RecapError, match="not the files of consecutive shards"):
        shard_range(paths)


@pytest.mark.parametrize(
    "word", ['{"a": 1}', "{0..3}", "{00001..00002", '{"p": "{00000..00002}"}', "x"]
)
def test_other_words_stay(word):
    assert expand_ranges([word]) == [word]


def test_a_flag_is_left_out_with_its_files():
    assert range_flag("--pre-counts", []) == ""
    assert range_flag("--x", ["a/00000.j", "a/00001.j"]) == "--x 'a/{00000..00001}.j'"
