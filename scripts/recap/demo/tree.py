"""A folder of generated files: written whole, and hashed as one."""

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..hashing import digest_json, sha256_bytes


class Tree:
    """Files under one root, by relative path, with a hash over all that were added.

    A file is written to a temporary name and renamed. It is not flushed to the
    disk one by one: the world's summary is written last and tells that all is there.
    """

    def __init__(self, root: str | Path, owned: Iterable[str]) -> None:
        """Empty the folders ``owned`` (relative to ``root``), which belong to this tree alone."""
        self.root = Path(root)
        self._hashes: dict[str, str] = {}
        for name in owned:
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(parents=True)

    def add(self, relative: str, data: bytes) -> None:
        """Write ``data`` at ``relative``, a path with forward slashes inside the root."""
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
            raise ValueError(f"{relative} leaves the tree")
        target = self.root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_bytes(data)
        temporary.replace(target)
        self._hashes[relative] = sha256_bytes(data)

    def __len__(self) -> int:
        """Return how many files were added."""
        return len(self._hashes)

    def sha256(self) -> str:
        """Return one hash over the paths and contents of all files added."""
        return digest_json(self._hashes)
