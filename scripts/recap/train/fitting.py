"""Fitting a stage within the memory there is: the trainer, and another one if that is too much."""

import gc
import logging
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from ..errors import RecapError
from ..mgm.conversation import pad_token_id
from ..mgm.lengths import length_multiple
from .arguments import training_arguments
from .autopilot import ProbeCache
from .collate import Collator
from .consistency import farthest_ratio, slope_ratio
from .gates import GateBook, UpdateGates, require_consistent
from .loading import to_device
from .prepare import PreparedData
from .probing import packs
from .ranks import agreed
from .request import StageRequest
from .schedule import StepPlan
from .sharding import exhausted, is_sharded
from .signals import StopRequest
from .state import StateStore
from .steps import UpdateCutShortError
from .telemetry import Telemetry
from .trackers import Tracker
from .trainer import OutOfMemoryInUpdateError, StageTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What the steps of a run share."""

    request: StageRequest
    data: PreparedData
    args: TrainingArguments
    book: GateBook
    stop: StopRequest
    started: float
    plan: StepPlan

    @property
    def leads(self) -> bool:
        """Whether this process is rank zero, the one that writes."""
        return int(self.args.process_index) == 0

    @property
    def sharded(self) -> bool:
        """Whether the frozen base is cut over the ranks."""
        return is_sharded(self.request.settings, self.plan.world_size)


@dataclass(frozen=True)
class RunParts:
    """What outlives a trainer that ran out of memory.

    Attributes:
        model: being trained.
        store: of its state.
        telemetry: so far.
        tracker: of the run, if any.
        probes: where the way of making passes was chosen, if it was.
    """

    model: Any
    store: StateStore
    telemetry: Telemetry
    tracker: Tracker | None
    probes: ProbeCache | None


def as_before(run: Run, telemetry: Telemetry) -> Run:
    """Return the run with the micro-batch that an earlier attempt came down to from this one."""
    asked = run.plan.micro_batch
    last = telemetry.perf.rows[-1] if telemetry.perf.rows else {}
    used = last.get("micro_batch_size", asked)
    if last.get("micro_batch_asked") != asked or used == asked:
        return run
    logger.info("going on with micro-batch %d, as %d did not fit before", used, asked)
    return replace(run, plan=run.plan.in_passes_of(used))


def fit_in_memory(
    run: Run, parts: RunParts, checkpoint: Path | None
) -> tuple[StageTrainer, list[float]]:
    """Train to the end, in halved micro-batches from the last update on where memory runs out.

    The global batch, its samples and its normalisation stay, so that apart from dropout's masks
    the trajectory does too.

    Returns:
        The trainer that made the last update, and the seconds of all updates made here.

    Raises:
        RecapError: if memory does not suffice for one sample, or at all where ranks share the base.
    """
    seconds: list[float] = []
    consistent = False
    while True:
        trainer = _build_trainer(run, parts)
        exhausted = False
        try:
            if not consistent:
                require_consistent(run.book, _slope(trainer, run))
            consistent = True
            _fit(trainer, run, checkpoint, len(parts.telemetry.rows))
        except OutOfMemoryInUpdateError:
            exhausted = True  # outside of this block nothing holds the failed pass's tensors
        seconds += trainer.update_seconds
        if not exhausted:
            return trainer, seconds
        checkpoint = trainer.keep_last_update() or checkpoint
        plan, done = run.plan.halved(), len(parts.telemetry.rows)
        if plan is None:
            raise RecapError(
                f"the GPU's memory does not suffice for one sample in update {done + 1}; lower "
                "max_length, use gradient_checkpointing: true, or hold the base in 4 bits"
            )
        logger.warning(
            "out of memory in update %d: micro-batch %d becomes %d, accumulation %d",
            *(done + 1, run.plan.micro_batch, plan.micro_batch, plan.accumulation),
        )
        if run.leads and parts.probes is not None:
            parts.probes.correct(plan.micro_batch)
        run = replace(run, plan=plan)
        del trainer
        gc.collect()  # it and its callbacks hold each other, and it the optimizer's moments


def stage_arguments(request: StageRequest, plan: StepPlan) -> TrainingArguments:
    """Return the trainer's arguments for a plan."""
    settings = request.settings
    use_cpu = not torch.cuda.is_available()
    if not use_cpu and settings.dtype == "bfloat16":
        torch.set_float32_matmul_precision("high")
    return training_arguments(
        request.state_dir,
        plan,
        seed=request.seed,
        use_cpu=use_cpu,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )


def _build_trainer(run: Run, parts: RunParts) -> StageTrainer:
    data, settings = run.data, run.request.settings
    return StageTrainer(
        model=parts.model,
        args=run.args,
        data=data,
        collator=Collator(
            pad_token_id(data.tokenizer),
            parts.model.config.image_tokens,
            settings.max_length,
            length_multiple(run.args.device),
        ),
        plan=run.plan,
        packing=packs(settings),
        sharded=run.sharded,
        gates=UpdateGates(int(parts.model.config.vocab_size), run.book),
        telemetry=parts.telemetry,
        tracker=parts.tracker,
        store=parts.store,
        held_out_every=run.request.held_out_every,
        stop=run.stop,
        save_steps=settings.save_steps,
    )


def _slope(trainer: StageTrainer, run: Run) -> float:
    """Compare loss and gradient on the first micro-batch that has anything to train.

    In stage 1 that is a picture, whose features are all that is trained.

    Raises:
        OutOfMemoryInUpdateError: on every rank, if it does not fit into one's memory.
        RecapError: instead, on that rank alone, if they share the base.
    """
    data, size = run.data, run.plan.micro_batch
    parts = (data.order[start : start + size] for start in range(0, len(data.order), size))
    told = (part for part in parts if any(data.encoded[index].supervised for index in part))
    first = next(told)
    if run.request.stage == "pretrain":
        rest = chain([first], told)
        shown = (part for part in rest if any(data.encoded[index].has_image for index in part))
        first = next(shown, first)
    batch = [data.dataset[index] for index in first]
    inputs = to_device(trainer.data_collator(batch), run.args.device)
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.train()
    parameters = list(trainer.trainables().values())
    ratio = None
    try:
        ratio = slope_ratio(
            *(parameters, lambda: model(**inputs).loss, run.request.seed),
            agreed if run.sharded else bool,
        )
    except torch.cuda.OutOfMemoryError as error:
        if run.sharded:
            raise exhausted("before the first update", error) from error
        logger.warning("before the first update: %s", error)
    if agreed(ratio is None) or ratio is None:
        raise OutOfMemoryInUpdateError
    # Of all ranks, so that a gate that trips on one ends them all.
    mine = torch.tensor([ratio], dtype=torch.float64, device=run.args.device)
    return farthest_ratio(trainer.accelerator.gather(mine).tolist())


def _fit(trainer: StageTrainer, run: Run, checkpoint: Path | None, done: int) -> None:
    """Train to the end, from the checkpoint after ``done`` updates if there is one."""
    total = run.data.plan.updates
    if agreed(run.stop.before_update()):
        raise run.stop.interruption(f"after update {done} of {total}")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UpdateCutShortError:
        trainer.keep_last_update()
        logger.info("update %d was cut short", trainer.state.global_step + 1)
    done = trainer.state.global_step
    if done < total or trainer.held_out_cut_short:
        raise run.stop.interruption(f"after update {done} of {total}")
