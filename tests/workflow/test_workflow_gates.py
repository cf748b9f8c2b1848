"""Each evidence gate, tripped on a finished run's own files through the real command lines."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from recap.io import read_json, read_jsonl, write_json, write_jsonl
from recap.mgm.tensors import as_sources, open_model_folder, write_sharded

from .conftest import RESULTS, WORLD, Project

pytestmark = pytest.mark.workflow

WEIGHTS = "scripts/recap/demo/weights"
RUNS = f"{RESULTS}/runs/blip2_enhanced"
PROTOCOL = json.dumps({"kind": "textvqa", "ocr": True, "max_new_tokens": 16})
TRAIN = {
    "global_batch_size": 8,
    "micro_batch_size": 8,
    "learning_rate": 0.001,
    "max_length": 256,
    "dtype": "float32",
    "gradient_checkpointing": False,
    "image_aspect_ratio": "square",
}
GATE_FAILED = 3


def base_flags(language_model: str | Path = f"{WEIGHTS}/gemma-micro") -> list[str]:
    parts = ("--language-model", str(language_model), "--clip", f"{WEIGHTS}/clip-micro")
    sizes = ("--image-size-aux", "128", "--conversation", "gemma")
    return [*parts, "--convnext", f"{WEIGHTS}/convnext-micro", *sizes]


def refused(project: Project, script: str, *arguments: str | Path, before=()) -> str:
    """Run a command that a gate must stop; return what its user reads."""
    python = ("env", "PYTHONPATH=scripts", sys.executable, *before)
    done = project.run(*python, f"scripts/{script}", *map(str, arguments), check=False)
    assert done.returncode == GATE_FAILED, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def train(
    project: Project, out: Path, stage: str, data: Path, base: list[str], *more: str | Path, **how
) -> str:
    root = project.path / WORLD
    return refused(
        project, "train_stage.py", "--stage", stage, "--data", data, "--image-root", root, *base,
        "--settings", json.dumps(TRAIN), "--seed", "1", "--state-dir", out / "state",
        "--out-dir", out / "out", "--perf", out / "perf.json", *more, **how,
    )  # fmt: skip


def few(project: Project, name: str, count: int, out: Path) -> Path:
    """Write the first samples of a LLaVA file that have a picture."""
    samples = [s for s in read_json(project.path / name) if s.get("image")][:count]
    write_json(out, samples)
    return out


def test_a_caption_loss_that_is_not_finite(smoke, tmp_path):
    """Every weight is a number, but one word's embedding overflows in the forward pass."""
    weights = tmp_path / "overflowing"
    shutil.copytree(smoke.path / WEIGHTS / "gemma-micro", weights)
    (weights / "manifest.json").unlink()
    config = read_json(weights / "config.json")
    write_json(weights / "config.json", {**config, "tie_word_embeddings": False})
    index = read_json(weights / "model.safetensors.index.json")
    shard = weights / index["weight_map"]["model.embed_tokens.weight"]
    tensors = load_file(shard)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    word = AutoTokenizer.from_pretrained(weights)("§").input_ids[-1]
    tensors["model.embed_tokens.weight"][word] = torch.finfo(torch.float32).max
    save_file(tensors, shard, metadata={"format": "pt"})
    index["weight_map"]["lm_head.weight"] = shard.name
    write_json(weights / "model.safetensors.index.json", index)

    data = few(smoke, f"{RESULTS}/arms/baseline/train.json", 40, tmp_path / "captions.json")
    samples = read_json(data)
    samples[0]["conversations"][1]["value"] = "a red circle with a sign saying §"
    write_json(data, samples)
    message = train(smoke, tmp_path, "pretrain", data, base_flags(weights))
    assert "gate finite_loss failed: nan is not finite" in message
    assert "was not applied" in message
    assert samples[0]["id"] in message
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_adapter_that_never_moved(smoke, tmp_path):
    data = few(smoke, f"{WORLD}/sft.json", 8, tmp_path / "one_update.json")
    projector = smoke.path / RUNS / "seed1/pretrain/mm_projector.safetensors"
    message = train(smoke, tmp_path, "finetune", data, base_flags(), "--projector", projector)
    assert "gate adapter_b_nonzero failed: 0" in message
    assert "at least two updates" in message


def test_a_stage_two_that_does_not_start_from_stage_one(smoke, tmp_path):
    data = few(smoke, f"{WORLD}/sft.json", 16, tmp_path / "two_updates.json")
    runs = smoke.path / RUNS
    message = train(
        smoke, tmp_path, "finetune", data, base_flags(),
        "--projector", runs / "seed1/pretrain/mm_projector.safetensors",
        "--projector-manifest", runs / "seed2/pretrain/manifest.json",
    )  # fmt: skip
    assert "gate start_projector_hash failed" in message
    assert "projector and manifest of the same run" in message


