"""How training is launched, down to the line that Snakemake's SLURM plugin submits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

import train_stage
from recap.config.launching import TrainLaunch
from recap.config.schema import ComputeSettings
from recap.train_settings import FREE_SETTINGS, StageSettings, free_settings


class Resources(dict):
    """Resources as the plugin reads a job's: by key and by attribute."""

    __getattr__ = dict.__getitem__


def launch(**compute):
    values = {"gpu_threads": 8, "model_mem_mb": 32_000, "train_runtime_minutes": 1440}
    return TrainLaunch(ComputeSettings(**(values | compute)))


def submit_line(threads, **resources):
    """Return what the plugin makes of a job, as its own `run_job` puts it together."""
    job = SimpleNamespace(threads=threads, resources=Resources(resources))
    parameters = {
        "run_uuid": "run",
        "slurm_logfile": "log/%j.log",
        "comment_str": "rule_pretrain",
        "account": "-A 'lab'",
        "partition": "-p 'gpu'",
        "workdir": "/work",
    }
    return get_submit_command(job, parameters) + set_gres_string(job)


def training_line(plan):
    resources = {"runtime": 1440, "mem_mb": plan.mem_mb, **plan.resources()}
    return submit_line(plan.threads, **resources)


HEAD = (
    "sbatch --parsable --job-name run --output log/%j.log --export=ALL --comment rule_pretrain "
    "-A 'lab' -p 'gpu' -t 1440 "
)


@pytest.mark.parametrize(
    ("compute", "line"),
    [
        (
            {"train_gpus": 1},
            "--mem 32000 --nodes=1 --cpus-per-task=8 -D /work --gpus=1",
        ),
        (
            {"train_gpus": 4},
            "--mem 128000 --nodes=1 --cpus-per-task=32 -D /work --gpus=4",
        ),
        (
            {"train_gpus": 4, "train_nodes": 2},
            "--mem 128000 --nodes=2 --ntasks-per-node=4 --cpus-per-task=8 -D /work --gres=gpu:4",
        ),
        (
            {"train_gpus": 1, "train_nodes": 2},
            "--mem 32000 --nodes=2 --ntasks=2 --cpus-per-task=8 -D /work --gres=gpu:1",
        ),
        (
            {"train_gpus": 0},
            "--mem 32000 --nodes=1 --ntasks=1 --cpus-per-task=8 -D /work",
        ),
        (
            {"train_gpus": 0, "train_nodes": 3},
            "--mem 32000 --nodes=3 --ntasks=3 --cpus-per-task=8 -D /work",
        ),
    ],
)
def test_the_submitted_line_of_a_training_job(compute, line):
    assert training_line(launch(**compute)) == HEAD + line


def test_the_submitted_line_of_a_job_without_gpus():
    line = submit_line(1, runtime=240, mem_mb=4000)
    assert line == HEAD.replace("1440", "240") + "--mem 4000 --ntasks=1 --cpus-per-task=1 -D /work"


def test_one_rank_needs_no_launcher():
    assert launch(train_gpus=0).command(8) == "env python"
    assert launch(train_gpus=1).command(8) == "python scripts/lease_gpus.py 1 python"


@pytest.mark.parametrize(("threads", "each"), [(32, 8), (15, 3), (2, 1)])
def test_the_ranks_of_a_node_share_the_threads_that_there_are(threads, each):
    command = launch(train_gpus=4).command(threads)
    assert " python -m accelerate.commands.launch --multi_gpu --num_processes 4 " in command
    assert f" --num_cpu_threads_per_process {each} " in command
    assert " --main_process_port 0 " in command


def test_several_nodes_are_one_step_with_a_task_a_rank():
    assert launch(train_gpus=4, train_nodes=2).command(6) == (
        "srun --mpi=none --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=6 "
        "--gres=gpu:4 --kill-on-bad-exit=0 --wait=60 python scripts/start_rank.py"
    )
    assert "--gres" not in launch(train_gpus=0, train_nodes=2).command(6)


@pytest.mark.parametrize(
    ("compute", "ranks"),
    [({"train_gpus": 0}, 1), ({"train_gpus": 8}, 8), ({"train_gpus": 4, "train_nodes": 2}, 8)],
)
def test_ranks_are_counted_over_all_nodes(compute, ranks):
    assert launch(**compute).ranks == ranks


@pytest.mark.parametrize(
    "free",
    [
        {"micro_batch_size": "auto", "gradient_checkpointing": "auto", "compile_blocks": "auto"},
        {"micro_batch_size": 4, "gradient_checkpointing": 0.25, "compile_blocks": False},
        {"micro_batch_size": 1, "gradient_checkpointing": True, "shard_base": True},
        {"memory_gib": 22.5, "save_steps": 7},
    ],
)
def test_free_settings_reach_the_script_as_they_were(free) -> None:
    needed = {"global_batch_size": 8, "learning_rate": 1e-3, "image_aspect_ratio": "pad"}
    settings = StageSettings.model_validate(needed | free)
    word = free_settings(settings)
    assert re.fullmatch(r"[\w=,.]+", word), "the shell and Snakemake leave it alone"
    action = next(a for a in train_stage.parser()._actions if a.dest == "free_settings")
    values = settings.model_dump(mode="json", exclude=FREE_SETTINGS) | action.type(word)
    assert StageSettings.model_validate(values) == settings


def test_free_settings_are_those_that_change_no_update(capsys) -> None:
    with pytest.raises(SystemExit):
        train_stage.parser().parse_args(["--free-settings", "learning_rate=1"])
    assert "expected NAME=VALUE of compile_blocks, " in capsys.readouterr().err


@pytest.mark.workflow
def test_the_training_rules_ask_for_what_the_launch_says():
    """A dry run of the rules gives the plugin the same line, and the ranks their launcher."""
    compute = "{train_gpus: 4, train_nodes: 2, gpu_threads: 1, model_mem_mb: 3000}"
    train = "{pretrain: {micro_batch_size: 1}, finetune: {micro_batch_size: 1}}"
    planned = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "8"),
            *("--config", "experiment=smoke", f"compute={compute}", f"train={train}"),
        ],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    plan = launch(train_gpus=4, train_nodes=2, gpu_threads=1, model_mem_mb=3000)
    blocks = re.split(r"^(?=(?:local)?rule \w+:$)", planned, flags=re.MULTILINE)
    training = [b for b in blocks if b.startswith(("rule pretrain:", "rule finetune:"))]
    assert len(training) == 8  # two arms, two seeds, two stages
    for block in training:
        assert f"{plan.command(1)} scripts/train_stage.py" in block
        # what changes no update is no parameter, so a finished run is not trained again for it
        settings = json.loads(re.search(r"--settings '([^']+)'", block).group(1))
        assert "learning_rate" in settings
        assert not FREE_SETTINGS & set(settings)
        assert "--free-settings micro_batch_size=1,gradient_checkpointing=" in block
        listed = re.search(r"^    resources: (.*)$", block, flags=re.MULTILINE).group(1)
        pairs = (item.partition("=") for item in listed.split(", ") if "=" in item)
        asked = {key: int(value) if value.isdigit() else value for key, _, value in pairs}
        threads = re.search(r"^    threads: (\d+)$", block, flags=re.MULTILINE)
        line = submit_line(int(threads.group(1)) if threads else 1, **asked)
        assert "--mem 12000 --nodes=2 --ntasks-per-node=4 --cpus-per-task=1 " in line
        assert line.endswith("--gres=gpu:4")
