"""Runs the entry script in processes of their own, so that they can be killed.

A fork server imports the heavy libraries once; each process is a fork of it.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# The server only finds installed packages; they are what takes long.
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "peft",
        "transformers.trainer",
        "transformers.models.auto.modeling_auto",
        "transformers.models.clip.modeling_clip",
        "transformers.models.gemma.modeling_gemma",
    ]
)


@contextmanager
def scarce_memory(samples: int, after: int) -> Iterator[list[int]]:
    """Let passes over more than some samples run out of memory after some passes with gradient."""
    import torch

    from recap.mgm.modeling import MGMForCausalLM

    whole, sizes = MGMForCausalLM.forward, []

    def forward(self, input_ids, *arguments, **named):
        if torch.is_grad_enabled():
            sizes.append(len(input_ids))
        if len(input_ids) > samples and len(sizes) > after:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory, says a test")
        return whole(self, input_ids, *arguments, **named)

    MGMForCausalLM.forward = forward
    try:
        yield sizes
    finally:
        MGMForCausalLM.forward = whole


@contextmanager
def each_pass(act: Callable[[int, Any], None]) -> Iterator[None]:
    """Call ``act`` after each forward pass: which one with gradient it was, 0 for one without."""
    import torch

    from recap.mgm.modeling import MGMForCausalLM

    whole, made = MGMForCausalLM.forward, []

    def forward(self, *arguments, **named):
        output = whole(self, *arguments, **named)
        if torch.is_grad_enabled():
            made.append(1)
        act(len(made) if torch.is_grad_enabled() else 0, output)
        return output

    MGMForCausalLM.forward = forward
    try:
        yield
    finally:
        MGMForCausalLM.forward = whole


@contextmanager
def fault(kind: str, after: str) -> Iterator[None]:
    """Ask the process to stop at a pass with gradient, or corrupt loss or gradient from it on.

    ``evaluation`` stops it at the first pass without gradient that follows.
    """
    import torch

    step = torch.optim.AdamW.step
    corrupt = {
        "nan": lambda loss: loss * float("nan"),
        "gradient": lambda loss: loss + torch.sqrt(0 * loss),  # 0, whose gradient is 0 x inf
        "tenfold": lambda loss: 10 * loss,
    }

    made = 0

    def act(number: int, output: Any) -> None:
        nonlocal made
        made = max(made, number)
        asked = kind == "evaluation" and number == 0 and made == int(after)
        if asked or (kind == "term" and number == int(after)):
            os.kill(os.getpid(), signal.SIGTERM)
        if kind in corrupt and number >= int(after):
            output.loss = corrupt[kind](output.loss)

    def told(*arguments, **named):
        sys.stderr.write("the optimizer moves\n")
        return step(*arguments, **named)

    torch.optim.AdamW.step = told
    with each_pass(act):
        yield
    torch.optim.AdamW.step = step


def _enter(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with Path(log).open("a") as stream:
        sys.stderr = stream
        import train_stage
        from recap.cli import run_cli
        from recap.train import signals

        signals.GRACE_SECONDS = float(os.environ.get("GRACE_SECONDS", signals.GRACE_SECONDS))
        scarce, wrong = os.environ.get("SCARCE_MEMORY"), os.environ.get("FAULT")
        with (
            scarce_memory(*map(int, scarce.split(","))) if scarce else nullcontext(),
            fault(*wrong.split(",")) if wrong else nullcontext(),
        ):
            run_cli(train_stage.main, train_stage.parser(), arguments)


def start(arguments: list[str], log: Path, **environment: str) -> "multiprocessing.Process":
    process = CONTEXT.Process(target=_enter, args=(arguments, str(log), environment))
    process.start()
    return process


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start_ranks(
    arguments: list[str], folder: Path, only: Mapping[int, dict[str, str]] | None = None
) -> "list[multiprocessing.Process]":
    """Start a run on two ranks, logs ``log0`` and ``log1``; ``only`` is for some ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        start(
            arguments,
            folder / f"log{rank}",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **common,
            **(only or {}).get(rank, {}),
        )
        for rank in (0, 1)
    ]


def ends(ranks: "list[multiprocessing.Process]", seconds: float = 120.0) -> list[int | None]:
    """Return the exit codes; None of a rank that hung and had to be killed."""
    for rank in ranks:
        rank.join(seconds)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        if rank.exitcode is None:
            rank.kill()
    return codes


def wait_for(condition: Callable[[], bool], process, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if not process.is_alive() or time.monotonic() > end:
            raise AssertionError(f"did not happen; exit code {process.exitcode}")
        time.sleep(0.002)
