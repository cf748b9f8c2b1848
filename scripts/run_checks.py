"""Run every static check, then the tests; what `make test` and CI call."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.errors import RecapError

Command = tuple[str, ...]
STATIC: tuple[Command, ...] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("snakefmt", "--check", "Snakefile", "rules"),
    ("mypy",),
    ("snakemake", "--lint", "--quiet", "all"),
)
PYTEST = ("python", "-m", "pytest", "-m", "not slow")


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
    failed = [command for command in STATIC if not _passes(command, environment)]
    if not args.static:
        failed += _run_tests(environment)
    if failed:
        raise RecapError("failed: " + "; ".join(" ".join(command) for command in failed))


def _passes(command: Command, environment: dict[str, str]) -> bool:
    sys.stderr.write(f"$ {' '.join(command)}\n")
    return subprocess.run(command, env=environment, check=False).returncode == 0


def _run_tests(environment: dict[str, str]) -> list[Command]:
    """Run unit and workflow tests side by side; print the latter when both are done."""
    units, workflow = (*PYTEST, "tests/unit"), (*PYTEST, "tests/workflow")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        beside = subprocess.Popen(
            workflow, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            failed = [] if _passes(units, environment) else [units]
            sys.stderr.write(f"$ {' '.join(workflow)}\n")
            if beside.wait():
                failed.append(workflow)
        finally:
            beside.terminate()
        output.seek(0)
        sys.stderr.write(output.read())
    return failed


if __name__ == "__main__":
    run_cli(main, parser())
