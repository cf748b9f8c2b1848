"""Show where an experiment stands, from its files: stage, done, left, rate, verdict."""

import argparse
import sys

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(__doc__ or "", "show_status.py --experiment demo")
    result.add_argument("--experiment", required=True, help="name of its configuration file")
    return result


def main(args: argparse.Namespace) -> None:
    """Print the status."""
    from recap.config.experiment import experiment_from_files
    from recap.config.stages import stage_files
    from recap.config.wiring import Wiring
    from recap.status import describe

    stages = stage_files(Wiring(experiment_from_files(args.experiment)))
    sys.stdout.write(describe(args.experiment, stages))


if __name__ == "__main__":
    run_cli(main, parser())
