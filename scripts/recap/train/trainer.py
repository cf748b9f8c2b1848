"""``transformers.Trainer`` with our order, loss normalisation, gates and checkpoints."""

import logging
import math
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments

from ..perf import peak_memory_mib
from .collate import Collator
from .gates import UpdateGates
from .held_out import summed_loss
from .loading import UpdateLoader, worker_count
from .passes import plan_passes
from .prepare import PreparedData
from .ranks import add_over_ranks, agreed, equal_over_ranks, finish, highest
from .resumable import ResumableTrainer
from .schedule import StepPlan
from .sharding import exhausted
from .signals import StopRequest
from .state import StateStore
from .steps import StepEnd, UpdateCutShortError
from .telemetry import Telemetry
from .trackers import Tracker

logger = logging.getLogger(__name__)

# why an update is left, the gravest last
_NONE, _EXHAUSTED, _CUT_SHORT = range(3)


class OutOfMemoryInUpdateError(Exception):
    """The GPU's memory did not suffice for a micro-batch; no rank has applied the update."""


class StageTrainer(ResumableTrainer):
    """One stage of training.

    The order of samples is given, so the global number of supervised tokens of
    each update is known beforehand: it is passed to the model, which divides the
    sum of token losses by it. Hence the trajectory does not depend on how an
    update is cut into micro-batches and ranks.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        data: PreparedData,
        collator: Collator,
        plan: StepPlan,
        packing: bool,
        sharded: bool,
        gates: UpdateGates,
        telemetry: Telemetry,
        tracker: Tracker | None,
        store: StateStore,
        held_out_every: int,
        stop: StopRequest,
        save_steps: int,
    ) -> None:
        """Set up.

        Args:
            model: trained parts in float32.
            args: see :mod:`.arguments`.
            data: the training set, its order and what is held out.
            collator: of passes.
            plan: step arithmetic.
            packing: whether short samples share a row.
            sharded: whether every pass is a meeting of all ranks, see :mod:`.sharding`.
            gates: what must hold for each update.
            telemetry: gets a row an update.
            tracker: is shown each update, on the rank that leads.
            store: of checkpoints.
            held_out_every: updates between measurements of the held-out loss; 0 for none on
                the way.
            stop: asked before each pass and after each update.
            save_steps: updates between checkpoints.
        """
        self._data = data
        self._collator = collator
        self._order = data.order
        self._packing = packing
        self._sharded = sharded
        self.plan = plan
        self.gates = gates
        self._telemetry = telemetry
        self._tracker = tracker
        self._store = store
        self.held_out_every = held_out_every
        self._stop = stop
        self.held_out_cut_short = False
        self._loss = torch.zeros(())
        self._waited = self._loading = 0.0
        self._pending: dict[str, Any] = {}
        self._rng: list[torch.Tensor] = []
        self.update_seconds: list[float] = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.dataset,
            data_collator=collator,
            callbacks=[StepEnd(self, stop, save_steps)],
        )
        self.remove_callback(PrinterCallback)
        # Ranks add up their gradients once an update (see training_step); without the evaluation
        # mode, accelerate would wrap the model to do so in each backward pass.
        self.accelerator.prepare_model = partial(
            self.accelerator.prepare_model, evaluation_mode=True
        )

    def get_train_dataloader(self) -> Any:
        """Return the loader of the updates that are still to be made."""
        passes = plan_passes(
            self._order,
            self._data.lengths,
            self.plan,
            self.args.process_index,
            max(self._data.lengths) if self._packing else 0,
            alike=self._sharded,
        )
        on_gpu = self.args.device.type == "cuda"
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return UpdateLoader(
            self._data.dataset,
            self._collator,
            passes,
            lambda: self.state.global_step,
            self.args.device,
            worker_count(ranks_here) if on_gpu else 0,
            self.args.seed,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[Any, int]:
        """Return the batches of an update, as one, and its global count of supervised tokens."""
        del num_batches, device
        self.remember_random_state()
        update = next(epoch_iterator, None)
        if update is None:
            return [], 0
        return [update], self._data.tokens_of_update[self.state.global_step]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Make all passes of an update, forward and backward.

        Gradients stay on their rank until all of them are done. Hence a rank that runs out of
        memory, or of time, never leaves the others waiting for it. Ranks that share the base agree
        on each pass beforehand, and cannot go on after one that did not fit.

        Raises:
            UpdateCutShortError: on every rank alike.
            OutOfMemoryInUpdateError: on every rank alike.
            RecapError: if one that shares the base runs out of memory, on that rank alone.
        """
        if not model.training:
            model.train()
        loss = torch.zeros((), device=self.args.device)
        trouble = _NONE
        try:
            for number in range(len(inputs)):
                if self._late(number, len(inputs)):
                    trouble = _CUT_SHORT
                    break
                part = model(**inputs.next(), num_items_in_batch=num_items_in_batch).loss
                part.backward()
                loss += part.detach()
        except torch.cuda.OutOfMemoryError as error:
            if self._sharded:
                raise exhausted(f"update {self.state.global_step + 1}", error) from error
            logger.warning("update %d: %s", self.state.global_step + 1, error)
            trouble = _EXHAUSTED
        trouble, self._waited = self._gravest(trouble)
        if trouble:
            raise UpdateCutShortError if trouble == _CUT_SHORT else OutOfMemoryInUpdateError
        self._sum_over_ranks(loss)
        self._loading = inputs.waited
        self._loss = loss
        return loss

    def _late(self, done: int, passes: int) -> bool:
        late = self._stop.cuts_short(done, passes)
        return agreed(late) if self._sharded else late

    def _gravest(self, trouble: int) -> tuple[int, float]:
        """Return the gravest trouble of any rank, and the seconds that this one waited for it."""
        if self.args.world_size == 1:
            return trouble, 0.0
        finish(self.args.device)
        started = time.perf_counter()
        return highest(trouble), time.perf_counter() - started

    def _sum_over_ranks(self, loss: torch.Tensor) -> None:
        """Add up the ranks' shares of the update's loss and gradients, in place."""
        gradients = []
        for parameter in self.trainables().values():
            # An update without images has no gradient for the projector; zero, not "skip it",
            # whatever the cut into passes and ranks.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if self.args.world_size > 1:
            self._waited += add_over_ranks([loss, *gradients])

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the default walks over all parameters at each update."""
        del inputs
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """Check loss and gradient; called once an update, before the optimizer moves."""
        norm = float(super()._get_grad_norm(model, grad_norm))
        loss = float(self._loss)
        update = self.state.global_step
        size = self.plan.global_batch
        indices = self._order[update * size : (update + 1) * size]
        self.gates.check(update + 1, loss, norm, [self._data.ids[index] for index in indices])
        self._pending = {
            "step": update + 1,
            "loss": loss,
            "grad_norm": norm,
            "supervised_tokens": self._data.tokens_of_update[update],
            "samples": size,
        }
        return norm

    def record_update(self, seconds: float) -> None:
        """Write the rows of the update that was just applied and took ``seconds``.

        Raises:
            GateError: if it left the ranks with different weights.
        """
        if self.args.world_size > 1:
            self.gates.require_equal_ranks(equal_over_ranks(self.trainables().values()))
        row = self._pending | {"learning_rate": float(self._get_learning_rate())}
        keys = ("step", "loss", "grad_norm", "learning_rate", "supervised_tokens", "samples")
        self._telemetry.append({key: row[key] for key in keys})
        positions = self._data.positions_of_update[row["step"] - 1]
        cost = {
            "step": row["step"],
            "seconds": round(seconds, 6),
            "samples_per_second": round(row["samples"] / seconds, 3),
            "tokens_per_second": round(positions / seconds, 3),
            "loading_seconds": round(self._loading, 6),
            "communication_seconds": round(self._waited, 6),
            "memory_mib": peak_memory_mib(),
            "micro_batch_size": self.plan.micro_batch,
            "micro_batch_asked": self.plan.asked_micro_batch,
        }
        self._telemetry.perf.append(cost)
        self.update_seconds.append(seconds)
        if self._tracker is not None:
            values = self._telemetry.rows[-1] | cost
            step = values.pop("step")
            self._tracker.write(step, values)

    def measure_held_out(self) -> None:
        """Write the loss of every held-out set after the last update; every rank must call.

        Sets ``held_out_cut_short`` if a rank has no time for it.
        """
        model = self.accelerator.unwrap_model(self.model)
        rank, ranks, step = self.args.process_index, self.args.world_size, self.state.global_step
        rows = self._telemetry.held_out.rows
        written = {row["style"] for row in rows if row["step"] == step}
        for data in self._data.held_out:
            if data.name in written:
                continue
            mine = range(rank, len(data.dataset), ranks)
            most = math.ceil(len(data.dataset) / ranks)
            part = summed_loss(
                *(model, mine, data, self.data_collator, self.plan.micro_batch),
                lambda: self._late(1, 1),
                math.ceil(most / self.plan.micro_batch) if self._sharded else 0,
            )
            self.held_out_cut_short = agreed(part is None)
            if part is None or self.held_out_cut_short:
                return
            share = torch.tensor([part], dtype=torch.float64, device=self.args.device)
            loss = float(self.accelerator.gather(share).sum()) / data.tokens
            row = {
                "step": step,
                "style": data.name,
                "samples": len(data.dataset),
                "supervised_tokens": data.tokens,
                "loss": loss,
                "ids_sha256": data.ids_sha256,
            }
            self._telemetry.held_out.append(row)
            if self._tracker is not None:
                self._tracker.write(step, {f"held_out/{data.name}": loss})
