"""Build a micro model that stands in for a real one in the demo."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli
from recap.demo.settings import MICRO_MODELS


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "python scripts/build_micro_models.py --model blip2-micro --seed 7 "
        "--out resources/models/blip2-micro",
    )
    result.add_argument("--model", choices=MICRO_MODELS, required=True, help="which model")
    result.add_argument("--out", type=Path, required=True, help="folder of the model; replaced")
    result.add_argument("--seed", type=int, default=7, help="of weights, texts and pictures")
    result.add_argument(
        "--settings", default="{}", help="micro settings: JSON, or a JSON or YAML file"
    )
    result.add_argument("--perf", type=Path, help="where to write the cost of the step")
    return result


def main(args: argparse.Namespace) -> None:
    """Build the model."""
    from recap.demo.micro_models import build_micro_model
    from recap.demo.settings import MicroSettings

    settings = parse_settings(MicroSettings, args.settings)
    build_micro_model(args.model, args.out, seed=args.seed, settings=settings, perf=args.perf)


if __name__ == "__main__":
    run_cli(main, parser())
