"""Full checks of image files before anything else trusts them."""

import struct
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..settings import MOST_IMAGE_PIXELS
from .ahead import end_with_parent

# Formats that PIL decodes in-process; others may start outside programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class Problem:
    """Why a record is rejected: a stable slug, what was seen, what to do."""

    reason: str
    detail: str
    fix: str


def check_image(root: Path, relative: str, max_pixels: int) -> Problem | None:
    """Return what is wrong with an image file, or ``None``.

    The pixel limit is applied to the size in the header, before any decoding;
    then the whole image is decoded, because headers of truncated files are fine.

    Args:
        root: the image root, already resolved.
        relative: path below it, already known to be relative without ``..``.
        max_pixels: largest allowed width times height.
    """
    try:
        path = (root / relative).resolve()
        if not path.is_relative_to(root):
            return Problem("image-outside-root", f"{relative} leads to {path}", "copy the file in")
        if not path.exists():
            return Problem("image-missing", f"{relative} does not exist", "add the file")
        if not path.is_file():
            return Problem("image-not-a-file", f"{relative} is not a file", "name an image file")
        if path.stat().st_size == 0:
            return Problem("image-empty", f"{relative} has 0 bytes", "fetch the file again")
        return _decode(path, relative, max_pixels)
    except (OSError, ValueError, RuntimeError) as error:
        return Problem("image-unreadable", f"{relative}: {error}", "check the path and the file")


def _decode(path: Path, relative: str, max_pixels: int) -> Problem | None:
    from PIL import Image, ImageOps, UnidentifiedImageError

    with _strict_pil():
        try:
            image = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError:
            return _unidentified(path, relative, max_pixels)
        with image:
            if problem := _too_large(relative, *image.size, max_pixels):
                return problem
            try:
                # As every later reader does: broken EXIF data would stop each of them.
                ImageOps.exif_transpose(image).convert("RGB").load()
            except Exception as error:  # decoders raise many types, SyntaxError among them
                return _broken(relative, error)
    return None


def _broken(relative: str, error: Exception) -> Problem:
    if "truncated" in str(error):
        return Problem("image-truncated", f"{relative}: {error}", "fetch the file again")
    fix = "fetch the file again, or save it anew without its metadata"
    return Problem("image-corrupt", f"{relative}: {type(error).__name__}: {error}", fix)


def _too_large(relative: str, width: int, height: int, max_pixels: int) -> Problem | None:
    if width * height <= max_pixels:
        return None
    raisable = width * height <= MOST_IMAGE_PIXELS
    return Problem(
        "image-too-large",
        f"{relative} is {width} x {height}, above {max_pixels} pixels",
        "shrink the file" + (", or raise max_image_pixels" if raisable else ""),
    )


def _unidentified(path: Path, relative: str, max_pixels: int) -> Problem:
    """Tell a broken image of a known format from a file that is no image."""
    with path.open("rb") as stream:
        head = stream.read(24)
    if head.startswith(_PNG) and len(head) == 24:  # a header without pixels
        width, height = struct.unpack(">II", head[16:24])
        if problem := _too_large(relative, width, height, max_pixels):
            return problem
    if head.startswith((_PNG, _JPEG)):
        return Problem("image-truncated", f"{relative} ends in its header", "fetch the file again")
    return Problem(
        "image-format", f"{relative} is none of {', '.join(FORMATS)}", "convert the file"
    )


@contextmanager
def _strict_pil() -> Iterator[None]:
    """Refuse truncated files and silence PIL's own pixel limit; ours is stricter."""
    from PIL import Image, ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


class ImageChecker:
    """Checks images in ``threads`` processes, answering in order.

    Decoders are native code: one that dies takes its process along, not the
    validation. Use it as a context manager.
    """

    def __init__(self, root: str | Path, max_pixels: int, threads: int) -> None:
        self._root = Path(root).resolve()
        self._max_pixels = max_pixels
        self._threads = max(1, threads)
        self._pool = _processes(self._threads)

    def __enter__(self) -> "ImageChecker":
        """Return the checker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the processes."""
        self._pool.shutdown()

    def check(self, paths: Iterable[str]) -> list[Problem | None]:
        """Return one answer a path, in order."""
        wanted = list(paths)
        try:
            return self._map(self._pool, wanted)
        except BrokenExecutor:
            self._pool.shutdown()
            self._pool = _processes(self._threads)
            return [self._check_alone(path) for path in wanted]

    def _map(self, pool: ProcessPoolExecutor, paths: list[str]) -> list[Problem | None]:
        count = len(paths)
        chunk = max(1, min(64, count // (4 * self._threads)))
        arguments = ([self._root] * count, paths, [self._max_pixels] * count)
        return list(pool.map(check_image, *arguments, chunksize=chunk))

    def _check_alone(self, path: str) -> Problem | None:
        try:
            with _processes(1) as pool:
                return self._map(pool, [path])[0]
        except BrokenExecutor:
            return Problem("image-corrupt", f"{path} kills the decoder", "fetch the file again")


def _processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, initializer=end_with_parent)
