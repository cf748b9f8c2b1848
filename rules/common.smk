from snakemake.exceptions import WorkflowError

from scripts.recap.config import experiment_files, load_experiment
from scripts.recap.config.comparison import ComparisonWiring
from scripts.recap.config.held_out import HeldOutWiring
from scripts.recap.config.wiring import NO_RECIPE, Wiring, as_json
from scripts.recap.curate.recipe import measurements
from scripts.recap.errors import RecapError
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
WIRING = Wiring(EXPERIMENT)
COMPARISON = ComparisonWiring(WIRING)
HELD_OUT = HeldOutWiring(WIRING)
ARMS = SETTINGS.arms + SETTINGS.funnel_arms


wildcard_constraints:
    experiment=SETTINGS.experiment,
    arm="|".join(ARMS),
    seed="|".join(map(str, SETTINGS.seeds)),
    benchmark="|".join(SETTINGS.benchmarks),
    corpus="|".join(EXPERIMENT.corpora),
    captioner="|".join(m for m, r in EXPERIMENT.models.items() if r.role == "captioner"),
    world="|".join(SETTINGS.worlds) or NO_RECIPE,
    style="|".join(HELD_OUT.styles()),
    recipe=r"[a-z0-9_]+",
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
        f"{base}/compare/comparison.json",
        f"{base}/compare/evaluation_comparison_report.json",
        *[f"{base}/arms/{arm}/funnel.json" for arm in WIRING.curated_arms()],
    ]


def minutes(count):
    """Return a time limit that grows when a job is tried again."""
    return lambda wildcards, attempt: count * attempt


def megabytes(count):
    """Return a memory request that grows when a job is tried again."""
    return lambda wildcards, attempt: count * attempt


def measuring_gpus(wildcards):
    """Return the GPUs of a measuring job: those of a model job if an operator has a model."""
    if "arm" in wildcards.keys():
        operators = WIRING.post_operators(wildcards.arm)
    else:
        operators = WIRING.operators(wildcards.recipe)
    return COMPUTE.gpus if WIRING.operator_manifests(operators) else 0


def corpus_row(wildcards):
    """Return the corpus row of a job, by its corpus or its arm."""
    if "corpus" in wildcards.keys():
        return EXPERIMENT.corpora[wildcards.corpus]
    return EXPERIMENT.corpora[EXPERIMENT.arms[wildcards.arm].corpus]
