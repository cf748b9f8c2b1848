"""Resumable training state: checkpoints that are complete or absent.

Layout of the state folder, which lies outside any declared output::

    run-<fingerprint>/checkpoint-<update>/{trainables.safetensors, optimizer.pt,
        scheduler.pt, rng_state*.pth, trainer_state.json, telemetry.jsonl, perf.jsonl,
        held_out.jsonl, complete.json}

A run only ever looks into the folder of its own fingerprint, and only takes a
checkpoint whose files have the hashes that ``complete.json`` states.
"""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json, sha256_file
from ..io import read_json, write_json

logger = logging.getLogger(__name__)

SEAL_NAME = "complete.json"
KEPT_CHECKPOINTS = 2

_RUN_NAME = re.compile(r"run-[0-9a-f]{16}")
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


class StateStore:
    """Checkpoints of one run, known by the fingerprint of all that determines its result."""

    def __init__(self, state_dir: Path, fingerprint: dict[str, Any]) -> None:
        """Look at ``state_dir`` without changing it; see :meth:`prepare`."""
        self._root = state_dir
        self._digest = digest_json(fingerprint)
        self._fingerprint = fingerprint
        self.folder = state_dir / f"run-{self._digest[:16]}"

    def prepare(self) -> None:
        """Create the run's folder, drop half-written checkpoints, warn of other runs' state."""
        others = [path for path in self._runs() if path != self.folder]
        if others:
            logger.warning(
                "%s holds state of a run with other data, settings, seed, models or code version "
                "(%s); it is left alone and not used",
                self._root,
                ", ".join(path.name for path in others),
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "fingerprint.json", self._fingerprint)
        for torn in self.folder.glob(".checkpoint-*"):
            shutil.rmtree(torn)

    def latest(self) -> Path | None:
        """Return the newest sound checkpoint, warning of each one that is not."""
        for _, path in sorted(self._checkpoints(), reverse=True):
            problem = self._problem(path)
            if problem is None:
                return path
            logger.warning("checkpoint %s is not used: %s", path, problem)
        return None

    def begin(self, update: int) -> Path:
        """Return the folder a checkpoint is written into before :meth:`publish`."""
        folder = self.folder / f".checkpoint-{update}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(self, update: int) -> Path:
        """Seal the folder of :meth:`begin` with hashes and give it its name."""
        written = self.begin(update)
        files = sorted(path for path in written.iterdir() if path.name != SEAL_NAME)
        for path in files:
            _flush(path)
        seal = {
            "fingerprint": self._digest,
            "update": update,
            "files": {path.name: sha256_file(path) for path in files},
        }
        write_json(written / SEAL_NAME, seal)
        target = self.folder / f"checkpoint-{update}"
        if target.exists():
            shutil.rmtree(target)
        written.rename(target)
        self._prune(update)
        return target

    def _prune(self, update: int) -> None:
        """Keep the newest ones up to ``update``; those beyond it were found to be torn."""
        found = sorted(self._checkpoints())
        sound = [path for number, path in found if number <= update][-KEPT_CHECKPOINTS:]
        for _, path in found:
            if path not in sound:
                shutil.rmtree(path)

    def settle(self) -> None:
        """Keep the newest checkpoint alone, of a run that is done; see :func:`remove_state`."""
        for path in self._runs():
            if path != self.folder:
                shutil.rmtree(path)
        for _, path in sorted(self._checkpoints())[:-1]:
            shutil.rmtree(path)

    def _runs(self) -> list[Path]:
        return _runs(self._root)

    def _checkpoints(self) -> list[tuple[int, Path]]:
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            match = _CHECKPOINT_NAME.fullmatch(path.name)
            if match:
                found.append((int(match.group(1)), path))
        return found

    def _problem(self, path: Path) -> str | None:
        try:
            seal = read_json(path / SEAL_NAME)
        except RecapError as error:
            return f"incomplete ({error})"
        if not isinstance(seal, dict) or seal.get("fingerprint") != self._digest:
            return "it belongs to another run"
        if f"checkpoint-{seal.get('update')}" != path.name:
            return f"it was written as update {seal.get('update')}"
        for name, digest in seal.get("files", {}).items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if sha256_file(path / name) != digest:
                return f"{name} is damaged"
        return None


def remove_state(state_dir: Path) -> None:
    """Remove the state of all runs in a folder; nothing else is touched.

    A run cannot do so itself: until what started it has seen it succeed, it may have to be tried
    again, as when a launcher is told to stop, or its node is lost, while it ends.
    """
    for path in _runs(state_dir):
        shutil.rmtree(path)
    if state_dir.is_dir() and not any(state_dir.iterdir()):
        state_dir.rmdir()


def _runs(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if _RUN_NAME.fullmatch(path.name))


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
