"""Computing the statistics of a shard once, for all thresholds to come."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..perf import PerfRecord
from ..settings import OperatorModelSettings
from .juicer import compute_statistics, decodes_images, load_filter, load_image
from .model_operators import model_statistics
from .recipe import Operator, name_of
from .records import Record, read_records
from .statistics import StatisticsTable, column_name, operator_key, write_statistics

_CHUNK = 32  # records whose decoded images are held at a time
# These operators read nothing of an image but its size.
_SIZE_ONLY = ("image_shape_filter",)
_EXIF_ORIENTATION = 0x0112
_SWAPPED = (5, 6, 7, 8)


class ImageSize:
    """Stands in for a decoded image where only its size is read."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.size = (width, height)


def measure_shard(
    records: str | Path,
    *,
    image_root: str | Path,
    operators: list[Operator],
    out: str | Path,
    perf: str | Path,
    model_settings: OperatorModelSettings | None = None,
) -> StatisticsTable:
    """Compute every statistic of a shard and store it.

    Args:
        records: validated records.
        image_root: folder their image paths are relative to.
        operators: from :func:`recap.curate.recipe.measurements`.
        out: Parquet file, one row a record in the same order.
        perf: JSON file with records a second and peak memory.
        model_settings: how the models of image operators run.

    Raises:
        RecapError: if an operator is unknown or fails; the message carries the
            record's id. No record is ever left out.
    """
    figures = PerfRecord("measure", "records")
    rows = read_records(records)
    table = measure(rows, Path(image_root), operators, model_settings)
    write_statistics(out, table)
    figures.items = len(rows)
    figures.extra = {"operators": [name_of(operator) for operator in operators]}
    figures.write(perf)
    return table


def measure(
    rows: list[Record],
    image_root: Path,
    operators: list[Operator],
    model_settings: OperatorModelSettings | None = None,
) -> StatisticsTable:
    """Return the statistics of records; see :func:`measure_shard`."""
    ops = [load_filter(operator) for operator in operators] if rows else []
    batched = model_statistics(
        rows, image_root, operators, model_settings or OperatorModelSettings()
    )
    keys = [operator_key(operator) for operator in operators]
    singles = [op for op, key in zip(ops, keys, strict=False) if key not in batched]
    columns: dict[str, list[Any]] = {}
    names: dict[str, dict[str, str]] = {}
    root = image_root.resolve()
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        samples = [
            {"text": row["text"], "images": [str(root / image) for image in row["images"]]}
            for row in chunk
        ]
        contexts = _contexts(singles, chunk, samples)
        for operator, op, key in zip(operators, ops, keys, strict=True):
            if key in batched:
                found = batched[key][start : start + _CHUNK]
            else:
                found = _statistics(op, chunk, samples, contexts)
            _append(operator, found, columns, names, start)
    lengths = {len(values) for values in columns.values()}
    if lengths - {len(rows)}:
        raise RecapError(f"columns of unequal length {sorted(lengths)} for {len(rows)} records")
    return StatisticsTable([row["id"] for row in rows], columns, names)


def _statistics(
    op: Any, chunk: list[Record], samples: list[dict[str, Any]], contexts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    try:
        found = compute_statistics(op, samples, contexts)
    except Exception as batch_error:
        # One record spoils a batch in Data-Juicer; find out which.
        for row, sample in zip(chunk, samples, strict=True):
            try:
                compute_statistics(op, [sample], [{}])
            except Exception as error:
                raise RecapError(
                    f"{op._name} failed on id {row['id']!r} ({', '.join(row['images'])}): {error}; "
                    "fix or remove the record"
                ) from error
        raise RecapError(
            f"{op._name} failed on the batch starting at id {chunk[0]['id']!r}: {batch_error}"
        ) from batch_error
    if len(found) != len(chunk) or any(not statistics for statistics in found):
        raise RecapError(f"{op._name} stores no statistic, so it cannot be measured and applied")
    return found


def _append(
    operator: Operator,
    found: list[dict[str, Any]],
    columns: dict[str, list[Any]],
    names: dict[str, dict[str, str]],
    start: int,
) -> None:
    key = operator_key(operator)
    mapping = names.setdefault(
        key, {statistic: column_name(statistic, operator) for statistic in found[0]}
    )
    for statistic, column in mapping.items():
        values = columns.setdefault(column, [])
        if len(values) != start:
            raise RecapError(
                f"two operators write the column {column}; a recipe may hold {name_of(operator)} "
                "twice only if its bracketed parameters differ"
            )
        values.extend(_plain(statistics[statistic]) for statistics in found)


def _plain(value: Any) -> Any:
    """Return numpy scalars and arrays as Python numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value


def _contexts(
    ops: list[Any], chunk: list[Record], samples: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the shared context of each record, its image decoded at most once."""
    image_ops = [op for op in ops if decodes_images(op)]
    if not image_ops:
        return [{} for _ in samples]
    size_only = all(op._name in _SIZE_ONLY for op in image_ops)
    contexts = []
    for row, sample in zip(chunk, samples, strict=True):
        try:
            read = _read_size if size_only else load_image
            contexts.append({path: read(path) for path in sample["images"]})
        except Exception as error:
            raise RecapError(
                f"id {row['id']!r}: cannot read {', '.join(row['images'])}: {error}; "
                "run validate_corpus.py again"
            ) from error
    return contexts


def _read_size(path: str) -> Any:
    """Return the size of an image after EXIF rotation, from a JPEG's header alone.

    Other formats are decoded, since their orientation may follow the pixels.
    The images were decoded in full when the corpus was validated.
    """
    from PIL import Image

    with Image.open(path) as image:
        if image.format != "JPEG":
            return load_image(path)
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION) in _SWAPPED:
            width, height = height, width
    return ImageSize(width, height)
