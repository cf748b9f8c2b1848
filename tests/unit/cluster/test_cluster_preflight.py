"""What a preflight finds on nodes that lack something."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recap.cluster import preflight
from recap.cluster.preflight import BadNodeError, Demands, Finding, require_sound
from recap.cluster.records import Failure
from recap.cluster.watch import _blamed_nodes
from recap.config.experiment import experiment_from_files
from recap.config.preflight import PreflightWiring
from recap.config.wiring import Wiring
from recap.errors import RecapError
from recap.hashing import sha256_file

ROOT = Path(__file__).resolve().parents[3]
GIB = 1 << 30


def problems(findings) -> list[str]:
    return [one.name for one in findings if one.fix]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The manifest of a model of two files, one beside it and one elsewhere."""
    folder = tmp_path / "models/m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "weights.bin").write_bytes(b"w" * 1000)
    files = {"config.json": folder / "config.json", "weights.bin": tmp_path / "weights.bin"}
    outputs = {n: {"path": str(p), "sha256": sha256_file(p)} for n, p in files.items()}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"outputs": outputs}))
    return manifest


def test_models_must_be_the_ones_described(model: Path, tmp_path: Path) -> None:
    assert not problems(preflight.look_at_models([model]))
    (tmp_path / "weights.bin").write_bytes(b"v" * 1000)
    (finding,) = preflight.look_at_models([model])
    assert finding.value == "weights.bin is another file"
    assert not finding.of_node
    (model.parent / "config.json").unlink()
    (finding,) = preflight.look_at_models([model])
    assert finding.value == "config.json is missing; weights.bin is another file"


def test_memory_is_counted_as_slurm_does(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       31250000 kB\nMemFree: 1 kB\n")  # 32,000 MB
    assert not preflight.look_at_memory(32_000, meminfo).fix
    assert "the node has less" in preflight.look_at_memory(32_001, meminfo).fix


def test_folders_need_space_and_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demands = Demands(0, 0.0, 0, {"results": GIB}, write_mb_per_second=0.0)
    assert not problems(preflight.look_at_folders(demands))
    assert not list(Path("results").iterdir())
    slow = Demands(0, 0.0, 0, {"results": GIB}, write_mb_per_second=1e9)
    assert problems(preflight.look_at_folders(slow)) == ["results, writing"]
    full = Demands(0, 0.0, 0, {"results": 1 << 60}, write_mb_per_second=0.0)
    assert problems(preflight.look_at_folders(full)) == ["results, space"]
    Path("results").rmdir()
    Path("results").write_text("a file")
    assert problems(preflight.look_at_folders(demands)) == ["results"]


def test_packages_that_are_missing_are_named(tmp_path: Path) -> None:
    environment = tmp_path / "env.yaml"
    environment.write_text("      - pydantic==2.14.3\n      - no-such-package==1.0\n")
    (finding,) = preflight.look_at_packages(environment)
    assert finding.value == "no-such-package is missing"
    (finding,) = preflight.look_at_packages(ROOT / "envs/analysis.yaml")
    assert not finding.fix, finding.value


def test_a_node_to_blame_is_named_and_avoided() -> None:
    good, bad = Finding("memory", "64 GB"), Finding("GPU 1, bfloat16", "wrong", "drain the node")
    with pytest.raises(BadNodeError, match=r"node gpu7: GPU 1, bfloat16: wrong; drain") as error:
        require_sound({"gpu6": [good], "gpu7": [good, bad]})
    assert error.value.exit_code == 4
    log = [f"10:00:00 ERROR recap.cli: {error.value}"]
    # the first node of the job is not the bad one
    values = dict.fromkeys(Failure.__annotations__, "") | {"node": "gpu6", "log_tail": log}
    assert _blamed_nodes(Failure(**values)) == ["gpu7"]
    assert _blamed_nodes(Failure(**(values | {"log_tail": []}))) == ["gpu6"]


def test_what_every_node_would_find_blames_none() -> None:
    with pytest.raises(RecapError, match="another file") as error:
        shared = Finding("model m", "a is another file", "fetch it again", of_node=False)
        require_sound({"gpu6": [shared]})
    assert error.value.exit_code == 2
    require_sound({"gpu6": [Finding("memory", "64 GB")]})


def test_two_ranks_add_up_and_report_once(tmp_path: Path, model: Path) -> None:
    """On the CPU, by gloo; with GPUs the same code uses NCCL."""
    out = tmp_path / "report.json"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("--standalone", str(ROOT / "scripts/preflight.py"), "--gpus", "0"),
        *("--memory-mb", "100", "--models", str(model), "--out", str(out)),
        *("--environment", str(ROOT / "envs/analysis.yaml"), "--folder", str(tmp_path), "0.001"),
    ]
    environment = os.environ | {"SLURMD_NODENAME": "here", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["passed"]
    found = report["nodes"]["here"]
    values = {one["name"]: one["value"] for one in found}
    assert len(values) == len(found)  # each once, though two ranks looked
    assert values["gloo all-reduce"] == "2 ranks"
    assert values["model m"] == "2 files"


def test_each_rank_looks_at_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processes with a little memory of each card would make all look too small."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(preflight, "_look_at_card", lambda number, _: [Finding(str(number), "")])
    demands = preflight.Demands(3, 22.0, 0, {}, 0.0)

    def cards() -> list[str]:
        return [one.name for one in preflight.look_at_gpus(demands)][1:]

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert cards() == ["0", "1", "2"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert cards() == ["2"]


def test_gpus_that_are_not_there_make_a_bad_node(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [
        *(sys.executable, str(ROOT / "scripts/preflight.py"), "--gpus", "2"),
        *("--memory-mb", "100", "--out", str(out)),
        *("--environment", str(ROOT / "envs/analysis.yaml")),
    ]
    environment = os.environ | {"SLURMD_NODENAME": "gpu9", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 4
    assert "node gpu9: GPUs visible: 0 of 2; " in done.stderr
    assert not json.loads((tmp_path / "report.failed.json").read_text())["passed"]


def test_only_jobs_with_gpus_wait_for_a_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    demo, real = (
        PreflightWiring(Wiring(experiment_from_files(name))) for name in ("demo", "full_400k")
    )
    assert demo.reports("model") == demo.reports("train") == []
    assert real.reports("train") == ["results/full_400k/preflight/train.json"]
    assert "resources/models/blip2-opt-2.7b/manifest.json" in real.models("model")
    assert "resources/models/blip2-opt-2.7b/manifest.json" not in real.models("train")
    assert real.flags("train").startswith("--gpus 1 --gpu-memory-gib 22.0 --memory-mb 32000 ")
