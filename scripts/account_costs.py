"""Add up what an experiment's jobs cost, by arm and stage, and compare it with the plan."""

import argparse
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.io import read_json
from recap.planning.accounting import ask_accounting
from recap.planning.costs import cost_table, job_costs, write_costs


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "account_costs.py --results results/demo --arms baseline blip2_enhanced "
        "--out costs.json --table costs.tsv",
    )
    p.add_argument("--results", type=Path, required=True, help="folder with `perf` and `plan.json`")
    p.add_argument("--arms", nargs="+", required=True, help="names of the experiment's arms")
    p.add_argument("--out", type=Path, required=True, help="JSON to write")
    p.add_argument("--table", type=Path, required=True, help="TSV to write")
    return p


def main(args: argparse.Namespace) -> None:
    """Read the jobs' figures and SLURM's accounting, where there is one."""
    plan = args.results / "plan.json"
    jobs = job_costs(args.results / "perf", args.arms, ask_accounting(Path.cwd()) or {})
    write_costs(
        args.out,
        args.table,
        args.results.name,
        cost_table(jobs),
        read_json(plan) if plan.is_file() else None,
    )


if __name__ == "__main__":
    run_cli(main, parser())
