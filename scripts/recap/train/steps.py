"""What goes on around the trainer's steps."""

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from .signals import StopRequest

if TYPE_CHECKING:
    from .trainer import StageTrainer


class StepEnd(TrainerCallback):
    """After each update: telemetry, and checkpoints when due or when asked to stop."""

    def __init__(self, trainer: "StageTrainer", stop: StopRequest, save_steps: int) -> None:
        """Ask ``stop`` after each update, and save after each ``save_steps``."""
        self._trainer = trainer
        self._stop = stop
        self._save_steps = save_steps
        self._last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of the first update."""
        self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Write the update down, measure what was held out, save and stop when due."""
        trainer = self._trainer
        now = time.perf_counter()
        trainer.record_update(now - self._last)
        self._last = now
        every = trainer.held_out_every
        if state.global_step >= state.max_steps:
            trainer.measure_held_out()
            return control
        if every and state.global_step % every == 0:
            trainer.measure_held_out()
            self._last = time.perf_counter()
        stopping = trainer.agreed(bool(self._stop))
        control.should_save = stopping or state.global_step % self._save_steps == 0
        control.should_training_stop = stopping
        return control
