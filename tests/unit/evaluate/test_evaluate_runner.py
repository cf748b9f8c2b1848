"""Shards, resume and batching, with a small deterministic reader in the model's place."""

import json
import multiprocessing
import os
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from recap.errors import RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.base import Question, QuestionSet
from recap.evaluate.controls import apply_control
from recap.evaluate.identity import checkpoint_fingerprint
from recap.evaluate.images import ImageSource
from recap.evaluate.journal import open_journal
from recap.evaluate.model import OutOfMemoryError
from recap.evaluate.ordering import asking_order, next_batch
from recap.evaluate.predict import (
    AnswererSource,
    PredictRequest,
    predict_shard,
    predict_shards,
)
from recap.evaluate.protocol import BenchmarkProtocol
from recap.mgm.parts import ModelParts
from recap.settings import EvaluateSettings

INSTRUCTION = "Answer the question using a single word or phrase."
QUESTIONS = 23


class Reader:
    """Answers with the picture's colour and the text's length; counts what it is asked."""

    pictures_a_pass = 3

    def __init__(self, most_at_once=99, dies_after=None, variants=1):
        self.most_at_once = most_at_once
        self.dies_after = dies_after
        self.variants = variants
        self.passes = []
        self.batches = []

    def batch_size(self, texts):
        assert len(texts) == QUESTIONS
        return self.size

    def expect(self, count):
        self.expected = count

    def prepare(self, image):
        return image.getpixel((0, 0))

    def encode(self, pixels):
        self.passes.append(len(pixels))
        return list(pixels)

    def write(self, texts, features):
        return list(texts), list(features)

    def begin(self, prompts):
        texts, features = prompts
        if self.dies_after is not None and len(self.batches) >= self.dies_after:
            raise KeyboardInterrupt
        assert len({feature is None for feature in features}) == 1
        return texts, features

    def finish(self, started):
        texts, features = started
        if len(texts) > self.most_at_once:
            raise OutOfMemoryError
        self.batches.append(texts)
        return [f"{f} {len(t)}" for t, f in zip(texts, features, strict=True)]

    def read(self, answers):
        return [[text + "!" * variant for text in answers] for variant in range(self.variants)]

    def facts(self):
        return {"device": "none"}


@pytest.fixture
def world(tmp_path):
    rng = random.Random(5)
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(QUESTIONS):
        name = f"{rng.randrange(9):016x}"
        tokens = ", ".join("x" * rng.randrange(1, 9) for _ in range(rng.randrange(6)))
        question = f"What is word {number}?"
        text = f"{question}\nReference OCR token: {tokens}\n{INSTRUCTION}"
        rows.append({"question_id": name, "image": f"{name}.png", "text": text})
        shade = int(name, 16) * 20
        Image.new("RGB", (4, 4), (shade, 1, 2)).save(tmp_path / "images" / f"{name}.png")
    rows[3]["image"] = None
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


def request(world, count=1, index=0, batch_size=4, **changes):
    made = PredictRequest(
        checkpoint=world / "model",
        questions=world / "q.jsonl",
        image_root=world / "images",
        protocol=BenchmarkProtocol(kind="textvqa", ocr=True),
        settings=EvaluateSettings(batch_size=batch_size),
        num_chunks=count,
        chunk_index=index,
        model_id="m",
        state_dir=world / "state",
        answers=world / "answers" / f"{count}_{index}.jsonl",
        perf=world / "perf.json",
    )
    return replace(made, **changes)


def source_of(reader, on_gpu=False):
    return AnswererSource(reader.prepare, on_gpu, lambda: reader)


def answers_of(made, reader):
    reader.size = made.settings.batch_size
    predict_shard(made, source_of(reader, isinstance(reader, PixelReader)))
    return made.answers.read_bytes()


