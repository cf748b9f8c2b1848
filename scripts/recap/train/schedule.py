"""How many updates a training set gives, and the learning rate at each of them."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import RecapError
from ..train_settings import StageSettings


@dataclass(frozen=True)
class StepPlan:
    """The arithmetic of one stage.

    Attributes:
        samples: size of the training set.
        global_batch: samples an update, over accumulation and ranks.
        micro_batch: samples a forward pass on one rank.
        world_size: number of ranks.
        accumulation: forward passes a rank makes for one update.
        epochs: passes over the training set.
        updates_per_epoch: ``floor(samples / global_batch)``.
        updates: over all epochs.
        unused: samples an epoch leaves out, because an incomplete
            accumulation is never applied.
        warmup_updates: ``ceil(ratio * updates)``.
        asked_micro_batch: what ``micro_batch`` was before it turned out not to fit.
    """

    samples: int
    global_batch: int
    micro_batch: int
    world_size: int
    accumulation: int
    epochs: int
    updates_per_epoch: int
    updates: int
    unused: int
    warmup_updates: int
    asked_micro_batch: int

    def with_micro_batch(self, micro_batch: int) -> "StepPlan":
        """Return the same updates in passes of a size that divides a rank's share of them."""
        return replace(self.in_passes_of(micro_batch), asked_micro_batch=micro_batch)

    def in_passes_of(self, micro_batch: int) -> "StepPlan":
        """Return the same updates, the passes that were asked for having been too large."""
        accumulation = self.global_batch // (self.world_size * micro_batch)
        return replace(self, micro_batch=micro_batch, accumulation=accumulation)

    def halved(self) -> "StepPlan | None":
        """Return the plan with at most half the micro-batch, None where that is 1 already."""
        smaller = [n for n in range(1, self.micro_batch // 2 + 1) if self.micro_batch % n == 0]
        return self.in_passes_of(smaller[-1]) if smaller else None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        values = asdict(self)
        del values["asked_micro_batch"]
        return values


def plan_steps(samples: int, settings: StageSettings, world_size: int = 1) -> StepPlan:
    """Derive accumulation and updates so that the global batch is exact.

    A micro-batch that is still to be measured counts as 1.

    Raises:
        RecapError: if the global batch is not a multiple of what one pass of
            all ranks takes, or the training set does not fill one update.
    """
    batch = settings.global_batch_size
    micro = 1 if settings.micro_batch_size == "auto" else settings.micro_batch_size
    per_pass = micro * world_size
    if batch % per_pass:
        fits = [n for n in range(1, batch + 1) if batch % (n * world_size) == 0]
        advice = f"micro_batch_size may be one of {fits}" if fits else "use fewer ranks"
        raise RecapError(
            f"global_batch_size {batch} is not a multiple of micro_batch_size {micro} x "
            f"{world_size} rank(s) = {per_pass}, so no accumulation gives exactly {batch} samples "
            f"an update; {advice}"
        )
    per_epoch = samples // batch
    if per_epoch < 1:
        raise RecapError(
            f"the training set has {samples} samples, fewer than the {batch} of one update, so "
            "nothing would be trained; lower global_batch_size or provide more samples"
        )
    updates = per_epoch * settings.epochs
    return StepPlan(
        samples=samples,
        global_batch=batch,
        micro_batch=micro,
        world_size=world_size,
        accumulation=batch // per_pass,
        epochs=settings.epochs,
        updates_per_epoch=per_epoch,
        updates=updates,
        unused=samples - per_epoch * batch,
        warmup_updates=math.ceil(settings.warmup_ratio * updates),
        asked_micro_batch=micro,
    )


def learning_rate_after(update: int, plan: StepPlan, peak: float) -> float:
    """Return the learning rate after ``update`` (from 1), as trainers log it.

    Linear warm-up over w updates, then ``peak / 2 * (1 + cos(pi * (t - w) / (T - w)))``;
    update t itself moved with the value after update t - 1, hence the first one with zero.
    """
    warmup, total = plan.warmup_updates, plan.updates
    if update < warmup:
        return peak * update / warmup
    if total == warmup:
        return peak
    return peak * 0.5 * (1.0 + math.cos(math.pi * (update - warmup) / (total - warmup)))
