"""From command-line values to files: calibration of the verdict."""

import logging
import time
from pathlib import Path

from ..errors import GateError
from ..io import write_json
from ..manifest import code_state
from ..settings import CompareSettings
from .calibration import Plan, calibrate
from .calibration_pool import results_pool, stated_pool
from .calibration_real import calibrate_on_runs
from .calibration_tables import real_tables, replace_section, simulated_tables
from .comparison import rounded

logger = logging.getLogger(__name__)


def run_simulated(
    results: Path | None, benchmark: str | None, plan: Plan, jobs: int, out: Path, page: Path
) -> None:
    """Calibrate on simulated experiments; write JSON and the page's tables.

    Raises:
        GateError: after writing, if equal arms are told apart too often.
        RecapError: if ``results`` can't be resampled or the page lacks its marks.
    """
    started = time.time()
    pool = stated_pool(plan.seed) if results is None else results_pool(results, benchmark)
    document = rounded(calibrate(pool, plan, jobs))
    _write(document, started, out)
    replace_section(page, "simulated", simulated_tables(document))
    if document["too_many_false_positives"]:
        designs = "; ".join(
            f"{row['seeds']} seeds, {row['images']} images, seed sd {row['seed_sd']:g}"
            for row in document["too_many_false_positives"]
        )
        raise GateError(f"equal arms are told apart more often than promised: {designs}; see {out}")


def run_real(results: Path, settings: CompareSettings, out: Path, page: Path) -> None:
    """Calibrate on really trained A/A pairs; write JSON and the page's tables.

    Raises:
        GateError: if two runs are the same training.
        RecapError: if there are too few runs or the page lacks its marks.
    """
    started = time.time()
    document = rounded(calibrate_on_runs(results, settings))
    _write(document, started, out)
    replace_section(page, "real", real_tables(document))


def _write(document: dict[str, object], started: float, out: Path) -> None:
    seconds = round(time.time() - started, 1)
    write_json(out, document | {"volatile": {**code_state(), "wall_seconds": seconds}})
    logger.info("%s written after %g s", out, seconds)
