"""How much rounding of the merged maps alone moves a model's answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from .lora import iter_lora_layers, layer_update, merged_weight
from .modeling import MGMForCausalLM


def round_stochastically(
    x: torch.Tensor, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """Round to a neighbour in ``dtype`` with probability by distance.

    Half a step of uniform noise is added before rounding to nearest; the error
    is of the size of a rounding step, and independent of the nearest rounding.

    Args:
        x: float32.
        dtype: of the grid rounded to.
        generator: of the noise, drawn on the generator's device.

    Returns:
        float32 values that ``dtype`` can hold.
    """
    _, exponent = torch.frexp(x)
    step = torch.ldexp(torch.full_like(x, torch.finfo(dtype).eps), exponent - 1)
    step[x == 0] = 0  # any type holds zero
    noise = torch.rand(x.shape, generator=generator, device=generator.device).to(x.device) - 0.5
    return (x + noise * step).to(dtype).float()


@contextmanager
def stochastically_rounded(
    model: MGMForCausalLM, dtype: torch.dtype, seed: int
) -> Iterator[MGMForCausalLM]:
    """Give every wrapped map the error of one stochastic rounding, then take it away.

    The error is added to W. DoRA scales W's rows, so there it is divided by that
    factor first; that the rows' norms move as well is of second order.

    Args:
        model: float32, with an adapter attached.
        dtype: type the merged weight is rounded to.
        seed: of the noise.
    """
    device = model.get_input_embeddings().weight.device
    generator = torch.Generator(device).manual_seed(seed)  # type: ignore[arg-type]

    def with_error(layer: Any) -> torch.Tensor:
        weight, update = layer.base_layer.weight, layer_update(layer)
        exact = merged_weight(weight, update, torch.float32)
        error = round_stochastically(exact, dtype, generator) - exact
        if update.magnitude is not None:
            plain = merged_weight(weight, replace(update, magnitude=None), torch.float32)
            lengths = update.magnitude
            factor = torch.where(lengths == 0, 0.0, plain.norm(dim=1) / lengths)
            error *= factor.unsqueeze(1)
        changed: torch.Tensor = weight + error
        return changed

    with _replaced(model, with_error):
        yield model


@contextmanager
def folded(model: MGMForCausalLM, dtype: torch.dtype) -> Iterator[MGMForCausalLM]:
    """Give every wrapped map its merged weight and switch the adapter off, then undo both.

    The sums are those of a merge, on the CPU wherever the model is.

    Args:
        model: float32, with an adapter attached.
        dtype: type each sum is rounded to.
    """

    def merged(layer: Any) -> torch.Tensor:
        weight = layer.base_layer.weight
        return merged_weight(weight.cpu(), layer_update(layer).cpu(), dtype).to(weight)

    layers = [layer for _, layer in iter_lora_layers(model)]
    with _replaced(model, merged):
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield model
        finally:
            for layer in layers:
                layer.enable_adapters(True)


@torch.no_grad()
def lower(model: MGMForCausalLM, dtype: torch.dtype) -> MGMForCausalLM:
    """Cast all weights in place, as loading in that type does; buffers keep theirs."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


@contextmanager
def _replaced(model: MGMForCausalLM, weight_of: Callable[[Any], torch.Tensor]) -> Iterator[None]:
    originals: dict[str, torch.Tensor] = {}
    try:
        with torch.no_grad():
            for name, layer in iter_lora_layers(model):
                changed = weight_of(layer)
                originals[name] = _set_aside(layer.base_layer.weight.data)
                layer.base_layer.weight.data = changed
        yield
    finally:
        for name, layer in iter_lora_layers(model):
            if name in originals:
                weight = layer.base_layer.weight
                weight.data = originals.pop(name).to(weight)


def _set_aside(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight on the CPU, in 16 bits where they hold it exactly: bases are stored so."""
    for kind in (torch.bfloat16, torch.float16):
        short = weight.to(kind)
        if torch.equal(short.to(weight.dtype), weight):
            return short.cpu()
    return weight.cpu()
