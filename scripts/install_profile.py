"""Let ``snakemake --profile slurm`` find this folder's profiles from anywhere."""

import argparse
import sys
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.cluster.profiles import install_profiles, user_folder


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "install_profile.py")
    p.add_argument("--into", type=Path, help="where Snakemake looks for profiles, if not there")
    return p


def main(args: argparse.Namespace) -> None:
    """Install every cluster profile and say where."""
    root = Path(__file__).resolve().parents[1]
    for path in install_profiles(root, args.into or user_folder()):
        sys.stdout.write(f"{path}: snakemake --profile {path.parent.name}\n")


if __name__ == "__main__":
    run_cli(main, parser())
