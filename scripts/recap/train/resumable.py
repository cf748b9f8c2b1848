"""``transformers.Trainer`` with checkpoints of what is trained, and none of what is frozen."""

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer

from ..errors import RecapError
from .ranks import rank_seed
from .state import StateStore
from .telemetry import Telemetry

logger = logging.getLogger(__name__)

TRAINABLES_NAME = "trainables.safetensors"


def newest_checkpoint(store: StateStore) -> Path | None:
    """Return the newest sound checkpoint as rank zero sees it; every rank must ask.

    To another node a folder that was just written may still be unknown.
    """
    found = [store.latest() if PartialState().is_main_process else None]
    broadcast_object_list(found)
    return found[0]


class ResumableTrainer(Trainer):
    """A trainer that writes and reads the state of a run.

    Subclasses set ``_store`` and ``_telemetry`` before anything is saved.
    """

    _store: StateStore
    _telemetry: Telemetry
    _saved_update = 0
    _trainables: dict[str, nn.Parameter] | None = None
    _rng: list[torch.Tensor]

    def __init__(self, **given: Any) -> None:
        """Set up; ranks that were given one seed draw numbers of their own from it."""
        super().__init__(**given)
        self.draw_anew(0)

    def remember_random_state(self) -> None:
        """Note the random state before an update, for :meth:`keep_last_update`."""
        self._rng = [torch.get_rng_state()]
        if self.args.device.type == "cuda":
            self._rng.append(torch.cuda.get_rng_state())

    def keep_last_update(self) -> Path | None:
        """Write the state after the last update, once the next one had to be left.

        Returns:
            The checkpoint; None before the first update.
        """
        for parameter in self.trainables().values():
            parameter.grad = None
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._rng:
            torch.set_rng_state(self._rng[0])
        if len(self._rng) > 1:
            torch.cuda.set_rng_state(self._rng[1])
        if self.state.global_step == 0:
            return None
        if self._saved_update != self.state.global_step:
            self._save_checkpoint(self.accelerator.unwrap_model(self.model), None)
        return newest_checkpoint(self._store)

    def trainables(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name, looked up once: a GPU waits for it."""
        if self._trainables is None:
            model = self.accelerator.unwrap_model(self.model)
            self._trainables = {n: p for n, p in model.named_parameters() if p.requires_grad}
        return self._trainables

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write what cannot be rebuilt: trained tensors, optimizer, schedule, RNG, position."""
        del model, trial
        update = self.state.global_step
        folder = self._store.begin(update)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        if self.args.should_save:
            tensors = {k: p.detach().cpu().contiguous() for k, p in self.trainables().items()}
            save_file(tensors, folder / TRAINABLES_NAME)
            self._telemetry.save(folder)
            self.state.save_to_json(str(folder / "trainer_state.json"))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            target = self._store.publish(update)
            logger.info("checkpoint of update %d: %s", update, target)
        self._saved_update = update
        self.accelerator.wait_for_everyone()

    def draw_anew(self, update: int) -> None:
        """Start this rank's random numbers, of which dropout takes some."""
        torch.manual_seed(rank_seed(self.args.seed, self.args.process_index, update))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Take up this rank's random state; another number of ranks left none that would do."""
        if checkpoint is None:
            return
        folder, ranks = Path(checkpoint), self.args.world_size
        left = sum(path.name != "rng_state.pth" for path in folder.glob("rng_state*.pth")) or 1
        if left == ranks:
            super()._load_rng_state(checkpoint)
        else:
            self.draw_anew(self._saved_update)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Put the trained tensors of a checkpoint into the model.

        Raises:
            RecapError: if the checkpoint holds other tensors than are trained.
        """
        del model
        tensors = load_file(Path(resume_from_checkpoint) / TRAINABLES_NAME)
        trained = self.trainables()
        if tensors.keys() != trained.keys():
            raise RecapError(f"{resume_from_checkpoint} holds other tensors than are trained here")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(tensors[name])
        self._saved_update = int(Path(resume_from_checkpoint).name.rpartition("-")[2])