def test_answers_have_upstreams_form_in_file_order(world):
    answers_of(request(world), Reader())
    lines = (world / "answers/1_0.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in (world / "q.jsonl").read_text().splitlines()]
    assert len(lines) == QUESTIONS
    for line, question in zip(lines, questions, strict=True):
        row = json.loads(line)
        assert list(row) == [
            "question_id",
            "prompt",
            "text",
            "answer_id",
            "model_id",
            "metadata",
        ]
        assert (row["question_id"], row["prompt"]) == (question["question_id"], question["text"])
        assert row["metadata"] == {} and row["model_id"] == "m" and len(row["answer_id"]) == 22
        shade = None if question["image"] is None else (int(row["question_id"], 16) * 20, 1, 2)
        assert row["text"] == f"{shade} {len(question['text'])}"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 22, QUESTIONS])
def test_any_shard_count_and_batch_size_gives_the_same_merged_file(world, count):
    whole = answers_of(request(world, batch_size=1), Reader())
    shards = [
        answers_of(request(world, count, index, batch_size=count), Reader())
        for index in range(count)
    ]
    assert b"".join(shards) == whole
    assert all(shards)


def test_more_shards_than_questions_or_a_foreign_index_is_an_error(world):
    with pytest.raises(RecapError, match="cannot cut"):
        predict_shard(request(world, count=QUESTIONS + 1), source_of(Reader()))
    with pytest.raises(RecapError, match="no shard 3 of 3"):
        predict_shard(request(world, count=3, index=3), source_of(Reader()))


def test_each_distinct_image_is_encoded_once(world):
    reader = Reader()
    answers_of(request(world, batch_size=2), reader)
    questions = get_benchmark("textvqa").load(world / "q.jsonl", request(world).protocol).questions
    distinct = {q.image for q in questions} - {None}
    assert sum(reader.passes) == len(distinct) < QUESTIONS
    perf = json.loads((world / "perf.json").read_text())
    assert perf["images_encoded"] == len(distinct)
    assert perf["items"] == QUESTIONS and perf["resumed_answers"] == 0


@pytest.mark.parametrize(("batch_size", "most"), [(1, 1), (2, 2), (4, 3), (QUESTIONS, 3)])
def test_each_pass_has_as_many_pictures_whatever_the_batches(world, batch_size, most):
    reader = Reader()
    answers_of(request(world, batch_size=batch_size), reader)
    assert set(reader.passes[:-1]) == {most}
    assert 0 < reader.passes[-1] <= most


