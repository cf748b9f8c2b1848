"""How much rounding of the merged maps alone moves a model's answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .lora import iter_lora_layers, layer_factors
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
        generator: on the CPU.

    Returns:
        float32 values that ``dtype`` can hold.
    """
    _, exponent = torch.frexp(x)
    step = torch.ldexp(torch.full_like(x, torch.finfo(dtype).eps), exponent - 1)
    noise = torch.rand(x.shape, generator=generator).to(x.device) - 0.5
    return (x + noise * step).to(dtype).float()


@contextmanager
def stochastically_rounded(
    model: MGMForCausalLM, dtype: torch.dtype, seed: int
) -> Iterator[MGMForCausalLM]:
    """Give every wrapped map the error of one stochastic rounding, then take it away.

    Args:
        model: float32, with an adapter attached.
        dtype: type the sum ``W + s B A`` is rounded to.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    originals = {}
    with torch.no_grad():
        for name, layer in iter_lora_layers(model):
            weight = layer.base_layer.weight
            a, b, scale = layer_factors(layer)
            exact = weight + scale * (b @ a)
            originals[name] = weight.data.cpu()
            weight.data = weight + (round_stochastically(exact, dtype, generator) - exact)
    try:
        yield model
    finally:
        for name, layer in iter_lora_layers(model):
            weight = layer.base_layer.weight
            weight.data = originals[name].to(weight.device)
