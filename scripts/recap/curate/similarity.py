"""How well captions fit their images, and the threshold it is judged by.

The similarity is CLIP's cosine, or the probability of a match by BLIP-2 or BLIP.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..io import iter_jsonl, write_json
from ..perf import PerfRecord
from ..settings import SimilaritySettings
from ..startup import TRANSFORMERS, load_libraries
from .ahead import Source
from .records import Record, caption_of, check_caption_ids, read_records
from .statistics import StatisticsTable, read_statistics, write_statistics

if TYPE_CHECKING:
    from .image_models import Scorer

ORIGINAL_COLUMN, NEW_COLUMN = "similarity_original", "similarity_new"
# Similarities are stored with this many decimals, well above the rounding of a batch in float32.
_DECIMALS = 5


def score_similarity(
    records: str | Path,
    *,
    captions: str | Path,
    image_root: str | Path,
    model: str | Path,
    settings: SimilaritySettings,
    out: str | Path,
    perf: str | Path,
    device: str = "auto",
) -> StatisticsTable:
    """Score the old and the new caption of every record against its image.

    Each distinct image and, with CLIP, each distinct text of the shard goes through
    the model once; a matching model reads each distinct pair once. Special tokens
    and surrounding blanks are no part of a caption; texts beyond the model's window
    (77 tokens for CLIP) are cut.

    Args:
        records: kept records, one image each.
        captions: new captions, ``{"id", "caption"}`` a record, in the same order.
        image_root: folder their image paths are relative to.
        model: folder of the model with tokenizer and image processor.
        settings: kind of model, dtype and batch size.
        out: Parquet, one row a record in the same order: ``id``,
            ``similarity_original`` and ``similarity_new``, float64.
        perf: JSON file with pairs a second and peak memory.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        RecapError: if captions and records do not match, an image cannot be
            read, or the folder is no whole model of the kind.
    """
    figures = PerfRecord("similarity", "records")
    rows, new = read_records(records), list(iter_jsonl(captions))
    check_caption_ids(rows, new, str(records), str(captions))
    old = [caption_of(row["text"]) for row in rows]
    texts = [[a, str(b["caption"]).strip()] for a, b in zip(old, new, strict=True)]
    scores = score_texts(
        rows, texts, image_root=image_root, model=model, settings=settings, device=device
    )
    columns: dict[str, list[Any]] = {
        ORIGINAL_COLUMN: [first for first, _ in scores],
        NEW_COLUMN: [second for _, second in scores],
    }
    table = StatisticsTable([row["id"] for row in rows], columns, {})
    write_statistics(out, table)
    figures.items = len(rows)
    figures.extra = {
        "images": len({path for row in rows for path in row["images"]}),
        "texts": len({text for pair in texts for text in pair}),
    }
    figures.write(perf)
    return table


def score_texts(
    rows: Sequence[Record],
    texts: Sequence[Sequence[str]],
    *,
    image_root: str | Path,
    model: str | Path,
    settings: SimilaritySettings,
    device: str = "auto",
) -> list[list[float]]:
    """Return how well each text of a record fits its image, to five decimals.

    Args:
        rows: records, one image each.
        texts: the texts of each record.
        image_root: folder their image paths are relative to.
        model: folder of the model; loaded only if there are records.
        settings: kind of model, dtype and batch size.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        RecapError: if an image cannot be read or the folder is another kind of model.
    """
    wanted: dict[str, dict[str, None]] = {}
    owners: dict[str, str] = {}
    for row, own in zip(rows, texts, strict=True):
        path = _image_of(row)
        owners.setdefault(path, row["id"])
        wanted.setdefault(path, {}).update(dict.fromkeys(own))
    if not wanted:
        return []
    load_libraries(*TRANSFORMERS)
    from .image_models import score_images

    scorer = load_scorer(model, settings, device=device)
    sources = [Source(Path(image_root) / path, owner) for path, owner in owners.items()]
    (found,) = score_images(
        sources,
        [scorer],
        [[list(own) for own in wanted.values()]],
        batch_size=settings.batch_size,
    )
    known = {
        path: dict(zip(own, scores, strict=True))
        for (path, own), scores in zip(wanted.items(), found, strict=True)
    }
    return [
        [_rounded(known[row["images"][0]][text]) for text in own]
        for row, own in zip(rows, texts, strict=True)
    ]


def load_scorer(
    model: str | Path, settings: SimilaritySettings, *, device: str = "auto"
) -> "Scorer":
    """Return the scorer of the settings' kind.

    Raises:
        RecapError: if the folder holds another kind of model.
    """
    from .clip import ClipScorer
    from .matching import MatchScorer

    scorer: type[ClipScorer | MatchScorer] = MatchScorer if settings.kind == "itm" else ClipScorer
    return scorer(model, dtype=settings.dtype, batch_size=settings.batch_size, device=device)


def _image_of(row: Record) -> str:
    if len(row["images"]) != 1:
        raise RecapError(f"id {row['id']!r}: {len(row['images'])} images; one is needed")
    return str(row["images"][0])


def _rounded(value: float) -> float:
    """Return a similarity as it is stored; never a negative zero."""
    return round(value, _DECIMALS) + 0.0


def read_similarity(path: str | Path) -> StatisticsTable:
    """Read a table of :func:`score_similarity`.

    Raises:
        RecapError: if the file is missing or another kind of table.
    """
    table = read_statistics(path)
    if set(table.columns) != {ORIGINAL_COLUMN, NEW_COLUMN}:
        raise RecapError(f"{path} is not a table of score_similarity.py")
    return table


def choose_threshold(
    tables: Sequence[str | Path], settings: SimilaritySettings, out: str | Path
) -> dict[str, Any]:
    """Turn the setting into a number, over all shards, and count what falls below.

    A quantile is that of the originals' similarities, linearly interpolated between
    order statistics (type 7 of Hyndman and Fan 1996). Originals strictly below
    the threshold are replaced.

    Returns:
        ``threshold``, ``threshold_kind``, ``setting``, ``records`` and ``below``;
        also written to ``out``.

    Raises:
        RecapError: if there is no record to take a quantile of.
    """
    import numpy as np

    values = np.array([v for t in tables for v in read_similarity(t).columns[ORIGINAL_COLUMN]])
    threshold = settings.threshold
    if settings.threshold_kind == "quantile":
        if not values.size:
            raise RecapError(
                "no similarity was scored, so there is no quantile; loosen the filters"
            )
        threshold = float(np.quantile(values, settings.threshold))
    document = {
        "threshold": threshold,
        "threshold_kind": settings.threshold_kind,
        "setting": settings.threshold,
        "records": int(values.size),
        "below": int(np.count_nonzero(values < threshold)),
    }
    write_json(out, document)
    return document