def test_a_killed_shard_goes_on_where_it_stopped(world):
    whole = answers_of(request(world, state_dir=world / "other"), Reader())
    (world / "answers/1_0.jsonl").unlink()
    dying = Reader(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        answers_of(request(world), dying)
    assert not (world / "answers/1_0.jsonl").exists()
    done = sum(map(len, dying.batches))
    assert 0 < done < QUESTIONS
    reader = Reader()
    assert answers_of(request(world, batch_size=3), reader) == whole
    assert sum(map(len, reader.batches)) == QUESTIONS - done
    assert json.loads((world / "perf.json").read_text())["resumed_answers"] == done


def test_variants_of_a_model_are_asked_in_one_pass_and_go_on_where_each_stopped(world, monkeypatch):
    monkeypatch.setattr("recap.evaluate.identity._base_fingerprint", lambda parts: "a base")
    parts = ModelParts(world, world, world)
    first, second = (
        request(
            world, parts=parts, model_id=name, state_dir=world / f"state-{name}",
            answers=world / name / "1_0.jsonl", perf=world / f"{name}.json",
        )
        for name in ("a", "b")
    )  # fmt: skip
    reader = Reader(variants=2)
    reader.size = 4
    predict_shards([first, second], source_of(reader))
    texts = [[json.loads(row)["text"] for row in r.answers.open()] for r in (first, second)]
    assert [text + "!" for text in texts[0]] == texts[1]
    assert json.loads((world / "b.json").read_text())["model_id"] == "b"

    (journal,) = (world / "state-b").iterdir()
    kept = journal.read_bytes().splitlines(keepends=True)[:9]
    journal.write_bytes(b"".join(kept))
    again = Reader(variants=2)
    again.size = 4
    predict_shards([first, second], source_of(again))
    assert sum(map(len, again.batches)) == QUESTIONS - 8
    assert [json.loads(row)["text"] for row in second.answers.open()] == texts[1]
    (journal,) = (world / "state-a").iterdir()
    assert journal.read_bytes().count(b"\n") == QUESTIONS + 1


def test_models_that_one_pass_cannot_serve_are_refused(world):
    two = [request(world), request(world, model_id="other")]
    with pytest.raises(RecapError, match="adapters of one base"):
        predict_shards(two, source_of(Reader()))
    parts = ModelParts(world, world, world)
    two = [replace(made, parts=parts) for made in two]
    with pytest.raises(RecapError, match="same questions"):
        predict_shards([two[0], replace(two[1], control="blank_image")], source_of(Reader()))


@pytest.mark.parametrize("damage", ["mid-line", "no newline", "garbage", "zeros", "header"])
def test_a_damaged_journal_is_cut_and_asked_again(world, damage):
    whole = answers_of(request(world), Reader())
    (journal,) = (world / "state").iterdir()
    data = journal.read_bytes()
    if damage == "mid-line":
        kept = data[: len(data) - 40]
    elif damage == "no newline":
        kept = data[:-1]
    elif damage == "garbage":
        lines = data.splitlines(keepends=True)
        kept = b"".join([*lines[:-2], b'{"question_id": "a\n', lines[-1]])
    elif damage == "zeros":
        kept = data[:-40] + b"\0" * 40
    else:
        kept = data[5:]
    journal.write_bytes(kept)
    (world / "answers/1_0.jsonl").unlink()
    reader = Reader()
    assert answers_of(request(world), reader) == whole
    again = {"garbage": 2, "header": QUESTIONS}.get(damage, 1)
    assert sum(map(len, reader.batches)) == again
    assert journal.read_bytes().count(b"\n") == QUESTIONS + 1


def test_the_model_is_not_loaded_when_everything_is_answered(world):
    whole = answers_of(request(world), Reader())
    (world / "answers/1_0.jsonl").unlink()

    def fail():
        raise AssertionError("the model was loaded")

    predict_shard(request(world), AnswererSource(None, False, fail))
    assert (world / "answers/1_0.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": BenchmarkProtocol(kind="textvqa", ocr=True, max_new_tokens=5)},
        {"control": "blank_image"},
        {"settings": EvaluateSettings(dtype="float32", batch_size=4)},
        "model",
        "questions",
    ],
)
def test_answers_made_otherwise_are_not_taken_up(world, change):
    answers_of(request(world), Reader())
    made = request(world)
    if change == "model":
        (world / "model" / "config.json").write_text('{"a": 1}')
    elif change == "questions":
        (world / "q.jsonl").write_text((world / "q.jsonl").read_text() + "\n")
    else:
        made = replace(made, **change)
    reader = Reader()
    answers_of(made, reader)
    assert sum(map(len, reader.batches)) == QUESTIONS


def test_replaced_pictures_are_asked_again_by_their_shard_alone(world):
    shards = [request(world, 2, index) for index in range(2)]
    for made in shards:
        answers_of(made, Reader())
    before = json.loads((world / "perf.json").read_text())["asked"]
    images = [json.loads(line)["image"] for line in (world / "q.jsonl").open()]
    half = QUESTIONS // 2
    only = next(name for name in images[half + 1 :] if name and name not in images[: half + 1])
    Image.new("RGB", (9, 9), (7, 7, 7)).save(world / "images" / only)
    readers = [Reader(), Reader()]
    texts = [answers_of(made, reader) for made, reader in zip(shards, readers, strict=True)]
    assert readers[0].batches == [] and sum(map(len, readers[1].batches)) > half - 1
    assert b"(7, 7, 7)" in texts[1]
    after = json.loads((world / "perf.json").read_text())["asked"]
    assert {name for name in after if after[name] != before[name]} == {"pictures"}


