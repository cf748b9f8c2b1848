"""Runs the entry script in processes of their own, so that they can be killed.

A fork server imports the heavy libraries once; each process is a fork of it.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# The server only finds installed packages; they are what takes long.
_CONTEXT.set_forkserver_preload(
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


def _enter(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with Path(log).open("a") as stream:
        sys.stderr = stream
        import train_stage
        from recap.cli import run_cli

        scarce = os.environ.get("SCARCE_MEMORY")
        with scarce_memory(*map(int, scarce.split(","))) if scarce else nullcontext():
            run_cli(train_stage.main, train_stage.parser(), arguments)


def start(arguments: list[str], log: Path, **environment: str) -> "multiprocessing.Process":
    process = _CONTEXT.Process(target=_enter, args=(arguments, str(log), environment))
    process.start()
    return process


def wait_for(condition: Callable[[], bool], process, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if not process.is_alive() or time.monotonic() > end:
            raise AssertionError(f"did not happen; exit code {process.exitcode}")
        time.sleep(0.002)
