"""Plans of small runs whose figures can be worked out by hand."""

from pathlib import Path

import pytest

from recap.config.experiment import experiment_from_files
from recap.planning.amounts import Amounts
from recap.planning.dryrun import PlannedJob, read_jobs
from recap.planning.durations import Durations
from recap.planning.plan import describe, make_plan
from recap.planning.schedule import Capacity, critical_path, path_lengths, wall_seconds

# As Snakemake 9.27 prints it.
DRY_RUN = """\
Building DAG of jobs...
[Thu Nov 26 10:00:00 2026]
rule caption_shard:
    input: kept/00000.jsonl, model.json
    output: captions/00000.jsonl, perf/caption_shard/a.json
    log: logs/caption.log
    jobid: 2
    benchmark: perf/caption_shard/a.tsv
    reason: Params have changed since last execution: before: 1 now: 2
    wildcards: experiment=smoke, corpus=smoke, recipe=basic, captioner=micro, shard=00000
    threads: 8
    resources: tmpdir=/tmp, mem_mb=32000, mem=32 GB, runtime=240, gpu=1, lease=python scripts/lease_gpus.py 1
[Thu Nov 26 10:00:00 2026]
rule pretrain:
    input: captions/00000.jsonl
    output: projector.safetensors
    jobid: 5
    reason: Missing output files: projector.safetensors; Input files updated by another job: captions/00000.jsonl
    wildcards: experiment=smoke, arm=baseline, seed=1
    resources: tmpdir=/tmp, mem_mb=64000, runtime=240, mpi=srun, nodes=2, gres=gpu:rtx4090:4, tasks_per_gpu=0
[Thu Nov 26 10:00:00 2026]
localrule all:
    input: projector.safetensors
    jobid: 0
    reason: Input files updated by another job: projector.safetensors
    resources: tmpdir=/tmp
Job stats:
job              count
"""  # noqa: E501


# Two jobs that share a submission, and a step's job; as Snakemake 9.27 prints them.
GROUPED = """\
[Thu Nov 26 10:00:00 2026] Group job split (jobs in lexicogr. order):

    [Thu Nov 26 10:00:00 2026]
    rule split_shard:
        input: validated.jsonl
        output: shards/00001.jsonl
        jobid: 14
        reason: Missing output files: shards/00001.jsonl
        wildcards: experiment=smoke, corpus=smoke, shard=00001
        resources: tmpdir=/tmp, mem_mb=1000, mem=1 GB, runtime=6, turn=1
    [Thu Nov 26 10:00:00 2026]
    rule split_shard:
        input: validated.jsonl
        output: shards/00000.jsonl
        jobid: 8
        reason: Missing output files: shards/00000.jsonl
        wildcards: experiment=smoke, corpus=smoke, shard=00000
        threads: 3
        resources: tmpdir=/tmp, mem_mb=1000, mem=1 GB, runtime=6, turn=1
[Thu Nov 26 10:00:00 2026]
rule map_shard:
    input: shards/00000.jsonl
    output: kept/00000.jsonl
    jobid: 20
    benchmark: results/smoke/perf/map_shard/corpus/smoke/recipes/web/01_mapper.00000.tsv
    reason: Missing output files: kept/00000.jsonl
    wildcards: experiment=smoke, place=corpus/smoke/recipes/web, step=01_mapper, shard=00000
    resources: tmpdir=/tmp, mem_mb=2000, runtime=30
rule predict_positive_control:
    input: checkpoint
    output: answers/1_0.jsonl
    jobid: 21
    benchmark: results/smoke/perf/positive_control/mgm-2b.textvqa.1_0.tsv
    reason: Missing output files: answers/1_0.jsonl
    wildcards: experiment=smoke, released=mgm-2b, benchmark=textvqa, chunks=1, chunk=0
    resources: tmpdir=/tmp, mem_mb=2000, runtime=30
Job stats:
"""


def job(number: int, after=(), *, rule="r", gpus=0, threads=1) -> PlannedJob:
    return PlannedJob(number, rule, {}, "missing", [], [], threads, gpus, 1000, list(after))


