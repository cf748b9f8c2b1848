from functools import partial
from pathlib import Path

from snakemake.exceptions import WorkflowError

from scripts.recap.cluster.records import grown
from scripts.recap.cluster.supervision import Supervision
from scripts.recap.config import experiment_files, load_experiment
from scripts.recap.config.comparison import ComparisonWiring
from scripts.recap.config.fetching import FetchWiring
from scripts.recap.config.steps import StepWiring
from scripts.recap.config.held_out import HeldOutWiring
from scripts.recap.config.names import LABEL
from scripts.recap.config.launching import TrainLaunch, gpu_resources, lease_command
from scripts.recap.config.positive import PositiveControlWiring
from scripts.recap.config.preflight import PreflightWiring
from scripts.recap.config.data_paths import as_json
from scripts.recap.config.wiring import NO_RECIPE, Wiring
from scripts.recap.curate.recipe import measurements
from scripts.recap.errors import RecapError
from scripts.recap.live_progress import LiveProgress
from scripts.recap.shards import range_flag, shard_range
from scripts.recap.train_settings import FREE_SETTINGS, free_settings
from scripts.recap.versions import STAGE_VERSIONS


def parse_or_stop(function, *arguments):
    """Call a function; turn a user's mistake into one clear message."""
    try:
        return function(*arguments)
    except RecapError as error:
        raise WorkflowError(str(error)) from None


for experiment_file in parse_or_stop(experiment_files, config["experiment"]):

    configfile: experiment_file


EXPERIMENT = parse_or_stop(load_experiment, config)
SETTINGS = EXPERIMENT.config
COMPUTE = SETTINGS.compute
LEASE = lease_command(COMPUTE.gpus)
GPUS = gpu_resources(COMPUTE, COMPUTE.gpus)
LAUNCH = TrainLaunch(COMPUTE)
WIRING = Wiring(EXPERIMENT)
STEPS = parse_or_stop(StepWiring, WIRING)
FETCHING = FetchWiring(WIRING)
COMPARISON = ComparisonWiring(WIRING)
HELD_OUT = HeldOutWiring(WIRING)
POSITIVE = PositiveControlWiring(WIRING)
PREFLIGHT = PreflightWiring(WIRING)
ARMS = SETTINGS.arms + SETTINGS.funnel_arms
FAILURES = Path(f"results/{SETTINGS.experiment}/failures.json")
SUPERVISION = Supervision(workflow, FAILURES)
PROGRESS = LiveProgress()


wildcard_constraints:
    experiment=SETTINGS.experiment,
    arm="|".join(ARMS),
    seed="|".join(map(str, SETTINGS.seeds)),
    benchmark="|".join(EXPERIMENT.benchmarks),
    format="json|jsonl|xlsx",
    released=POSITIVE.models(),
    corpus="|".join(EXPERIMENT.corpora),
    captioner="|".join(m for m, r in EXPERIMENT.models.items() if r.role == "captioner"),
    world="|".join(SETTINGS.worlds) or NO_RECIPE,
    style="|".join(HELD_OUT.styles()),
    recipe=LABEL,
    shard=r"\d{5}",
    chunks=r"\d+",
    chunk=r"\d+",
    control=r"(\.[a-z_]+)?",


def final_outputs():
    """Return what `rule all` asks for."""
    base = f"results/{SETTINGS.experiment}"
    return [
        f"{base}/report/report.html",
        f"{base}/report/training_comparison_analysis.md",
        f"{base}/report/final_project_summary.md",
        f"{base}/report/run_card.json",
        f"{base}/compare/comparison.json",
        f"{base}/compare/evaluation_comparison_report.json",
        f"{base}/costs.json",
        *[
            f"{base}/arms/{arm}/funnel.{kind}"
            for arm in WIRING.curated_arms()
            for kind in ("json", "parquet", "svg")
        ],
        *WIRING.submissions(),
    ]


def minutes(count):
    """Return a time limit that grows when a job ran out of time."""
    grow = partial(grown, FAILURES, "time", count)
    return lambda wildcards, attempt, rulename: grow(wildcards, attempt, rulename)


def megabytes(count):
    """Return a memory request that grows when a job ran out of memory."""
    grow = partial(grown, FAILURES, "memory", count)
    return lambda wildcards, attempt, rulename: grow(wildcards, attempt, rulename)


def measured_operators(wildcards):
    """Return the operators of a measuring job, by its step, its arm or its recipe."""
    if "place" in wildcards.keys():
        return step_operators(wildcards)
    if "arm" in wildcards.keys():
        return WIRING.post_operators(wildcards.arm)
    return WIRING.operators(wildcards.recipe)


def measuring_gpus(wildcards):
    """Return the GPUs of a measuring job: those of a model job if an operator has a model."""
    return COMPUTE.gpus if WIRING.operator_manifests(measured_operators(wildcards)) else 0


MEASURING_GPUS = gpu_resources(COMPUTE, measuring_gpus)


def measuring_lease(wildcards):
    """Return what goes before the command of a measuring job, so that it has its own GPUs."""
    return lease_command(measuring_gpus(wildcards))


def measuring_threads(wildcards):
    """Return the threads of a measuring job: only models use more than one."""
    return COMPUTE.cpu_threads if WIRING.operator_manifests(measured_operators(wildcards)) else 1


def measuring_settings(wildcards):
    """Return the flag that says how the models of a measuring job run, if it has any."""
    return WIRING.model_settings_flag(measured_operators(wildcards))


def step_operators(wildcards):
    """Return the operators of a step of a recipe."""
    return STEPS.operators(wildcards.place, wildcards.step)


def corpus_row(wildcards):
    """Return the corpus row of a job, by its corpus, its arm or its recipe's place."""
    if "place" in wildcards.keys():
        return EXPERIMENT.corpora[STEPS.corpus(wildcards.place)]
    if "corpus" in wildcards.keys():
        return EXPERIMENT.corpora[wildcards.corpus]
    return EXPERIMENT.corpora[EXPERIMENT.arms[wildcards.arm].corpus]
