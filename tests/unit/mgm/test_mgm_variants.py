"""Adapters of one base that answer unmerged, one after the other or in one pass."""

import json

import pytest
import torch
from mgm_adapters import KINDS, parts_flags

import eval_textvqa
from recap.errors import RecapError
from recap.mgm.checkpoint import (
    build_model,
    describe_base,
    save_adapter,
)
from recap.mgm.lora import add_lora
from recap.mgm.merge import merge_lora_weights
from recap.mgm.micro import write_micro_parts
from recap.mgm.names import projector_names
from recap.mgm.variants import AdapterVariants
from recap.settings import MergeSettings
from recap.train_settings import LoraSettings

SEEDS = (11, 12)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_micro_parts(
        tmp_path_factory.mktemp("variants"), seed=4, layers=2, hidden_size=64, words=["what", "is"]
    )


@pytest.fixture(scope="module")
def questions(mgm_questions):
    """Two questions a picture, in TextVQA's form."""
    rows = [json.loads(line) for line in mgm_questions.open()]
    text = "what is {0}?\nReference OCR token: stop, {0}\nAnswer the question in a word."
    path = mgm_questions.with_name("textvqa.jsonl")
    path.write_text(
        "".join(
            json.dumps(row | {"text": text.format(word, word)}) + "\n"
            for row in rows
            for word in "ab"
        )
    )
    return path


def write_trained(parts, folder, seed, settings):
    """Write an adapter that changes most answers, with a projector of its own."""
    model = build_model(parts, dtype="float32", seed=seed, image_aspect_ratio="pad")
    add_lora(model, settings, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder, base=describe_base(parts))
    return folder


@pytest.fixture(scope="module", params=["LoRA", "DoRA"])
def adapters(request, parts, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    settings = KINDS.get(request.param, LoraSettings())
    return [write_trained(parts, root / f"run{seed}", seed, settings) for seed in SEEDS]


def evaluate(folder, questions, models, *flags):
    files = [folder / model.name / "1_0.jsonl" for model in models]
    eval_textvqa.main(
        eval_textvqa.parser().parse_args(
            [
                "--model-path", *map(str, models), "--question-file", str(questions),
                "--image-folder", str(questions.parent / "images"),
                "--answers-file", *map(str, files), "--max_new_tokens", "6",
                "--dtype", "float32", *map(str, flags),
            ]
        )
    )  # fmt: skip
    rows = [[json.loads(line) for line in path.open()] for path in files]
    assert [row[0]["model_id"] for row in rows] == [model.name for model in models]
    return [[line["text"] for line in row] for row in rows]


def test_one_pass_answers_like_each_merged_checkpoint(parts, adapters, questions, tmp_path):
    flags = parts_flags(parts)
    together = evaluate(tmp_path / "all", questions, adapters, *flags)
    assert together[0] != together[1]
    for adapter, texts in zip(adapters, together, strict=True):
        assert evaluate(tmp_path / "one", questions, [adapter], *flags) == [texts]
        merged = tmp_path / f"{adapter.name}-merged"
        merge_lora_weights(adapter, parts, merged, MergeSettings(dtype="float32"))
        assert evaluate(tmp_path / "merged", questions, [merged]) == [texts]


def test_tensors_stay_where_they_are(parts, adapters):
    model = build_model(parts, dtype="float32", seed=1)
    variants = AdapterVariants(model, adapters, torch.float32)
    named = dict(model.named_parameters())
    trained = [named[n] for n in named if "lora_" in n or n in set(projector_names())]
    before = [tensor.data_ptr() for tensor in trained]
    first = [tensor.clone() for tensor in trained]
    variants.use(1)
    assert [tensor.data_ptr() for tensor in trained] == before
    assert not all(torch.equal(old, new) for old, new in zip(first, trained, strict=True))
    variants.use(0)
    assert all(torch.equal(old, new) for old, new in zip(first, trained, strict=True))
    assert len(variants) == 2


def test_what_does_not_go_together_is_refused(parts, adapters, questions, tmp_path):
    flags = parts_flags(parts)
    other = write_trained(parts, tmp_path / "rank8", 5, LoraSettings(rank=8))
    with pytest.raises(RecapError, match="differ in rank or kind"):
        evaluate(tmp_path, questions, [adapters[0], other], *flags)
    with pytest.raises(RecapError, match="needs --model-base, --clip and --convnext"):
        evaluate(tmp_path, questions, adapters, "--clip", parts.clip)
    elsewhere = write_micro_parts(tmp_path / "base", seed=9, layers=2, hidden_size=64)
    with pytest.raises(RecapError, match="belongs to another base"):
        evaluate(tmp_path, questions, adapters, *parts_flags(elsewhere))


def test_half_precision_is_used_throughout(parts, adapters):
    model = build_model(parts, dtype="bfloat16", seed=1)
    AdapterVariants(model, adapters, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
