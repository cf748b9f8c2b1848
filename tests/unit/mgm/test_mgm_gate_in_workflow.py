"""A merge that fails the parity gate is never asked anything: the workflow's own two rules."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from recap.mgm.merge import merge_lora_weights
from recap.settings import MergeSettings

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = MergeSettings(parity_prompts=1, parity_max_new_tokens=2)
RUN = "results/demo/runs/a/seed1"
PARITY = f"{RUN}/parity.json"
ANSWERS = "results/demo/eval/a/seed1/textvqa/answers/1_0.jsonl"
WIDE = "model.layers.1.mlp.up_proj.weight"

# what rules/common.smk takes from a configuration, for one arm with micro models
SNAKEFILE = """
from types import SimpleNamespace

from scripts.recap.config.data_paths import as_json
from scripts.recap.settings import EvaluateSettings, MergeSettings
from scripts.recap.versions import STAGE_VERSIONS

PLACES = config
SETTINGS = SimpleNamespace(
    merge=MergeSettings(parity_prompts=1, parity_max_new_tokens=2),
    evaluate=EvaluateSettings(dtype="bfloat16"),
)
COMPUTE = SimpleNamespace(gpu_threads=1, gpus=0, model_mem_mb=1000, runtime_minutes=5)
LEASE = "env"
GPUS = {"gpu": 0}
PREFLIGHT = SimpleNamespace(reports=lambda kind: [])
EXPERIMENT = SimpleNamespace(benchmarks={"textvqa": None})


class WIRING:
    base_manifests = staticmethod(lambda: {"language_model": "base.json"})
    base_flags = staticmethod(lambda: PLACES["base_flags"])
    questions = staticmethod(lambda benchmark: PLACES["questions"])
    parity_benchmark = staticmethod(lambda: "textvqa")
    image_root = staticmethod(lambda row: PLACES["image_root"])
    protocol = staticmethod(lambda benchmark: "{}")


def megabytes(count):
    return count


def minutes(count):
    return count


wildcard_constraints:
    control=r"(\\\\.[a-z_]+)?",
    seed="1",


include: "rules/check_parity.smk"
include: "rules/predict_shard.smk"
"""


def rule(file, name):
    """Return one rule's text from the repository's files."""
    text = (ROOT / "rules" / file).read_text()
    found = text[text.index(f"rule {name}:") :]
    return found.split("\n\n\n")[0] + "\n"


@pytest.fixture
def project(mgm_parts, mgm_adapter, mgm_questions, tmp_path):
    for name in ("scripts", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    rules = tmp_path / "rules"
    rules.mkdir()
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (rules / "check_parity.smk").write_text(rule("merge.smk", "check_parity"))
    (rules / "predict_shard.smk").write_text(rule("evaluate.smk", "predict_shard"))
    (tmp_path / "base.json").write_text("{}")
    run = tmp_path / RUN
    shutil.copytree(mgm_adapter, run / "finetune")
    merge_lora_weights(run / "finetune", mgm_parts, run / "merged", SETTINGS)
    flags = (
        f"--language-model {mgm_parts.language_model} --clip {mgm_parts.clip} "
        f"--convnext {mgm_parts.convnext} --image-size-aux 128"
    )
    places = {"base_flags": flags, "questions": str(mgm_questions)}
    places["image_root"] = str(mgm_questions.parent / "images")
    (tmp_path / "places.json").write_text(json.dumps(places))
    return tmp_path


def snakemake(project, target, *flags):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "places.json"]
    command += [*flags, "--", target]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def tamper(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = load_file(folder / index[WIDE])
    tensors[WIDE].mul_(1.02)
    save_file(tensors, folder / index[WIDE], metadata={"format": "pt"})


def test_a_failing_gate_fails_the_workflow_and_nothing_is_answered(project):
    tamper(project / RUN / "merged")
    done = snakemake(project, ANSWERS, "--keep-going", "--show-failed-logs")
    assert done.returncode != 0
    assert not (project / PARITY).exists()
    assert not (project / ANSWERS).parent.exists()
    kept = json.loads((project / RUN / "parity.failed.json").read_text())
    assert kept["first_diverging_module"] == WIDE.removesuffix(".weight")
    assert WIDE.removesuffix(".weight") in done.stdout + done.stderr


@pytest.mark.slow  # the smoke experiment of the workflow's tests passes its gates too
def test_a_passing_gate_lets_the_questions_through(project):
    done = snakemake(project, PARITY)
    assert done.returncode == 0, done.stderr
    assert json.loads((project / PARITY).read_text())["passed"]
    perf = json.loads((project / "results/demo/perf/check_parity/a.seed1.json").read_text())
    assert perf["items"] == 3
    assert (project / "results/demo/perf/check_parity/a.seed1.tsv").is_file()
    plan = snakemake(project, ANSWERS, "--dry-run").stdout
    assert "rule predict_shard" in plan
    assert "rule check_parity" not in plan
