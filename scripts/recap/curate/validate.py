"""Letting into the pipeline only records that nothing later can trip over.

Every line of the raw corpus ends in exactly one of two files: the validated
corpus, or the rejects with line number, id, reason and remedy.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from ..errors import VALIDATE_AGAIN, GateError, RecapError
from ..io import atomic_path, write_json
from ..settings import ValidateSettings
from .images import ImageChecker, Problem
from .lines import iter_raw_lines, parse_line
from .records import Record
from .split import IndexedLines

logger = logging.getLogger(__name__)

_BLOCK = 4096
_LOGGED_REJECTS = 50
_DETAIL_CHARS = 300

# One checked line: number, record or None, problem or None, id as far as known.
_Checked = tuple[int, Record | None, Problem | None, str | None]


def validate_corpus(
    corpus: str | Path,
    *,
    image_root: str | Path | None = None,
    expected_records: int,
    settings: ValidateSettings,
    threads: int,
    out: str | Path,
    rejects: str | Path,
    report: str | Path,
    index: str | Path | None = None,
) -> dict[str, Any]:
    """Split a raw corpus into good records and explained rejects.

    Memory grows with the corpus only by the ids already taken, about 150 bytes
    each: an id may come back on any later line.

    Args:
        corpus: JSONL file.
        image_root: folder image paths are relative to; by default the corpus's own.
        expected_records: non-blank physical lines the corpus row declares.
        settings: limits, and the share of rejects that is still acceptable.
        threads: processes that decode images.
        out: good records in corpus order, with ids as strings.
        rejects: one line a bad line: ``line``, ``id``, ``reason``, ``detail``, ``fix``.
        report: counts; also returned.
        index: where in ``out`` records start, for split_shard.py.

    Raises:
        RecapError: if the corpus is missing or has another number of lines.
        GateError: if more than ``settings.max_reject_share`` was rejected.
    """
    corpus = Path(corpus)
    if not corpus.is_file():
        raise RecapError(f"corpus {corpus} does not exist; check config/corpora.tsv")
    tally = _Tally()
    with (
        atomic_path(out) as good_path,
        atomic_path(rejects) as bad_path,
        good_path.open("wb") as good_stream,
        bad_path.open("w", encoding="utf-8", newline="\n") as bad,
        ImageChecker(
            Path(image_root or corpus.parent), settings.max_image_pixels, threads
        ) as checker,
    ):
        good = IndexedLines(good_stream)
        raw = iter_raw_lines(corpus, settings.max_line_bytes)
        while block := list(islice(raw, _BLOCK)):
            for checked in _check_block(block, settings, checker, tally):
                _write(checked, tally, good, bad)
    summary = tally.summary()
    write_json(report, summary)
    if index is not None:
        write_json(index, good.index())
    _judge(corpus, summary, expected_records, settings, rejects)
    return summary


class _Tally:
    """Counts of one validation, and the ids already taken."""

    def __init__(self) -> None:
        self.lines = 0
        self.accepted = 0
        self.reasons: Counter[str] = Counter()
        self.extra_keys: Counter[str] = Counter()
        self.first_line: dict[str, int] = {}

    def summary(self) -> dict[str, Any]:
        rejected = sum(self.reasons.values())
        if self.lines != self.accepted + rejected:
            raise GateError(
                f"{self.lines} lines, but {self.accepted} accepted and {rejected} rejected"
            )
        return {
            "lines": self.lines,
            "accepted": self.accepted,
            "rejected": rejected,
            "rejects": dict(sorted(self.reasons.items())),
            "ignored_keys": dict(sorted(self.extra_keys.items())),
        }


def _check_block(
    block: list[tuple[int, bytes | None]],
    settings: ValidateSettings,
    checker: ImageChecker,
    tally: _Tally,
) -> Iterator[_Checked]:
    parsed: list[_Checked] = []
    for number, raw in block:
        record, problem, identity, extra = parse_line(raw, settings)
        tally.lines += 1
        tally.extra_keys.update(extra)
        parsed.append((number, record, problem, identity))
    images: Iterable[str] = (record["images"][0] for _, record, _, _ in parsed if record)
    answers = iter(checker.check(images))
    for number, record, problem, identity in parsed:
        found = next(answers) if record else problem
        yield number, (None if found else record), found, identity


def _write(checked: _Checked, tally: _Tally, good: IndexedLines, bad: TextIO) -> None:
    number, record, problem, identity = checked
    if record is not None and (first := tally.first_line.get(record["id"])) is not None:
        problem = Problem("duplicate-id", f"id already on line {first}", "make ids unique")
    if problem is None and record is not None:
        tally.first_line[record["id"]] = number
        tally.accepted += 1
        good.write(json.dumps(record, ensure_ascii=False) + "\n")
        return
    if problem is None:
        raise AssertionError(f"line {number} was neither accepted nor rejected")
    tally.reasons[problem.reason] += 1
    detail = shorten(problem.detail)
    row = {
        "line": number,
        "id": identity,
        "reason": problem.reason,
        "detail": detail,
        "fix": problem.fix,
    }
    bad.write(json.dumps(row, ensure_ascii=False) + "\n")
    if sum(tally.reasons.values()) <= _LOGGED_REJECTS:
        logger.warning("line %d, id %s: %s (%s)", number, identity, problem.reason, detail)


def shorten(text: str) -> str:
    """Return ``text`` with its middle left out where it would flood a log."""
    if len(text) <= _DETAIL_CHARS:
        return text
    half = _DETAIL_CHARS // 2
    return f"{text[:half]} ... {text[-half:]}"


def _judge(
    corpus: Path,
    summary: dict[str, Any],
    expected: int,
    settings: ValidateSettings,
    rejects: str | Path,
) -> None:
    lines, rejected = summary["lines"], summary["rejected"]
    if lines != expected:
        raise RecapError(
            f"{corpus} has {lines} non-blank lines, but {expected} are declared; "
            f"put {lines} into the `records` column of config/corpora.tsv"
        )
    reasons = ", ".join(f"{name} {count}" for name, count in summary["rejects"].items())
    logger.info("%d lines: %d accepted, %d rejected", lines, summary["accepted"], rejected)
    if any(reason.startswith("image-") for reason in summary["rejects"]):
        logger.warning("pictures are not watched: after mending some in place, %s", VALIDATE_AGAIN)
    if rejected > settings.max_reject_share * lines:
        raise GateError(
            f"{corpus}: {rejected} of {lines} lines rejected, above the allowed share of "
            f"{settings.max_reject_share:g} ({reasons}). The first {_LOGGED_REJECTS} are listed "
            f"above, all of them in {rejects} when this is run by hand; fix the corpus, or raise "
            "validate_corpus.max_reject_share"
        )
    if summary["accepted"] == 0:
        raise RecapError(f"{corpus}: no record left after validation ({reasons or 'empty file'})")
