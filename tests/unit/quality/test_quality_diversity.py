"""Diversity against hand-worked texts, an independent library and published values."""

import math
import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_corpora import zipf_captions

from recap.curate.records import caption_of
from recap.io import read_jsonl
from recap.quality.diversity import budget_draws, hdd, mattr, mtld
from recap.quality.texts import alphabetic_tokens, number_words

CAPTIONS = st.lists(
    st.lists(st.sampled_from("abcdefghijklmnop"), max_size=12), min_size=1, max_size=40
)


def sequences(*captions: str):
    return number_words(caption.split() for caption in captions)


def test_mtld_by_hand():
    """Forward: a b a (2/3) ends a factor, then c d with ratio 1; backward the same: d c a b a."""
    text = sequences("a b a", "c d")
    forward = 5 / 1
    # Backward d c a b a: ratios 1 1 1 1 4/5, so only a partial factor of 0.2/0.28.
    backward = 5 / (0.2 / 0.28)
    assert mtld(text).value == pytest.approx((forward + backward) / 2)


def test_a_text_that_repeats_nothing_is_one_factor():
    assert mtld(sequences("a b", "c d")).value == pytest.approx(4)


def test_a_factor_ends_at_the_threshold_itself():
    """18 types in 25 tokens are exactly 0.72."""
    words = [f"w{i}" for i in range(18)] + ["w0"] * 7
    assert mtld(number_words([words, ["x"]])).parts[0][1].sum() == pytest.approx(1)


def test_mattr_by_hand():
    """Windows of two: ab 1, bb 1/2, ba 1."""
    assert mattr(sequences("a b", "b a"), window=2).value == pytest.approx(5 / 6)


def test_hdd_by_hand():
    """Two of a a b: aa 1/3, ab 2/3, so (1/2 x 1/3 + 1 x 2/3) types a token."""
    text = sequences("a", "a", "b", "")
    assert hdd(sequences("a a", "b"), draws=1).value == pytest.approx(1)
    # With records of one token, leaving one out leaves exactly two.
    assert hdd(text, draws=2).value == pytest.approx(float(Fraction(1, 6) + Fraction(2, 3)))


def test_too_little_text_gives_no_number():
    text = sequences("a b c", "")
    assert mattr(text) is None
    assert hdd(text) is None
    assert mtld(sequences("", "")) is None
    assert budget_draws(["1", "2"], [text], 4, 0) is None


@settings(max_examples=60, deadline=None)
@given(CAPTIONS)
def test_values_are_those_of_the_library(captions):
    from lexicalrichness import LexicalRichness

    words = [word for caption in captions for word in caption]
    text = number_words(captions)
    if not words:
        assert mtld(text) is None
        return
    oracle = LexicalRichness(words, preprocessor=None, tokenizer=None)
    assert mtld(text).value == pytest.approx(oracle.mtld(0.72))
    for window in (5, 50):
        found = mattr(text, window)
        assert (found is None) == (len(words) < window)
        if found:
            assert found.value == pytest.approx(oracle.mattr(window))
    found = hdd(text, 10)
    if found:
        assert found.value == pytest.approx(oracle.hdd(10))


def test_pseudo_values_are_those_of_leaving_records_out():
    captions = zipf_captions(np.random.default_rng(3), 40, types=60)
    text = number_words(captions)
    whole = hdd(text)
    left_out = []
    for number in range(40):
        words = Counter(w for i, c in enumerate(captions) if i != number for w in c)
        size = sum(words.values())
        chances = [1 - math.comb(size - f, 42) / math.comb(size, 42) for f in words.values()]
        left_out.append(sum(chances) / 42)
    pseudo = 40 * whole.value - 39 * np.array(left_out)
    found = whole.parts[0][0]
    assert found - found.mean() == pytest.approx(pseudo - pseudo.mean(), abs=1e-9)
    assert found.mean() == pytest.approx(whole.value)


