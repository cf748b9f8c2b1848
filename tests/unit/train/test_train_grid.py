"""Training on crops of a grid, with stochastic depth, from the command line on."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import train_stage
from recap.io import read_json, read_jsonl
from recap.mgm.check import check_adapter

FLAGS = ("--image-size-aux", "128", "--image-grid", "2", "--image-global")


def run(world, stage: str, out: Path, settings: dict, *more: str) -> Path:
    arguments = world.arguments(stage, out, settings, *more)
    train_stage.main(train_stage.parser().parse_args(arguments))
    return out / "result"


def values(world, **changes: object) -> dict:
    return world.settings(max_length=512, **changes)


@pytest.fixture(scope="module")
def pretrained(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid_pretrain")
    return run(world, "pretrain", out, values(world, drop_path=0.5), *FLAGS)


def test_stage_1_trains_on_all_views_and_repeats_its_masks(
    world, pretrained: Path, tmp_path: Path
) -> None:
    again = run(world, "pretrain", tmp_path / "again", values(world, drop_path=0.5), *FLAGS)
    without = run(world, "pretrain", tmp_path / "without", values(world), *FLAGS)
    name = "mm_projector.safetensors"
    assert (pretrained / name).read_bytes() == (again / name).read_bytes()
    assert (pretrained / name).read_bytes() != (without / name).read_bytes()
    assert read_json(pretrained / "gates.json")["passed"] is True
    assert read_json(pretrained / "manifest.json")["settings"]["drop_path"] == 0.5
    assert read_jsonl(pretrained / "telemetry.jsonl") == read_jsonl(again / "telemetry.jsonl")


def test_stage_2_writes_an_adapter_that_knows_its_views(
    world, pretrained: Path, tmp_path: Path
) -> None:
    settings = values(
        world,
        image_aspect_ratio="pad",
        learning_rate=2e-3,
        drop_path=0.1,
        lora={"rank": 4, "alpha": 8, "dropout": 0.0},
    )
    start = pretrained / "mm_projector.safetensors"
    folder = run(world, "finetune", tmp_path, settings, *FLAGS, "--projector", str(start))
    config = read_json(folder / "config.json")
    wanted = {"image_size_aux": 128, "image_grid": 2, "image_global": True}
    assert {name: config[name] for name in wanted} == wanted
    assert config["recap"]["drop_path"] == 0.1
    parts = replace(world.parts, image_size_aux=128, image_grid=2, image_global=True)
    assert check_adapter(folder, parts, initial_projector=start)["failures"] == []
    assert load_file(folder / "adapter_model.safetensors")
