"""From settings to the one way in which a run makes its passes."""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import transformers
from accelerate.utils import broadcast_object_list

from ..errors import RecapError
from ..mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from ..mgm.lengths import GPU_MULTIPLE
from ..train_settings import FinetuneSettings, StageSettings
from ..versions import STAGE_VERSIONS
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
from .passes import Row, rows_of_update
from .prepare import PreparedData
from .request import StageRequest
from .schedule import StepPlan
from .sharding import is_sharded
from .signals import StopRequest

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
    stop: StopRequest,
    *,
    leads: bool,
) -> tuple[Execution, ProbeCache | None]:
    """Return how this run makes its passes and where that is kept, and set the model up for it.

    Args:
        request: what is asked.
        data: the training set.
        plan: step arithmetic.
        model: trained parts set, on the CPU; on a GPU afterwards, if there is one.
        base: hashes of the base models.
        stop: a run of one rank asks it between trials; several ranks end them together.
        leads: whether this is rank zero, whose choice all ranks take.

    Raises:
        RecapError: if the model, or one sample beside it, does not fit into the memory.
        InterruptedRunError: if the run was asked to stop.
    """

    def check() -> None:
        if plan.world_size == 1 and stop.before_update():
            raise stop.interruption("while it tried how to make passes")

    settings, on_gpu = request.settings, torch.cuda.is_available()
    budget = memory_budget(settings) if on_gpu else 0
    if on_gpu and not is_sharded(settings, plan.world_size):  # else it is moved piece by piece
        _move_to_gpu(model, budget)
    choice = open_choice(settings, plan, on_gpu=on_gpu)
    chosen, cache = choice.settled, None
    if chosen is None:
        row = fullest_row(data, packing=packs(settings))
        facts = _facts(request, data, row) | {
            "choice": asdict(choice), "base": base["configuration"], "ranks": plan.world_size,
            "memory": budget,
        }  # fmt: skip
        cache = ProbeCache(request.probe_cache, facts)
        chosen = cache.read()
        if chosen is None:
            model.train()
            batches = batch_maker(data, row, model.config, settings.max_length)
            chosen, trials = choose_execution(model, choice, batches, budget, check)
            if leads:
                cache.write(chosen, trials)
    if plan.world_size > 1:
        agreed = [chosen]
        broadcast_object_list(agreed)
        chosen = agreed[0]
    logger.info("passes are made with %s", chosen.as_dict())
    set_execution(model, chosen)
    return chosen, cache


def _move_to_gpu(model: Any, budget: int) -> None:
    try:
        model.cuda()
    except torch.cuda.OutOfMemoryError as error:
        raise RecapError(
            f"the model alone does not fit into {budget / GIB:.1f} GiB of GPU memory; hold the "
            "base in 4 bits (base_quantization: nf4 of stage 2), or raise memory_gib on a larger "
            "GPU"
        ) from error


def _facts(request: StageRequest, data: PreparedData, row: Row) -> dict[str, Any]:
    """Return what memory and speed depend on besides the model, its ranks and the budget."""
    settings = request.settings
    free = {"learning_rate", "warmup_ratio", "weight_decay", "max_grad_norm", "epochs"}
    free |= {"save_steps", "logging_steps", "group_by_modality_length", "image_aspect_ratio"}
    free |= {"shard_base"}
    return {
        "stage": request.stage,
        "stage_version": STAGE_VERSIONS["train"],
        "settings": settings.model_dump(exclude=free),
        "longest": max(data.lengths),
        "pictures": _pictures(data, row),
        "packed": len(row) > 1,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def packs(settings: StageSettings) -> bool:
    """Return whether samples share rows."""
    return isinstance(settings, FinetuneSettings) and settings.packing


def fullest_row(data: PreparedData, *, packing: bool) -> Row:
    """Return the row of training that needs the most memory, apart from its length.

    That is one with the most pictures, whose maps are kept for the backward pass; of those,
    one that is packed, whose mask keeps attention from its leanest kernel.
    """
    size, capacity = data.plan.global_batch, max(data.lengths) if packing else 0
    rows = (
        row
        for start in range(0, len(data.order), size)
        for row in rows_of_update(data.order[start : start + size], data.lengths, capacity)
    )
    return max(rows, key=lambda row: (_pictures(data, row), len(row) > 1))


def _pictures(data: PreparedData, row: Row) -> int:
    return sum(data.samples[index].image is not None for index in row)


def batch_maker(
    data: PreparedData, row: Row, config: Any, max_length: int
) -> Callable[[int], dict[str, Any]]:
    """Return a function that makes the largest possible pass of some rows, on the GPU.

    Each row is as long as the longest sample, and has as many pictures as ``row``, the
    fullest one (:func:`fullest_row`); it is packed if that is.
    """
    pictures, size = _pictures(data, row), config.image_size_aux
    pictured = [index for index, sample in enumerate(data.samples) if sample.image is not None]
    members = pictured if pictures else range(len(data.samples))
    main = max(members, key=lambda index: data.lengths[index])
    ids, labels = list(data.encoded[main].input_ids), list(data.encoded[main].labels)
    beside = [IMAGE_TOKEN_INDEX] * (pictures - 1)
    if len(row) > 1 and not beside:
        beside = [_PAD_TO_LENGTH]
    taken = len(beside) * (config.image_tokens if pictures > 1 else 1)
    room = max(data.lengths) - taken - data.lengths[main]
    # Text comes or goes before the answers: they are what the head is applied to.
    start = ids.index(IMAGE_TOKEN_INDEX) + 1 if pictures else 1
    change = slice(start, start + max(-room, 0))
    ids[change], labels[change] = [_PAD_TO_LENGTH] * room, [IGNORE_INDEX] * room
    parts = [(ids, labels), *(([token], [IGNORE_INDEX]) for token in beside)]
    collate = Collator(0, config.image_tokens, max_length, GPU_MULTIPLE)

    def make(rows: int) -> dict[str, Any]:
        picture = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        samples = [
            {
                "input_ids": text,
                "labels": wanted,
                "image": picture if IMAGE_TOKEN_INDEX in text else None,
            }
            for text, wanted in parts
        ]
        return to_device(collate([samples] * rows), torch.device("cuda"))

    return make