def test_a_dry_run_is_read() -> None:
    caption, train, everything = read_jobs(DRY_RUN)
    assert (caption.number, caption.rule, caption.threads, caption.gpus) == (
        *(2, "caption_shard"),
        *(8, 1),
    )
    assert caption.memory_mb == 32_000
    assert caption.wildcards["corpus"] == "smoke"
    assert caption.why == "changed setting or stage version"
    # four cards on each of two nodes
    assert (train.gpus, train.threads, train.why) == (8, 1, "missing")
    assert (train.after, everything.after) == ([2], [5])
    assert everything.why == "follows from others"


def test_jobs_that_share_a_submission_are_read() -> None:
    first, second, mapped, _ = read_jobs(GROUPED)
    assert [(one.number, one.rule, one.threads) for one in (first, second)] == [
        (14, "split_shard", 1),
        (8, "split_shard", 3),
    ]
    assert first.wildcards == {"experiment": "smoke", "corpus": "smoke", "shard": "00001"}
    assert (second.memory_mb, second.inputs, mapped.after) == (1000, ["validated.jsonl"], [8])


def test_jobs_of_steps_and_of_released_models_are_measured_too(
    smoke, tmp_path: Path, priors: str
) -> None:
    for path in ("map_shard/corpus/smoke/01_mapper.00000", "positive_control/mgm-2b.textvqa.1_0"):
        target = tmp_path / f"perf/{path}.tsv"
        target.parent.mkdir(parents=True)
        target.write_text("s\th:m:s\tmax_rss\n7.5\t0:00:07\t400\n")
    durations = Durations(Amounts(smoke), tmp_path / "perf", priors=priors)
    split, _, *timed = map(durations.expect, read_jobs(GROUPED))
    assert not split.measured
    assert [(one.seconds, one.measured) for one in timed] == [(7.5, True)] * 2


# 1 takes 10 s; 2, 3 and 4 follow it and take 4, 6 and 1 s; 5 follows 2 and 3 and takes 2 s.
DIAMOND = [job(1), job(2, [1]), job(3, [1]), job(4, [1]), job(5, [2, 3])]
SECONDS = {1: 10.0, 2: 4.0, 3: 6.0, 4: 1.0, 5: 2.0}


def test_the_longest_chain_is_found() -> None:
    assert path_lengths(DIAMOND, SECONDS) == {1: 18.0, 2: 6.0, 3: 8.0, 4: 1.0, 5: 2.0}
    assert [one.number for one in critical_path(DIAMOND, SECONDS)] == [1, 3, 5]
    assert critical_path([], {}) == []


@pytest.mark.parametrize(
    ("jobs", "expected"),
    # one at a time: the sum; two: 3 beside 2 and then 4, 5 after 3; more cannot beat the chain
    [(1, 23.0), (2, 18.0), (9, 18.0)],
)
def test_wall_time_depends_on_how_many_run_at_once(jobs: int, expected: float) -> None:
    assert wall_seconds(DIAMOND, SECONDS, Capacity(jobs, gpus=1, cores=99)) == expected


@pytest.mark.parametrize(
    ("gpus", "cores", "expected"),
    [(1, 99, 30.0), (2, 99, 20.0), (3, 99, 10.0), (3, 4, 20.0), (3, None, 10.0)],
)
def test_jobs_wait_for_gpus_and_cores(gpus: int, cores: int | None, expected: float) -> None:
    jobs = [job(number, gpus=1, threads=2) for number in range(3)]
    seconds = dict.fromkeys(range(3), 10.0)
    assert wall_seconds(jobs, seconds, Capacity(99, gpus, cores)) == expected


def test_a_job_that_asks_for_more_than_there_is_runs_alone() -> None:
    jobs = [job(0, gpus=8), job(1, gpus=1)]
    assert wall_seconds(jobs, {0: 5.0, 1: 5.0}, Capacity(9, gpus=2, cores=9)) == 10.0


@pytest.fixture
def perf(tmp_path: Path) -> Path:
    """An experiment that has captioned two shards, and trained nothing yet."""
    folder = tmp_path / "perf/caption_shard"
    folder.mkdir(parents=True)
    for name, seconds in (("a", 30.0), ("b", 50.0)):
        (folder / f"{name}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:30\t400\n")
    return tmp_path / "perf"


