"""Unpacking archives that were fetched, without trusting the paths inside."""

import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from ..errors import RecapError


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar archive into a folder that does not exist yet.

    Where everything lies below one single folder, that folder is left away.

    Returns:
        The number of files.

    Raises:
        RecapError: if it is no archive, damaged, or holds a path that leaves the folder.
    """
    inside = folder.with_name(f"{folder.name}.inside")
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, inside)
        elif tarfile.is_tarfile(archive) and not hasattr(tarfile, "data_filter"):
            raise RecapError(f"{archive.name} needs Python 3.11.4 or newer to be unpacked safely")
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as content:
                content.extractall(inside, filter="data")
        else:
            raise RecapError(f"{archive.name} is neither a zip nor a tar archive")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise RecapError(f"{archive.name} cannot be unpacked: {error}") from error
    entries = list(inside.iterdir())
    root = entries[0] if len(entries) == 1 and entries[0].is_dir() else inside
    root.rename(folder)
    shutil.rmtree(inside, ignore_errors=True)
    return sum(1 for path in folder.rglob("*") if path.is_file())


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for entry in content.infolist():
            path = PurePosixPath(entry.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(entry.external_attr >> 16):
                raise RecapError(f"{archive.name} holds {entry.filename}, which leaves its folder")
        content.extractall(folder)  # noqa: S202 (every name was checked above)
