"""Where a run can be watched: TensorBoard by default, Weights & Biases by choice.

Neither decides anything: the record of a run is its telemetry.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import RecapError
from .events import EventWriter

TrackerName = Literal["none", "tensorboard", "wandb"]
TRACKERS: tuple[TrackerName, ...] = ("none", "tensorboard", "wandb")


class Tracker(Protocol):
    """What takes the values of an update by name."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of an update."""

    def close(self) -> None:
        """Write what is still held back."""


class WandbTracker:
    """An offline run of Weights & Biases; ``wandb sync`` uploads it later, if anybody wants."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Start a run in ``folder``; one that continues another is named by its first update.

        Raises:
            RecapError: if the package is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise RecapError(
                "tracker wandb needs the package `wandb`, which is not installed; install it, or "
                "set train.tracker to tensorboard"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        name = ".".join(folder.parts[-2:])
        self._run: Any = wandb.init(
            project="mgm-recap", name=f"{name}.from{first_step}", dir=str(folder), mode="offline"
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of an update."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def open_tracker(name: TrackerName, folder: Path, first_step: int) -> Tracker | None:
    """Return the chosen tracker, or None for ``none``.

    Args:
        name: one of ``TRACKERS``.
        folder: where it writes.
        first_step: first update it will be told of.

    Raises:
        RecapError: if its package is missing.
    """
    if name == "none":
        return None
    return (EventWriter if name == "tensorboard" else WandbTracker)(folder, first_step)
