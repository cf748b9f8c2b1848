"""What goes on around the trainer's steps."""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from .ranks import agreed
from .signals import StopRequest

if TYPE_CHECKING:
    from .trainer import StageTrainer


class UpdateCutShortError(Exception):
    """There is no time for the rest of an update; no rank has applied it."""


class StepEnd(TrainerCallback):
    """After each update: telemetry, and checkpoints when due or when asked to stop."""

    def __init__(self, trainer: "StageTrainer", stop: StopRequest, save_steps: int) -> None:
        """Ask ``stop`` after each update, and save after each ``save_steps``."""
        self._trainer = trainer
        self._stop = stop
        self._pace = stop.pace
        self._save_steps = save_steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure what an interruption left unmeasured, and start the clock of the first update."""
        if self._measures(state):
            self._trainer.measure_held_out()
        if self._trainer.held_out_cut_short:
            raise UpdateCutShortError
        self._pace.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Write the update down, measure what was held out, save and stop when due."""
        trainer, last = self._trainer, state.global_step >= state.max_steps
        trainer.record_update(self._pace.update_done())
        if self._measures(state):
            trainer.measure_held_out()
            self._pace.begin()
        stopping = trainer.held_out_cut_short or (not last and agreed(self._stop.before_update()))
        control.should_save = stopping or last or state.global_step % self._save_steps == 0
        control.should_training_stop = stopping or last
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the checkpoint out of the next update's time."""
        self._pace.checkpoint_done()

    def _measures(self, state: Any) -> bool:
        every, update = self._trainer.held_out_every, state.global_step
        return update >= state.max_steps or bool(every and update and update % every == 0)
