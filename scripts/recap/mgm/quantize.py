"""QLoRA's base: the language model's linear layers held in 4-bit NF4.

Dettmers et al. 2023: weights are normal-float 4 in blocks of 64 with doubly
quantised scales, multiplied in the type of the activations. Only the layers
that carry an adapter are held so; embedding, head, norms and towers are not.
The files on disk stay unquantised: an adapter is merged into those.
"""

import torch
from torch import nn

from ..errors import RecapError
from .lora import TARGET_MODULES
from .modeling import MGMForCausalLM


def quantize_language_model(model: MGMForCausalLM, dtype: torch.dtype) -> int:
    """Replace the language model's linear layers by 4-bit ones, in place, before an adapter.

    Layer by layer, on the GPU if there is one, so that the whole model never
    has to fit there unquantised.

    Args:
        model: freshly built, without an adapter.
        dtype: of the products.

    Returns:
        The number of layers.

    Raises:
        RecapError: if bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise RecapError(
            "base_quantization nf4 needs the package `bitsandbytes` (0.50.2 was tried), which is "
            "not installed; install it, or set train.finetune.base_quantization to none"
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    language = model.language_model
    names = [
        name
        for name, module in language.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGET_MODULES
    ]
    for name in names:
        parent, _, child = name.rpartition(".")
        plain = language.get_submodule(name)
        layer = Linear4bit(
            plain.in_features,
            plain.out_features,
            bias=plain.bias is not None,
            compute_dtype=dtype,
            quant_type="nf4",
            device="meta",
        )
        layer.weight = Params4bit(plain.weight.detach(), requires_grad=False, quant_type="nf4")
        layer.bias = plain.bias
        setattr(language.get_submodule(parent), child, layer.to(device))
    language.is_loaded_in_4bit = True  # by this PEFT chooses its 4-bit adapter layer
    return len(names)
