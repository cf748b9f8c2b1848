"""ModelScope as a source, through its own client (package ``modelscope-hub``).

``modelscope.snapshot_download`` delegates to the same client. It is called directly because
listing and download are separate there: sizes and hashes are compared with the lock sheet
before the first byte is downloaded.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .lock import Expected
from .provider import SourceError
from .request import Source

if TYPE_CHECKING:
    from modelscope_hub import HubApi

_WORKERS = 4


def _type(source: Source) -> str:
    return "dataset" if source.scheme == "modelscope-dataset" else "model"


class HubRepository:
    """A repository of ModelScope at one revision."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._api: HubApi | None = None
        self._sizes: dict[str, int | None] = {}

    def __str__(self) -> str:
        return str(self._source)

    def _connect(self) -> "HubApi":
        # A progress bar in a job's log is noise; tqdm reads this when it is imported.
        os.environ.setdefault("TQDM_DISABLE", "1")
        from modelscope_hub import HubApi, HubConfig

        if self._api is None:
            # A new configuration, since the client's own is fixed by whoever asked first.
            api = HubApi(HubConfig())
            endpoint = api.resolve_endpoint_for_read(
                self._source.location, repo_type=_type(self._source)
            )
            self._api = HubApi(HubConfig(endpoint=endpoint))
        return self._api

    def listing(self, patterns: Iterable[str], locked: Iterable[str]) -> dict[str, Expected]:
        """Return size and SHA-256 of every file, as the hub states them.

        Raises:
            SourceError: if the hub cannot be reached or refuses.
        """
        try:
            files = self._connect().list_repo_files(
                self._source.location, _type(self._source), revision=self._source.revision
            )
        except Exception as error:  # the client raises errors of several packages
            raise SourceError(f"cannot list the files: {explain(error)}") from error
        found = {
            info.path: Expected(info.size or None, info.sha256, "the hub's listing")
            for info in files
            if not info.is_dir and not info.path.startswith(".")
        }
        if not found:
            raise SourceError("the hub lists no files")
        self._sizes = {name: expected.size for name, expected in found.items()}
        return found

    def provide(self, names: Iterable[str], folder: Path) -> None:
        """Download files; what an interrupted download left is continued.

        The client is not told the hashes: the caller compares them, and decides on a
        second attempt, in the same way for every kind of source.

        Raises:
            SourceError: naming each file that could not be had.
        """
        from modelscope_hub import FileDownloadError

        entries = [
            {"Path": name, **({"Size": size} if (size := self._sizes.get(name)) else {})}
            for name in names
        ]
        try:
            self._connect().download_repo(
                self._source.location,
                _type(self._source),
                revision=self._source.revision,
                cache_dir=folder.parent / ".client",  # its locks, which are no part of the files
                local_dir=folder,
                max_workers=_WORKERS,
                file_list=entries,
            )
        except FileDownloadError as error:
            reasons = [f"{name}: {explain(e)}" for name, e in sorted(error.failed_files.items())]
            raise SourceError("cannot download " + "; ".join(reasons)) from error
        except Exception as error:  # the client raises errors of several packages
            raise SourceError(f"cannot download: {explain(error)}") from error


def cached_snapshot(source: Source) -> Path:
    """Return the folder of ModelScope's own cache that holds a repository.

    Raises:
        SourceError: if there is none.
    """
    from modelscope_hub import HubApi, HubConfig

    try:
        return Path(
            HubApi(HubConfig()).download_repo(
                source.location,
                _type(source),
                revision=source.revision,
                local_files_only=True,
            )
        )
    except Exception as error:
        raise SourceError(f"offline, and not in ModelScope's cache ({explain(error)})") from error


def explain(error: BaseException) -> str:
    """Return a client's error in one line, the HTTP status first where there is one."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    status = getattr(error, "status_code", None)
    meaning = {404: "not found", 401: "access denied", 403: "access denied"}.get(status or 0, "")
    if status is None:
        # The client's network errors are Python's; its message is a chain of reasons.
        return f"cannot connect ({text})" if isinstance(error, ConnectionError) else text
    return f"HTTP {status}" + (f", {meaning}" if meaning else "") + f" ({text})"
