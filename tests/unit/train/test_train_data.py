import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from recap.errors import RecapError
from recap.train.collate import Collator
from recap.train.data import EncodedSample, TrainingSet, question_hash, read_training_set

TURNS = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "a cat"}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "deep" / "a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "outside.png")
    return tmp_path / "images"


def read(root: Path, *entries: object) -> list:
    path = root.parent / "train.json"
    path.write_text(json.dumps(list(entries)))
    return read_training_set(path, root)


def test_image_and_text_samples_are_read(root: Path) -> None:
    text = [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "three"}]
    samples = read(
        root,
        {"id": 7, "conversations": TURNS, "image": "deep/a.png"},
        {"id": "t", "conversations": text},
        {"id": "abs", "conversations": TURNS, "image": str(root / "deep" / "a.png")},
    )
    assert [sample.id for sample in samples] == ["7", "t", "abs"]
    assert [sample.words for sample in samples] == [6, -3, 6]
    assert samples[0].image == samples[2].image
    assert samples[1].image is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"conversations": TURNS}, "entry 0: expected an object with a text or integer `id`"),
        ({"id": "x", "conversations": "no"}, "id x.*list of turns"),
        ({"id": "x", "conversations": [{"from": "human"}]}, "id x.*list of turns"),
        ({"id": "x", "conversations": TURNS, "image": 3}, "id x.*must be a path"),
        ({"id": "x", "conversations": TURNS, "image": "../outside.png"}, "id x.*leaves"),
        ({"id": "x", "conversations": TURNS, "image": "/etc/passwd"}, "id x.*leaves"),
        ({"id": "x", "conversations": TURNS, "image": "no.png"}, r"x \(.*no.png\).*--image-root"),
    ],
)
def test_bad_entries_are_named(root: Path, entry: dict, message: str) -> None:
    with pytest.raises(RecapError, match=message):
        read(root, entry)


def test_a_folder_beside_the_root_with_the_same_prefix_is_outside(root: Path) -> None:
    sibling = root.with_name("images2")
    sibling.mkdir()
    Image.new("RGB", (4, 4)).save(sibling / "b.png")
    with pytest.raises(RecapError, match="leaves the image root"):
        read(root, {"id": "x", "conversations": TURNS, "image": "../images2/b.png"})


def test_empty_set_is_refused(root: Path) -> None:
    with pytest.raises(RecapError, match="non-empty JSON list"):
        read(root)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_unreadable_image_is_an_error_and_never_another_sample(
    root: Path, content: bytes | None
) -> None:
    whole = (root / "deep" / "a.png").read_bytes()
    (root / "bad.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    samples = read(
        root,
        {"id": "good", "conversations": TURNS, "image": "deep/a.png"},
        {"id": "broken", "conversations": TURNS, "image": "bad.png"},
    )
    encoded = [EncodedSample([2, -200], [-100, -100], 0, False)] * 2
    dataset = TrainingSet(
        samples, encoded, lambda image: torch.zeros(3, *image.convert("RGB").size)
    )
    assert dataset[0]["image"].shape == (3, 8, 8)
    with pytest.raises(RecapError, match=r"sample broken: cannot read image .*bad\.png"):
        dataset[1]


def test_a_picture_that_cannot_be_prepared_is_named(root: Path) -> None:
    def refuse(image: Image.Image) -> torch.Tensor:
        raise RecapError(f"a picture of {image.width} x {image.height} pixels is too elongated")

    samples = read(root, {"id": "long", "conversations": TURNS, "image": "deep/a.png"})
    dataset = TrainingSet(samples, [EncodedSample([-200], [-100], 0, False)], refuse)
    with pytest.raises(RecapError, match=r"sample long: cannot read image .*a\.png.*elongated"):
        dataset[0]


def test_a_picture_behind_the_maximum_length_is_not_read(root: Path) -> None:
    samples = read(root, {"id": "late", "conversations": TURNS, "image": "deep/a.png"})
    (root / "deep/a.png").unlink()
    dataset = TrainingSet(samples, [EncodedSample([2, 5], [-100, 5], 1, True)], torch.tensor)
    assert dataset[0] == {"input_ids": [2, 5], "labels": [-100, 5], "image": None}


def test_collator_pads_right_and_keeps_images_in_batch_order() -> None:
    images = [torch.full((3, 2, 2), float(value)) for value in (1, 2)]
    batch = Collator(pad_id=0)(
        [
            {"input_ids": [2, -200, 9], "labels": [-100, -100, 9], "image": images[0]},
            {"input_ids": [2, 5], "labels": [-100, 5], "image": None},
            {"input_ids": [2, -200, 7, 8], "labels": [-100, -100, 7, 8], "image": images[1]},
        ]
    )
    assert batch["input_ids"].tolist() == [[2, -200, 9, 0], [2, 5, 0, 0], [2, -200, 7, 8]]
    assert batch["labels"][1].tolist() == [-100, 5, -100, -100]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["images_aux"][:, 0, 0, 0].tolist() == [1.0, 2.0]
    alone = Collator()([{"input_ids": [2], "labels": [-100], "image": None}])
    assert "images_aux" not in alone


def test_question_hash_ignores_answers_and_sees_questions(root: Path) -> None:
    def digest(question: str, answer: str) -> str:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return question_hash(read(root, {"id": "x", "conversations": turns}), [0])

    assert digest("a?", "one") == digest("a?", "two")
    assert digest("a?", "one") != digest("b?", "one")
