"""The README's commands, run as a newcomer would: in a clone, from top to bottom.

`EXPERIMENT=smoke python -m pytest -m slow tests/workflow/test_workflow_readme.py` takes minutes;
without the variable `make demo` is the whole demo. Seconds of each command are printed (-s).
"""

import os
import re
import shlex
import shutil
import subprocess
import time

import pytest

from .conftest import ROOT

EXPERIMENT = os.environ.get("EXPERIMENT", "demo")
# What stands for a file of the reader's: the first lines of the drawn corpus. With fewer, what
# the filters leave is one batch, and a gate refuses a training of one update.
LINES = 120
PLACEHOLDERS = {
    "CORPUS=path/to/records.jsonl": "CORPUS=own/records.jsonl",
    "ORIGINAL=llava.json": "ORIGINAL=own/llava.json",
}
# Real models and a cluster are not at hand; these commands are planned to the last job instead.
PLANNED = {"snakemake --profile slurm --config experiment=blip2_30k"}
# It runs the tests that this is one of.
ASKED_ONLY = {"make test"}


def _commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(found).splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def _as_run(command: str) -> list[str]:
    if command in PLANNED:
        return [*shlex.split(command), "--dry-run"]
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    return [*words, "--dry-run"] if command in ASKED_ONLY else words


def test_exceptions_are_commands_of_the_readme():
    commands = _commands()
    assert commands[0] == "make demo"
    assert set(commands) >= PLANNED | ASKED_ONLY
    for placeholder in PLACEHOLDERS:
        assert any(placeholder in command for command in commands)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer") / "mgm-recap"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    return folder


def _bring_corpus(clone) -> None:
    """Put part of the drawn corpus where the reader's would be, once there is one."""
    world = clone / "resources" / "worlds" / EXPERIMENT
    own = clone / "own"
    if own.exists():
        return
    own.mkdir()
    # As bytes: a line further down is no UTF-8, on purpose.
    lines = (world / "corpus.jsonl").read_bytes().splitlines(keepends=True)
    (own / "records.jsonl").write_bytes(b"".join(lines[:LINES]))
    (own / "llava.json").write_bytes((world / "original.json").read_bytes())
    shutil.copytree(world / "images", own / "images")


@pytest.mark.slow
@pytest.mark.workflow
def test_every_command_of_the_readme_runs(clone):
    environment = {**os.environ, "EXPERIMENT": EXPERIMENT, "HOME": str(clone.parent)}
    environment["PATH"] = f"{clone / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    for command in _commands():
        words = _as_run(command)
        if any("own/" in word for word in words):
            _bring_corpus(clone)
        started = time.monotonic()
        done = subprocess.run(
            words, cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
        print(f"{time.monotonic() - started:8.1f} s  {command}", flush=True)  # noqa: T201
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert (clone / "results" / EXPERIMENT / "report" / "report.html").is_file()
    assert (clone / "results" / "own_records" / "report" / "report.html").is_file()
