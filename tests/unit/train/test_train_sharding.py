"""The frozen base cut over two ranks (gloo): the trajectory of one rank that holds all of it."""

import json
from pathlib import Path

import pytest
import train_processes as processes
from test_train_ranks import assert_same_trajectory, logs, on_two, tuning

from recap.errors import EXIT_BAD_INPUT, EXIT_GATE_FAILED, RecapError
from recap.io import read_json, read_jsonl
from recap.mgm.tokenizer_files import load_tokenizer
from recap.train.held_out import read_held_out_sets, summed_loss
from recap.train.passes import plan_passes
from recap.train.prepare import prepare_data
from recap.train.request import StageRequest, parse_settings
from recap.train.setup import build_stage_model
from recap.train.signals import EXIT_INTERRUPTED

PACKED = {"packing": True, "micro_batch_size": 1, "group_by_modality_length": False}


def request(world, stage: str, values: dict, out: Path, *held_out: tuple[str, Path]):
    return StageRequest(
        stage=stage,
        data=world.instructions,
        image_root=world.images,
        parts=world.parts,
        settings=parse_settings(stage, values),
        seed=3,
        state_dir=out,
        out_dir=out,
        perf=out,
        held_out=held_out,
    )


@pytest.fixture(scope="module")
def asked(world) -> list[str]:
    path = world.write_set("odd.json", 5, text_only=2)
    return ["--held-out", f"asked={path}", "--held-out-every", "2"]


