"""Which text an arm trains on: the original caption or the captioner's."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import iter_jsonl, write_jsonl
from .records import Record, captioned_text, read_records, special_tokens_in

POLICIES = ("keep", "replace")
ORIGINAL = "original"


def apply_policy(
    records: str | Path,
    *,
    policy: str,
    out: str | Path,
    captions: str | Path | None = None,
    captioner: str | None = None,
) -> int:
    r"""Write records with the text their arm trains on, and where it came from.

    ``keep`` leaves the text alone. ``replace`` puts the caption, untrimmed, into
    the layout of Data-Juicer's captioning operator; a BLIP-2 caption keeps its
    closing ``\n`` and the conversion to the LLaVA format trims it.

    Args:
        records: kept records.
        policy: ``keep`` or ``replace``.
        out: the records with ``caption_source``: ``original`` or ``captioner``.
        captions: ``{"id", "caption"}`` a record, in the same order.
        captioner: name of the captioner.

    Returns:
        The number of records.

    Raises:
        RecapError: if captions and records do not match one to one, or a
            caption holds a special token.
    """
    rows = read_records(records)
    if policy == "keep":
        return write_jsonl(out, ({**row, "caption_source": ORIGINAL} for row in rows))
    if policy != "replace":
        raise RecapError(f"unknown caption policy {policy!r}; use one of {', '.join(POLICIES)}")
    if captions is None or not captioner or captioner == ORIGINAL:
        raise RecapError("the policy `replace` needs --captions and the --captioner's name")
    new = list(iter_jsonl(captions))
    _check_ids(rows, new, str(records), str(captions))
    return write_jsonl(
        out,
        (_replace(row, entry["caption"], captioner) for row, entry in zip(rows, new, strict=True)),
    )


def _replace(row: Record, caption: str, captioner: str) -> Record:
    if stray := special_tokens_in(caption):
        raise RecapError(
            f"id {row['id']!r}: the caption of {captioner} holds {', '.join(stray)}; "
            "the captioner's tokenizer must mark its special tokens as such"
        )
    return {**row, "text": captioned_text(caption), "caption_source": captioner}


def _check_ids(rows: list[Record], new: list[dict[str, Any]], records: str, captions: str) -> None:
    wanted, given = [row["id"] for row in rows], [entry.get("id") for entry in new]
    if wanted == given:
        return
    place = next(
        (i for i, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b),
        min(len(wanted), len(given)),
    )
    raise RecapError(
        f"{captions} has {len(given)} captions for the {len(wanted)} records of {records} and "
        f"differs from record {place + 1} on; caption the shard again"
    )
