"""Add up what an experiment's jobs cost, by stage and arms, and compare it with the plan."""

import argparse
from pathlib import Path

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "account_costs.py --inputs results/demo/compare/comparison_inputs.json "
        "--results results/demo --out costs.json --table costs.tsv",
    )
    p.add_argument("--inputs", type=Path, required=True, help="comparison inputs, JSON")
    p.add_argument("--results", type=Path, required=True, help="folder with `perf` and `plan.json`")
    p.add_argument("--out", type=Path, required=True, help="JSON to write")
    p.add_argument("--table", type=Path, required=True, help="TSV to write")
    return p


def main(args: argparse.Namespace) -> None:
    """Read the jobs' figures and SLURM's accounting, where there is one."""
    from recap.compare.inputs import load_inputs
    from recap.planning.accounting import ask_accounting
    from recap.planning.costs import cost_document, read_plan, write_costs
    from recap.planning.job_costs import job_costs

    inputs = load_inputs(args.inputs)
    jobs = job_costs(args.results / "perf", inputs, ask_accounting(Path.cwd()) or {})
    plan = read_plan(args.results / "plan.json")
    document = cost_document(inputs.experiment, inputs.arm_names, jobs, plan)
    write_costs(args.out, args.table, document)


if __name__ == "__main__":
    run_cli(main, parser())
