"""Captions, corruption and answers: true where they should be, bad at known rates."""

import itertools
import math
import re
import string
from collections import Counter

import pytest

from recap.demo.badlines import chunk
from recap.demo.captions import STYLES, canonical_caption, caption
from recap.demo.corrupt import choose_corruption, corrupt
from recap.demo.micro_score import score_captions
from recap.demo.questions import (
    possible_questions,
    prompt,
    read_tokens,
    sample_questions,
    ten_answers,
)
from recap.demo.scene import COLORS, SHAPES, Scene, Thing, sample_scene
from recap.demo.settings import CorruptionRates
from recap.demo.streams import Stream, generator

COUNT = 400


def scenes(count=COUNT):
    for index in range(count):
        rng = generator(11, Stream.MICRO_HELD_OUT, index)
        yield sample_scene(rng), rng


def refined(text):
    """Words as Data-Juicer counts them with ``tokenization: false``."""
    strip = string.punctuation + string.digits + string.whitespace
    return [word for word in (part.strip(strip) for part in re.split(r"[ \n\t]+", text)) if word]


def repeated(items):
    counts = Counter(items)
    return sum(n for n in counts.values() if n > 1) / len(items) if items else 0.0


def character_repetition(text, size=5):
    counts = Counter(text[i : i + size] for i in range(len(text) - size + 1))
    often = sorted(counts.values(), reverse=True)
    kept = min(math.isqrt(len(counts)), sum(n > 1 for n in often))
    return sum(often[:kept]) / sum(often)


def passes_recipe(text):
    words = refined(text)
    lowered = [word.lower() for word in words]
    return (
        6 <= len(words) <= 60
        and repeated(lowered) <= 0.3
        and character_repetition(text) <= 0.15
        and 20 <= len(text) <= 300
    )


def passes_basic_filter(text):
    lowered = [word.lower() for word in refined(text)]
    triples = [" ".join(lowered[i : i + 3]) for i in range(len(lowered) - 2)]
    return 5 <= len(text) <= 200 and character_repetition(text) <= 0.15 and repeated(triples) <= 0.2


def test_scenes_hold_distinct_colors_shapes_and_sizes():
    seen = Counter()
    for scene, _ in scenes():
        for values in zip(*((t.color, t.shape, t.size) for t in scene.things), strict=True):
            assert len(set(values)) == len(scene.things)
        seen[len(scene.things), scene.arrangement] += 1
        assert all(t.x - t.radius / 2 > 0 and t.x + t.radius / 2 < 1 for t in scene.things)
    assert set(seen) == {
        (1, "single"), (2, "row"), (2, "column"), (3, "row"), (3, "column"),
    }  # fmt: skip


def test_canonical_caption_is_exact():
    red = Thing("red", "circle", "large", "left", 0.3, 0.5, 0.2)
    blue = Thing("orange", "square", "medium", "right", 0.7, 0.5, 0.1)
    assert canonical_caption(Scene((red, blue), "row", "grey", "open")) == (
        "a large red circle left of an orange square with a sign saying open on a grey background"
    )
    assert canonical_caption(Scene((red,), "single", "teal", None)) == (
        "a large red circle on the left on a teal background"
    )


def test_captions_vary_and_name_what_is_shown():
    starts = set()
    for scene, rng in scenes():
        text = caption(scene, rng)
        words = set(text.replace(",", "").split())
        assert {t.color for t in scene.things} == words & set(COLORS)
        assert {t.shape for t in scene.things} == words & set(SHAPES)
        assert scene.sign is None or scene.sign in words
        assert len(text.split()) >= 5
        starts.add(text.split()[0])
    assert len(starts) >= STYLES


@pytest.mark.parametrize("say", [lambda s, _: canonical_caption(s), caption])
def test_recipes_keep_most_true_captions(say):
    texts = [chunk(say(scene, rng)) for scene, rng in scenes()]
    assert sum(map(passes_recipe, texts)) / COUNT > 0.85
    assert sum(map(passes_basic_filter, texts)) / COUNT > 0.98


