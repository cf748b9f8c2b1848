"""The command line that fetches, aimed at the small hub, as a user runs it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fetch_hub import sha256

import fetch_files
from recap.errors import RecapError

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
REPOSITORY = "models/ns/tiny@v1"


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Bench:
    """A folder to fetch into, and the command line that fetches, as a user runs it."""

    def __init__(self, folder: Path, hub, caplog) -> None:
        self.folder, self.hub, self._caplog = folder, hub, caplog
        self.out = folder / "models" / "tiny"
        self.lock = folder / "locks.tsv"
        self.environment = {
            **os.environ,
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
            "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
        }

    def request(self, *sources: str, **part) -> dict:
        sources = sources or ("modelscope:ns/tiny@v1",)
        return {
            "name": "tiny",
            "kind": part.pop("kind", "model"),
            "parts": [{"name": "tiny", "sources": list(sources), **part}],
        }

    def command(self, request: dict, *flags: str) -> list[str]:
        return [
            sys.executable,
            str(SCRIPTS / "fetch_files.py"),
            *("--request", json.dumps(request)),
            *("--lock", str(self.lock)),
            *("--out", str(self.out)),
            *("--data-root", str(self.folder / "data")),
            *flags,
        ]

    def succeed(self, request: dict | None = None, *flags: str) -> str:
        """Fetch in this process; return what was logged."""
        self._run(request, flags)
        return self.log()

    def fail(self, request: dict | None = None, *flags: str) -> str:
        """Fetch what must fail by bad input, not by a bug; nothing may be visible."""
        with pytest.raises(RecapError) as error:
            self._run(request, flags)
        assert not self.out.exists()
        return f"{self.log()}\n{error.value}"

    def _run(self, request: dict | None, flags: tuple[str, ...]) -> None:
        self._caplog.clear()
        self._caplog.set_level("INFO")
        argv = self.command(request or self.request(), *flags)[2:]
        fetch_files.main(fetch_files.parser().parse_args(argv))

    def log(self) -> str:
        return "\n".join(self._caplog.messages)

    def process(self, request: dict | None = None, *flags: str, **environment: str):
        """Fetch in a process of its own, with few attempts: returns exit code and output."""
        result = subprocess.run(
            self.command(request or self.request(), *flags),
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "Traceback" not in result.stderr
        return result.returncode, result.stderr

    def write_lock(self, files: dict[str, bytes], row: str = "tiny") -> None:
        lines = [f"{row}\t{name}\t{len(data)}\t{sha256(data)}" for name, data in files.items()]
        self.lock.write_text("\n".join(["row\tfile\tbytes\tsha256", *lines]) + "\n")

    def manifest(self) -> dict:
        return json.loads((self.out / "manifest.json").read_text())

    def content(self) -> dict[str, bytes]:
        """Return what is visible under the final name, manifest apart."""
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        }
