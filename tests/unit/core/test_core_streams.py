"""Files read and digested a piece at a time, against the same read whole."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap import io
from recap.errors import RecapError
from recap.hashing import ListDigest, digest_json
from recap.io import iter_json_array

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(values, max_size=8), st.sampled_from([None, 0, 3]), st.sampled_from([1, 2, 7, 64]))
def test_an_array_is_read_whatever_the_pieces(tmp_path_factory, array, indent, piece):
    path = tmp_path_factory.mktemp("array") / "a.json"
    path.write_text(json.dumps(array, indent=indent, ensure_ascii=bool(indent)) + "\n\n")
    before, io._PIECE = io._PIECE, piece
    try:
        assert list(iter_json_array(path)) == array
    finally:
        io._PIECE = before


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[1 2]",
        "[,1]",
        "[1] 2",
        "[1]]",
        '["a',
        "[{]",
        "[tru]",
        "7",
    ],
)
def test_what_is_no_array_is_refused(tmp_path, monkeypatch, text, piece):
    monkeypatch.setattr(io, "_PIECE", piece)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecapError, match=r"a\.json is not a JSON array"):
        list(iter_json_array(tmp_path / "a.json"))


def test_a_missing_array_is_named(tmp_path):
    with pytest.raises(RecapError, match="does not exist"):
        list(iter_json_array(tmp_path / "none.json"))


def test_the_first_element_comes_before_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "_PIECE", 16)
    (tmp_path / "a.json").write_text('[{"id": 1}, {"id": 2}, no more JSON')
    elements = iter_json_array(tmp_path / "a.json")
    assert next(elements) == {"id": 1}
    with pytest.raises(RecapError, match="not a JSON array"):
        list(elements)


@given(st.lists(values, max_size=6))
def test_a_list_digest_is_that_of_the_list(array):
    digest = ListDigest()
    for count, element in enumerate(array):
        assert digest.hexdigest() == digest_json(array[:count])
        digest.add(element)
    assert digest.hexdigest() == digest_json(array)
