"""A whole experiment on a real SLURM: undisturbed, then with faults in the midst of its training.

Each fault hits the second stage of one arm after some updates. What the experiment finds is then,
byte for byte, what it found undisturbed.
"""

from collections.abc import Iterator
from itertools import combinations

import pytest
import slurm_client as client
from slurm_cluster import NODES, PARTITION, YIELDING, Cluster
from slurm_lab import ARM, RESULTS, RUN, Lab
from slurm_processes import CardWatch, Stay, crash, paused

from recap.io import read_json, read_jsonl

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("slurm")]

TRAINED = f"{RUN}/finetune/manifest.json"


class Undisturbed:
    """A finished experiment, and what was seen of it."""

    def __init__(self, lab: Lab) -> None:
        lab.pretend_preflight()
        watch = CardWatch()
        watch.start()
        lab.run()
        self.stays: list[Stay] = watch.stop()
        self.lab = lab
        self.found = lab.found()
        self.failed = (lab.folder / RESULTS / "failures.json").exists()
        self.planned_again = lab.run("--dry-run")


@pytest.fixture(scope="module")
def undisturbed(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(Lab(tmp_path_factory.mktemp("experiment")))


@pytest.fixture
def lab(undisturbed: Undisturbed) -> Iterator[Lab]:
    """The finished experiment, one of whose trainings is to be done again."""
    undisturbed.lab.forget_training()
    yield undisturbed.lab
    client.clear_queue(undisturbed.lab.processes)


def check_training(undisturbed: Undisturbed) -> None:
    """The disturbed training found what the undisturbed one did, each update once."""
    assert undisturbed.lab.found() == undisturbed.found
    steps = [row["step"] for row in read_jsonl(undisturbed.lab.folder / RUN / TELEMETRY)]
    assert steps == list(range(1, len(steps) + 1))
    assert "continuing after update" in undisturbed.lab.training_log()


TELEMETRY = "finetune/telemetry.jsonl"


def test_an_undisturbed_run_is_complete_and_leaves_nothing_to_do(undisturbed: Undisturbed) -> None:
    assert not undisturbed.failed
    assert "Nothing to be done" in undisturbed.planned_again
    folder = undisturbed.lab.folder / RESULTS
    assert (folder / "report/report.html").is_file()
    comparison = read_json(folder / "compare/comparison.json")
    assert [row["arm"] for row in comparison["comparisons"]] == ["blip2_enhanced"]
    costs = read_json(folder / "costs.json")
    training = [row for row in costs["rows"] if row["stage"] == "finetune"]
    assert len(training) == 2
    for row in training:
        # SLURM's own times, on one card
        assert row["source"] == "sacct"
        assert row["gpu_seconds"] == row["seconds"] > 0


def test_shards_go_to_both_nodes_and_short_jobs_share_submissions(
    undisturbed: Undisturbed,
) -> None:
    for rule in ("caption_shard", "predict_shard"):
        jobs = undisturbed.lab.accounted(rule)
        assert {row["State"] for row in jobs} == {"COMPLETED"}
        assert {row["NodeList"] for row in jobs} == set(NODES)
    # every shard of the step, in one submission of the group
    for group in ("split_split_shard", "select_select_shard"):
        (job,) = undisturbed.lab.accounted(group)
        # where they take turns
        assert job["ReqCPUS"] == "1"


def test_no_two_jobs_have_the_same_card_at_a_time(undisturbed: Undisturbed) -> None:
    stays = undisturbed.stays
    places = {(stay.node, stay.card) for stay in stays}
    assert {node for node, _ in places} == set(NODES)
    assert len(places) >= 3
    for one, other in combinations(stays, 2):
        if (one.node, one.card) == (other.node, other.card):
            assert one.last < other.first
    together = [a for a, b in combinations(stays, 2) if a.first <= b.first <= a.last]
    assert together, "nothing ran side by side, so nothing was shown"


def test_training_that_lost_its_node_goes_on_elsewhere(
    undisturbed: Undisturbed, lab: Lab, slurm: Cluster
) -> None:
    run = lab.start(target=TRAINED)
    job, node = lab.wait_for_update(30)
    crash(slurm, node)
    try:
        client.end_of_snakemake(run)
    finally:
        slurm.start_node(node)
        slurm.wait_until_idle()
    check_training(undisturbed)
    lost, again = lab.accounted("finetune")[-2:]
    assert (lost["State"], lost["NodeList"]) == ("NODE_FAIL", node)
    assert (again["State"], again["JobIDRaw"]) == ("COMPLETED", job)
    assert again["NodeList"] != node
    (failure,) = lab.failures()
    assert (failure.kind, failure.requeued, failure.node) == ("node_lost", True, node)
    assert failure.wildcards["arm"] == ARM


def test_training_that_hits_its_time_limit_goes_on(undisturbed: Undisturbed, lab: Lab) -> None:
    run = lab.start(target=TRAINED)
    job, _ = lab.wait_for_update(10)
    # SLURM looks every half a minute whose time is up; the rest would be done by then.
    with paused(job, "train_stage.py"):
        client.run("scontrol", "update", f"jobid={job}", "EndTime=now+1seconds")
        client.wait_for(lambda: client.state(job)[0] != "RUNNING")
    client.end_of_snakemake(run)
    check_training(undisturbed)
    (failure,) = lab.failures()
    assert (failure.state, failure.cured) == ("TIMEOUT", True)
    # It saved its state before SLURM's patience (KillWait) ended.
    assert failure.kind == "stopped"
    assert failure.updates >= 10
    cut, again = lab.accounted("finetune")[-2:]
    assert (cut["State"], again["State"]) == ("TIMEOUT", "COMPLETED")


def test_preempted_training_is_requeued_and_goes_on(undisturbed: Undisturbed, lab: Lab) -> None:
    run = lab.start("--set-resources", f"finetune:slurm_partition={YIELDING}", target=TRAINED)
    job, _ = lab.wait_for_update(30)
    client.run(
        *("sbatch", f"--partition={PARTITION}", "--account=lab", "--exclusive", "--nodes=2"),
        *("--output=/dev/null", "--wrap=sleep 3"),
    )
    client.end_of_snakemake(run)
    check_training(undisturbed)
    preempted, again = lab.accounted("finetune")[-2:]
    assert preempted["State"] == "PREEMPTED"
    assert (again["State"], again["JobIDRaw"]) == ("COMPLETED", job)
    (failure,) = lab.failures()
    assert (failure.kind, failure.requeued, failure.cured) == ("preempted", True, True)


def test_a_killed_snakemake_ends_the_experiment_without_doing_anything_twice(
    undisturbed: Undisturbed, lab: Lab
) -> None:
    lab.forget_what_follows()
    first = lab.start()
    job, _ = lab.wait_for_update(10)
    first.kill()
    first.wait()
    output = lab.run()
    assert "An earlier run of this folder left 1 jobs behind" in output
    assert undisturbed.lab.found() == undisturbed.found
    assert lab.accounted("finetune")[-1]["JobIDRaw"] == job
    # what followed was submitted once, and nothing else
    after = [row["Comment"] for row in lab.accounted("") if int(row["JobIDRaw"]) > int(job)]
    assert len(after) == len(set(after))
    assert any(comment.startswith("rule_predict_shard") for comment in after)
    assert "Nothing to be done" in lab.run("--dry-run")
