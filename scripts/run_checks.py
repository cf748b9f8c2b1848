"""Run every static check, then the tests; what `make test` and CI call."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.errors import RecapError

STATIC = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("snakefmt", "--check", "Snakefile", "rules"),
    ("mypy",),
    ("snakemake", "--lint", "--quiet", "all"),
)
TESTS = ("python", "-m", "pytest", "-m", "not slow")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "run_checks.py --static")
    p.add_argument("--static", action="store_true", help="leave the tests out")
    return p


def main(args: argparse.Namespace) -> None:
    """Run the checks in order; report all that failed."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # The tests' models are tiny: more threads a process only get in each other's way.
    environment.setdefault("OMP_NUM_THREADS", "1")
    failed = []
    for command in STATIC if args.static else (*STATIC, TESTS):
        sys.stderr.write(f"$ {' '.join(command)}\n")
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(" ".join(command))
    if failed:
        raise RecapError("failed: " + "; ".join(failed))


if __name__ == "__main__":
    run_cli(main, parser())
