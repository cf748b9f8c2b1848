"""What the micro models learn from: pictures and texts that are true, and lessons that teach."""

import numpy as np
import pytest
import torch

from recap.demo.micro_facts import (
    PATCH_COLORS,
    PATCH_SHAPES,
    PATCH_SIZES,
    PatchLessons,
    patch_targets,
)
from recap.demo.micro_lessons import collate, write_lessons
from recap.demo.micro_models import build_micro_model
from recap.demo.micro_pictures import draw_pictures
from recap.demo.micro_tiles import NO_WORD, TileWriter, shake, tile_words
from recap.demo.micro_tokenizers import build_gemma_tokenizer
from recap.demo.micro_training import batches, rate_at
from recap.demo.parallel import make_samples
from recap.demo.scene import sample_scene
from recap.demo.settings import MicroSettings
from recap.demo.streams import Stream, generator
from recap.io import read_json
from recap.mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX

# Each of them shorter than the shipped models' training by a factor of fifty or more.
SHORT = MicroSettings.model_validate(
    {
        "clip": {"pictures": 400, "steps": 80, "batch_size": 16, "held_out": 200,
                 "width": 48, "layers": 2},
        "convnext": {"pictures": 400, "steps": 100, "batch_size": 8, "held_out": 40,
                     "image_size": 64, "dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
        "language": {"texts": 400, "steps": 60, "batch_size": 8, "held_out": 4,
                     "hidden_size": 64, "layers": 2, "heads": 2, "intermediate_size": 128,
                     "tile_grid": 4},
        "watermark": {"pictures": 300, "steps": 40, "batch_size": 16, "held_out": 40,
                      "image_size": 64, "layers": 2},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return build_gemma_tokenizer(7, 1024)


def figures(name, folder):
    build_micro_model(name, folder / name, seed=5, settings=SHORT)
    return read_json(folder / name / "manifest.json")["details"]["measured"]


@pytest.mark.slow
def test_a_short_training_of_clip_tells_captions_apart(tmp_path):
    measured = figures("clip-micro", tmp_path)
    assert measured["true_caption_nearer"] > 0.75
    assert measured["mean_similarity_true"] > measured["mean_similarity_other"] + 0.2


def test_a_short_training_of_convnext_names_patches(tmp_path):
    measured = figures("convnext-micro", tmp_path)
    assert measured["last_loss"] < 0.7 * measured["first_loss"]
    # Three patches in four are background, of four kinds.
    assert measured["patch_size_or_background_accuracy"] > 0.5


@pytest.mark.slow
def test_a_short_training_of_the_language_model_learns_words(tmp_path):
    measured = figures("gemma-micro", tmp_path)
    assert measured["last_loss"] < 0.6 * measured["first_loss"]


def test_the_watermark_detector_is_measured_on_fresh_pictures(tmp_path):
    measured = figures("watermark-micro", tmp_path)
    assert measured["held_out_pictures"] == 40
    assert 0 <= measured["clean_taken_for_marked"] <= 1


def test_patch_targets_name_what_stands_there():
    pictures = draw_pictures(3, Stream.MICRO_PICTURE, 40, 32, fit="view")
    targets = patch_targets(pictures, 8)
    assert targets.shape == (40, 64, 3)
    for scene, rows in zip(pictures.scenes, targets, strict=True):
        things = {(t.color, t.shape, t.size) for t in scene.things}
        seen = {(PATCH_COLORS[c], PATCH_SHAPES[s], PATCH_SIZES[z]) for c, s, z in rows if c > 1}
        assert seen == things
        assert {PATCH_SIZES[z] for c, _, z in rows if c == 0} == {scene.background}
        words = {PATCH_SHAPES[s] for c, s, _ in rows if c == 1}
        assert words == ({scene.sign} if scene.sign else set())


def test_patch_lessons_measure_what_they_teach():
    pictures = draw_pictures(3, Stream.MICRO_PICTURE, 16, 32)
    targets = torch.from_numpy(patch_targets(pictures, 4)).long()
    kinds = (len(PATCH_COLORS), len(PATCH_SHAPES), len(PATCH_SIZES))
    told = torch.cat(
        [
            torch.nn.functional.one_hot(targets[..., i].clamp(min=0), n).float()
            for i, n in enumerate(kinds)
        ],
        dim=-1,
    )
    lessons = PatchLessons(pictures, 4, sum(kinds))
    with torch.no_grad():
        start = 0
        for head, count in zip(lessons.heads, kinds, strict=True):
            head.weight.zero_()
            head.bias.zero_()
            head.weight[:, start : start + count] = 20 * torch.eye(count)
            start += count
    assert set(lessons.accuracy(pictures, told).values()) == {1.0}
    assert float(lessons.loss(np.arange(16), told)) < 1e-6
    mixed = lessons.accuracy(pictures, told.roll(1, dims=0))
    assert max(mixed.values()) < 0.95


def test_tiles_say_what_is_true_there():
    for index in range(40):
        rng = generator(9, Stream.MICRO_HELD_OUT, index)
        scene = sample_scene(rng)
        tiles = tile_words(scene, rng, 8)
        assert len(tiles) == 64
        told = {tile for tile in tiles if len(tile) == 3}
        assert told == {(t.size, t.color, t.shape) for t in scene.things}
        signs = {tile for tile in tiles if len(tile) == 2}
        assert signs == ({("sign", scene.sign)} if scene.sign else set())
        assert {tile for tile in tiles if len(tile) == 1} == {(scene.background,)}


def test_shaken_tiles_point_to_their_words(tokenizer):
    torch.manual_seed(0)
    table = torch.randn(len(tokenizer), 64)
    writer = TileWriter(tokenizer)
    ids = torch.from_numpy(writer.encode([("large", "red", "star")] * 200).astype(np.int64))
    tiles = shake(table, ids[None])
    assert tiles.shape == (1, 200, 64)
    words = set(ids[0][ids[0] != NO_WORD].tolist())
    near = (tiles[0] @ table.T).topk(len(words), dim=-1).indices.tolist()
    hit = [len(words & set(row)) / len(words) for row in near]
    assert np.mean(hit) > 0.5
    assert min(hit) < 1  # words go unsaid, and some tiles say nothing


def test_half_of_the_texts_begin_with_tiles(tokenizer):
    lessons = write_lessons(tokenizer, 3, Stream.MICRO_TEXT, 20, 4)
    for index, lesson in enumerate(lessons):
        images = int((lesson.ids == IMAGE_TOKEN_INDEX).sum())
        assert images == len(lesson.tiles) == (16 if index % 2 else 0)
        asked = lesson.labels != IGNORE_INDEX
        assert asked.any()
        assert (lesson.labels[asked] == lesson.ids[asked]).all()
        assert not (lesson.ids[asked] == IMAGE_TOKEN_INDEX).any()
    ids, labels, tiles = collate(lessons, 4)
    assert ids.shape == labels.shape == (20, max(len(lesson.ids) for lesson in lessons))
    assert tiles.shape[0] == 10
    assert int((ids == IMAGE_TOKEN_INDEX).sum()) == 10 * 16


def _make(indices):
    return [generator(1, Stream.MICRO_TEXT, index).integers(1000) for index in indices]


def test_samples_do_not_depend_on_the_number_of_processes():
    alone = list(make_samples(_make, 700, 1))
    assert alone == list(make_samples(_make, 700, 2))
    assert len(alone) == 700


def test_batches_are_whole_passes_and_rates_rise_and_fall():
    order = batches(3, 10, steps=5, size=4)
    assert order.shape == (5, 4)
    assert sorted(order.reshape(-1)[:10]) == sorted(order.reshape(-1)[10:]) == list(range(10))
    assert batches(3, 10, steps=0, size=4).shape == (0, 4)
    rates = [rate_at(step, 100, 2.0) for step in range(100)]
    assert max(rates) == 2.0
    assert rates[0] < rates[4] == 2.0
    assert 0 < rates[-1] < 0.1
