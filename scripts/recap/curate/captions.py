"""Shortening captions and choosing among candidates."""

import logging
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import iter_jsonl, write_jsonl
from ..perf import PerfRecord
from ..settings import SimilaritySettings
from .records import check_caption_ids, read_records
from .similarity import score_texts

logger = logging.getLogger(__name__)

_SENTENCE_ENDS = (".", "!", "?")
# What may follow the end of a sentence within its last word.
_CLOSING = "\"'”’)]"


def cut_caption(caption: str, max_words: int) -> str:
    r"""Return a caption of at most so many words, cut at a sentence end if one fits.

    Words are those of ``str.split``; a sentence ends with a word in ``.``, ``!``
    or ``?``, closing quotes and brackets aside. Without a sentence end within the
    cap the caption ends with its last word that fits. Blanks around the caption
    stay, so that BLIP-2's closing ``\n`` does.

    Args:
        caption: a caption as the captioner gave it.
        max_words: the cap; 0 leaves the caption alone.
    """
    words = caption.split()
    if not max_words or len(words) <= max_words:
        return caption
    ends = [
        count
        for count, word in enumerate(words[:max_words], start=1)
        if word.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
    ]
    kept = ends[-1] if ends else max_words
    stop = 0
    for word in words[:kept]:
        stop = caption.index(word, stop) + len(word)
    return caption[:stop] + caption[len(caption.rstrip()) :]


def choose_captions(
    records: str | Path,
    *,
    captions: str | Path,
    image_root: str | Path,
    model: str | Path,
    settings: SimilaritySettings,
    out: str | Path,
    perf: str | Path,
    device: str = "auto",
) -> int:
    """Keep of every record's candidates the one that fits its image best.

    Similarities are compared as they are stored, to five decimals; of equal
    candidates the first is kept. Each distinct image goes through the model once.

    Args:
        records: kept records, one image each.
        captions: ``{"id", "caption", "candidates"}`` a record, in the same order.
        image_root: folder their image paths are relative to.
        model: folder of the similarity model.
        settings: kind of model, dtype and batch size.
        out: ``{"id", "caption", "candidate", "similarities"}`` a record: the
            caption kept, its place among the candidates, all similarities.
        perf: JSON file with records a second and peak memory.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The number of records whose first candidate was not kept.

    Raises:
        RecapError: if captions and records do not match, a record has no
            candidates, or an image cannot be read.
    """
    figures = PerfRecord("choose_caption", "records")
    rows, entries = read_records(records), list(iter_jsonl(captions))
    check_caption_ids(rows, entries, str(records), str(captions))
    candidates = [_candidates_of(entry, captions) for entry in entries]
    scores = score_texts(
        rows,
        [[text.strip() for text in texts] for texts in candidates],
        image_root=image_root,
        model=model,
        settings=settings,
        device=device,
    )
    best = [own.index(max(own)) for own in scores]
    write_jsonl(
        out,
        (
            {"id": row["id"], "caption": texts[place], "candidate": place, "similarities": own}
            for row, texts, place, own in zip(rows, candidates, best, scores, strict=True)
        ),
    )
    others = sum(place > 0 for place in best)
    figures.items = len(rows)
    figures.extra = {"candidates": sum(map(len, candidates)), "not_the_first": others}
    figures.write(perf)
    logger.info("%d of %d records keep another candidate than the first", others, len(rows))
    return others


def _candidates_of(entry: dict[str, Any], captions: str | Path) -> list[str]:
    candidates = entry.get("candidates")
    if not (isinstance(candidates, list) and candidates):
        raise RecapError(
            f"{captions}, id {entry.get('id')!r}: no `candidates` to choose from; caption the "
            "shard again with `caption.candidates` above 1"
        )
    if not all(isinstance(candidate, str) for candidate in candidates):
        raise RecapError(f"{captions}, id {entry.get('id')!r}: a candidate is not a string")
    return candidates
