"""The adapter: low-rank updates of the language model's linear layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import RecapError
from ..settings import LoraSettings
from .modeling import MGMForCausalLM
from .names import ADAPTER_PREFIX

TARGET_MODULES = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
_ADAPTER = "default"


def add_lora(model: MGMForCausalLM, settings: LoraSettings, *, seed: int) -> MGMForCausalLM:
    """Attach a fresh adapter to the language model and set up stage 2's trainable weights.

    Only the language model is wrapped, although CLIP has layers of the same
    names. ``B`` starts at zero and ``A`` is drawn from ``seed``.

    Args:
        model: changed in place.
        settings: rank, alpha, dropout.
        seed: of the initial ``A``.

    Returns:
        The same model.

    Raises:
        RecapError: if an adapter is attached already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if has_lora(model):
        raise RecapError("an adapter is attached already")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=list(TARGET_MODULES),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model.language_model, adapter_name=_ADAPTER)
    model.config.lora = settings.model_dump()
    model.set_trainable("finetune")
    return model


def has_lora(model: MGMForCausalLM) -> bool:
    """Say whether an adapter is attached."""
    return any("lora_" in name for name, _ in model.language_model.named_parameters())


def iter_lora_layers(model: MGMForCausalLM) -> Iterator[tuple[str, Any]]:
    """Yield name and layer of every wrapped Linear, in module order."""
    for name, module in model.language_model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


def adapter_state(model: MGMForCausalLM) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under PEFT's names on disk."""
    return {
        ADAPTER_PREFIX + name.replace(f".{_ADAPTER}.", "."): parameter
        for name, parameter in model.language_model.named_parameters()
        if "lora_" in name
    }


def expected_adapter_shapes(
    base_shapes: Mapping[str, tuple[int, ...]], rank: int
) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every adapter tensor for a base model's tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in base_shapes.items():
        module = name.removesuffix(".weight")
        is_language = name.startswith("model.layers.")
        if is_language and name.endswith(".weight") and module.split(".")[-1] in TARGET_MODULES:
            shapes[f"{ADAPTER_PREFIX}{module}.lora_A.weight"] = (rank, shape[1])
            shapes[f"{ADAPTER_PREFIX}{module}.lora_B.weight"] = (shape[0], rank)
    return shapes


def fill_adapter(model: MGMForCausalLM, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy adapter tensors into an attached adapter, in their own type.

    Raises:
        RecapError: if names or shapes differ, or a value is not finite.
    """
    own = adapter_state(model)
    if set(own) != set(tensors):
        raise RecapError(
            f"the adapter has {len(tensors)} tensors, this base needs {len(own)}; first "
            f"difference: {sorted(set(own) ^ set(tensors))[0]}"
        )
    for name, parameter in own.items():
        given = tensors[name]
        if given.shape != parameter.shape:
            raise RecapError(
                f"{name} has shape {tuple(given.shape)}, this base needs {tuple(parameter.shape)}"
            )
        if not torch.isfinite(given).all():
            raise RecapError(f"{name} holds NaN or infinite values")
        parameter.data = given.detach().clone().to(parameter.device)


def merged_weight(
    base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, dtype: torch.dtype
) -> torch.Tensor:
    """Return ``W + scale * B A``, summed in float32 and rounded once.

    Args:
        base: W, (out, in).
        a: A, (rank, in).
        b: B, (out, rank).
        scale: alpha / rank.
        dtype: of the result.
    """
    return (base.float() + scale * (b.float() @ a.float())).to(dtype)


def layer_factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return A, B and the scale of a wrapped layer."""
    a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    return a, b, float(layer.scaling[_ADAPTER])


@torch.no_grad()
def merge_adapter(model: MGMForCausalLM, *, dtype: torch.dtype) -> MGMForCausalLM:
    """Fold the adapter into the weights and drop it.

    Args:
        model: changed in place; its language model keeps its type.
        dtype: the type each sum is rounded to.

    Raises:
        RecapError: if there is no adapter.
    """
    layers = list(iter_lora_layers(model))
    if not layers:
        raise RecapError("there is no adapter to merge")
    for name, layer in layers:
        plain: nn.Linear = layer.base_layer
        a, b, scale = layer_factors(layer)
        plain.weight.data = merged_weight(plain.weight, a, b, scale, dtype).to(plain.weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.language_model.get_submodule(parent), child, plain)
    return model
