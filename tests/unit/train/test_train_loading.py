"""Reading passes in worker processes: what a signal to the whole job must not end."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch

from recap.train.collate import Collator
from recap.train.loading import UpdateLoader, worker_count


class Toy:
    """Samples whose only token is their number."""

    def __getitem__(self, index: int) -> dict:
        return {"input_ids": [index], "labels": [-100], "image": None}


def loader(passes, done: int = 0, workers: int = 0) -> UpdateLoader:
    return UpdateLoader(
        Toy(), Collator(), passes, lambda: done, torch.device("cpu"), workers, seed=1
    )


PASSES = [[[(2 * u,), (2 * u + 1,)], [(100 + u, 200 + u)]] for u in range(20)]


def read(updates) -> list[list[list[int]]]:
    return [
        [update.next()["input_ids"].flatten().tolist() for _ in range(len(update))]
        for update in updates
    ]


WANTED = [[[2 * u, 2 * u + 1], [100 + u, 200 + u]] for u in range(20)]


def test_updates_are_read_in_order_and_from_where_a_run_stands() -> None:
    assert read(loader(PASSES)) == WANTED
    assert read(loader(PASSES, done=17)) == WANTED[17:]
    assert len(loader(PASSES, done=17)) == 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_outlive_a_signal_to_the_whole_job(number: signal.Signals) -> None:
    others = set(multiprocessing.active_children())
    updates = iter(loader(PASSES, workers=1))
    found = read([next(updates)])
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 1
    for worker in workers:
        os.kill(worker.pid, number)
    found += read(updates)
    assert found == WANTED


FAILING = """
import torch
from recap.train.collate import Collator
from recap.train.loading import UpdateLoader

class Toy:
    def __getitem__(self, index):
        return {"input_ids": [index], "labels": [-100], "image": None}

def train():
    passes = [[[(index,)]] for index in range(50)]
    updates = iter(UpdateLoader(Toy(), Collator(), passes, lambda: 0, torch.device("cpu"), 1, 1))
    next(updates).next()
    raise ValueError("broken in mid-run")

train()
"""


def test_a_rank_that_fails_in_mid_run_ends_at_once() -> None:
    failed = subprocess.run(
        [sys.executable, "-c", FAILING],
        env=os.environ | {"PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "ValueError: broken in mid-run"


def test_reading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    read(loader(PASSES))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_cpu_is_left_to_the_rank(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert [worker_count(ranks) for ranks in (1, 2, 4, 8, 16)] == [8, 7, 3, 1, 1]
