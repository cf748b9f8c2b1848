"""Computing the statistics of a shard once, for all thresholds to come."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import VALIDATE_AGAIN, RecapError
from ..perf import PerfRecord
from ..startup import TRANSFORMERS, load_libraries
from .juicer import compute_statistics, decodes_images, load_filter, load_image
from .model_operators import is_batched, model_statistics
from .native import Batch, NativeFilter, native_filter
from .recipe import Operator, name_of
from .records import Record, read_records
from .sizes import image_size
from .statistics import StatisticsTable, column_name, operator_key, write_statistics
from .texts import sees_caption, view

if TYPE_CHECKING:
    from ..settings import OperatorModelSettings

_CHUNK = 32  # records whose decoded images are held at a time
_LIGHT_CHUNK = 2048  # the same where no operator holds more than text and sizes
# These operators read nothing of an image but its size.
_SIZE_ONLY = ("image_shape_filter", "image_aspect_ratio_filter")


def measure_shard(
    records: str | Path,
    *,
    image_root: str | Path,
    operators: list[Operator],
    out: str | Path,
    perf: str | Path,
    model_settings: "OperatorModelSettings | None" = None,
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
    model_settings: "OperatorModelSettings | None" = None,
) -> StatisticsTable:
    """Return the statistics of records; see :func:`measure_shard`."""
    batched = _batched(rows, image_root, operators, model_settings)
    keys = [operator_key(operator) for operator in operators]
    ops = [_load(op, key in batched) for op, key in zip(operators, keys, strict=True) if rows]
    singles = [op for op in ops if op is not None]
    size = _LIGHT_CHUNK if all(_is_light(op) for op in singles) else _CHUNK
    columns: dict[str, list[Any]] = {}
    names: dict[str, dict[str, str]] = {}
    root = image_root.resolve()
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        samples = [
            {"text": row["text"], "images": [str(root / image) for image in row["images"]]}
            for row in chunk
        ]
        contexts = _contexts(singles, chunk, samples)
        seen = _views(operators, samples, contexts)
        for operator, op, key in zip(operators, ops, keys, strict=True):
            if key in batched:
                found = batched[key][start : start + size]
            else:
                found = _statistics(op, chunk, *seen[sees_caption(operator)], contexts)
            _append(operator, found, columns, names, start)
    lengths = {len(values) for values in columns.values()}
    if lengths - {len(rows)}:
        raise RecapError(f"columns of unequal length {sorted(lengths)} for {len(rows)} records")
    return StatisticsTable([row["id"] for row in rows], columns, names)


def _load(operator: Operator, is_batched: bool) -> Any:
    """Return what computes an operator's statistic; nothing where a batch has done so."""
    return None if is_batched else native_filter(operator) or load_filter(operator)


def _batched(
    rows: list[Record],
    image_root: Path,
    operators: list[Operator],
    model_settings: "OperatorModelSettings | None",
) -> dict[str, list[dict[str, Any]]]:
    """Return the statistics of operators with a model; most jobs have none of them."""
    if not any(is_batched(operator) for operator in operators):
        return {}
    from ..settings import OperatorModelSettings

    load_libraries(*TRANSFORMERS)
    settings = model_settings or OperatorModelSettings()
    return model_statistics(rows, image_root, operators, settings)


def _statistics(
    op: Any,
    chunk: list[Record],
    samples: list[dict[str, Any]],
    batch: Batch,
    contexts: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    try:
        found = _compute(op, samples, contexts, batch)
    except Exception as batch_error:
        # One record spoils a batch in Data-Juicer; find out which.
        for row, sample, context in zip(chunk, samples, contexts, strict=True):
            try:
                _compute(op, [sample], [context], _batch([sample], [context]))
            except Exception as error:
                raise RecapError(
                    f"{_name(op)} failed on id {row['id']!r} ({', '.join(row['images'])}): "
                    f"{error}; fix or remove the record"
                ) from error
        raise RecapError(
            f"{_name(op)} failed on the batch starting at id {chunk[0]['id']!r}: {batch_error}"
        ) from batch_error
    if len(found) != len(chunk) or any(not statistics for statistics in found):
        raise RecapError(f"{_name(op)} stores no statistic, so it cannot be measured and applied")
    return found


def _compute(
    op: Any, samples: list[dict[str, Any]], contexts: list[dict[str, Any]], batch: Batch
) -> list[dict[str, Any]]:
    if isinstance(op, NativeFilter):
        return op.statistics(batch)
    return compute_statistics(op, samples, contexts)


def _views(
    operators: list[Operator], samples: list[dict[str, Any]], contexts: list[dict[str, Any]]
) -> dict[bool, tuple[list[dict[str, Any]], Batch]]:
    """Return what operators see of some records, by whether they see the bare caption."""
    kinds = {sees_caption(operator): operator for operator in operators}
    found = {kind: view(operator, samples) for kind, operator in kinds.items()}
    return {kind: (seen, _batch(seen, contexts)) for kind, seen in found.items()}


def _batch(samples: list[dict[str, Any]], contexts: list[dict[str, Any]]) -> Batch:
    texts, images = ([sample[key] for sample in samples] for key in ("text", "images"))
    return Batch(texts, images, contexts)


def _name(op: Any) -> str:
    return op.name if isinstance(op, NativeFilter) else str(op._name)


def _reads_images(op: Any) -> bool:
    return op.reads_images if isinstance(op, NativeFilter) else decodes_images(op)


def _reads_pixels(op: Any) -> bool:
    return _reads_images(op) and _name(op) not in _SIZE_ONLY


def _is_light(op: Any) -> bool:
    return isinstance(op, NativeFilter) or _name(op) in _SIZE_ONLY


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
    if not any(_reads_images(op) for op in ops):
        return [{} for _ in samples]
    read = load_image if any(_reads_pixels(op) for op in ops) else image_size
    contexts = []
    for row, sample in zip(chunk, samples, strict=True):
        try:
            contexts.append({path: read(path) for path in sample["images"]})
        except Exception as error:
            raise RecapError(
                f"id {row['id']!r}: cannot read {', '.join(row['images'])}: {error}; "
                f"{VALIDATE_AGAIN}"
            ) from error
    return contexts
