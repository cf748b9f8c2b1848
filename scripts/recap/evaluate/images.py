"""Opening the pictures of questions, by name, below one root."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import RecapError
from ..hashing import digest_json
from .benchmarks.base import Question
from .controls import BLANK_IMAGE

# int(mean * 255) of CLIP's channel means: the colour that becomes about zero.
MEAN_COLOR = (122, 116, 104)
_BLANK_EDGE = 32
_MAX_PIXELS = 178_956_970


class ImageSource:
    """Opens images from a folder, from bytes the question file carried, or blank."""

    def __init__(self, root: Path | None, inline: Mapping[str, bytes]) -> None:
        """Take the image root and the encoded images that are already in memory."""
        self._root = root
        self._inline = inline

    def fingerprint(self, questions: Sequence[Question]) -> str:
        """Return a digest of names and sizes in bytes of the pictures below the root.

        Not of times, which copying changes, and not of bytes, which would be read twice:
        a picture replaced by one of equal size is not noticed. Pictures that the question
        file carries are part of its own digest.
        """
        names = {q.image for q in questions if q.image is not None}
        own = sorted(names - self._inline.keys() - {BLANK_IMAGE})
        return digest_json([[name, self._size(name)] for name in own])

    def _size(self, name: str) -> int | None:
        try:
            return (self._root / name).stat().st_size if self._root is not None else None
        except (OSError, ValueError):
            return None  # opening it says what is wrong

    def open(self, question: Question) -> Image.Image:
        """Return the decoded RGB picture of a question.

        Raises:
            RecapError: if it is outside the root, missing, too large or broken,
                with the question and the reason.
        """
        name = question.image
        where = f"question {question.question_id} (line {question.line}), image {name!r}"
        if name is None:
            raise RecapError(f"{where}: the question has no image")
        if name == BLANK_IMAGE:
            return Image.new("RGB", (_BLANK_EDGE, _BLANK_EDGE), MEAN_COLOR)
        data = self._inline.get(name)
        if data is None:
            data = self._read(name, where)
        try:
            with Image.open(io.BytesIO(data)) as picture:
                if picture.width * picture.height > _MAX_PIXELS:
                    raise RecapError(f"{where}: {picture.width} x {picture.height} is too large")
                return picture.convert("RGB")
        except Image.DecompressionBombError as error:
            raise RecapError(f"{where}: {error}") from error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise RecapError(f"{where}: cannot be decoded ({error})") from error

    def _read(self, name: str, where: str) -> bytes:
        if self._root is None:
            raise RecapError(f"{where}: no image root was given; pass --image-root")
        path = self._root / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RecapError(f"{where}: leads outside the image root {self._root}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise RecapError(f"{where}: cannot read {path} ({error.strerror})") from error
