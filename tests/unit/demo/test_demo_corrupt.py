"""Known rates: what the settings say is what the corpus holds, and ``none`` holds none of it."""

import io
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from recap.cli import parse_settings
from recap.demo.captions import STYLES, caption
from recap.demo.corpus import build_corpus
from recap.demo.corrupt import choose_corruption, corrupt
from recap.demo.draw import render
from recap.demo.foreign import LANGUAGES, foreign_caption
from recap.demo.pictures import corpus_picture
from recap.demo.scene import BACKGROUNDS, COLORS, SHAPES, sample_scene
from recap.demo.settings import CorruptionRates, ImageRates, WorldSettings
from recap.demo.streams import Stream, generator
from recap.demo.tree import Tree
from recap.demo.watermark import add_watermark

SIDE = {"image_min_side": 64, "image_max_side": 72}
RATES = {"tiny": 0.1, "duplicate": 0.15, "near_duplicate": 0.2, "watermark": 0.25}
COUNT = 300


@pytest.fixture(scope="module")
def pictures():
    settings = WorldSettings(images=RATES, **SIDE)
    return [corpus_picture(settings, index) for index in range(COUNT)]


def within(count, rate, total):
    """Say whether a binomial count is within four standard errors of its rate."""
    return abs(count / total - rate) < 4 * math.sqrt(rate * (1 - rate) / total)


def test_image_flaws_have_the_rates_of_the_settings(pictures):
    kinds = Counter(picture.kind for picture in pictures)
    for kind in ("tiny", "duplicate", "near_duplicate"):
        assert within(kinds[kind], RATES[kind], COUNT), kinds
    own = [picture for picture in pictures if picture.duplicate_of is None]
    assert within(sum(picture.watermark for picture in own), RATES["watermark"], len(own))
    assert within(kinds["normal"], 0.55, COUNT)


def test_watermarks_do_not_depend_on_the_captions_corruption(tmp_path):
    settings = WorldSettings(records=COUNT, images={"watermark": 0.5}, bad_lines=0, **SIDE)
    truth = build_corpus(settings, Tree(tmp_path, ["images"])).truth
    for corrupted in (True, False):
        rows = [row["watermark"] for row in truth if (row["corruption"] != "none") == corrupted]
        assert within(sum(rows), 0.5, len(rows))
    total = len(truth)
    for kind, rate in settings.corruption.model_dump().items():
        assert within(sum(row["corruption"] == kind for row in truth), rate, total)


def test_near_duplicates_look_the_same_and_are_other_files(pictures):
    copies = [picture for picture in pictures if picture.kind == "near_duplicate"]
    assert len({picture.jpeg for picture in copies}) == len(copies)
    unrelated = []
    for picture in copies:
        first = pictures[picture.duplicate_of]
        assert picture.jpeg != first.jpeg
        assert picture.size == first.size
        near = distance(picture.jpeg, first.jpeg)
        assert near < 16
        other = pictures[picture.duplicate_of - 1] if picture.duplicate_of else pictures[1]
        unrelated.append(distance(picture.jpeg, other.jpeg) > near)
    assert np.mean(unrelated) > 0.9


def distance(first, second):
    """Return the mean absolute difference of two pictures at 32 x 32 pixels, in levels."""
    small = [
        np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((32, 32)), dtype=float)
        for data in (first, second)
    ]
    return np.abs(small[0] - small[1]).mean()


@pytest.mark.parametrize("index", range(12))
def test_a_watermark_can_be_seen_and_leaves_the_picture_readable(index):
    rng = generator(3, Stream.IMAGE_FLAW, index)
    clean = render(sample_scene(rng), rng, 240, 256)
    before = clean.tobytes()
    marked = add_watermark(clean, rng)
    assert clean.tobytes() == before
    assert (marked.size, marked.mode) == (clean.size, "RGB")
    change = np.abs(np.asarray(marked, dtype=int) - np.asarray(clean, dtype=int)).max(axis=2)
    assert 0.002 < (change > 15).mean() < 0.35
    assert change.max() < 0.55 * 255


def test_no_corruption_means_true_captions_and_clean_pictures(tmp_path):
    settings = parse_settings(
        WorldSettings, json.dumps({"corruption": "none", "records": 60, "bad_lines": 0, **SIDE})
    )
    assert settings.corruption == CorruptionRates(**dict.fromkeys(CorruptionRates.model_fields, 0))
    assert settings.images == ImageRates(**dict.fromkeys(ImageRates.model_fields, 0))
    corpus = build_corpus(settings, Tree(tmp_path, ["images"]))
    assert {row["corruption"] for row in corpus.truth} == {"none"}
    assert {row["image_kind"] for row in corpus.truth} == {"normal"}
    assert not any(row["watermark"] for row in corpus.truth)
    for line, row in zip(corpus.lines, corpus.truth, strict=True):
        assert json.loads(line)["text"] == f"<__dj__image>\n{row['caption']} <|__dj__eoc|>"
    dirty = build_corpus(WorldSettings(records=60, bad_lines=0, **SIDE), Tree(tmp_path, []))
    assert [row["caption"] for row in dirty.truth[:1]] == [corpus.truth[0]["caption"]]


def test_none_lets_pictures_be_flawed_when_asked_to():
    settings = WorldSettings(corruption="none", images={"watermark": 0.5})
    assert settings.images.watermark == 0.5
    assert sum(settings.corruption.model_dump().values()) == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_names_every_fact(language):
    words = LANGUAGES[language]
    assert set(words.colors) == set(COLORS)
    assert set(words.shapes) == set(SHAPES)
    assert set(words.backgrounds) == set(BACKGROUNDS)
    for names in (words.colors, words.shapes, words.backgrounds):
        assert len(set(names.values())) == len(names)


def test_foreign_captions_tell_the_objects_and_hardly_any_english():
    english = set()
    for index in range(100):
        rng = generator(8, Stream.CAPTION, index)
        english |= set(re.findall(r"\w+", caption(sample_scene(rng), rng)))
    # Names of goods and signs that the languages share.
    english -= set(COLORS) & {"orange"} | {"beige", "triangle", "a"}
    for index in range(200):
        rng = generator(9, Stream.CAPTION, index)
        scene = sample_scene(rng)
        text = foreign_caption(scene, rng)
        told = [
            name
            for name, words in LANGUAGES.items()
            if all(words.colors[t.color] in text and words.shapes[t.shape] in text
                   for t in scene.things)
        ]  # fmt: skip
        assert told
        words = set(re.findall(r"\w+", text)) - {scene.sign}
        assert len(words & english) <= 1, (text, words & english)


def test_a_new_kind_of_corruption_leaves_the_other_records_as_they_were():
    rates = CorruptionRates(non_english=0.0)
    more = CorruptionRates(non_english=0.1)
    for draw in np.linspace(0, 0.999, 400):
        kinds = choose_corruption(rates, draw), choose_corruption(more, draw)
        assert kinds[0] == kinds[1] or kinds == ("none", "non_english")
    rng = generator(1, Stream.CAPTION, 0)
    scene = sample_scene(rng)
    assert corrupt("none", "a true caption", scene, rng) == "a true caption"
    assert STYLES == 6
