"""What a step cost: wall time, throughput and peak memory, as a small JSON."""

import resource
import time
from pathlib import Path
from typing import Any

from .energy import gpu_energy_joules
from .io import write_json


class PerfRecord:
    """Collects figures of one step and writes them beside its result.

    Peak memory is the process's resident set in MiB; on a GPU also the peak
    allocated and reserved memory that torch saw, and the energy that the job's
    GPUs used meanwhile in joules, where the driver counts it.
    """

    def __init__(self, stage: str, unit: str) -> None:
        """Start the clock. ``unit`` names what is counted, such as ``images``."""
        self.stage = stage
        self.unit = unit
        self.items = 0
        self.extra: dict[str, Any] = {}
        self._started = time.perf_counter()
        self._energy = gpu_energy_joules()

    def as_dict(self) -> dict[str, Any]:
        """Return the figures so far."""
        seconds = time.perf_counter() - self._started
        figures: dict[str, Any] = {
            "stage": self.stage,
            "unit": self.unit,
            "items": self.items,
            "wall_seconds": round(seconds, 3),
            "items_per_second": round(self.items / seconds, 3) if seconds > 0 else None,
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        return figures | _gpu_figures() | self._energy_figure() | self.extra

    def _energy_figure(self) -> dict[str, float]:
        import sys

        torch = sys.modules.get("torch")
        if self._energy is None or torch is None or not torch.cuda.is_available():
            return {}
        now = gpu_energy_joules()
        return {} if now is None else {"gpu_energy_joules": round(now - self._energy, 1)}

    def write(self, path: str | Path) -> None:
        """Write the figures as JSON, atomically."""
        write_json(path, self.as_dict())


def peak_memory_mib() -> float:
    """Return the peak memory so far in MiB: reserved on a GPU, else resident."""
    figures = _gpu_figures()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return float(figures.get("gpu_peak_reserved_mib", round(resident, 1)))


def _gpu_figures() -> dict[str, Any]:
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    mib = 1 << 20
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_peak_allocated_mib": round(torch.cuda.max_memory_allocated() / mib, 1),
        "gpu_peak_reserved_mib": round(torch.cuda.max_memory_reserved() / mib, 1),
    }