@pytest.fixture
def priors(tmp_path: Path) -> str:
    path = tmp_path / "priors.tsv"
    path.write_text(
        "rule\tstart_seconds\titem_seconds\titems\tdisk_mb\tsource\n"
        "*\t5\t0\tone\t1\ttest\n"
        "caption_shard\t1\t1\tshard\t2\ttest\n"
        "pretrain\t100\t0.5\tpretrain\t70\ttest\n"
    )
    return str(path)


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    return experiment_from_files("smoke")


def test_own_figures_come_before_priors(smoke, perf: Path, priors: str) -> None:
    caption, train, _ = read_jobs(DRY_RUN)
    records = smoke.corpora["smoke"].records
    epochs = smoke.config.train.pretrain.epochs
    durations = Durations(Amounts(smoke), perf, priors=priors, gpu_speed=0.5)
    assert durations.expect(caption).seconds == 40.0
    assert durations.expect(caption).measured
    # eight GPUs of half the speed
    expected = durations.expect(train)
    assert expected.seconds == pytest.approx(100 + 0.5 * records * epochs / 8 / 0.5)
    assert (expected.measured, expected.disk_mb) == (False, 70.0)


def test_amounts_follow_the_experiment(smoke) -> None:
    amounts = Amounts(smoke)
    shard = min(smoke.config.curate.shard_size, smoke.corpora["smoke"].records)
    one = PlannedJob(1, "r", {"corpus": "smoke"}, "", [], [], 1, 0, 0)
    assert (amounts.of(one, "shard"), amounts.of(one, "one")) == (shard, 1)
    name, row = next(iter(smoke.benchmarks.items()))
    asked = PlannedJob(1, "r", {"benchmark": name, "chunks": "7"}, "", [], [], 1, 0, 0)
    assert (
        amounts.of(asked, "questions") * 7 >= row.count > (amounts.of(asked, "questions") - 1) * 7
    )


def test_a_plan_adds_up(smoke, perf: Path, priors: str) -> None:
    jobs = read_jobs(DRY_RUN)
    durations = Durations(Amounts(smoke), perf, priors=priors)
    plan = make_plan(jobs, durations, Capacity(10, 8, 64), "smoke")
    train = durations.expect(jobs[1]).seconds
    assert plan["jobs"] == 2  # `all` does nothing
    assert plan["wall_seconds"] == plan["critical_seconds"] == pytest.approx(40 + train, abs=0.1)
    assert plan["gpu_hours"] == pytest.approx((40 + 8 * train) / 3600, abs=1e-3)
    assert plan["core_hours"] == pytest.approx((8 * 40 + train) / 3600, abs=1e-3)
    assert plan["disk_mb"] == 72
    assert plan["measured_share"] == pytest.approx(40 / (40 + train), abs=1e-3)
    assert [step["rule"] for step in plan["critical_path"]] == ["caption_shard", "pretrain"]
    text = describe(plan)
    assert "caption_shard > pretrain" in text
    assert "changed setting or stage version (1)" in text
    assert describe(make_plan([], durations, Capacity(1, 1, 1), "smoke")).startswith("Nothing")


@pytest.mark.parametrize(
    ("options", "asked", "shared"),
    [
        (["--profile", "profiles/local"], "6", 6),
        (["--profile", "profiles/slurm"], "1000000", None),
        (["--profile", "profiles/slurm", "--cores", "256"], "256", 256),
    ],
)
def test_a_cluster_has_other_cores_than_this_machine(
    smoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options, asked: str, shared
) -> None:
    """Without cores, Snakemake would print one thread a job."""
    import plan as script

    asked_of: list[str] = []
    monkeypatch.setattr(script, "dry_run", lambda words: asked_of.extend(words) or DRY_RUN)
    monkeypatch.setattr(script, "write_json", lambda path, document: None)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    plan = script.main(script.parser().parse_args(["--experiment", "smoke", *options]))
    assert asked_of[asked_of.index("--cores") + 1] == asked
    assert plan["capacity"]["cores"] == shared


def test_the_shipped_priors_name_rules_that_exist() -> None:
    root = Path(__file__).resolve().parents[3]
    rules = "\n".join(path.read_text() for path in (root / "rules").glob("*.smk"))
    named = [
        line.split("\t")[0]
        for line in (root / "config/priors.tsv").read_text().splitlines()
        if line and not line.startswith("#")
    ][2:]
    missing = [n for n in named if f"rule {n}:" not in rules and f" as {n} with:" not in rules]
    assert not missing
