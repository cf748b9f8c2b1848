"""Putting an arm's shards together, with a funnel that adds up."""

import operator
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import GateError, RecapError
from ..hashing import digest_json, stable_fraction
from ..io import read_json, write_json, write_jsonl
from ..manifest import write_manifest
from .funnel import (
    Stage,
    check_conservation,
    operator_stages,
    stage,
    validate_stage,
    worst_operator,
)
from .held_out import read_held_out
from .records import Record, ids_of_shards, iter_records

_NAMED = 10


def merge_arm(
    arm: str,
    shards: list[str | Path],
    *,
    out: str | Path,
    funnel: str | Path,
    manifest: str | Path,
    validate_report: str | Path,
    pre_counts: list[str | Path],
    post_counts: list[str | Path],
    match_ids: str | Path | None = None,
    max_records: int | None = None,
    max_records_of: str | Path | None = None,
    held_out: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Concatenate an arm's shards, match another arm's ids, apply the budget.

    Records are streamed. What grows with the corpus are the ids, since any of them
    may come back: about 200 bytes a record, 100 more where some are chosen.

    Args:
        arm: the arm's name.
        shards: its text files, in shard order.
        out: the merged records.
        funnel: ``{arm, stages, rejects_by_reason}``; also returned.
        manifest: what it was made from.
        validate_report: report of validate_corpus.py.
        pre_counts: counts files of the selection before captioning.
        post_counts: counts files of the selection after it; may be empty.
        match_ids: merged records of the reference arm; exactly its ids are
            kept, in its order.
        max_records: budget; the records with the smallest hash of (seed, id)
            stay, in order, so a smaller budget is a subset of a larger one.
        max_records_of: merged records whose number is the budget, exactly.
        held_out: ids that are left out first, see :mod:`recap.curate.held_out`.
        seed: seed of the budget.

    Raises:
        GateError: if ids of the reference arm are missing, records are lost, or
            too few are there for the number of another arm.
        RecapError: if no record is left.
    """
    started = time.time()
    report = read_json(validate_report)
    ids = ids_of_shards(shards)
    wanted: Collection[str] = ids
    stages = [validate_stage(report), *operator_stages("select", pre_counts)]
    stages += operator_stages("reselect", post_counts)
    check_conservation(arm, stages, len(ids))
    if held_out is not None:
        wanted = _left_in(ids, held_out, stages)
    if match_ids is not None:
        wanted = _matched(arm, wanted, match_ids, stages)
    if max_records_of is not None:
        max_records = _size_of(arm, max_records_of, len(wanted))
    if max_records is not None:
        wanted = _budgeted(wanted, max_records, seed, stages)
    if not wanted:
        raise RecapError(f"arm {arm}: no record is left; {worst_operator(stages)}. Loosen it")
    written = write_jsonl(out, _in_order(shards, ids, wanted))
    check_conservation(arm, stages, written)
    document = {"arm": arm, "stages": stages, "rejects_by_reason": report["rejects"]}
    write_json(funnel, document)
    inputs: dict[str, str | Path] = {f"shard_{i:05d}": path for i, path in enumerate(shards)}
    others = {"match_ids": match_ids, "max_records_of": max_records_of, "held_out": held_out}
    write_manifest(
        manifest,
        stage="dataset",
        inputs=inputs | {name: path for name, path in others.items() if path is not None},
        outputs={"merged": out, "funnel": funnel},
        settings={"arm": arm, "max_records": max_records},
        counts={"records_in": report["lines"], "records_out": written},
        started=started,
        seed=None if max_records is None else seed,
        details={"ids_sha256": digest_json(list(wanted))},
    )
    return document


def _in_order(
    shards: list[str | Path], ids: Collection[str], wanted: Collection[str]
) -> Iterator[Record]:
    """Yield the wanted records in the order wanted.

    Arms of one corpus agree in their order, so that one pass over the shards is
    enough; where they do not, the wanted records are held.
    """
    chosen = ids if wanted is ids else set(wanted)
    kept = (row for path in shards for row in iter_records(path) if row["id"] in chosen)
    if all(map(operator.eq, (identity for identity in ids if identity in chosen), wanted)):
        yield from kept
        return
    by_id = {row["id"]: row for row in kept}
    yield from (by_id[identity] for identity in wanted)


def _left_in(ids: Collection[str], held_out: str | Path, stages: list[Stage]) -> Collection[str]:
    left_out = set(read_held_out(held_out))
    kept = {identity: None for identity in ids if identity not in left_out}
    stages.append(stage("held_out", None, len(ids), len(kept)))
    return kept


def _matched(
    arm: str, ids: Collection[str], reference: str | Path, stages: list[Stage]
) -> list[str]:
    wanted = [row["id"] for row in iter_records(reference)]
    if missing := [identity for identity in wanted if identity not in ids]:
        raise GateError(
            f"arm {arm} lacks {len(missing)} of the {len(wanted)} ids of {reference}: "
            f"{', '.join(missing[:_NAMED])}{', ...' if len(missing) > _NAMED else ''}. "
            "Its filters must be no stricter than those of the arm it is matched to"
        )
    stages.append(stage("match", None, len(ids), len(wanted)))
    return wanted


def _size_of(arm: str, other: str | Path, records: int) -> int:
    size = sum(1 for _ in iter_records(other))
    if records < size:
        raise GateError(
            f"arm {arm} has {records} records to draw {size} from, the number in {other}; its "
            "filters must be no stricter than those of the arm whose size it takes"
        )
    return size


def _budgeted(ids: Collection[str], budget: int, seed: int, stages: list[Stage]) -> list[str]:
    if budget < 1:
        raise RecapError(f"a budget of {budget} records leaves nothing; use at least 1")
    order = sorted((stable_fraction("budget", seed, identity), identity) for identity in ids)
    chosen = {identity for _, identity in order[:budget]}
    kept = [identity for identity in ids if identity in chosen]
    stages.append(stage("budget", None, len(ids), len(kept)))
    return kept
