"""Tokens, counters, scripts, repetition and duplicates."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.errors import RecapError
from recap.quality.duplicates import duplicates
from recap.quality.repetition import character_repetition, degenerate, word_repetition
from recap.quality.texts import (
    ArmText,
    alphabetic_tokens,
    coverage,
    number_words,
    plain_words,
    read_arm,
)


def words(*captions):
    return number_words(map(plain_words, captions))


def test_tokens_are_whole_ascii_words():
    found = alphabetic_tokens("Acme's 7kg café, WI-FI 2nd snake_case 图 end")
    assert found == ["acme", "s", "wi", "fi", "end"]


def test_plain_words_lose_punctuation_and_digits_at_their_ends():
    assert plain_words('"Alice" - 2 7kg & café! 3') == ["alice", "kg", "café"]


def test_special_tokens_are_gone_before_anything_is_counted(tmp_path):
    path = tmp_path / "merged.jsonl"
    rows = [
        {"id": "1", "text": "<__dj__image>\na red bus <|__dj__eoc|>"},
        {"id": "2", "text": "<__dj__image> a blue bus\n <|__dj__eoc|>", "caption_source": "blip2"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arm = read_arm(path)
    assert arm.captions == ["a red bus", "a blue bus"]
    assert arm.sources == ["original", "blip2"]
    assert arm.word_counts.tolist() == [3, 3]
    assert arm.tokens.symbols.tolist() == [0, 1, 2, 0, 3, 2]
    chosen = arm.select(["2"])
    assert (chosen.ids, chosen.captions, chosen.sources) == (["2"], ["a blue bus"], ["blip2"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "holds no record"),
        ('{"id": 1, "text": "x"}', "needs a string `id`"),
        ('{"id": "1", "text": "x"}\n{"id": "1", "text": "y"}', "'1' appears twice"),
    ],
)
def test_malformed_arms_are_refused(tmp_path, lines, message):
    path = tmp_path / "merged.jsonl"
    path.write_text(lines)
    with pytest.raises(RecapError, match=message):
        read_arm(path)


def test_other_scripts_are_counted_and_named():
    found = coverage(["a bus", "图片里有一只猫 cat", "красный bus", "café au lait", "10 €", "猫"])
    assert found == {
        "partly_covered": 1,
        "not_covered": 3,
        "not_covered_scripts": {"CJK": 2, "CYRILLIC": 1},
    }


def test_word_repetition_by_hand():
    """red red bus: two of three words are in a repeated kind."""
    found = word_repetition(words("red red bus", "a red bus", "", "Red, red"))
    assert found == pytest.approx([2 / 3, 0, 0, 1])


def reference_character_ratio(text, n=5):
    grams = Counter(text[i : i + n] for i in range(len(text) - n + 1))
    if not grams:
        return 0.0
    counts = sorted(grams.values(), reverse=True)
    top = min(int(len(counts) ** 0.5), sum(count > 1 for count in counts))
    return sum(counts[:top]) / sum(counts)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("ab é图🙂", max_size=40), min_size=1, max_size=12))
def test_character_repetition_is_data_juicers_formula_on_the_bare_caption(captions):
    expected = [reference_character_ratio(caption) for caption in captions]
    assert character_repetition(captions) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("alice - alice - alice", 1),
        ("alice - alice", 0),
        ("a dog a dog a dog", 1),
        ("a dog a dog a cat", 0),
        ("one two three four " * 3, 1),
        ("one two three four five " * 3, 0),
        ("a man in a suit and a tie on a chair", 0),
        ("", 0),
    ],
)
def test_degenerate_captions(caption, expected):
    """A neighbour that goes on with the same words changes nothing."""
    found = degenerate(words("bus alice", caption, "alice alice cat"))
    assert found.tolist() == [0, expected, 0]


def test_exact_duplicates_ignore_case_and_spaces():
    exact, near = duplicates(["A  red bus", "a red bus", "a blue car", "a red bus "])
    assert exact.tolist() == [1, 1, 0, 1]
    assert not near.any()


def test_near_duplicates_are_those_above_the_bound():
    base = "a large red double decker bus parked in front of the old railway station at night"
    captions = [base, base + "s", "a small blue car", base.replace("red", "green and yellow")]
    exact, near = duplicates(captions)
    assert not exact.any()
    assert near.tolist() == [1, 1, 0, 0]


def test_near_duplicates_equal_an_exhaustive_search():
    rng = np.random.default_rng(4)
    vocabulary = [f"word{i:03d}" for i in range(300)]
    captions = []
    for _ in range(250):
        chosen = list(rng.choice(vocabulary, 14))
        captions.append(" ".join(chosen))
        for _ in range(int(rng.random() < 0.4)):
            edited = list(chosen)
            edited[int(rng.integers(14))] = str(rng.choice(vocabulary))
            captions.append(" ".join(edited))
    sets = [{c[i : i + 5] for i in range(len(c) - 4)} for c in captions]
    expected = [
        any(
            captions[i] != captions[j] and len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])
            for j in range(len(captions))
        )
        for i in range(len(captions))
    ]
    assert 50 < sum(expected) < len(captions) - 50
    assert duplicates(captions)[1].astype(bool).tolist() == expected


def test_short_and_empty_captions_have_duplicates_too():
    exact, near = duplicates(["", "a", "", "b", "a"])
    assert exact.tolist() == [1, 1, 1, 0, 1]
    assert not near.any()


def test_histogram_counters_agree_with_the_plain_way():
    captions = ["a b", "", "c  d e"]
    text = ArmText(["1", "2", "3"], captions, ["original"] * 3)
    assert text.word_counts.tolist() == [2, 0, 3]
    assert text.character_counts.tolist() == [3, 0, 6]
