"""The TextVQA normaliser and soft accuracy against golden values and an independent oracle."""

import re

import pytest
from answer_texts import MARKS, PIECES, random_answers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recap.evaluate.benchmarks.textvqa.accuracy import reference_scores, soft_accuracy
from recap.evaluate.benchmarks.textvqa.contractions import (
    CONTRACTIONS,
    irregular_contractions,
    regular_contractions,
)
from recap.evaluate.benchmarks.textvqa.normalize import normalize_answer

GOLDEN = {
    "Coca-Cola": "coca cola",
    "The Beatles": "beatles",
    "it's 10:30 p.m.": "it 's 10:30 pm",
    "1,000": "1000",
    "$5.99": "$5.99",
    "ten": "10",
    "None": "0",
    "U.S.A.": "usa",
    "a/b": "b",
    "7-eleven": "7 eleven",
    "A": "",
    "3.": "3",
    "v1.2": "v1.2",
    "dont": "don't",
    "Im": "im",
    "let's go": "let 's go",
    "100%": "100%",
    "50,000-60,000": "50000 60000",
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def oracle(text):
    """The normaliser step by step, written with the original's regular expressions."""
    text = re.sub(r"[,?]", "", text.lower()).replace("'s", " 's").strip()
    text = text.translate({10: " ", 9: " "}).strip()
    before, out = text, text
    for mark in MARKS:
        spaced = re.search(f" {re.escape(mark)}|{re.escape(mark)} ", before)
        out = "".join(("" if spaced else " ") if c == mark else c for c in out)
    out = re.sub(r"(?!<=\d)(\.)(?!\d)", "", out, count=32)
    words = [str(NUMBERS.index(w) if w in NUMBERS else w) for w in out.lower().split()]
    words = ["0" if w == "none" else w for w in words]
    words = [w for w in words if w not in ("a", "an", "the")]
    return " ".join(CONTRACTIONS.get(w, w) for w in words)


COUNTS = pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.oracle)])
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.text(max_size=30))


@pytest.mark.parametrize(("raw", "expected"), GOLDEN.items())
def test_golden_values(raw, expected):
    assert normalize_answer(raw) == expected


def test_contraction_table_has_its_120_entries():
    regular, irregular = regular_contractions(), irregular_contractions()
    assert (len(regular), len(irregular), len(CONTRACTIONS)) == (73, 47, 120)
    assert not set(regular) & set(irregular)
    assert regular["twas"] == "'twas" and regular["maam"] == "ma'am"
    assert irregular["couldn'tve"] == irregular["couldnt've"] == "couldn't've"
    assert irregular["someoned've"] == irregular["someone'dve"] == "someone'd've"
    assert irregular["somebody'd"] == "somebodyd"
    assert irregular["Im"] == "I'm"


@given(TEXTS)
@settings(max_examples=1000, deadline=None)
@example("." * 40)
@example("a . b , 1,2")
def test_equals_independent_oracle(text):
    assert normalize_answer(text) == oracle(text)


@COUNTS
def test_many_answers_equal_the_oracle_and_have_the_right_form(count):
    for text in random_answers(count, seed=1):
        result = normalize_answer(text)
        assert result == oracle(text), text
        assert result == " ".join(result.split())
        assert not set(result.split()) & {"a", "an", "the", "none", "ten"}
        assert not set(result) & set(MARKS)


@COUNTS
def test_idempotent_where_no_contraction_is_made(count):
    # A contraction that ends in 's is split by a second pass (thats -> that's -> that 's),
    # and more than 32 periods need several passes.
    for text in random_answers(count, seed=2):
        once = normalize_answer(text)
        if "." not in text and "'" not in text and "'" not in once:
            assert normalize_answer(once) == once


@COUNTS
def test_case_and_outer_space_never_matter(count):
    for text in random_answers(count, seed=3):
        if text.isascii():
            assert normalize_answer(f" {text.upper()}\n") == normalize_answer(text.strip())


def test_at_most_32_periods_are_deleted():
    assert normalize_answer("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("given_by", "expected"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (5, 1.0), (9, 1.0), (10, 1.0)],
)
def test_closed_form(given_by, expected):
    references = ["blue"] * given_by + [f"other{i}" for i in range(10 - given_by)]
    assert soft_accuracy("Blue.", references) == expected


@given(
    st.lists(
        st.sampled_from(["red", "Red ", "blue", "the blue", "3", "three"]), min_size=10, max_size=10
    )
)
@settings(max_examples=300, deadline=None)
def test_equals_leave_one_out_by_enumeration(references):
    normal = [normalize_answer(reference) for reference in references]
    for answer in set(normal):
        per_annotator = [
            min(1.0, sum(other == answer for j, other in enumerate(normal) if j != i) / 3)
            for i in range(10)
        ]
        assert soft_accuracy(answer, references) == pytest.approx(sum(per_annotator) / 10)
    assert set(reference_scores(references).values()) <= {0.3, 0.6, 0.9, 1.0}


def test_ten_references_are_required():
    with pytest.raises(ValueError, match="9 reference answers"):
        soft_accuracy("x", ["x"] * 9)