def test_copies_of_pictures_with_other_times_are_the_same_pictures(world):
    answers_of(request(world), Reader())
    for picture in (world / "images").iterdir():
        os.utime(picture, (1, 1))
    reader = Reader()
    answers_of(request(world), reader)
    assert reader.batches == []


def test_two_processes_do_not_write_one_journal(tmp_path):
    with (
        open_journal(tmp_path, "1_0", {}),
        pytest.raises(RecapError, match="another process"),
        open_journal(tmp_path, "1_0", {}),
    ):
        pass


def test_out_of_memory_halves_the_batch(world):
    whole = answers_of(request(world, state_dir=world / "other"), Reader())
    reader = Reader(most_at_once=3)
    assert answers_of(request(world, batch_size=16), reader) == whole
    assert max(map(len, reader.batches)) == 3
    perf = json.loads((world / "perf.json").read_text())
    assert perf["batch_size_used"] == 3 and perf["batch_halvings"] == 2
    with pytest.raises(RecapError, match="one question alone"):
        answers_of(request(world, state_dir=world / "third"), Reader(most_at_once=0))


class PixelReader(Reader):
    """Takes tensors, as they come from processes."""

    def prepare(self, image):
        return torch.tensor(image.getpixel((0, 0)))

    def encode(self, pixels):
        return super().encode([tuple(picture.tolist()) for picture in pixels])


def test_pictures_decoded_by_processes_give_the_same_answers(world):
    whole = answers_of(request(world, state_dir=world / "other"), Reader())
    assert answers_of(request(world, batch_size=3), PixelReader()) == whole


@pytest.mark.parametrize("kind", [Reader, PixelReader])
def test_what_comes_before_a_picture_that_cannot_be_read_is_kept(world, kind):
    made = request(world, batch_size=3)
    asked = asking_order(get_benchmark("textvqa").load(made.questions, made.protocol).questions)
    broken = asked[12].image
    (world / "images" / broken).write_bytes(b"no picture")
    reader = kind()
    with pytest.raises(RecapError, match=f"image '{broken}': cannot be decoded"):
        answers_of(made, reader)
    assert not multiprocessing.active_children(), "nothing decodes any more"
    first = next(place for place, q in enumerate(asked) if q.image == broken)
    done = sum(map(len, reader.batches))
    assert first - 3 < done <= first
    (journal,) = (world / "state").iterdir()
    assert journal.read_bytes().count(b"\n") == done + 1


class SmallTowers(Reader):
    """Has no room for more than some pictures at once."""

    def __init__(self, fitting):
        super().__init__()
        self.fitting = fitting

    def encode(self, pixels):
        if len(pixels) > self.fitting:
            raise OutOfMemoryError
        return super().encode(pixels)


@pytest.mark.parametrize("batch_size", [1, 3, QUESTIONS])
def test_out_of_memory_in_the_towers_halves_the_pictures_alone(world, batch_size):
    whole = answers_of(request(world, state_dir=world / "other"), Reader())
    reader = SmallTowers(1)
    assert answers_of(request(world, batch_size=batch_size), reader) == whole
    assert set(reader.passes) == {1}
    perf = json.loads((world / "perf.json").read_text())
    assert perf["batch_size_used"] == batch_size and perf["batch_halvings"] == 0
    with pytest.raises(RecapError, match="one question alone"):
        answers_of(request(world, batch_size=batch_size, state_dir=world / "none"), SmallTowers(0))


def test_asking_order_groups_images_and_sorts_by_length():
    def question(line, image, length):
        return Question(line, "p", "x" * length, image, line)

    asked = [question(0, "a", 9), question(1, "b", 3), question(2, "a", 2), question(3, "c", 4)]
    assert [q.line for q in asking_order(asked)] == [1, 3, 2, 0]