def test_records_add_up_to_the_text():
    """Factors and windows are shared out over the records without a rest."""
    text = number_words([*zipf_captions(np.random.default_rng(0), 300), []])
    for tops, bottoms in mtld(text).parts:
        assert tops.sum() == text.symbols.size
        assert tops[-1] == bottoms[-1] == 0
    (tops, bottoms) = mattr(text).parts[0]
    assert bottoms.sum() == text.symbols.size - 49
    assert np.all(tops <= bottoms)


def test_growing_a_corpus_moves_the_plain_ratio_but_no_measure_here():
    rng = np.random.default_rng(1)
    small, large = (zipf_captions(rng, n) for n in (2000, 20000))
    texts = [number_words(small), number_words(large)]
    plain = [text.kinds / text.symbols.size for text in texts]
    assert plain[1] < 0.5 * plain[0]
    for measure in (mtld, mattr, hdd):
        first, second = (measure(text).value for text in texts)
        assert second == pytest.approx(first, rel=0.03), measure.__name__
    first, second = (
        budget_draws([str(i) for i in range(len(t.lengths))], [t], 1000, 5)[0].value for t in texts
    )
    assert second == pytest.approx(first, rel=0.03)


def test_draws_do_not_depend_on_the_order_of_records():
    captions = zipf_captions(np.random.default_rng(2), 500)
    ids = [f"id{i}" for i in range(500)]
    shuffled = np.random.default_rng(9).permutation(500)
    one = budget_draws(ids, [number_words(captions)], 300, 7)[0]
    text = number_words([captions[i] for i in shuffled])
    two = budget_draws([ids[i] for i in shuffled], [text], 300, 7)[0]
    assert one.parts[0][0].tolist() == two.parts[0][0].tolist()
    assert one.units == "draws"


def test_a_draw_is_cut_at_the_budget_and_holds_the_same_ids_in_both_texts():
    """Every caption is distinct words; one text has twice the words of the other."""
    ids = [str(i) for i in range(60)]
    short = number_words([[f"{i}a", f"{i}b"] for i in ids])
    long = number_words([[f"{i}{letter}" for letter in "abcd"] for i in ids])
    alone = budget_draws(ids, [long], 40, 0)[0]
    one, two = budget_draws(ids, [long, short], 40, 0)
    assert alone.size == 6  # ten records fill a draw
    assert one.size == two.size == 3  # the short text needs twenty
    assert one.value == two.value == 1.0
    same = number_words([["x"] * 4 for _ in ids])
    assert budget_draws(ids, [same], 40, 0)[0].value == pytest.approx(1 / 40)


def shared() -> Path:
    folder = os.environ.get("RECAP_SHARED")
    if not folder:
        pytest.skip("RECAP_SHARED names no folder with real captions")
    return Path(folder) / "data"


def tokens_of(texts):
    return number_words(alphabetic_tokens(caption_of(text)) for text in texts)


def test_published_values_of_the_first_thousand_captions():
    rows = read_jsonl(shared() / "seed1k/mgm_pretrain_seed1k.jsonl")
    texts = [row["text"] for row in rows]
    whole = tokens_of(texts)
    assert (whole.symbols.size, whole.kinds) == (8524, 3019)
    split = [len(caption_of(text).split()) for text in texts]
    assert sum(split) / len(split) == pytest.approx(8.793)
    for count, value in ((100, 126.2), (500, 129.8), (1000, 133.7)):
        assert round(mtld(tokens_of(texts[:count])).value, 1) == value
    ratios = {25: 0.714, 50: 0.657, 100: 0.584, 200: 0.512, 300: 0.478, 500: 0.427, 750: 0.382}
    for count, value in (ratios | {1000: 0.354}).items():
        text = tokens_of(texts[:count])
        assert round(text.kinds / text.symbols.size, 3) == value


def test_published_values_of_the_hundred_pairs():
    rows = read_jsonl(shared() / "seed_reference/blip2_caption_pairs_100.jsonl")
    published = {
        "original_text": (0.614, 221.7, 0.862),
        "blip2_text": (0.610, 224.0, 0.856),
    }
    for key, (ratio, length, average) in published.items():
        text = tokens_of(row[key] for row in rows)
        assert round(text.kinds / text.symbols.size, 3) == ratio
        assert round(mtld(text).value, 1) == length
        assert round(mattr(text).value, 3) == average
