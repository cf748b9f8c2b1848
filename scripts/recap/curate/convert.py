"""From Data-Juicer records to the LLaVA JSON that trainers read."""

import json
import time
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import ListDigest
from ..io import atomic_path
from ..manifest import write_manifest
from .questions import BY_ID, FROM_ORIGINAL, DrawnQuestions, OriginalQuestions, Question
from .records import Record, caption_of, iter_records


def convert_llava(
    records: str | Path,
    *,
    image_root: str | Path,
    out: str | Path,
    manifest: str | Path,
    original: str | Path | None = None,
) -> int:
    """Write a LLaVA training set: one question and one caption a record.

    Records are streamed. What grows with the corpus are the ids, about 150 bytes
    each, and with an original file the questions of those ids, about 600 more.

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
    tally = _Tally()
    source = _questions(records, original)
    with atomic_path(out) as temporary, temporary.open("w", encoding="ascii") as stream:
        stream.write("[")
        for row in iter_records(records):
            sample = to_llava(row, source.of(row["id"]))
            _check_image(sample, Path(image_root))
            separator = ",\n" if tally.records else "\n"
            stream.write(separator + json.dumps(sample, allow_nan=False))
            tally.add(row, sample)
        stream.write("\n]\n" if tally.records else "]\n")
    write_manifest(
        manifest,
        stage="dataset",
        inputs={"records": records} | ({"original": original} if original is not None else {}),
        outputs={"train": out},
        settings={"question_source": BY_ID if original is None else FROM_ORIGINAL},
        counts={"records_in": tally.records, "records_out": tally.records},
        started=started,
        details=tally.details(),
    )
    return tally.records


class _Tally:
    """Number of samples, and digests of what they hold, in order."""

    def __init__(self) -> None:
        self.records = 0
        self._digests = {name: ListDigest() for name in ("ids", "questions", "captions", "images")}
        self._sources: set[str] = set()

    def add(self, row: Record, sample: dict[str, Any]) -> None:
        question, answer = sample["conversations"]
        self.records += 1
        self._digests["ids"].add(row["id"])
        self._digests["questions"].add(question["value"])
        self._digests["captions"].add(answer["value"])
        self._digests["images"].add(sample.get("image"))
        self._sources.add(row.get("caption_source", FROM_ORIGINAL))

    def details(self) -> dict[str, Any]:
        digests = {f"{name}_sha256": found.hexdigest() for name, found in self._digests.items()}
        return {"records": self.records, **digests, "caption_sources": sorted(self._sources)}


def _questions(
    records: str | Path, original: str | Path | None
) -> OriginalQuestions | DrawnQuestions:
    if original is None:
        return DrawnQuestions()
    return OriginalQuestions(original, {row["id"] for row in iter_records(records)})


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


def _check_image(sample: dict[str, Any], root: Path) -> None:
    if "image" in sample and not (root / sample["image"]).is_file():
        raise RecapError(f"id {sample['id']!r}: {root / sample['image']} does not exist")
