"""The pass that the autopilot measures is at least as large as any that training makes."""

import json
import math
from pathlib import Path

import pytest
import torch

from recap.errors import RecapError
from recap.mgm.conversation import pad_token_id
from recap.mgm.lengths import GPU_MULTIPLE
from recap.train import probing
from recap.train.collate import Collator
from recap.train.passes import plan_passes
from recap.train.prepare import prepare_data
from recap.train.request import StageRequest, parse_settings


def request_of(world, data: Path, folder: Path, **changes: object) -> StageRequest:
    return StageRequest(
        stage="finetune",
        data=data,
        image_root=world.images,
        parts=world.parts,
        settings=parse_settings("finetune", world.settings(**changes)),
        seed=1,
        state_dir=folder / "state",
        out_dir=folder / "out",
        perf=folder / "perf.json",
    )


@pytest.fixture
def mixed(world, tmp_path: Path) -> Path:
    """Instructions of which one has so long an answer that three pictures fit beside it."""
    entries = json.loads(world.instructions.read_text())
    entries[-1]["conversations"][1]["value"] = "red and more " * 30
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize(("packing", "micro"), [(True, 1), (True, 2), (False, 4)])
def test_no_pass_is_larger_than_the_one_measured(
    world, mixed: Path, tmp_path: Path, monkeypatch, packing: bool, micro: int
) -> None:
    request = request_of(world, mixed, tmp_path, packing=packing, micro_batch_size=micro)
    data, settings = prepare_data(request, 1), request.settings
    assert probing.packs(settings) is packing
    row = probing.fullest_row(data, packing=packing)
    config = probing_config(world)
    monkeypatch.setattr(probing, "to_device", lambda batch, device: batch)
    batch = probing.batch_maker(data, row, config, settings.max_length)(micro)
    measured = batch["layout"]

    pad_id = pad_token_id(data.tokenizer)
    collate = Collator(pad_id, config.image_tokens, settings.max_length, GPU_MULTIPLE)
    capacity = max(data.lengths) if packing else 0
    passes = [p for u in plan_passes(data.order, data.lengths, data.plan, 0, capacity) for p in u]
    made = [
        collate([[data.dataset[index] for index in members] for members in rows])["layout"]
        for rows in passes
    ]
    longest = max(data.lengths)
    padded = math.ceil(longest / GPU_MULTIPLE) * GPU_MULTIPLE
    assert measured.source.shape == (micro, padded)
    assert max(layout.source.shape[1] for layout in made) == padded
    assert measured.pictures >= max(layout.pictures for layout in made)
    if micro == 1:
        assert measured.pictures == max(layout.pictures for layout in made) > 1
    assert measured.packed == any(layout.packed for layout in made)
    assert len(batch["images_aux"]) == measured.pictures
    assert measured.attention_mask.sum(1).tolist() == [longest] * micro
    answers = max(data.encoded[i].supervised for i, s in enumerate(data.samples) if s.image)
    assert len(measured.targets) <= micro * answers
    assert len(measured.targets) > 0


def probing_config(world):
    from recap.mgm.configuration import config_from_parts

    return config_from_parts(world.parts)


def test_a_choice_is_not_shared_by_training_sets_with_other_rows(
    world, mixed: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    facts = []
    for data_path in (mixed, world.instructions):
        request = request_of(world, data_path, tmp_path)
        data = prepare_data(request, 1)
        facts.append(probing._facts(request, data, probing.fullest_row(data, packing=True)))
    assert facts[0]["pictures"] > facts[1]["pictures"] == 1
    assert json.dumps(facts)


def test_a_model_that_does_not_fit_is_an_error_that_says_what_to_change() -> None:
    class TooLarge:
        def cuda(self) -> None:
            raise torch.cuda.OutOfMemoryError("says a test")

    with pytest.raises(RecapError, match=r"does not fit into 2\.0 GiB.*nf4"):
        probing._move_to_gpu(TooLarge(), 2 << 30)
