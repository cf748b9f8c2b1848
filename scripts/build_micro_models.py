"""Train the micro models that stand in for the real ones in the demo.

The repository ships them, trained once on a GPU or, slowly, on a CPU; only a change
of the drawn world or of the models calls for training them again.
"""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli
from recap.demo.settings import MICRO_MODELS

SHIPPED = Path(__file__).parent / "recap" / "demo" / "weights"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "build_micro_models.py --models clip-micro blip2-micro --device cuda --workers 8",
    )
    p.add_argument("--models", nargs="+", choices=MICRO_MODELS, default=MICRO_MODELS, help="which")
    p.add_argument("--out", type=Path, default=SHIPPED, help="folder of the models' folders")
    p.add_argument("--seed", type=int, default=7, help="of weights, texts and pictures")
    p.add_argument("--settings", default="{}", help="micro settings: JSON, or a JSON or YAML file")
    p.add_argument("--device", default="cpu", help="torch device to train on, such as cuda")
    p.add_argument("--workers", type=int, default=1, help="processes that draw and write")
    return p


def main(args: argparse.Namespace) -> None:
    """Build the models, one after the other."""
    from recap.demo.micro_models import build_micro_model
    from recap.demo.micro_training import Place
    from recap.demo.settings import MicroSettings

    settings = parse_settings(MicroSettings, args.settings)
    place = Place(args.device, args.workers)
    for model in args.models:
        build_micro_model(model, args.out / model, seed=args.seed, settings=settings, place=place)


if __name__ == "__main__":
    run_cli(main, parser())
