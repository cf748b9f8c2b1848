"""``transformers.Trainer`` with our order, loss normalisation, gates and checkpoints."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from ..errors import RecapError
from ..perf import peak_memory_mib
from .collate import Collator
from .data import TrainingSet
from .gates import UpdateGates
from .held_out import HeldOutSet, summed_loss
from .ranks import agreed, highest
from .schedule import StepPlan
from .signals import StopRequest
from .state import StateStore
from .steps import LazyBatches, StepEnd, UpdateCutShortError
from .telemetry import Telemetry
from .trackers import Tracker

logger = logging.getLogger(__name__)

TRAINABLES_NAME = "trainables.safetensors"


class OutOfMemoryInUpdateError(Exception):
    """The GPU's memory did not suffice for a micro-batch; no rank has applied the update."""


class StageTrainer(Trainer):
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
        dataset: TrainingSet,
        collator: Collator,
        ids: Sequence[str],
        order: Sequence[int],
        tokens_of_update: Sequence[int],
        positions_of_update: Sequence[int],
        plan: StepPlan,
        gates: UpdateGates,
        telemetry: Telemetry,
        tracker: Tracker | None,
        store: StateStore,
        held_out: Sequence[HeldOutSet],
        held_out_every: int,
        stop: StopRequest,
        save_steps: int,
    ) -> None:
        """Set up.

        Args:
            model: trained parts in float32.
            args: see :mod:`.arguments`.
            dataset: what the loader reads.
            collator: of micro-batches.
            ids: of the samples.
            order: sample indices of all updates of all epochs.
            tokens_of_update: supervised tokens, one number an update.
            positions_of_update: positions without padding, one number an update.
            plan: step arithmetic.
            gates: what must hold for each update.
            telemetry: gets a row an update.
            tracker: is shown each update, on the rank that leads.
            store: of checkpoints.
            held_out: sets whose loss is measured, not trained on.
            held_out_every: updates between measurements; 0 for none on the way.
            stop: asked before each pass and after each update.
            save_steps: updates between checkpoints.
        """
        self._ids = ids
        self._order = list(order)
        self._tokens_of_update = tokens_of_update
        self._positions_of_update = positions_of_update
        self.plan = plan
        self.gates = gates
        self._telemetry = telemetry
        self._tracker = tracker
        self._store = store
        self._held_out = held_out
        self.held_out_every = held_out_every
        self._stop = stop
        self._saved_update = 0
        self.held_out_cut_short = False
        self._dataset = dataset
        self._losses: list[torch.Tensor] = []
        self._pending: dict[str, Any] = {}
        self._exhausted = False
        self._rng: list[torch.Tensor] = []
        self.update_seconds: list[float] = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=dataset,
            data_collator=collator,
            callbacks=[StepEnd(self, stop, save_steps)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader over the given order; its generator keeps the global RNG untouched."""
        loader = DataLoader(
            self._dataset,
            batch_size=self.plan.micro_batch,
            sampler=self._order,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            generator=torch.Generator().manual_seed(self.args.seed),
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[Any, int]:
        """Return the update's micro-batches and its global count of supervised tokens."""
        del device
        self._rng = [torch.get_rng_state()]
        if self.args.device.type == "cuda":
            self._rng.append(torch.cuda.get_rng_state())
        tokens = self._tokens_of_update[self.state.global_step]
        return LazyBatches(epoch_iterator, num_batches), tokens

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Run one micro-batch and remember its share of the update's loss.

        Gradients stay on their rank until all micro-batches of the update are done. Hence a
        rank that runs out of memory, or of time, never leaves the others waiting for it.
        """
        if self._stop.cuts_short(len(self._losses), self.plan.accumulation):
            self._settle(model, cut_short=True)
        loss = torch.zeros((), device=self.args.device)
        if not self._exhausted:
            try:
                with self.accelerator.no_sync(model):
                    loss = super().training_step(model, inputs, num_items_in_batch)
            except torch.cuda.OutOfMemoryError as error:
                logger.warning("update %d: %s", self.state.global_step + 1, error)
                self._exhausted = True
        self._losses.append(loss)
        if self.accelerator.gradient_state.sync_gradients:
            self._settle(model)
        return loss

    def _settle(self, model: nn.Module, *, cut_short: bool = False) -> None:
        """Average the update's gradients over the ranks, or leave it if one cannot go on.

        Raises:
            UpdateCutShortError: on every rank alike.
            OutOfMemoryInUpdateError: on every rank alike.
        """
        trouble = highest(2 if cut_short else int(self._exhausted))
        if trouble:
            raise UpdateCutShortError if trouble == 2 else OutOfMemoryInUpdateError
        gradients = []
        for parameter in model.parameters():
            # An update without images has no gradient for the projector; zero, not "skip it",
            # whatever the cut into micro-batches and ranks.
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        if self.args.world_size > 1:
            pending = [distributed.all_reduce(g, async_op=True) for g in gradients]
            for gradient, work in zip(gradients, pending, strict=True):
                work.wait()
                gradient.div_(self.args.world_size)

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
        return self._store.latest()

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the default walks over all parameters for each micro-batch."""
        del inputs
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """Check loss and gradient; called once an update, before the optimizer moves."""
        norm = float(super()._get_grad_norm(model, grad_norm))
        share = torch.stack(self._losses).sum().reshape(1)
        loss = float(self.accelerator.gather(share).mean())
        self._losses.clear()
        update = self.state.global_step
        size = self.plan.global_batch
        indices = self._order[update * size : (update + 1) * size]
        self.gates.check(update + 1, loss, norm, [self._ids[index] for index in indices])
        self._pending = {
            "step": update + 1,
            "loss": loss,
            "grad_norm": norm,
            "supervised_tokens": self._tokens_of_update[update],
            "samples": size,
        }
        return norm

    def record_update(self, seconds: float) -> None:
        """Write the rows of the update that was just applied and took ``seconds``."""
        row = self._pending
        row["learning_rate"] = float(self._get_learning_rate())
        keys = ("step", "loss", "grad_norm", "learning_rate", "supervised_tokens", "samples")
        self._telemetry.append({key: row[key] for key in keys})
        positions = self._positions_of_update[row["step"] - 1]
        cost = {
            "step": row["step"],
            "seconds": round(seconds, 6),
            "samples_per_second": round(row["samples"] / seconds, 3),
            "tokens_per_second": round(positions / seconds, 3),
            "memory_mib": peak_memory_mib(),
            "micro_batch_size": self.plan.micro_batch,
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
        for data in self._held_out:
            if data.name in written:
                continue
            mine = range(rank, len(data.dataset), ranks)
            part = summed_loss(
                *(model, mine, data, self.data_collator, self.plan.micro_batch),
                lambda: self._stop.cuts_short(1, 1),
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

    def trainables(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        model = self.accelerator.unwrap_model(self.model)
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

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