def test_corruption_rates_are_as_configured():
    rates = CorruptionRates()
    counts = Counter(
        choose_corruption(rates, generator(5, Stream.CAPTION, i).random()) for i in range(4000)
    )
    for kind, rate in rates.model_dump().items():
        error = math.sqrt(rate * (1 - rate) / 4000)
        assert abs(counts[kind] / 4000 - rate) < 4 * error
    assert choose_corruption(CorruptionRates(**dict.fromkeys(rates.model_dump(), 0.0)), 0.0) == (
        "none"
    )


@pytest.mark.parametrize("kind", CorruptionRates.model_fields)
def test_corrupted_captions_are_wrong(kind):
    for scene, rng in scenes(100):
        true_caption = caption(scene, rng)
        bad = corrupt(kind, true_caption, scene, rng)
        assert bad != true_caption
        if kind == "off_topic":
            shown = {(t.color, t.shape) for t in scene.things}
            words = bad.replace(",", "").split()
            assert not shown & set(itertools.pairwise(words))
        if kind == "word_repetition":
            assert not passes_recipe(chunk(bad))
        if kind == "truncation":
            assert true_caption.startswith(bad)


def test_ten_answers_agree_on_the_truth_and_disagree_a_little():
    agreeing = []
    for scene, rng in scenes():
        question = sample_questions(scene, rng, 1)[0]
        answers = ten_answers(question, rng)
        assert len(answers) == 10
        same = [normalized(answer) == question.answer for answer in answers]
        agreeing.append(sum(same))
    assert min(agreeing) >= 3
    assert 7.5 < sum(agreeing) / COUNT < 9.5


def normalized(answer):
    """The part of TextVQA's normalisation that these answers need."""
    numbers = {"one": "1", "two": "2", "three": "3"}
    words = [word for word in answer.lower().rstrip(".").split() if word != "the"]
    return " ".join(numbers.get(word, word) for word in words)


def test_questions_of_a_scene_are_distinct_and_answered_by_it():
    kinds = set()
    for scene, _ in scenes(100):
        found = possible_questions(scene)
        assert len({question.text for question in found}) == len(found)
        kinds |= {question.kind for question in found}
        by_text = {question.text: question.answer for question in found}
        for thing in scene.things:
            assert by_text[f"what color is the {thing.shape}?"] == thing.color
            assert by_text[f"where is the {thing.color} {thing.shape}?"] == thing.place
    assert kinds == {"count", "background", "sign", "color", "shape", "place"}


def test_tokens_mostly_hold_the_word():
    held = total = 0
    for scene, rng in scenes():
        tokens = read_tokens(scene, rng)
        if scene.sign:
            total += 1
            held += scene.sign in [token.lower() for token in tokens]
    assert 0.7 < held / total < 0.95


def test_prompt_forms():
    ask = "Answer the question using a single word or phrase."
    assert prompt("where is it?", None) == f"Where is it?\n{ask}"
    assert prompt("where is it?", []) == f"Where is it?\nReference OCR token: \n{ask}"
    assert prompt("where is it?", ["A", "b"]) == f"Where is it?\nReference OCR token: A, b\n{ask}"


def test_score_tells_seeing_from_guessing():
    shown = [scene for scene, _ in scenes(50)]
    truths = [canonical_caption(scene) for scene in shown]
    right = score_captions(shown, truths, truths)
    assert (right["exact_match"], right["word_accuracy"]) == (1.0, 1.0)
    assert right["color_accuracy"] == 1.0
    assert right["color_chance"] < 0.2
    blind = score_captions(shown, truths, [truths[0]] * 50)
    assert blind["distinct_captions"] == 1
    assert blind["color_accuracy"] == blind["color_chance"] < 0.2
