"""Small pictures for the page, as data URIs."""

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_PIXELS = 64 * 1024 * 1024
_QUALITY = 80
_SUFFIXES = ("", ".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Thumbnail:
    """A picture, or the reason why there is none.

    Attributes:
        uri: ``data:image/jpeg;base64,...``, or empty.
        width: in pixels.
        height: in pixels.
        problem: why ``uri`` is empty; shown in its place.
    """

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


def thumbnail(root: Path | None, name: str, width: int) -> Thumbnail:
    """Return a picture below ``root`` scaled to at most ``width`` pixels.

    ``name`` may lack its suffix. A picture that is missing, outside the root,
    too large or unreadable becomes a visible reason, and a logged warning.
    """
    if root is None:
        return Thumbnail(problem="no image folder was given")
    from PIL import Image

    try:
        return _encode(_locate(root, name), width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        logger.warning("no thumbnail of %s: %s", name, error)
        return Thumbnail(problem=f"{name}: {error}")


def _locate(root: Path, name: str) -> Path:
    base = root.resolve()
    for suffix in _SUFFIXES:
        path = (base / f"{name}{suffix}").resolve()
        if not path.is_relative_to(base):
            raise ValueError("lies outside the image folder")
        if path.is_file():
            return path
    raise ValueError("does not exist")


def find_picture(root: Path, name: str) -> Path | None:
    """Return a picture below ``root``, or ``None``; ``name`` may lack its suffix."""
    try:
        return _locate(root, name)
    except ValueError:
        return None


def _encode(path: Path, width: int) -> Thumbnail:
    from PIL import Image

    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        height = max(1, round(image.height * width / image.width))
        scaled = (width, height) if image.width > width else image.size
        # No picture may be taller than three times its width on the page.
        small = image.convert("RGB").resize(scaled, Image.Resampling.LANCZOS)
        small = small.crop((0, 0, small.width, min(small.height, 3 * width)))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_QUALITY)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{code}", small.width, small.height)
