"""Convergence and stability of a run as defined numbers, free of torch.

Spike: a loss above ``m + max(6 s, 0.2 m)``, where m is the median of the up to
32 losses before it and s their median absolute deviation times 1.4826, which
estimates a standard deviation (Rousseeuw & Croux 1993). Fewer than 8 losses
before it say nothing yet.

Smoothed loss: the mean of the last tenth of the updates so far counted, at
least one, that is of ``max(1, n // 10)`` of n updates.

Updates to convergence: the first update from which on every smoothed loss lies
within 5 % of the final one.

Variation of the gradient norm: standard deviation over mean in the later half
of the run, so that the fall at its start does not count as instability.
"""

import statistics
from collections.abc import Sequence
from typing import Any

SPIKE_WINDOW = 32
SPIKE_HISTORY = 8
SPIKE_DEVIATIONS = 6.0
SPIKE_SHARE = 0.2
CONVERGED_WITHIN = 0.05
_NORMAL = 1.4826


def is_spike(before: Sequence[float], loss: float) -> bool:
    """Say whether a loss is a spike, given all losses before it."""
    window = list(before[-SPIKE_WINDOW:])
    if len(window) < SPIKE_HISTORY:
        return False
    middle = statistics.median(window)
    deviation = _NORMAL * statistics.median(abs(value - middle) for value in window)
    return loss > middle + max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * middle)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the trailing means over a tenth of the values, one a value."""
    width = max(1, len(values) // 10)
    return [
        statistics.fmean(values[max(0, end - width) : end]) for end in range(1, len(values) + 1)
    ]


def convergence(steps: Sequence[int], values: Sequence[float]) -> int:
    """Return the first step from which on the smoothed values stay within 5 % of the last one.

    Args:
        steps: number of the update of each value, rising.
        values: losses, at least one.
    """
    curve = smoothed(values)
    last = curve[-1]
    reached = len(curve) - 1
    while reached > 0 and abs(curve[reached - 1] - last) <= CONVERGED_WITHIN * abs(last):
        reached -= 1
    return steps[reached]


def variation(values: Sequence[float]) -> float:
    """Return standard deviation over mean of the later half; 0 for a constant."""
    half = values[len(values) // 2 :]
    mean = statistics.fmean(half)
    return statistics.pstdev(half) / mean if mean else 0.0


def stability(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the numbers of this module for a run's telemetry, one row an update.

    Returns:
        ``updates``, ``final_loss`` (smoothed), ``updates_to_convergence``,
        ``grad_norm_variation``, ``spikes``.
    """
    losses = [row["loss"] for row in rows]
    return {
        "updates": len(rows),
        "final_loss": smoothed(losses)[-1],
        "updates_to_convergence": convergence([row["step"] for row in rows], losses),
        "grad_norm_variation": variation([row["grad_norm"] for row in rows]),
        "spikes": sum(row["spike"] for row in rows),
    }
