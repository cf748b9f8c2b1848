"""Reading the passes of each update off the critical path."""

import atexit
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import RecapError
from .collate import Collator
from .passes import Pass, Row
from .signals import STOP_SIGNALS

MAX_WORKERS = 8


def worker_count(ranks_here: int) -> int:
    """Return how many processes of a rank decode images: the CPUs it may use, but one."""
    return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0)) // max(ranks_here, 1) - 1))


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a collated batch on a device, without waiting for the copies."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor)
        else value.to(device)
        for name, value in batch.items()
    }  # fmt: skip


def _ignore_stop_signals(worker: int) -> None:
    """Let a worker outlive a signal to all processes of the job, as torchrun and SLURM send it.

    The rank stops after its update and ends its workers itself.
    """
    del worker
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    """End what is left of the workers, which no SIGTERM of Python's own at its exit would do.

    A failed rank whose traceback still holds the loader would wait for them forever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would report them as having failed
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _kill_workers_at_exit() -> None:
    """Put :func:`_kill_workers` before what torch and Python do at exit, registered earlier."""
    atexit.unregister(_kill_workers)
    atexit.register(_kill_workers)


class RowDataset(Dataset):
    """Lists of the samples of rows."""

    def __init__(self, dataset: Any) -> None:
        """Read from ``dataset``."""
        self._dataset = dataset

    def __getitem__(self, row: Row) -> list[Any]:
        return [self._dataset[index] for index in row]


class UpdateBatches:
    """The batches of one update, drawn from the loader one at a time.

    The trainer would otherwise hold the images of a whole update on the device.

    Attributes:
        waited: seconds that batches drawn so far were waited for; a GPU may still have had
            work in that time.
    """

    def __init__(self, source: Iterator[Any], count: int, device: torch.device) -> None:
        """Hold ``count`` batches that ``source`` yields next."""
        self._source = source
        self._count = count
        self._device = device
        self.waited = 0.0

    def __len__(self) -> int:
        """Return the number of batches."""
        return self._count

    def next(self) -> dict[str, Any]:
        """Return the next batch, on the device.

        Raises:
            RecapError: if a sample cannot be read, as it says itself.
        """
        started = time.perf_counter()
        try:
            batch = next(self._source)
        except RecapError as error:
            # A worker's message is the last line of its traceback.
            raise RecapError(str(error).rpartition("RecapError: ")[2].strip()) from error
        self.waited += time.perf_counter() - started
        return to_device(batch, self._device)


class UpdateLoader:
    """Yields :class:`UpdateBatches` for each update that is still to be made."""

    def __init__(
        self,
        dataset: Any,
        collator: Collator,
        passes: Sequence[Sequence[Pass]],
        done: Callable[[], int],
        device: torch.device,
        workers: int,
        seed: int,
    ) -> None:
        """Set up.

        Args:
            dataset: of samples.
            collator: of the rows of a pass.
            passes: of each update, on this rank.
            done: asked, when the reading starts, for the number of updates made before.
            device: where batches go.
            workers: processes that decode; 0 decodes in this one.
            seed: of the loader's own generator; the global one is left alone.
        """
        self.dataset = dataset
        self._collator = collator
        self._passes = passes
        self._done = done
        self._device = device
        self._workers = workers
        self._seed = seed

    def __len__(self) -> int:
        """Return the number of updates, those made before included."""
        return len(self._passes)

    def __iter__(self) -> Iterator[UpdateBatches]:
        left = self._passes[self._done() :]
        loader = DataLoader(
            RowDataset(self.dataset),
            batch_sampler=[rows for update in left for rows in update],
            collate_fn=self._collator,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator().manual_seed(self._seed),
            worker_init_fn=_ignore_stop_signals,
        )
        batches = iter(loader)
        if self._workers:
            _kill_workers_at_exit()
        for update in left:
            yield UpdateBatches(batches, len(update), self._device)
