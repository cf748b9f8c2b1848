"""The whole way with a real micro MGM: same answers for any batch, shard count and interruption."""

import json
import random
import shutil

import pytest
import torch
from PIL import Image

import eval_textvqa as eval_script
import predict_shard as predict_script
from recap.errors import RecapError
from recap.evaluate.loading import load_merged
from recap.evaluate.model import MgmAnswerer
from recap.evaluate.predict import PredictRequest, predict_shard
from recap.evaluate.protocol import BenchmarkProtocol
from recap.mgm.answering import pad_left
from recap.mgm.checkpoint import build_model, load_checkpoint, load_tokenizer, save_checkpoint
from recap.mgm.conversation import encode_prompt
from recap.mgm.micro import write_micro_parts
from recap.mgm.processing import ImagePreprocessor
from recap.settings import EvaluateSettings

INSTRUCTION = "Answer the question using a single word or phrase."
PROTOCOL = BenchmarkProtocol(kind="textvqa", ocr=True, max_new_tokens=6)
FLOAT32 = EvaluateSettings(dtype="float32", batch_size=1)
QUESTIONS = 17


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate-model")
    parts = write_micro_parts(root / "parts", seed=3, words=["what", "word", "answer", "the"])
    model = build_model(parts, dtype="float32", seed=3, image_aspect_ratio="pad")
    # A wide spread of weights, so that answers depend on question and picture.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "language_model" in name and "embed" not in name:
                weight.mul_(10.0)
    out = root / "mgm-2b-micro"
    save_checkpoint(model, load_tokenizer(parts.language_model), out, dtype="float32")
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate-world")
    rng = random.Random(1)
    (root / "images").mkdir()
    rows = []
    for number in range(QUESTIONS):
        name = f"{rng.randrange(8):016x}"
        noise = bytes(random.Random(name).randrange(256) for _ in range(9 * 7 * 3))
        Image.frombytes("RGB", (9, 7), noise).save(root / "images" / f"{name}.png")
        tokens = ", ".join("W" * rng.randrange(1, 5) for _ in range(rng.choice([0, 1, 9, 20])))
        text = f"What is word {number}?\nReference OCR token: {tokens}\n{INSTRUCTION}"
        image = None if number % 6 == 2 else f"{name}.png"
        rows.append({"question_id": name, "image": image, "text": text})
    (root / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def predict(checkpoint, world, tmp_path, batch_size, count=1, index=0, **changes):
    answers = tmp_path / f"b{batch_size}" / f"{count}_{index}.jsonl"
    values = {
        "checkpoint": checkpoint,
        "questions": world / "q.jsonl",
        "image_root": world / "images",
        "protocol": PROTOCOL,
        "settings": FLOAT32.model_copy(update={"batch_size": batch_size}),
        "num_chunks": count,
        "chunk_index": index,
        "model_id": checkpoint.name,
        "state_dir": tmp_path / f"state{batch_size}-{count}",
        "answers": answers,
        "perf": tmp_path / "perf.json",
    }
    predict_shard(PredictRequest(**(values | changes)))
    return answers.read_bytes()


def texts(answers):
    return [json.loads(line)["text"] for line in answers.splitlines()]


@pytest.fixture(scope="module")
def one_by_one(checkpoint, world, tmp_path_factory):
    return predict(checkpoint, world, tmp_path_factory.mktemp("one"), 1)


def test_answers_come_from_question_and_picture(checkpoint, world, one_by_one, tmp_path):
    assert len(set(texts(one_by_one))) > QUESTIONS // 2
    blank = predict(checkpoint, world, tmp_path, 8, control="blank_image")
    with_image = [json.loads(line)["image"] is not None for line in (world / "q.jsonl").open()]
    changed = [a != b for a, b in zip(texts(one_by_one), texts(blank), strict=True)]
    assert any(changed)
    assert not any(c for c, shown in zip(changed, with_image, strict=True) if not shown)


def test_the_runner_gives_what_the_model_gives_one_question_at_a_time(
    checkpoint, world, one_by_one
):
    model, tokenizer = load_checkpoint(checkpoint, dtype="float32")
    preprocess = ImagePreprocessor.from_checkpoint(checkpoint)
    for line, given in zip((world / "q.jsonl").open(), texts(one_by_one), strict=True):
        row = json.loads(line)
        text = row["text"] if row["image"] is None else "<image>\n" + row["text"]
        ids = torch.tensor([encode_prompt(text, tokenizer)])
        images = None
        if row["image"] is not None:
            images = preprocess(Image.open(world / "images" / row["image"]), "pad")[None]
        (tokens,) = model.generate_answers(
            ids, torch.ones_like(ids), images_aux=images, max_new_tokens=6, eos_token_ids=(1, 107)
        )
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == given


@pytest.mark.parametrize("batch_size", [3, 64])
def test_batches_of_uneven_length_answer_like_single_questions(
    checkpoint, world, one_by_one, tmp_path, batch_size
):
    assert predict(checkpoint, world, tmp_path, batch_size) == one_by_one
    perf = json.loads((tmp_path / "perf.json").read_text())
    assert perf["device"] == "cpu" and perf["new_tokens"] > 0
    assert perf["images_encoded"] <= 8


@pytest.mark.parametrize("count", [2, 5])
def test_shards_one_after_the_other_are_the_whole(checkpoint, world, one_by_one, tmp_path, count):
    shards = [predict(checkpoint, world, tmp_path, 4, count, index) for index in range(count)]
    assert b"".join(shards) == one_by_one


def test_resume_after_a_kill_gives_the_same_bytes(checkpoint, world, one_by_one, tmp_path):
    predict(checkpoint, world, tmp_path, 4)
    (journal,) = (tmp_path / "state4-1").iterdir()
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2])
    assert predict(checkpoint, world, tmp_path, 4) == one_by_one
    resumed = json.loads((tmp_path / "perf.json").read_text())["resumed_answers"]
    assert 0 < resumed < QUESTIONS


