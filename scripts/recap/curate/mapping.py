"""Running a recipe's mappers on a whole shard, with every change on record."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import write_json, write_jsonl
from ..perf import PerfRecord
from .juicer import absolute_samples, edit_batch, load_operator
from .recipe import Operator, name_of
from .records import END_OF_CHUNK, IMAGE_TOKEN, Record, read_records
from .texts import replace_caption, sees_caption, view

_CHUNK = 1000  # records; Data-Juicer's own default


def map_shard(
    records: str | Path,
    *,
    image_root: str | Path,
    operators: list[Operator],
    out: str | Path,
    changes: str | Path,
    counts: str | Path,
    perf: str | Path,
) -> dict[str, Any]:
    """Apply mappers to a shard's texts, in recipe order.

    Args:
        records: the records before.
        image_root: folder their image paths are relative to.
        operators: full operators, all of them mappers.
        out: the records after: same ids, same order, same pictures.
        changes: one line a changed text: ``id``, ``operator``, ``before``, ``after``.
        counts: records in and out, as a whole and an operator; also returned.
        perf: JSON file with records a second and peak memory.

    Raises:
        RecapError: if a mapper fails on a record, adds or loses one, writes
            other fields than the text, or damages the special tokens.
    """
    figures = PerfRecord("map", "records")
    rows = read_records(records)
    edits: list[dict[str, Any]] = []
    steps = []
    for operator in operators:
        edited = edit(rows, Path(image_root), operator)
        pairs = zip(rows, edited, strict=True)
        changed = [(old, new) for old, new in pairs if old["text"] != new["text"]]
        edits += [
            {"id": old["id"], "operator": name_of(operator)}
            | {"before": old["text"], "after": new["text"]}
            for old, new in changed
        ]
        steps.append(_step(operator, len(rows), len(changed)))
        rows = edited
    summary = {"records_in": len(rows), "records_out": len(rows), "rejected": 0}
    document = {**summary, "operators": steps}
    write_jsonl(out, rows)
    write_jsonl(changes, edits)
    write_json(counts, document)
    figures.items = len(rows)
    figures.extra = {"operators": [name_of(operator) for operator in operators]}
    figures.write(perf)
    return document


def edit(rows: list[Record], image_root: Path, operator: Operator) -> list[Record]:
    """Return records with the texts that one mapper makes of theirs."""
    if not rows:
        return []
    op = load_operator(operator, "Mapper")
    edited: list[Record] = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        samples = view(operator, absolute_samples(chunk, image_root))
        texts = _texts(op, chunk, samples)
        edited += [_rewritten(operator, *pair) for pair in zip(chunk, texts, strict=True)]
    return edited


def _texts(op: Any, chunk: list[Record], samples: list[dict[str, Any]]) -> list[str]:
    try:
        return edit_batch(op, samples)
    except RecapError:
        raise
    except Exception as batch_error:
        # One record spoils a batch in Data-Juicer; find out which.
        for row, sample in zip(chunk, samples, strict=True):
            try:
                edit_batch(op, [sample])
            except Exception as error:
                raise RecapError(
                    f"{op._name} failed on id {row['id']!r}: {error}; fix or remove the record"
                ) from error
        raise RecapError(
            f"{op._name} failed on the batch starting at id {chunk[0]['id']!r}: {batch_error}"
        ) from batch_error


def _rewritten(operator: Operator, row: Record, text: str) -> Record:
    if sees_caption(operator):
        return {**row, "text": replace_caption(row["text"], text)}
    for token in (IMAGE_TOKEN, END_OF_CHUNK):
        if row["text"].count(token) != text.count(token):
            raise RecapError(
                f"{name_of(operator)} damages the token {token} of id {row['id']!r}; let the "
                "recipe's text operators see the bare caption, with the line "
                "`# recap: text=clean` in its file"
            )
    return {**row, "text": text}


def _step(operator: Operator, records: int, changed: int) -> dict[str, Any]:
    return {
        "operator": name_of(operator),
        "records_in": records,
        "records_out": records,
        "rejected": 0,
        "changed": changed,
    }
