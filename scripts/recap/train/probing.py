"""From settings to the one way in which a run makes its passes."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
import transformers
from accelerate.utils import broadcast_object_list

from ..mgm.conversation import IGNORE_INDEX
from ..settings import FinetuneSettings, StageSettings
from .autopilot import (
    GIB,
    LARGEST_MICRO_BATCH,
    SHARES,
    Choice,
    ProbeCache,
    choose_execution,
)
from .collate import Collator
from .execution import Execution, set_execution
from .loading import to_device
from .prepare import PreparedData
from .request import StageRequest
from .schedule import StepPlan

logger = logging.getLogger(__name__)

# The context and the libraries of a process, which no allocator sees.
_CONTEXT_BYTES = 3 * GIB // 5
_CPU_MICRO_BATCH = 8
_PAD_TO_LENGTH = 5  # any token


def open_choice(settings: StageSettings, plan: StepPlan, *, on_gpu: bool) -> Choice:
    """Return what the settings leave to choose; without a GPU nothing is measured."""
    per_rank = plan.global_batch // plan.world_size
    largest = LARGEST_MICRO_BATCH if on_gpu else _CPU_MICRO_BATCH
    fits = [size for size in range(1, largest + 1) if per_rank % size == 0]
    if settings.micro_batch_size != "auto":
        fits = [plan.micro_batch]
    given = settings.gradient_checkpointing
    shares = SHARES if given == "auto" else (float(given),)
    compiled = settings.compile_blocks
    if compiled == "auto":
        compiled = on_gpu and importlib.util.find_spec("triton") is not None
    if not on_gpu:
        fits, shares = fits[-1:], shares[:1]
    return Choice(fits, shares, bool(compiled))


def memory_budget(settings: StageSettings) -> int:
    """Return the bytes of GPU memory this process may reserve, and hold it to them."""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    allowed = min(int(settings.memory_gib * GIB), total - _CONTEXT_BYTES)
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    return allowed


def resolve_execution(
    request: StageRequest,
    data: PreparedData,
    plan: StepPlan,
    model: Any,
    base: dict[str, str],
    *,
    leads: bool,
) -> Execution:
    """Return how this run makes its passes, and set the model up for it.

    Args:
        request: what is asked.
        data: the training set.
        plan: step arithmetic.
        model: trained parts set, on the CPU; on a GPU afterwards, if there is one.
        base: hashes of the base models.
        leads: whether this is rank zero, whose choice all ranks take.

    Raises:
        RecapError: if nothing fits into the memory.
    """
    settings, on_gpu = request.settings, torch.cuda.is_available()
    budget = memory_budget(settings) if on_gpu else 0
    choice = open_choice(settings, plan, on_gpu=on_gpu)
    chosen = choice.settled
    if chosen is None:
        cache = ProbeCache(request.probe_cache, _key(request, data, plan, base, budget))
        chosen = cache.read()
        if chosen is None:
            model.cuda().train()
            batches = batch_maker(data, model.config, settings.max_length)
            chosen, trials = choose_execution(model, choice, batches, budget)
            if leads:
                cache.write(chosen, trials)
    if plan.world_size > 1:
        agreed = [chosen]
        broadcast_object_list(agreed)
        chosen = agreed[0]
    logger.info("passes are made with %s", chosen.as_dict())
    set_execution(model, chosen)
    return chosen


def _key(
    request: StageRequest, data: PreparedData, plan: StepPlan, base: dict[str, str], budget: int
) -> dict[str, Any]:
    settings = request.settings
    free = {"learning_rate", "warmup_ratio", "weight_decay", "max_grad_norm", "epochs"}
    free |= {"save_steps", "logging_steps", "group_by_modality_length", "image_aspect_ratio"}
    free |= {"shard_base"}
    return {
        "stage": request.stage,
        "settings": settings.model_dump(exclude=free),
        "base": base["configuration"],
        "longest": max(data.lengths),
        "ranks": plan.world_size,
        "gpu": torch.cuda.get_device_name(),
        "memory": budget,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "adapter": isinstance(settings, FinetuneSettings),
    }


def batch_maker(
    data: PreparedData, config: Any, max_length: int
) -> Callable[[int], dict[str, Any]]:
    """Return a function that makes the longest possible pass of some rows, on the GPU.

    Each row is as long as the longest sample, and has a picture if any sample has one.
    """
    pictures = [i for i, sample in enumerate(data.samples) if sample.image is not None]
    members = pictures or range(len(data.samples))
    longest = data.encoded[max(members, key=lambda index: data.lengths[index])]
    ids, labels = list(longest.input_ids), list(longest.labels)
    missing = max(data.lengths) - max(data.lengths[index] for index in members)
    ids += [_PAD_TO_LENGTH] * missing
    labels += [IGNORE_INDEX] * missing
    size = config.image_size_aux
    collate = Collator(0, config.image_tokens, max_length)

    def make(rows: int) -> dict[str, Any]:
        picture = torch.randn(3, size, size) if pictures else None
        sample = {"input_ids": ids, "labels": labels, "image": picture}
        return to_device(collate([sample] * rows), torch.device("cuda"))

    return make
