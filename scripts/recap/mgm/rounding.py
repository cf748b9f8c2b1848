"""How much rounding of the merged maps alone moves a model's answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

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

    The error is added to W. DoRA scales W's rows, so there it is divided by that
    factor first; that the rows' norms move as well is of second order.

    Args:
        model: float32, with an adapter attached.
        dtype: type the merged weight is rounded to.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    originals = {}
    with torch.no_grad():
        for name, layer in iter_lora_layers(model):
            weight, update = layer.base_layer.weight, layer_update(layer)
            exact = merged_weight(weight, update, torch.float32)
            error = round_stochastically(exact, dtype, generator) - exact
            if update.magnitude is not None:
                plain = merged_weight(weight, replace(update, magnitude=None), torch.float32)
                lengths = update.magnitude
                factor = torch.where(lengths == 0, 0.0, plain.norm(dim=1) / lengths)
                error *= factor.unsqueeze(1)
            originals[name] = weight.data.cpu()
            weight.data = weight + error
    try:
        yield model
    finally:
        for name, layer in iter_lora_layers(model):
            weight = layer.base_layer.weight
            weight.data = originals[name].to(weight.device)
