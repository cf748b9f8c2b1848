"""Sizes of images as a full decode would give them, read from headers where that is exact."""

import struct
from typing import Any, BinaryIO

_EXIF_ORIENTATION = 0x0112
_SWAPPED = (5, 6, 7, 8)
# Where any of these holds an orientation, PIL finds it when a file is opened.
_HEADER_FORMATS = ("JPEG", "WEBP", "GIF", "BMP", "PPM")
_ORIENTATION_HOLDERS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_PNG_SIGNATURE = 8
# Chunks after which a PNG's size is no longer the header's, or its orientation may come late.
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL")


class ImageSize:
    """Stands in for a decoded image where only its size is read."""

    __slots__ = ("height", "width")

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height


def image_size(path: str) -> ImageSize:
    """Return an image's size in pixels after EXIF rotation.

    The header alone is read of JPEG, WEBP, GIF, BMP, PPM, and of PNG without
    metadata chunks. Everything else is decoded by Data-Juicer's loader: a TIFF's
    rotation depends on its decoder, a PNG's orientation may follow its pixels.
    A file cut short after its header is not noticed here, but it was when the
    corpus was validated.
    """
    from PIL import Image

    with Image.open(path) as image:
        by_header = image.format in _HEADER_FORMATS or (
            image.format == "PNG" and image.fp is not None and _plain_png(path)
        )
        if by_header:
            return _from_header(image)
    from .juicer import load_image

    return ImageSize(*load_image(path).size)


def _from_header(image: Any) -> ImageSize:
    width, height = image.size
    if any(holder in image.info for holder in _ORIENTATION_HOLDERS) and (
        image.getexif().get(_EXIF_ORIENTATION) in _SWAPPED
    ):
        width, height = height, width
    return ImageSize(width, height)


def _plain_png(path: str) -> bool:
    """Tell whether a PNG holds no chunk that could say how it is turned."""
    with open(path, "rb") as stream:  # noqa: PTH123 - a path object costs more than the reading
        stream.seek(_PNG_SIGNATURE)
        return all(kind not in _PNG_METADATA for kind in _chunk_kinds(stream))


def _chunk_kinds(stream: BinaryIO) -> Any:
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind
        stream.seek(length + 4, 1)
