"""Held-out loss against the model's own logits, and the run that measuring must not disturb."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_stage
from recap.errors import RecapError
from recap.io import read_json, read_jsonl
from recap.mgm.conversation import IGNORE_INDEX
from recap.train.collate import Collator
from recap.train.held_out import read_held_out_sets, summed_loss
from recap.train.request import StageRequest, parse_settings
from recap.train.setup import build_stage_model


@pytest.fixture(scope="module")
def asked(world) -> Path:
    return world.write_set("held.json", 6, text_only=2)


def train(world, out: Path, *more: str) -> Path:
    arguments = world.arguments("pretrain", out, world.settings(), *more)
    train_stage.main(train_stage.parser().parse_args(arguments))
    return out / "result"


def request(world, out: Path, path: Path) -> StageRequest:
    return StageRequest(
        stage="pretrain",
        data=world.captions,
        image_root=world.images,
        parts=world.parts,
        settings=parse_settings("pretrain", world.settings()),
        seed=3,
        state_dir=out,
        out_dir=out,
        perf=out,
        held_out=(("original", path),),
    )


def test_the_loss_is_that_of_the_logits(world, asked: Path, tmp_path: Path) -> None:
    from recap.mgm.tokenizer_files import load_tokenizer

    given = request(world, tmp_path, asked)
    (data,) = read_held_out_sets(given, load_tokenizer(world.parts.language_model))
    model = build_stage_model(world.parts, given.settings, seed=3, projector=None)
    model.train()
    sums = [summed_loss(model, range(6), data, Collator(), micro) for micro in (1, 4)]
    assert model.training
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    total, count = 0.0, 0
    model.eval()
    for index in range(6):
        batch = Collator()([data.dataset[index]])
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            rows = model(**batch).logits[0].double().log_softmax(-1)
        # image tokens come before every answer: align from the end
        for place in range(1, len(labels)):
            back = len(labels) - place
            if labels[place] != IGNORE_INDEX:
                total -= float(rows[len(rows) - back - 1, labels[place]])
                count += 1
    assert count == data.tokens
    assert sums[0] == pytest.approx(total, rel=1e-5)


def test_measuring_does_not_disturb_the_run(world, asked: Path, tmp_path: Path) -> None:
    plain = train(world, tmp_path / "plain")
    sets = (f"original={asked}", f"again={asked}")
    measured = train(world, tmp_path / "asked", "--held-out", *sets, "--held-out-every", "2")
    for name in ("telemetry.jsonl", "mm_projector.safetensors"):
        one, two = (folder / name for folder in (plain, measured))
        if name.endswith("jsonl"):
            assert read_jsonl(one) == read_jsonl(two)
        else:
            tensors = load_file(two)
            assert all(torch.equal(t, tensors[key]) for key, t in load_file(one).items())
    metrics = read_json(measured / "metrics.json")
    steps = [(row["step"], row["style"]) for row in metrics["held_out_curves"]]
    assert steps == [(2, "original"), (2, "again"), (4, "original"), (4, "again")]
    original, again = metrics["held_out"]
    assert original == metrics["held_out_curves"][2]
    assert original["loss"] == again["loss"]
    assert original["samples"] == 6
    assert set(metrics["held_out_updates_to_convergence"]) == {"original", "again"}
    assert read_json(plain / "metrics.json")["held_out"] == []


def test_trained_samples_are_not_asked(world, tmp_path: Path) -> None:
    entries = json.loads(world.captions.read_text())[:2]
    path = tmp_path / "leak.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(RecapError, match=rf"2 samples are trained on too.*{entries[0]['id']}"):
        train(world, tmp_path, "--held-out", f"original={path}")
