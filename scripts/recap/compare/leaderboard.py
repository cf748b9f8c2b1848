"""One table over all experiments, from their run cards."""

import csv
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json, write_text

logger = logging.getLogger(__name__)

Row = dict[str, Any]
COLUMNS = (
    *("benchmark", "rank", "experiment", "arm", "accuracy", "low", "high", "questions", "seeds"),
    *("reference", "difference", "difference_low", "difference_high"),
    *("minimum_detectable_effect", "verdict", "contract", "stand_ins", "commit", "run_card"),
)


def build_leaderboard(results: Path, out: Path) -> int:
    """Write one row a benchmark, experiment and arm; return the number of rows.

    Ranks are by accuracy within a benchmark. They order what was measured and
    decide nothing: whether two arms differ is the verdict's to say. A run card that
    is not of this version is left out with a warning: it is another experiment's,
    and no reason to be without the table.
    """
    rows: list[Row] = []
    for path in sorted(results.glob("*/report/run_card.json")):
        try:
            rows += _rows(path)
        except RecapError as error:
            logger.warning("left out: %s", error)
    rows.sort(key=lambda row: (row["benchmark"], -row["accuracy"], row["experiment"], row["arm"]))
    ranks: dict[str, int] = {}
    for row in rows:
        row["rank"] = ranks[row["benchmark"]] = ranks.get(row["benchmark"], 0) + 1
    write_text(out, _tsv(rows))
    return len(rows)


def _rows(path: Path) -> list[Row]:
    card = read_json(path)
    try:
        pairs = {(pair["benchmark"], pair["arm"]): pair for pair in card["comparisons"]}
        common = {
            "experiment": card["experiment"],
            "seeds": len(card["seeds"]),
            "contract": card["contract"],
            "stand_ins": ", ".join(card["stand_ins"]) or "none",
            "commit": card["code"]["report_commit"][:12],
            "run_card": str(path),
        }
        return [
            common
            | {"verdict": "reference" if row["arm"] == card["reference"] else "not compared"}
            | _score(row)
            | _difference(pairs.get((row["benchmark"], row["arm"])))
            for row in card["accuracies"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise RecapError(
            f"{path}: not a run card of this version ({error!r}); make that report again"
        ) from error


def _score(row: Row) -> Row:
    low, high = row["interval"]
    names = ("benchmark", "arm", "accuracy", "questions")
    return {**{name: row[name] for name in names}, "low": low, "high": high}


def _difference(pair: Row | None) -> Row:
    if pair is None:
        return {}
    low, high = pair["interval"]
    return {
        **{name: pair[name] for name in ("reference", "difference", "minimum_detectable_effect")},
        "difference_low": low,
        "difference_high": high,
        "verdict": f"{pair['verdict']} (A/A)" if pair["identical_pair"] else pair["verdict"],
    }


def _tsv(rows: Iterable[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, delimiter="\t", lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value
