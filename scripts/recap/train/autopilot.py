"""Choosing how passes are made: what fits into the GPU's memory, and of that the fastest.

Every way is tried on the longest pass that the training set can make, forward and
backward, within the memory that the job may use; nothing is estimated. The result
is kept in a folder, so that runs of the same model, lengths, settings and GPU share it.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import RecapError
from ..hashing import digest_json
from ..io import read_json, write_json
from ..mgm.modeling import MGMForCausalLM
from .execution import Execution, set_execution

logger = logging.getLogger(__name__)

GIB = 1 << 30
SHARES = (0.0, 0.5, 1.0)
LARGEST_MICRO_BATCH = 32
# What training needs beside a pass: moments, the joined gradients, temporaries of the optimizer.
OPTIMIZER_BYTES = 16
SPARE_BYTES = GIB // 2
# A larger micro-batch that is no faster by this factor only costs memory.
WORTHWHILE = 1.02
_STEPS = 3


@dataclass(frozen=True)
class Trial:
    """What was measured of one way.

    Attributes:
        micro_batch: see :class:`Execution`.
        checkpointed: see :class:`Execution`.
        compiled: see :class:`Execution`.
        reserved_gib: highest memory reserved; None if it did not suffice.
        samples_per_second: rows of the longest kind a second; None likewise.
    """

    micro_batch: int
    checkpointed: float
    compiled: bool
    reserved_gib: float | None = None
    samples_per_second: float | None = None

    @property
    def execution(self) -> Execution:
        """The way itself."""
        return Execution(self.micro_batch, self.checkpointed, self.compiled)


@dataclass(frozen=True)
class Choice:
    """What is left to choose.

    Attributes:
        micro_batches: ascending.
        shares: of checkpointed layers, ascending: from fast to small.
        compiled: whether blocks are compiled.
    """

    micro_batches: Sequence[int]
    shares: Sequence[float]
    compiled: bool

    @property
    def settled(self) -> Execution | None:
        """The only way, if there is one."""
        if len(self.micro_batches) == len(self.shares) == 1:
            return Execution(self.micro_batches[0], self.shares[0], self.compiled)
        return None


def choose_execution(
    model: MGMForCausalLM,
    choice: Choice,
    make_batch: Callable[[int], dict[str, Any]],
    memory_bytes: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[Execution, list[Trial]]:
    """Return the fastest way that fits, and all that was tried.

    Args:
        model: on a GPU, in training mode; it is left in the way that was tried last, and random
            states as they were.
        choice: what is left to choose.
        make_batch: makes the longest pass of a number of rows, on the GPU.
        memory_bytes: what the process may reserve.
        check: called before each trial; may raise.

    Raises:
        RecapError: if nothing fits.
    """
    trials: list[Trial] = []
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        for share in choice.shares:
            tried = list(_grow(model, choice, share, make_batch, memory_bytes, check))
            trials += tried
            if tried[-1].samples_per_second is not None:
                break  # memory is no limit: to compute layers twice can only be slower
    _start_afresh()  # what the run reports as its peak is its own
    fitting = [trial for trial in trials if trial.samples_per_second is not None]
    if not fitting:
        raise RecapError(
            f"one sample of the longest kind does not fit into {memory_bytes / GIB:.1f} GiB of GPU "
            "memory, even with all layers checkpointed; lower max_length, hold the base in 4 bits "
            "(base_quantization: nf4), or raise memory_gib on a larger GPU"
        )
    best = max(fitting, key=lambda trial: trial.samples_per_second or 0.0)
    return best.execution, trials


def _grow(
    model: MGMForCausalLM,
    choice: Choice,
    share: float,
    make_batch: Callable[[int], dict[str, Any]],
    memory_bytes: int,
    check: Callable[[], None],
) -> Iterator[Trial]:
    """Try larger and larger micro-batches until one does not fit or is not worth it."""
    before = 0.0
    for size in choice.micro_batches:
        check()
        trial = _measure(model, Trial(size, share, choice.compiled), make_batch, memory_bytes)
        logger.info("tried %s", asdict(trial))
        yield trial
        speed = trial.samples_per_second
        if speed is None or speed < WORTHWHILE * before:
            return
        before = speed


def _measure(
    model: MGMForCausalLM,
    trial: Trial,
    make_batch: Callable[[int], dict[str, Any]],
    memory_bytes: int,
) -> Trial:
    set_execution(model, trial.execution)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    _start_afresh()
    try:
        spare = OPTIMIZER_BYTES * sum(p.numel() for p in trained) + SPARE_BYTES
        ballast = torch.empty(spare, dtype=torch.uint8, device="cuda")
        batch = make_batch(trial.micro_batch)
        for step in range(_STEPS + 2):
            if step == 2:  # the first ones compile and fill the allocator's pools
                torch.cuda.synchronize()
                started = time.perf_counter()
            model(**batch, num_items_in_batch=1).loss.backward()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        del ballast, batch
    except torch.cuda.OutOfMemoryError:
        return trial
    finally:
        for parameter in trained:
            parameter.grad = None
        reserved = torch.cuda.max_memory_reserved()
    if reserved > memory_bytes:
        return trial
    speed = _STEPS * trial.micro_batch / seconds
    return Trial(**asdict(trial) | {
        "reserved_gib": round(reserved / GIB, 2), "samples_per_second": round(speed, 2)
    })  # fmt: skip


def _start_afresh() -> None:
    """Give back what is not used, and forget how much memory was."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


class ProbeCache:
    """Choices made before, a file each, named by all that they depend on."""

    def __init__(self, folder: Path | None, key: dict[str, Any]) -> None:
        """Keep choices below ``folder``, or nowhere; ``key`` is what the choice depends on."""
        self._key = key
        self.path = None if folder is None else folder / f"{digest_json(key)[:16]}.json"

    def read(self) -> Execution | None:
        """Return the choice, or None where there is none."""
        if self.path is None or not self.path.is_file():
            return None
        return Execution(**read_json(self.path)["execution"])

    def write(self, execution: Execution, trials: Sequence[Trial]) -> None:
        """Keep a choice with what was measured."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = [asdict(trial) for trial in trials]
            write_json(
                self.path, {"execution": execution.as_dict(), "trials": rows, "of": self._key}
            )

    def correct(self, micro_batch: int) -> None:
        """Lower a choice that ran out of memory in a run, for the runs that share it."""
        if self.path is None or not self.path.is_file():
            return
        kept = read_json(self.path)
        if kept["execution"]["micro_batch"] > micro_batch:
            kept["execution"]["micro_batch"] = micro_batch
            kept["lowered_by_a_run"] = True
            write_json(self.path, kept)
