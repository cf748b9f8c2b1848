"""How well captions fit their images: CLIP's cosine, and the threshold it is judged by."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..io import iter_jsonl, write_json
from ..perf import PerfRecord
from ..settings import SimilaritySettings
from .records import Record, caption_of, check_caption_ids, read_records
from .statistics import StatisticsTable, read_statistics, write_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORIGINAL_COLUMN, NEW_COLUMN = "similarity_original", "similarity_new"
# Cosines are stored with this many decimals, well above the rounding of a batch in float32.
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

    Each distinct image and each distinct text of the shard goes through the model
    once. Special tokens and surrounding blanks are no part of a caption; texts
    beyond the model's window (77 tokens for CLIP) are cut.

    Args:
        records: kept records, one image each.
        captions: new captions, ``{"id", "caption"}`` a record, in the same order.
        image_root: folder their image paths are relative to.
        model: folder of a whole CLIP model with tokenizer and image processor.
        settings: dtype and batch size.
        out: Parquet, one row a record in the same order: ``id`` and the cosines
            ``similarity_original`` and ``similarity_new``, float64.
        perf: JSON file with pairs a second and peak memory.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        RecapError: if captions and records do not match, an image cannot be
            read, or the folder is no whole CLIP model.
    """
    figures = PerfRecord("similarity", "records")
    rows, new = read_records(records), list(iter_jsonl(captions))
    check_caption_ids(rows, new, str(records), str(captions))
    texts = [
        [caption_of(row["text"]) for row in rows],
        [str(entry["caption"]).strip() for entry in new],
    ]
    columns: dict[str, list[Any]] = {ORIGINAL_COLUMN: [], NEW_COLUMN: []}
    if rows:
        from .clip import ClipScorer

        scorer = ClipScorer(model, settings, device=device)
        images = {path: row for row in rows for path in _image_of(row)}
        pixels = scorer.encode_images(list(images.items()), Path(image_root))
        words = scorer.encode_texts(list(dict.fromkeys(texts[0] + texts[1])))
        for name, captioned in zip(columns, texts, strict=True):
            columns[name] = [
                cosine(pixels[row["images"][0]], words[text])
                for row, text in zip(rows, captioned, strict=True)
            ]
        figures.extra = {"images": len(pixels), "texts": len(words)}
    table = StatisticsTable([row["id"] for row in rows], columns, {})
    write_statistics(out, table)
    figures.items = len(rows)
    figures.write(perf)
    return table


def _image_of(row: Record) -> list[str]:
    if len(row["images"]) != 1:
        raise RecapError(f"id {row['id']!r}: {len(row['images'])} images; one is needed")
    return list(row["images"])


def cosine(first: "NDArray[Any]", second: "NDArray[Any]") -> float:
    """Return the cosine of two unit vectors (D,), float64, to five decimals."""
    import numpy as np

    value = float(np.dot(first.astype(np.float64), second.astype(np.float64)))
    return round(min(1.0, max(-1.0, value)), _DECIMALS) + 0.0


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
    """Turn the setting into a cosine, over all shards, and count what falls below.

    A quantile is that of the originals' cosines, linearly interpolated between
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
