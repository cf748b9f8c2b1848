"""OCR tokens for question files that have none, in TextVQA's form.

The model is RapidOCR's (PP-OCRv6 in ONNX form, Apache-2.0), whose weights come
inside its wheel: nothing is downloaded when it runs. LLaVA's tokens for TextVQA
are Rosetta's (Borisyuk et al. 2018), another model's: accuracies with tokens
made here are not to be compared with those.
"""

import logging
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import RecapError
from ..hashing import sha256_file
from ..io import numbered_jsonl, write_jsonl
from ..manifest import write_manifest
from ..settings import OcrSettings
from ..versions import STAGE_VERSIONS
from .benchmarks import get_benchmark
from .benchmarks.base import Question
from .benchmarks.textvqa.prompts import add_ocr, has_ocr_line
from .images import ImageSource
from .journal import open_journal
from .protocol import BenchmarkProtocol

logger = logging.getLogger(__name__)

LIBRARY = "rapidocr"
Reader = Callable[[Image.Image], list[str]]


def make_ocr_tokens(
    questions: Path,
    image_root: Path,
    settings: OcrSettings,
    out: Path,
    state: Path,
    threads: int = 1,
    manifest: Path | None = None,
    reader: Reader | None = None,
) -> None:
    """Write the question file with a line of OCR tokens in every prompt.

    Lines that have one stay as they are. Tokens are the words of the picture in
    reading order, repeated as often as they are read, as in TextVQA's own file.
    Every picture is read once; a killed job goes on at the next one.

    Args:
        questions: TextVQA question lines, prompts of two lines or three.
        image_root: folder of the pictures.
        settings: which words count, and how many.
        out: the new question file, lines in the same order.
        state: folder of the record of pictures already read.
        threads: of the model.
        manifest: where to write what was made by which model.
        reader: gives a picture's words; by default the packaged model.

    Raises:
        RecapError: if the model isn't installed, the question file is malformed,
            or a picture cannot be read.
    """
    started = time.time()
    model = model_identity() if reader is None else {"library": "given"}
    asked = get_benchmark("textvqa").load(questions, BenchmarkProtocol(kind="textvqa")).questions
    rows = [row for _, row in numbered_jsonl(questions)]
    bare = [q for q, row in zip(asked, rows, strict=True) if not has_ocr_line(row["text"])]
    identity = {**model, **settings.model_dump(), "stage_version": STAGE_VERSIONS["ocr"]}
    with open_journal(state, "words", identity) as journal:
        words = _read_all(bare, image_root, reader or rapid_reader(settings, threads), journal)
    for question, row in zip(asked, rows, strict=True):
        if not has_ocr_line(row["text"]):
            found = words.get(question.image or "", [])
            row["text"] = add_ocr(row["text"], found[: settings.max_words])
    write_jsonl(out, rows)
    counts = {
        "questions": len(rows),
        "questions_with_tokens_of_their_own": len(rows) - len(bare),
        "images": len(words),
        "images_without_text": sum(not found for found in words.values()),
        "images_cut": sum(len(found) > settings.max_words for found in words.values()),
        "words": sum(len(found) for found in words.values()),
    }
    logger.info("%s: %s", out, counts)
    if manifest is not None:
        write_manifest(
            manifest,
            stage="ocr",
            inputs={"questions": questions},
            outputs={"questions": out},
            settings=settings.model_dump(),
            counts=counts,
            started=started,
            details=model,
        )


def _read_all(
    questions: list[Question], root: Path, reader: Reader, journal: Any
) -> dict[str, list[str]]:
    """Return the words of every distinct picture, by its name."""
    source = ImageSource(root, {})
    words: dict[str, list[str]] = {}
    for question in questions:
        name = question.image
        if name is None or name in words:
            continue
        key = (name, _stamp(root / name))
        if key not in journal.texts:
            journal.append({key: "\n".join(reader(source.open(question)))})
        words[name] = journal.texts[key].split()
    return words


def _stamp(path: Path) -> str:
    """Return size and time of a file, so that a replaced picture is read again."""
    if not path.is_file():
        return "missing"
    facts = path.stat()
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def rapid_reader(settings: OcrSettings, threads: int) -> Reader:
    """Return a function that reads the words of an RGB picture with the packaged model.

    Args:
        settings: the lowest confidence of a line that counts.
        threads: of the model.
    """
    import numpy as np
    from rapidocr import RapidOCR

    engine = RapidOCR(
        params={
            "Global.text_score": settings.min_confidence,
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
    )

    def read(picture: Image.Image) -> list[str]:
        # The model was trained on OpenCV's order of channels.
        found = engine(np.asarray(picture)[:, :, ::-1])
        return [word for line in found.txts or () for word in line.split()]

    return read


def model_identity() -> dict[str, Any]:
    """Return library, version and hashes of the packaged model's files.

    Raises:
        RecapError: if the library isn't installed, with how to get it.
    """
    try:
        found = version(LIBRARY)
    except PackageNotFoundError:
        raise RecapError(
            "the OCR model is not installed; `make ocr` gets it (about 120 MB to download, 270 MB "
            "on disk), or run with the conda environments. A question file that has OCR tokens "
            "needs none: set `ocr_source` to `file` in the benchmarks sheet"
        ) from None
    spec = find_spec(LIBRARY)
    folder = Path(spec.origin or "").parent if spec is not None else Path()
    models = sorted((folder / "models").glob("*.onnx"))
    return {"library": f"{LIBRARY} {found}", "models": {p.name: sha256_file(p) for p in models}}
