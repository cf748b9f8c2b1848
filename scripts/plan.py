"""Say what a run would do, why, how long it takes and what it costs, without doing it."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from recap.cli import add_json_option, make_parser, run_cli
from recap.cluster.profiles import uses_cluster
from recap.config.experiment import experiment_from_files
from recap.io import write_json
from recap.planning.amounts import Amounts
from recap.planning.dryrun import dry_run, read_jobs
from recap.planning.durations import PRIORS, Durations
from recap.planning.plan import describe, make_plan
from recap.planning.schedule import Capacity

_CLUSTER_CORES = 1_000_000


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "plan.py --experiment full_400k --gpus 8 --gpu-speed 0.35")
    p.add_argument("--experiment", default="demo", help="name of an experiment")
    p.add_argument("--profile", default="profiles/local", help="as for the run itself")
    p.add_argument("--gpus", type=int, default=1, help="GPUs that jobs share")
    p.add_argument(
        "--cores",
        type=int,
        help="cores that jobs share; by default this machine's, or no bound where the profile "
        "hands jobs to a cluster",
    )
    p.add_argument("--jobs", type=int, default=100, help="jobs at a time")
    p.add_argument("--gpu-speed", type=float, default=1.0, help="1: as fast as an H100")
    p.add_argument("--priors", default=PRIORS, help="sheet of durations for rules not yet run")
    add_json_option(p)
    return p


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Print the plan; keep it beside the results, to compare with what it really took."""
    experiment = experiment_from_files(args.experiment)
    results = Path("results") / args.experiment
    cores = args.cores
    if cores is None and not uses_cluster(args.profile):
        cores = os.cpu_count()
    # Without cores, Snakemake plans jobs for a cluster with one thread each.
    common = ("--profile", args.profile, "--cores", str(cores or _CLUSTER_CORES))
    jobs = read_jobs(dry_run((*common, "--config", f"experiment={args.experiment}")))
    durations = Durations(
        Amounts(experiment), results / "perf", priors=args.priors, gpu_speed=args.gpu_speed
    )
    plan = make_plan(jobs, durations, Capacity(args.jobs, args.gpus, cores), args.experiment)
    if plan["jobs"]:
        write_json(results / "plan.json", plan)
    if not args.json:
        sys.stdout.write(describe(plan))
    return plan


if __name__ == "__main__":
    run_cli(main, parser())
