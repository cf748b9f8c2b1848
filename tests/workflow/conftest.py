"""One whole run of the smoke experiment, shared by the tests that look at it or plan changes."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import pytest
from snakemake import cli

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = "smoke"
RESULTS = f"results/{EXPERIMENT}"
WORLD = f"resources/worlds/{EXPERIMENT}"
CONFIG = f"config/experiments/{EXPERIMENT}.yaml"


class Project:
    """A working copy of the repository, in which commands run as a user's would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.output = ""
        self.log = ""

    def logged(self) -> str:
        """Return what Snakemake has logged in all its runs so far."""
        files = sorted((self.path / ".snakemake/log").glob("*.log"))
        return "".join(file.read_text(encoding="utf-8") for file in files)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        result = subprocess.run(
            command, cwd=self.path, env=environment, capture_output=True, text=True, check=False
        )
        if check:
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result

    def snakemake(
        self,
        *arguments: str,
        config: tuple[str, ...] = (),
        targets: tuple[str, ...] = (),
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake on the smoke experiment, or on the one that ``config`` names."""
        settings = ("--config", f"experiment={EXPERIMENT}", *config, *arguments, *targets)
        return self.run("snakemake", "--profile", "profiles/local", *settings, check=check)

    def dry_run(self, *config: str) -> tuple[int, str]:
        """Return exit code and output of a dry run.

        It runs in a copy of this process, which has imported Snakemake: most of a dry run's
        time is that, and the tests make dozens.
        """
        settings = ("--config", f"experiment={EXPERIMENT}", *config, "--dry-run")
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            child = os.fork()
            if child == 0:
                _become_snakemake(
                    self.path, output.fileno(), "--profile", "profiles/local", *settings
                )
            _, status = os.waitpid(child, 0)
            output.seek(0)
            return os.waitstatus_to_exitcode(status), output.read()

    def plan(self, *config: str) -> dict[str, list[str]]:
        """Return the jobs of a dry run: rule name to the wildcards of each job."""
        code, output = self.dry_run(*config)
        assert code == 0, output
        jobs = defaultdict(list)
        blocks = re.split(r"^(?=(?:local)?rule \w+:$)", output, flags=re.MULTILINE)
        for block in blocks[1:]:
            name = re.match(r"(?:local)?rule (\w+):", block).group(1)
            wildcards = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
            jobs[name].append(wildcards.group(1) if wildcards else "")
        jobs.pop("all", None)
        return dict(jobs)

    @contextmanager
    def edited(self, name: str, old: str, new: str):
        """Replace text in a file for the length of a test."""
        path = self.path / name
        before = path.read_text(encoding="utf-8")
        stat = path.stat()
        assert before.count(old) >= 1, f"{old!r} is not in {name}"
        path.write_text(before.replace(old, new, 1), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    @contextmanager
    def raised(self, stage: str):
        """Raise a stage's number for the length of a test."""
        name = "scripts/recap/versions.py"
        text = (self.path / name).read_text(encoding="utf-8")
        number = int(re.search(rf'"{stage}": (\d+)', text).group(1))
        with self.edited(name, f'"{stage}": {number}', f'"{stage}": {number + 1}'):
            yield


def _become_snakemake(folder: Path, output: int, *arguments: str) -> None:
    """Be the command ``snakemake`` in a folder, and end; for a process just forked."""
    code = 1
    try:
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        # The workflow must import the code of its own folder, not that under test here.
        environment = Path(sys.executable).parents[1]
        sys.path[:] = [
            entry
            for entry in sys.path
            if not Path(entry).is_relative_to(ROOT) or Path(entry).is_relative_to(environment)
        ]
        sys.argv = [str(Path(sys.executable).parent / "snakemake"), *arguments]
        cli.main(list(arguments))
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:  # what is raised here must not go on as pytest
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def copy_repository(target: Path) -> Project:
    """Copy what git would: tracked files, and new ones that are not ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return Project(target)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Project:
    """A fresh copy in which the whole smoke experiment has run."""
    project = copy_repository(tmp_path_factory.mktemp("demo"))
    result = project.run(sys.executable, "scripts/run_demo.py", "--experiment", EXPERIMENT)
    project.output = result.stdout
    project.log = project.logged()
    return project