def test_batches_keep_the_questions_of_a_picture_together():
    names = ["a", "a", "b", "b", "b", "c", "d", "d", "d", "d", "d", None, None]
    asked = [Question(line, "p", "x", name, line) for line, name in enumerate(names)]

    def sizes(limit):
        start, found = 0, []
        while start < len(asked):
            found.append(len(next_batch(asked, start, limit)))
            start += found[-1]
        return found

    assert sizes(4) == [2, 4, 4, 1, 2]  # d has more questions than a batch holds
    assert sizes(6) == [6, 5, 2]  # questions without a picture stay among themselves
    assert sizes(64) == [11, 2]
    assert sizes(1) == [1] * 13


def test_blank_control_hides_the_picture_and_says_so(world):
    made = request(world, control="blank_image")
    reader = Reader()
    rows = [json.loads(line) for line in answers_of(made, reader).splitlines()]
    assert reader.passes == [1]
    assert {row["metadata"]["control"] for row in rows} == {"blank_image"}
    assert sum(row["text"].startswith("(122, 116, 104) ") for row in rows) == QUESTIONS - 1
    assert sum(row["text"].startswith("None ") for row in rows) == 1


def test_shuffled_control_gives_every_question_another_picture():
    questions = [Question(i, "p", "t", image, i) for i, image in enumerate(["a", "b", "a", "c"])]
    shuffled = apply_control(
        QuestionSet([*questions, Question(9, "p", "t", None, 9)]), "shuffled_images"
    ).questions
    images = [question.image for question in shuffled]
    assert images[0] == images[2] and images[4] is None
    assert sorted(images[:2] + images[3:4]) == ["a", "b", "c"]
    assert all(new != old.image for new, old in zip(images, questions, strict=False))
    with pytest.raises(RecapError, match="share one image"):
        apply_control(QuestionSet(questions[:1]), "shuffled_images")


def test_shuffling_is_a_derangement_that_no_order_of_the_file_changes():
    names = [f"img{number}" for number in range(200)]
    forward = [Question(i, "p", "t", name, i) for i, name in enumerate(names)]
    swap = {}
    for asked in (forward, forward[::-1]):
        shown = apply_control(QuestionSet(asked), "shuffled_images").questions
        found = {old.image: new.image for old, new in zip(asked, shown, strict=True)}
        assert sorted(found.values()) == sorted(names)
        assert all(old != new for old, new in found.items())
        assert found == (swap or found)
        swap = found
    neighbours = sum(int(new[3:]) - int(old[3:]) == 1 for old, new in swap.items())
    assert neighbours < 10


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("../secret.png", "outside the image root"),
        ("/etc/hostname", "outside the image root"),
        ("missing.png", "cannot read"),
        ("broken.png", "cannot be decoded"),
        ("empty.png", "cannot be decoded"),
    ],
)
def test_unreadable_images_name_the_question(tmp_path, image, message):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(RecapError, match=f"question 7 .line 3.*{message}"):
        ImageSource(tmp_path, {}).open(Question(7, "p", "t", image, 3))


def test_checkpoint_fingerprint_follows_content(tmp_path):
    with pytest.raises(RecapError, match="not a folder"):
        checkpoint_fingerprint(tmp_path / "none")
    with pytest.raises(RecapError, match="is empty"):
        checkpoint_fingerprint(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"abc")
    first = checkpoint_fingerprint(tmp_path)
    weights.write_bytes(b"abd")
    assert checkpoint_fingerprint(tmp_path) != first
    entry = {"path": "elsewhere/model.safetensors", "bytes": 3, "sha256": "0" * 64}
    manifest = {"outputs": {"weights": entry}, "volatile": {"created": "now"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    stated = checkpoint_fingerprint(tmp_path)
    manifest["volatile"]["created"] = "later"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint_fingerprint(tmp_path) == stated
    weights.write_bytes(b"abcd")
    with pytest.raises(RecapError, match="has 4 bytes, its manifest says 3"):
        checkpoint_fingerprint(tmp_path)
