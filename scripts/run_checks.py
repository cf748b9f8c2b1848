"""Run every static check and the tests; what `make test` and CI call."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

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
PYTEST = ("python", "-m", "pytest", "-m", "not slow and not oracle")
_MODELS = ("tests/unit/mgm", "tests/unit/train")
# Suites that have not ended by then hang: they say where, and fail.
LIMIT_SECONDS = 3600
# Run side by side, the static checks beside them; the first one's output is shown as it comes.
SUITES: tuple[Command, ...] = (
    (*PYTEST, "tests/unit", *(f"--ignore={folder}" for folder in _MODELS)),
    (*PYTEST, *_MODELS),
    (*PYTEST, "tests/workflow"),
    # Starts a SLURM of its own; says why it doesn't where that cannot be had.
    ("python", "-m", "pytest", "-m", "slurm and not slow", "tests/slurm"),
)


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
    failed = _run_static(environment) if args.static else _run_all(environment)
    if failed:
        raise RecapError("failed: " + "; ".join(" ".join(command) for command in failed))


def _run_static(environment: dict[str, str]) -> list[Command]:
    return [command for command in STATIC if not _passes(command, environment)]


def _passes(command: Command, environment: dict[str, str]) -> bool:
    sys.stderr.write(f"$ {' '.join(command)}\n")
    with subprocess.Popen(command, env=environment, text=True) as process:
        return _wait(process, time.monotonic() + LIMIT_SECONDS) == 0


def _wait(process: subprocess.Popen[str], deadline: float) -> int:
    """Return a command's exit code; one that hangs is ended, and writes its stacks first."""
    try:
        return process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"not done after {LIMIT_SECONDS} seconds: {process.args}\n")
        process.send_signal(signal.SIGABRT)  # pytest's faulthandler answers with the stacks
        return process.wait(60)


def _run_all(environment: dict[str, str]) -> list[Command]:
    """Run everything side by side; print all but the first suite when they are done."""
    first, *others = SUITES
    static = (sys.executable, str(Path(__file__)), "--static")
    deadline = time.monotonic() + LIMIT_SECONDS
    failed = []
    with contextlib.ExitStack() as stack:
        beside = [(suite, *_start(suite, environment, stack)) for suite in (static, *others)]
        if not _passes(first, environment):
            failed.append(first)
        for suite, process, output in beside:
            sys.stderr.write(f"$ {' '.join(suite)}\n")
            if _wait(process, deadline):
                failed.append(suite)
            output.seek(0)
            sys.stderr.write(output.read())
    return failed


def _start(
    suite: Command, environment: dict[str, str], stack: contextlib.ExitStack
) -> tuple[subprocess.Popen[str], IO[str]]:
    """Start a suite that ends with the stack, and return it with the file it writes to."""
    output = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))  # noqa: SIM115
    process = subprocess.Popen(
        suite, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
    )
    stack.callback(process.terminate)
    return process, output


if __name__ == "__main__":
    run_cli(main, parser())
