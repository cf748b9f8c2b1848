"""The cluster profiles as Snakemake and its SLURM plugin read them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.cli import parse_args
from snakemake.profiles import ProfileConfigFileParser
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file

from recap.cluster.profiles import PROFILES, install_profiles, uses_cluster
from recap.config.launching import TrainLaunch, gpu_resources
from recap.config.schema import ComputeSettings
from recap.errors import RecapError

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "profiles"


def settings_of(profile: str):
    return parse_args(["--profile", profile])[1]


def words_of(path: Path) -> dict[str, object]:
    """Return a profile as Snakemake puts it on its command line."""
    with path.open() as stream:
        return dict(ProfileConfigFileParser().parse(stream))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that has nothing to do with the pipeline, and a user's profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    return tmp_path / "config/snakemake"


@pytest.mark.parametrize("name", PROFILES)
def test_an_installed_profile_is_found_by_its_name_from_anywhere(
    elsewhere: Path, name: str
) -> None:
    install_profiles(ROOT, elsewhere)
    installed = settings_of(name)
    assert Path(installed.snakefile) == ROOT / "Snakefile"
    assert Path(installed.directory) == ROOT
    # and is the shipped one in everything else
    ours, shipped = (
        words_of(elsewhere / name / "config.yaml"),
        words_of(SHIPPED / name / "config.yaml"),
    )
    assert ours.pop("snakefile") == str(ROOT / "Snakefile")
    assert ours.pop("directory") == str(ROOT)
    assert ours == shipped


def test_a_profile_says_whether_jobs_go_to_a_cluster(elsewhere: Path) -> None:
    assert not uses_cluster("slurm")
    install_profiles(ROOT, elsewhere)
    assert [uses_cluster(name) for name in PROFILES] == [True, True]
    shipped = {name: uses_cluster(str(SHIPPED / name)) for name in (*PROFILES, "local")}
    assert shipped == {"slurm": True, "slurm-gres": True, "local": False}


def test_an_edit_of_the_shipped_profile_counts_at_once(elsewhere: Path, tmp_path: Path) -> None:
    for name in PROFILES:
        folder = tmp_path / "copy/profiles" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("executor: slurm\njobs: 7\n")
    install_profiles(tmp_path / "copy", elsewhere)
    (tmp_path / "copy/profiles/slurm/config.yaml").write_text("executor: slurm\njobs: 8\n")
    assert int(settings_of("slurm").jobs) == 8


def test_a_profile_of_the_users_own_is_kept(elsewhere: Path) -> None:
    own = elsewhere / "slurm/config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("jobs: 1\n")
    with pytest.raises(RecapError, match="profile of yours"):
        install_profiles(ROOT, elsewhere)
    assert own.read_text() == "jobs: 1\n"
    assert not (elsewhere / "slurm-gres").exists()
    own.unlink()
    install_profiles(ROOT, elsewhere)
    install_profiles(ROOT, elsewhere)  # ours may be written again


@pytest.mark.parametrize("name", PROFILES)
def test_nothing_of_this_machine_limits_the_clusters_jobs(name: str, monkeypatch) -> None:
    """Snakemake reads profiles/default besides every other, and cuts threads to `cores`."""
    monkeypatch.chdir(ROOT)
    assert not (ROOT / "profiles/default").exists()
    settings = settings_of(f"profiles/{name}")
    assert settings.executor == "slurm"
    assert settings.cores is None
    # a limit of each submission, and none of the run
    assert settings.resources == {"turn": 1}
    assert settings.set_resource_scopes == {"turn": "local"}
    assert settings.keep_going
    assert settings.rerun_incomplete
    # array jobs are broken in the pinned plugin
    assert not isinstance(settings.slurm_array_jobs, str)


@pytest.mark.parametrize("name", PROFILES)
def test_who_shares_a_submission_takes_turns(name: str) -> None:
    profile = words_of(SHIPPED / name / "config.yaml")
    rules = {word.partition("=")[0] for word in profile["groups"]}
    turns = {
        word.partition(":")[0] for word in profile["set-resources"] if word.endswith(":turn=1")
    }
    assert turns == rules


def test_both_profiles_differ_in_how_gpus_are_asked_for_alone() -> None:
    shipped = {
        name: yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())
        for name in PROFILES
    }
    assert shipped["slurm-gres"].pop("configfile") == "compute.yaml"
    assert shipped["slurm-gres"] == shipped["slurm"]
    extra = yaml.safe_load((ROOT / "profiles/slurm-gres/compute.yaml").read_text())
    assert ComputeSettings(**extra["compute"]).gpu_request == "gres"


@pytest.mark.parametrize("name", [*PROFILES, "local"])
def test_every_setting_is_explained(name: str) -> None:
    lines = (ROOT / "profiles" / name / "config.yaml").read_text().splitlines()
    explained = False
    for line in lines:
        if line.startswith("#"):
            explained = True
        elif not line.strip():
            explained = False
        elif line[0].isalpha() and not line.startswith("printshellcmds"):
            assert explained, line


@pytest.mark.parametrize(
    ("request_", "gpus", "asked"),
    [
        ("gpus", 2, {"gpu": 2}),
        ("gpus", 0, {"gpu": 0}),
        ("gres", 2, {"gres": "gpu:2"}),
        ("gres:rtx4090", 1, {"gres": "gpu:rtx4090:1"}),
        ("gres", 0, {"gres": ""}),
    ],
)
def test_gpus_are_asked_for_as_the_cluster_wants(request_: str, gpus: int, asked) -> None:
    compute = ComputeSettings(gpu_request=request_, train_gpus=gpus)
    assert gpu_resources(compute, gpus) == asked
    assert TrainLaunch(compute).resources() == {"nodes": 1, **asked}
    by_wildcards = gpu_resources(compute, lambda wildcards: gpus)
    assert {name: ask(None) for name, ask in by_wildcards.items()} == asked


def test_over_several_nodes_the_kind_of_card_is_named_too() -> None:
    compute = ComputeSettings(gpu_request="gres:rtx4090", train_gpus=4, train_nodes=2)
    assert TrainLaunch(compute).resources()["gres"] == "gpu:rtx4090:4"
    assert " --gres=gpu:rtx4090:4 " in TrainLaunch(compute).command(8)


class Asked(dict):
    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    ("threads", "resources", "partition"),
    [
        (1, {"mem_mb": 4000, "runtime": 240}, "cpu"),
        (8, {"mem_mb": 32_000, "runtime": 240, "gpu": 1}, "gpu"),
        (32, {"mem_mb": 128_000, "runtime": 1440, "gpu": 4, "nodes": 1}, "gpu"),
        (8, {"mem_mb": 128_000, "gres": "gpu:4", "nodes": 2, "mpi": "srun"}, "gpu-multi"),
    ],
)
def test_the_example_sends_each_kind_of_job_where_it_belongs(threads, resources, partition) -> None:
    partitions = read_partition_file(ROOT / "profiles/partitions.example.yaml")
    job = SimpleNamespace(name="job", threads=threads, resources=Asked(resources))
    quiet = SimpleNamespace(debug=lambda *_: None, info=lambda *_: None, warning=lambda *_: None)
    assert get_best_partition(partitions, job, quiet) == partition
