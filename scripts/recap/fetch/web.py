"""An address on the web as a source: one file, or several below one address."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from .lock import Expected
from .provider import SourceError

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further attempt, after a lost connection or a server's error."""

_TIMEOUT = (10, 60)
_CHUNK = 1 << 20
_GLOB = set("*?[")


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass."""


class WebPlace:
    """One file at an address; or, below an address that ends in ``/``, named files."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __str__(self) -> str:
        return self._address

    def listing(self, patterns: Iterable[str], locked: Iterable[str]) -> dict[str, Expected]:
        """Return the files' names; the web tells no hashes.

        Raises:
            SourceError: if several files are meant and nothing names them.
        """
        if not self._address.endswith("/"):
            name = PurePosixPath(unquote(urlsplit(self._address).path)).name
            return {name: Expected(by=self._address)}
        names = list(locked) or [name for name in patterns if not _GLOB & set(name)]
        if not names:
            raise SourceError("a web server lists no files: name them in the row's `files`")
        return {name: Expected(by=self._address) for name in names}

    def provide(self, names: Iterable[str], folder: Path) -> None:
        """Download files; what an interrupted download left is continued.

        Raises:
            SourceError: with the server's answer.
        """
        for name in names:
            whole = not self._address.endswith("/")
            download(self._address if whole else self._address + quote(name), folder / name)


def download(address: str, target: Path) -> None:
    """Download one file beside its name, then rename it.

    A part that is there already is continued with a ``Range`` request, on the condition
    (``If-Range``) that the server still has the file the part came from.

    Raises:
        SourceError: if the server refuses, or stays out of reach.
    """
    import requests

    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.incomplete")
    for wait in (*WAITS, None):
        try:
            _receive(address, partial)
        except (requests.RequestException, _TryAgainError) as error:
            if wait is None:
                raise SourceError(f"{address}: {_reason(error)}") from error
            logger.warning("%s: %s; trying again in %g s", address, _reason(error), wait)
            time.sleep(wait)
        else:
            partial.replace(target)
            _validator(partial).unlink(missing_ok=True)
            return


def _receive(address: str, partial: Path) -> None:
    """Make one request and append what it brings; a body cut short raises an error."""
    import requests

    headers = {"Accept-Encoding": "identity"}
    validator = _validator(partial)
    if partial.is_file() and validator.is_file():
        headers["Range"] = f"bytes={partial.stat().st_size}-"
        headers["If-Range"] = validator.read_text(encoding="utf-8")
    with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            partial.unlink()
            raise _TryAgainError("the part that was there is longer than the file")
        if answer.status_code >= 500 or answer.status_code == requests.codes.too_many_requests:
            raise _TryAgainError(f"HTTP {answer.status_code} {answer.reason}")
        if answer.status_code >= 400:
            raise SourceError(f"{address}: HTTP {answer.status_code} {answer.reason}")
        continued = answer.status_code == requests.codes.partial_content
        _remember(answer, validator)
        with partial.open("ab" if continued else "wb") as stream:
            for chunk in answer.iter_content(_CHUNK):
                stream.write(chunk)


def _validator(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.validator")


def _remember(answer: "requests.Response", validator: Path) -> None:
    """Keep what identifies the server's version of the file, if it tells."""
    etag = answer.headers.get("ETag", "")
    # A weak ETag promises no equal bytes, so that it may not be used for a part.
    value = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
    if value:
        validator.write_text(value, encoding="utf-8")
    else:
        validator.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return f"no secure connection ({error})"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost"
    if isinstance(error, requests.ConnectionError):
        return "cannot connect, or the connection was lost"
    return str(error)
