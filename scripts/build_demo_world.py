"""Build the demo corpus, its instruction data and its benchmark."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "python scripts/build_demo_world.py --out resources/demo --settings '{\"records\": 240}'",
    )
    result.add_argument("--out", type=Path, required=True, help="folder to fill")
    result.add_argument(
        "--settings", default="{}", help="world settings: JSON, or a JSON or YAML file"
    )
    result.add_argument("--perf", type=Path, help="where to write the cost of the step")
    return result


def main(args: argparse.Namespace) -> None:
    """Build the world."""
    from recap.demo.settings import WorldSettings
    from recap.demo.world import build_world

    settings = parse_settings(WorldSettings, args.settings)
    build_world(args.out, settings, args.perf)


if __name__ == "__main__":
    run_cli(main, parser())
