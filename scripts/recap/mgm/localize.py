"""Where do two models begin to differ?"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .modeling import MGMForCausalLM
from .names import to_disk_name

Keep = Callable[[str, torch.Tensor], None]
Run = Callable[[MGMForCausalLM], Any]


@contextmanager
def _watching(model: MGMForCausalLM, keep: Keep) -> Iterator[None]:
    """Show the first output of every module that computes, in the order they finish.

    Mining and projector are computed by functions on their weights, which no
    hook of a module sees: their results come from :attr:`MGMForCausalLM.observer`.
    """
    seen: set[str] = set()

    def show(name: str, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, torch.Tensor) and name not in seen:
            seen.add(name)
            keep(to_disk_name(name), value.detach())

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: show(name, output)

    towers = ("vision_tower", "vision_tower_aux")
    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        # a wrapped map's own result, adapter included, is that of its wrapper
        if name in towers
        or hasattr(module, "base_layer")
        or any(True for _ in module.parameters(recurse=False))
    ]
    model.observer = show
    try:
        yield
    finally:
        model.observer = None
        for handle in handles:
            handle.remove()


def record_outputs(model: MGMForCausalLM, run: Run) -> dict[str, torch.Tensor]:
    """Return the first output of every module, float32 on the CPU, in the order they finish."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        outputs[name] = value.float().cpu()

    with _watching(model, keep):
        run(model)
    return outputs


def first_divergence(
    model: MGMForCausalLM, expected: dict[str, torch.Tensor], run: Run, tolerance: float
) -> str | None:
    """Return the first module, in order of execution, whose output is not the expected one.

    Args:
        model: compared with the model that ``expected`` was recorded from.
        expected: of :func:`record_outputs`.
        run: what was done with that model.
        tolerance: largest difference, as a share of the module's largest output.
    """
    equal: set[str] = set()

    def compare(name: str, value: torch.Tensor) -> None:
        other, wanted = value.float().cpu(), expected.get(name)
        if wanted is None or other.shape != wanted.shape:
            return
        scale = wanted.abs().max().clamp(min=1e-30)
        if bool((other - wanted).abs().max() <= tolerance * scale):
            equal.add(name)

    with _watching(model, compare):
        run(model)
    return next((name for name in expected if name not in equal), None)


def largest_change(
    model: MGMForCausalLM, expected: dict[str, torch.Tensor], run: Run
) -> tuple[str, float] | None:
    """Return the module whose output differs most, and by which share of its largest output.

    Args:
        model: compared with the model that ``expected`` was recorded from.
        expected: of :func:`record_outputs`.
        run: what was done with that model.
    """
    changes: dict[str, float] = {}

    def compare(name: str, value: torch.Tensor) -> None:
        other, wanted = value.float().cpu(), expected.get(name)
        if wanted is not None and other.shape == wanted.shape:
            scale = wanted.abs().max().clamp(min=1e-30)
            change = (other - wanted).abs().max() / scale
            changes[name] = float(torch.nan_to_num(change, nan=torch.inf))

    with _watching(model, compare):
        run(model)
    return max(changes.items(), key=lambda item: item[1], default=None)


def first_overflow(model: MGMForCausalLM, run: Run) -> str | None:
    """Return the first module, in order of execution, whose output is not finite."""
    broken: list[str] = []

    def look(name: str, value: torch.Tensor) -> None:
        if not bool(torch.isfinite(value).all()):
            broken.append(name)

    with _watching(model, look):
        run(model)
    return broken[0] if broken else None
