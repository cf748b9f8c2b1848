"""Evidence gates: checks whose failure ends the run instead of being printed."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GateError
from ..io import write_evidence

logger = logging.getLogger(__name__)

FIRST_LOSS_FACTOR = 1.5
HIGHEST_LOSS_FACTOR = 3.0
CONSISTENCY_BOUNDS = (0.5, 2.0)
SUPERVISED_SHARE_BOUNDS = (0.001, 0.99)
MAX_UNSUPERVISED_SHARE = 0.01


@dataclass(frozen=True)
class Gate:
    """One check with the value it saw and the bound it had to keep."""

    name: str
    value: Any
    bound: str
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the gate as JSON; numbers JSON cannot hold become text."""
        value = self.value
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        return {"name": self.name, "value": value, "bound": self.bound, "passed": self.passed}


class GateBook:
    """All gates of a run; a failing one is written down, then raised."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """Keep the gates that end up in ``path``; only rank zero ``writes``."""
        self._path = path
        self._writes = writes
        self._gates: list[Gate] = []

    def require(self, name: str, value: Any, bound: str, passed: bool, explanation: str) -> None:
        """Record a gate.

        Raises:
            GateError: if it failed, with ``explanation`` (what it means, what to do).
        """
        gate = Gate(name, value, bound, bool(passed))
        self._gates.append(gate)
        if gate.passed:
            logger.info("gate %s passed: %s (%s)", name, gate.as_dict()["value"], bound)
            return
        self.write()
        raise GateError(f"gate {name} failed: {value} is not {bound}. {explanation}")

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the gates so far, in the order they were checked."""
        return [gate.as_dict() for gate in self._gates]

    def write(self) -> None:
        """Write ``gates.json``: ``{"passed": bool, "gates": [{name, value, bound, passed}]}``."""
        if self._writes:
            rows = self.as_rows()
            passed = all(row["passed"] for row in rows)
            write_evidence(self._path, {"passed": passed, "gates": rows}, passed=passed)


@dataclass(frozen=True)
class UpdateGates:
    """What must hold for each update before the optimizer moves.

    A model that guesses uniformly over V tokens has a loss of ln V. A pre-trained
    one that starts above 1.5 ln V, or ever goes beyond 3 ln V, has a corrupt
    forward pass or loss scalar, not bad luck.

    Attributes:
        vocab_size: V.
        book: where a failure is recorded.
    """

    vocab_size: int
    book: GateBook

    @property
    def first_bound(self) -> float:
        """Highest loss of the first update."""
        return FIRST_LOSS_FACTOR * math.log(self.vocab_size)

    @property
    def highest_bound(self) -> float:
        """Highest loss of any update."""
        return HIGHEST_LOSS_FACTOR * math.log(self.vocab_size)

    def check(self, update: int, loss: float, grad_norm: float, ids: list[str]) -> None:
        """Check one update (from 1) before it is applied.

        Raises:
            GateError: naming the update and its samples.
        """
        where = f"Update {update} was not applied; its samples: {_shorten(ids)}."
        for name, value in (("finite_loss", loss), ("finite_grad_norm", grad_norm)):
            if not math.isfinite(value):
                self.book.require(name, value, "finite", False, where)
        if update == 1 and loss > self.first_bound:
            self.book.require("first_loss", loss, self._text(self.first_bound), False, where)
        if loss > self.highest_bound:
            self.book.require("highest_loss", loss, self._text(self.highest_bound), False, where)

    def require_equal_ranks(self, equal: bool) -> None:
        """Gate on all ranks holding the same trained weights after an update.

        Raises:
            GateError: if they do not.
        """
        if not equal:
            self.book.require(
                "equal_ranks",
                "different",
                "the same trained weights on every rank",
                False,
                "They no longer train one model; check GPUs, drivers and NCCL, or use one rank.",
            )

    def conclude(self, rows: list[dict[str, Any]]) -> None:
        """Record the passed gates from the telemetry of a whole run."""
        losses = [row["loss"] for row in rows]
        norms = [row["grad_norm"] for row in rows]
        book = self.book
        for name, values in (("finite_loss", losses), ("finite_grad_norm", norms)):
            bad = sum(not math.isfinite(value) for value in values)
            book.require(name, bad, "0 updates not finite", bad == 0, "Telemetry is corrupt.")
        first, highest = losses[0], max(losses)
        bound = self.first_bound
        book.require("first_loss", first, self._text(bound), first <= bound, "See telemetry.")
        bound = self.highest_bound
        book.require("highest_loss", highest, self._text(bound), highest <= bound, "See telemetry.")

    def conclude_schedule(
        self, rows: list[dict[str, Any]], expected: Callable[[int], float], peak: float
    ) -> None:
        """Gate on the learning rates being those that were planned.

        Args:
            rows: telemetry of a whole run.
            expected: learning rate after update t, from 1.
            peak: the highest one.

        Raises:
            GateError: if one is off by more than a millionth of the peak.
        """
        worst = max(abs(row["learning_rate"] - expected(row["step"])) for row in rows)
        self.book.require(
            "learning_rate_schedule",
            worst / peak,
            "deviation <= 1e-6 of the peak",
            worst <= 1e-6 * peak and len(rows) > 0,
            "The trainer did not follow the planned schedule; check the transformers version.",
        )

    def _text(self, bound: float) -> str:
        return f"<= {bound:.4f}, ln V = {math.log(self.vocab_size):.4f}"


def require_consistent(book: GateBook, ratio: float) -> None:
    """Gate on the measured over the predicted slope of the loss.

    Raises:
        GateError: if loss value and gradient do not belong together.
    """
    low, high = CONSISTENCY_BOUNDS
    book.require(
        "loss_gradient_consistency",
        ratio,
        f"measured / predicted slope in [{low}, {high}]",
        math.isfinite(ratio) and low <= ratio <= high,
        "A small step along the gradient does not change the loss as the gradient says, so loss "
        "or gradient is corrupt; check versions of torch, transformers and the launcher.",
    )


def require_start_projector(book: GateBook, found: str, expected: str) -> None:
    """Gate on stage 2 starting from stage 1's result.

    Raises:
        GateError: if the hashes differ.
    """
    book.require(
        "start_projector_hash",
        found,
        f"== {expected}",
        found == expected,
        "Stage 2 would not start from the projector that stage 1 recorded as its result; pass the "
        "projector and manifest of the same run.",
    )


def require_moved_projector(book: GateBook, start: str, result: str) -> None:
    """Gate on stage 1 having changed the projector.

    Raises:
        GateError: if it is what it was before.
    """
    book.require(
        "projector_changed",
        result,
        f"!= {start}",
        result != start,
        "Stage 1 left the projector as it was. The first update always has learning rate zero, so "
        "at least two updates are needed.",
    )


def require_moved_adapter(book: GateBook, largest: float) -> None:
    """Gate on stage 2 having moved the adapter away from the identity.

    Raises:
        GateError: if every B is zero.
    """
    book.require(
        "adapter_b_nonzero",
        largest,
        "max |B| > 0",
        largest > 0.0,
        "Every B of the adapter is zero, so the adapter does nothing. The first update always has "
        "learning rate zero, so at least two updates are needed.",
    )


def _shorten(ids: list[str], limit: int = 20) -> str:
    more = f" and {len(ids) - limit} more" if len(ids) > limit else ""
    return ", ".join(ids[:limit]) + more