@pytest.fixture(scope="module")
def alone(world, stage_1: Path, asked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 2 on one rank with the whole base, packed."""
    out = tmp_path_factory.mktemp("alone")
    values = tuning(world, **PACKED)
    return world.run("finetune", out, values, "--projector", str(stage_1), *asked)


@pytest.fixture
def command(world, stage_1: Path, tmp_path: Path, asked):
    def arguments(**changes: object) -> list[str]:
        values = tuning(world, **(PACKED | {"shard_base": True} | changes))
        more = ("--projector", str(stage_1), *asked)
        return world.arguments("finetune", tmp_path, values, *more)

    return arguments


def assert_same_held_out(result: Path, expected: Path) -> None:
    one, two = (read_json(f / "metrics.json")["held_out_curves"] for f in (result, expected))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [2, 4]
    for row, other in zip(one, two, strict=True):
        assert row.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-5)
        assert row == other


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_stage_2_is_that_of_one_whole_rank(
    world, command, alone: Path, tmp_path: Path, checkpointing: bool
) -> None:
    given = request(world, "finetune", tuning(world, **PACKED), tmp_path)
    data = prepare_data(given, 2)
    passes = [
        plan_passes(data.order, data.lengths, data.plan, rank, max(data.lengths)) for rank in (0, 1)
    ]
    counts = [[len(update) for update in updates] for updates in passes]
    assert counts[0] != counts[1], "ranks are to have different numbers of passes"

    result = on_two(command(gradient_checkpointing=checkpointing), tmp_path)
    assert_same_trajectory(result, alone)
    assert_same_held_out(result, alone)
    assert "MiB of frozen decoder layers" in logs(tmp_path)[0]


def test_stage_1_is_that_of_one_whole_rank(world, asked, tmp_path: Path) -> None:
    # With text-only samples: in a pass of such a one nothing is trained, on one rank alone.
    values = world.settings(micro_batch_size=1)
    given = request(world, "pretrain", values, tmp_path)
    data = prepare_data(given, 2)
    pictures = [
        [data.samples[rows[0][0]].image is not None for update in updates for rows in update]
        for updates in (plan_passes(data.order, data.lengths, data.plan, r) for r in (0, 1))
    ]
    assert (True, False) in zip(*pictures, strict=True)

    command = [*world.arguments("pretrain", tmp_path / "1", values, *asked)]
    at = command.index("--data") + 1
    command[at] = str(world.instructions)
    assert processes.ends([processes.start(command, tmp_path / "log")]) == [0]
    command = world.arguments("pretrain", tmp_path, values | {"shard_base": True}, *asked)
    command[at] = str(world.instructions)
    result = on_two(command, tmp_path)
    assert_same_trajectory(result, tmp_path / "1" / "result", "mm_projector")
    assert_same_held_out(result, tmp_path / "1" / "result")


def count_bytes(rank: int, port: str, world, values: dict, out: str) -> None:
    """Write down what a rank holds of each decoder layer, and what there is."""
    import os

    import torch
    from torch import distributed

    from recap.train.sharding import shard_decoder

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    settings = parse_settings("finetune", values)
    model = build_stage_model(world.parts, settings, seed=1, projector=None)
    frozen = [(n, p.nbytes) for n, p in model.named_parameters() if not p.requires_grad]
    before = dict(frozen)
    shard_decoder(model, torch.device("cpu"), 2)
    tokens = torch.zeros((1, 2), dtype=torch.long)
    assert model.get_input_embeddings()(tokens).requires_grad
    with torch.no_grad():
        assert not model.get_input_embeddings()(tokens).requires_grad
    held = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert type(parameter) is torch.nn.Parameter, name
        else:
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            held[name] = local.untyped_storage().nbytes()
    Path(out).write_text(json.dumps([before, held]))
    distributed.barrier()
    distributed.destroy_process_group()


def test_each_rank_holds_half_of_the_decoder(world, tmp_path: Path) -> None:
    outs, port = [tmp_path / str(rank) for rank in (0, 1)], processes.free_port()
    ranks = []
    for rank, out in enumerate(outs):
        arguments = (rank, port, world, tuning(world), str(out))
        ranks.append(processes.CONTEXT.Process(target=count_bytes, args=arguments))
        ranks[-1].start()
    assert processes.ends(ranks) == [0, 0]
    for out in outs:
        before, held = read_json(out)
        assert held.keys() == before.keys()
        layers = [name for name in held if ".layers." in name and "language_model" in name]
        assert len(layers) == 2 * 9  # 7 matrices and 2 norms each
        assert all(2 * held[name] == before[name] for name in layers)
        assert all(held[name] == before[name] for name in held.keys() - set(layers))


def test_a_sharded_run_stops_and_one_whole_rank_goes_on(
    command, alone: Path, tmp_path: Path
) -> None:
    # Rank 1 alone is told to stop, within update 3; SIGKILL is said to be so near that both
    # leave it between two passes.
    changes = {"packing": False, "micro_batch_size": 2}
    only = {1: {"FAULT": "term,6", "GRACE_SECONDS": "20"}}
    ranks = processes.start_ranks(command(**changes), tmp_path, only)
    assert processes.ends(ranks) == [EXIT_INTERRUPTED] * 2
    assert "stopped by another rank after update 2 of 4" in logs(tmp_path)[0]
    (saved,) = (tmp_path / "state").glob("run-*/checkpoint-*")
    assert saved.name == "checkpoint-2"
    rest = processes.start(command(**changes, shard_base=False), tmp_path / "log")
    assert processes.ends([rest]) == [0], (tmp_path / "log").read_text()
    assert "continuing after update 2" in (tmp_path / "log").read_text()
    assert_same_trajectory(tmp_path / "result", alone)
    assert_same_held_out(tmp_path / "result", alone)


def test_a_sharded_evaluation_is_left_together(command, alone: Path, tmp_path: Path) -> None:
    # The gate's pass and two passes of each of two updates, then the one to be measured.
    changes = {"packing": False, "micro_batch_size": 2}
    only = {1: {"FAULT": "evaluation,5", "GRACE_SECONDS": "20"}}
    ranks = processes.start_ranks(command(**changes), tmp_path, only)
    assert processes.ends(ranks) == [EXIT_INTERRUPTED] * 2
    (saved,) = (tmp_path / "state").glob("run-*/checkpoint-2")
    assert read_jsonl(saved / "held_out.jsonl") == []
    result = on_two(command(**changes), tmp_path)
    assert_same_held_out(result, alone)


def test_a_gate_that_trips_on_one_rank_ends_both(command, tmp_path: Path) -> None:
    ranks = processes.start_ranks(command(), tmp_path, {1: {"FAULT": "nan,1"}})
    assert processes.ends(ranks) == [EXIT_GATE_FAILED] * 2
    for log in logs(tmp_path):
        assert "gate loss_gradient_consistency failed: nan" in log


def test_a_rank_without_memory_ends_the_job(command, tmp_path: Path) -> None:
    only = {1: {"SCARCE_MEMORY": "0,3"}}
    ranks = processes.start_ranks(command(), tmp_path, only)
    codes = processes.ends(ranks)
    assert codes[1] == EXIT_BAD_INPUT
    assert codes[0] not in (0, None), "the other rank is not left waiting"
    assert "update 1: the GPU's memory does not suffice" in logs(tmp_path)[1]
    assert "lower micro_batch_size" in logs(tmp_path)[1]
    assert not (tmp_path / "result" / "manifest.json").exists()


def test_one_rank_has_nobody_to_share_with(
    world, stage_1: Path, alone: Path, asked, tmp_path: Path, caplog
) -> None:
    values = tuning(world, **PACKED, shard_base=True)
    result = world.run("finetune", tmp_path, values, "--projector", str(stage_1), *asked)
    assert "shard_base has no effect: one rank holds all weights" in caplog.text
    for name in ("adapter_model.safetensors", "telemetry.jsonl"):
        assert (result / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.slow
def test_compiled_layers_are_sharded_too(command, alone: Path, tmp_path: Path) -> None:
    result = on_two(command(compile_blocks=True, gradient_checkpointing=0.5), tmp_path, 900)
    rows, others = (read_jsonl(folder / "telemetry.jsonl") for folder in (result, alone))
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": "auto"}, "needs a value for `micro_batch_size`: "),
        ({"gradient_checkpointing": "auto"}, "needs a value for `gradient_checkpointing`: "),
        ({"base_quantization": "nf4"}, "4-bit weights lose their scales"),
    ],
)
def test_what_cannot_be_sharded_is_refused(world, changes: dict, message: str) -> None:
    values = tuning(world) | changes
    parse_settings("finetune", values)
    with pytest.raises(RecapError, match=message):
        parse_settings("finetune", values | {"shard_base": True})


def test_an_empty_pass_adds_nothing_to_a_sum(world, tmp_path: Path) -> None:
    values = world.settings()
    path = world.write_set("three.json", 3, text_only=1)
    given = request(world, "pretrain", values, tmp_path, ("asked", path))
    (data,) = read_held_out_sets(given, load_tokenizer(world.parts.language_model))
    model = build_stage_model(world.parts, given.settings, seed=3, projector=None)
    from recap.train.collate import Collator

    collator = Collator(0, model.config.image_tokens, 256)
    with processes.each_pass(lambda number, output: made.append(float(output.loss))):
        made: list[float] = []
        whole = summed_loss(model, range(3), data, collator, 2)
        assert len(made) == 2
        made.clear()
        assert summed_loss(model, range(3), data, collator, 2, passes=4) == whole
    assert made[2:] == [0.0, 0.0]
