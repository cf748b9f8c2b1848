"""From Data-Juicer records to the LLaVA JSON that trainers read."""

import json
import time
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json
from ..io import atomic_path
from ..manifest import write_manifest
from .questions import BY_ID, FROM_ORIGINAL, DrawnQuestions, OriginalQuestions, Question
from .records import Record, caption_of, read_records


def convert_llava(
    records: str | Path,
    *,
    image_root: str | Path,
    out: str | Path,
    manifest: str | Path,
    original: str | Path | None = None,
) -> int:
    """Write a LLaVA training set: one question and one caption a record.

    Args:
        records: merged records.
        image_root: folder the image paths are relative to; every image must exist.
        out: JSON array, ASCII-escaped, one sample a line.
        manifest: counts and digests of ids (in order), questions and captions.
        original: LLaVA file whose questions are restored per id; without it a
            question is drawn per id from the eleven of stage 1.

    Returns:
        The number of samples.

    Raises:
        RecapError: at the first record that cannot be converted; none is skipped.
    """
    started = time.time()
    if Path(out).suffix != ".json":
        raise RecapError(f"{out}: the training set's name must end in .json")
    source = OriginalQuestions(original) if original is not None else DrawnQuestions()
    rows = read_records(records)
    samples = [to_llava(row, source.of(row["id"])) for row in rows]
    _check_images(samples, Path(image_root))
    with atomic_path(out) as temporary:
        lines = ",\n".join(json.dumps(sample, allow_nan=False) for sample in samples)
        temporary.write_text(f"[\n{lines}\n]\n" if samples else "[]\n", encoding="ascii")
    write_manifest(
        manifest,
        stage="dataset",
        inputs={"records": records} | ({"original": original} if original is not None else {}),
        outputs={"train": out},
        settings={"question_source": BY_ID if original is None else FROM_ORIGINAL},
        counts={"records_in": len(rows), "records_out": len(samples)},
        started=started,
        details=_digests(rows, samples),
    )
    return len(samples)


def to_llava(record: Record, question: Question) -> dict[str, Any]:
    """Return one sample, keys in the order ``id``, ``conversations``, ``image``.

    The first turn is copied verbatim; later turns of the original are dropped.

    Raises:
        RecapError: if the record has more than one distinct image, or an empty
            caption.
    """
    images = list(dict.fromkeys(record["images"]))
    if len(images) > 1:
        raise RecapError(f"id {record['id']!r}: {len(images)} distinct images; LLaVA takes one")
    caption = caption_of(record["text"])
    if not caption:
        raise RecapError(
            f"id {record['id']!r}: empty caption; use words_num_filter after captioning"
        )
    answer = {"from": question.role, "value": caption}
    sample = {"id": question.identity, "conversations": [question.turn, answer]}
    return sample | ({"image": images[0]} if images else {})


def _check_images(samples: list[dict[str, Any]], root: Path) -> None:
    for sample in samples:
        if "image" in sample and not (root / sample["image"]).is_file():
            raise RecapError(f"id {sample['id']!r}: {root / sample['image']} does not exist")


def _digests(rows: list[Record], samples: list[dict[str, Any]]) -> dict[str, Any]:
    turns = [sample["conversations"] for sample in samples]
    sources = sorted({row.get("caption_source", FROM_ORIGINAL) for row in rows})
    return {
        "records": len(samples),
        "ids_sha256": digest_json([row["id"] for row in rows]),
        "questions_sha256": digest_json([pair[0]["value"] for pair in turns]),
        "captions_sha256": digest_json([pair[1]["value"] for pair in turns]),
        "images_sha256": digest_json([sample.get("image") for sample in samples]),
        "caption_sources": sources,
    }
