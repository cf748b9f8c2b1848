"""Write the configuration reference and its JSON schemas from the settings models."""

import argparse

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "build_config_reference.py --folder config")
    p.add_argument("--folder", required=True, help="folder of config.yaml")
    return p


def main(args: argparse.Namespace) -> None:
    """Write README.md and schemas/ in the folder."""
    from pathlib import Path

    from recap.config.reference import build_files
    from recap.io import write_text

    for name, text in build_files(args.folder).items():
        write_text(Path(args.folder) / name, text)


if __name__ == "__main__":
    run_cli(main, parser())