OFF_BY_ONE = """
import runpy
import sys

from recap.train import audit

right = audit.encode_sample


def wrong(*args, **kwargs):
    ids, labels = right(*args, **kwargs)
    return ids, [*labels[1:], -100]


audit.encode_sample = wrong
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_label_mask_off_by_one(smoke, tmp_path):
    """The stage's own command, with one fault put into it: labels a place too far left."""
    data = few(smoke, f"{RESULTS}/arms/baseline/train.json", 16, tmp_path / "captions.json")
    fault = tmp_path / "off_by_one.py"
    fault.write_text(OFF_BY_ONE, encoding="utf-8")
    message = train(smoke, tmp_path, "pretrain", data, base_flags(), before=[str(fault)])
    assert "gate label_mask_mismatches failed: 16 is not 0 samples" in message
    assert read_json(data)[0]["id"] in message
    assert "supervises token" in message


def test_a_merge_that_skips_a_module(smoke, tmp_path):
    merged = shutil.copytree(smoke.path / RUNS / "seed1/merged", tmp_path / "merged")
    skipped = "model.layers.1.mlp.down_proj.weight"
    base = open_model_folder(smoke.path / WEIGHTS / "gemma-micro")
    tensors = {name: source.load() for name, source in open_model_folder(merged).items()}
    for path in merged.glob("*.safetensors"):
        path.unlink()
    assert not torch.equal(tensors[skipped], base[skipped].load())
    tensors[skipped] = base[skipped].load()
    write_sharded(as_sources(dict(sorted(tensors.items()))), merged, "5GB")
    message = refused(
        smoke, "check_parity.py", "--merged", merged,
        "--adapter", smoke.path / RUNS / "seed1/finetune", *base_flags(),
        "--images-root", smoke.path / WORLD / "textvqa/train_images",
        "--questions", smoke.path / WORLD / "textvqa/llava_textvqa_val_v051_ocr.jsonl",
        "--settings", '{"dtype": "float32"}', "--deployed-dtype", "float32",
        "--out", tmp_path / "parity.json",
    )  # fmt: skip
    assert skipped.removesuffix(".weight") in message


def test_a_missing_shard(smoke, tmp_path):
    run = smoke.path / RESULTS / "eval/blip2_enhanced/seed1/textvqa_ocr_smoke"
    shards = sorted((run / "answers").glob("2_*.jsonl"))
    assert len(shards) == 2
    questions = smoke.path / WORLD / "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    message = refused(
        smoke, "gather_answers.py", "--questions", questions, "--expected-questions", "60",
        "--protocol", PROTOCOL, "--shards", shards[0],
        "--out", tmp_path / "merge.jsonl", "--report", tmp_path / "gather.json",
    )  # fmt: skip
    assert "30 missing" in message
    assert not (tmp_path / "merge.jsonl").exists()


@pytest.fixture(scope="module")
def thousand(smoke, tmp_path_factory):
    """A benchmark of 1,000 questions, and a row as the finished run's answers have them."""
    folder = tmp_path_factory.mktemp("thousand")
    settings = {
        "records": 4, "sft_samples": 4, "questions": 1000, "pope_images": 0,
        "mmbench_questions": 0, "image_min_side": 64, "image_max_side": 64,
    }  # fmt: skip
    smoke.run(
        sys.executable, "scripts/build_demo_world.py", "--out", str(folder / "world"),
        "--settings", json.dumps(settings),
    )  # fmt: skip
    questions = read_jsonl(folder / "world/textvqa/llava_textvqa_val_v051_ocr.jsonl")
    merged = smoke.path / RESULTS / "eval/blip2_enhanced/seed1/textvqa_ocr_smoke/merge.jsonl"
    return folder / "world/textvqa", questions, read_jsonl(merged)[0]


def write_answers(path: Path, questions: list, row: dict, texts: list[str], **more) -> Path:
    rows = [
        {**row, "question_id": q["question_id"], "prompt": q["text"], "text": text, **more}
        for q, text in zip(questions, texts, strict=True)
    ]
    write_jsonl(path, rows)
    return path


def score(project: Project, folder: Path, answers: Path, *more: str | Path) -> str:
    return refused(
        project, "score_answers.py", "--benchmark", "textvqa_ocr_demo", "--protocol", PROTOCOL,
        "--answers", answers, "--annotations", folder / "TextVQA_0.5.1_val.json",
        "--questions", folder / "llava_textvqa_val_v051_ocr.jsonl",
        "--out", answers.parent / "score.json", "--per-question", answers.parent / "rows.jsonl",
        *more,
    )  # fmt: skip


def test_five_constant_answers(smoke, thousand, tmp_path):
    folder, questions, row = thousand
    texts = [("red", "two", "yes", "circle", "left")[i % 5] for i in range(len(questions))]
    answers = write_answers(tmp_path / "constant.jsonl", questions, row, texts)
    message = score(smoke, folder, answers)
    assert "5 distinct answers to 1000 questions" in message
    assert "red 200" in message
    assert not (tmp_path / "score.json").exists()


def test_a_blank_image_that_changes_nothing(smoke, thousand, tmp_path):
    folder, questions, row = thousand
    texts = [f"answer {i}" for i in range(len(questions))]
    real = write_answers(tmp_path / "real.jsonl", questions, row, texts)
    metadata = {**row["metadata"], "control": "blank_image"}
    blank = write_answers(tmp_path / "blank.jsonl", questions, row, texts, metadata=metadata)
    message = score(smoke, folder, blank, "--real-answers", real)
    assert "all 1000 answers are the same under blank_image" in message
    assert not (tmp_path / "score.json").exists()