def test_without_ocr_tokens_the_answers_are_others(checkpoint, world, one_by_one, tmp_path):
    without = PROTOCOL.model_copy(update={"ocr": False})
    answers = predict(checkpoint, world, tmp_path, 8, protocol=without)
    assert texts(answers) != texts(one_by_one)
    assert b"OCR" not in answers


def test_prompts_that_would_be_cut_are_refused(checkpoint, world, tmp_path):
    short = tmp_path / "short"
    shutil.copytree(checkpoint, short)
    config = json.loads((short / "config.json").read_text())
    config["tokenizer_model_max_length"] = 80
    (short / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecapError, match="tokenizer_model_max_length is 80"):
        predict(short, world, tmp_path, 4)


def test_a_placeholder_in_the_question_is_refused(checkpoint):
    answerer = MgmAnswerer(load_merged(checkpoint, "float32"), PROTOCOL, FLOAT32)
    with pytest.raises(RecapError, match="image placeholder"):
        answerer.write(["what is <image>?"], [None])


def test_pad_left_lines_up_the_ends():
    ids, mask = pad_left([[5, 6], [7, 8, 9]])
    assert ids.tolist() == [[0, 5, 6], [7, 8, 9]]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1]]


def test_both_command_lines_write_the_same_answers(checkpoint, world, one_by_one, tmp_path):
    ours = [
        "--checkpoint", checkpoint, "--questions", world / "q.jsonl",
        "--image-root", world / "images", "--protocol", PROTOCOL.model_dump_json(),
        "--num-chunks", 1, "--chunk-idx", 0, "--model-id", checkpoint.name,
        "--state-dir", tmp_path / "state", "--settings", FLOAT32.model_dump_json(),
        "--answers", tmp_path / "1_0.jsonl", "--perf", tmp_path / "perf.json",
    ]  # fmt: skip
    theirs = [
        "--model-path", checkpoint, "--question-file", world / "q.jsonl",
        "--image-folder", world / "images", "--answers-file", tmp_path / "up" / "1_0.jsonl",
        "--num-chunks", 1, "--chunk-idx", 0, "--temperature", 0, "--conv-mode", "gemma",
        "--max_new_tokens", 6, "--dtype", "float32",
    ]  # fmt: skip
    for script, arguments in ((predict_script, ours), (eval_script, theirs)):
        script.main(script.parser().parse_args([str(argument) for argument in arguments]))
    assert (tmp_path / "1_0.jsonl").read_bytes() == one_by_one
    assert (tmp_path / "up" / "1_0.jsonl").read_bytes() == one_by_one
