"""The adapter: low-rank updates of the language model's linear layers."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import RecapError
from ..train_settings import LoraSettings
from .lean_lora import make_lean
from .modeling import MGMForCausalLM
from .names import ADAPTER_PREFIX
from .tensors import is_finite

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
_MAGNITUDE = "lora_magnitude_vector"
_BLOCK = 1 << 18  # numbers of a weight that are held in a wider type at a time


@dataclass(frozen=True)
class Update:
    """What an adapter does to one weight W, (out, in).

    The new weight is V = W + scale * B A, and for DoRA m * V / ||V||, with the
    norm of each row (Liu et al. 2024, equation 5).

    Attributes:
        a: A, (rank, in).
        b: B, (out, rank).
        scale: alpha / rank, for rsLoRA alpha / sqrt(rank).
        magnitude: m, (out,), of DoRA; None for LoRA and rsLoRA.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    def cpu(self) -> "Update":
        """Return the same update with its tensors on the CPU."""
        magnitude = None if self.magnitude is None else self.magnitude.cpu()
        return Update(self.a.cpu(), self.b.cpu(), self.scale, magnitude)


def add_lora(model: MGMForCausalLM, settings: LoraSettings, *, seed: int) -> MGMForCausalLM:
    """Attach a fresh adapter to the language model and set up stage 2's trainable weights.

    Only the language model is wrapped, although CLIP has layers of the same
    names. ``B`` starts at zero and ``A`` is drawn from ``seed``.

    Args:
        model: changed in place.
        settings: kind, rank, alpha, dropout.
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
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        rank_pattern=dict(settings.rank_pattern),
        alpha_pattern=dict(settings.alpha_pattern),
        target_modules=list(TARGET_MODULES),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model.language_model, adapter_name=_ADAPTER)
    model.config.lora = settings.model_dump()
    model.set_trainable("finetune")
    _set_magnitudes(model)
    for _, layer in iter_lora_layers(model):
        make_lean(layer)
    return model


@torch.no_grad()
def _set_magnitudes(model: MGMForCausalLM) -> None:
    """Start DoRA at exactly the base: PEFT took the norms in the base's own type."""
    for _, layer in iter_lora_layers(model):
        if _ADAPTER in layer.lora_magnitude_vector:
            norm = torch.linalg.vector_norm(layer.base_layer.weight.float(), dim=1)
            layer.lora_magnitude_vector[_ADAPTER].weight.data = norm


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
    named = model.language_model.named_parameters()
    return {_disk_name(name): parameter for name, parameter in named if "lora_" in name}


def _disk_name(name: str) -> str:
    short = ADAPTER_PREFIX + name.replace(f".{_ADAPTER}.", ".")
    # PEFT leaves the end out for these alone
    return short.removesuffix(".weight") if f".{_MAGNITUDE}" in short else short


def module_settings(settings: LoraSettings, module: str) -> tuple[int, float]:
    """Return rank and scale of one module, patterns and rsLoRA taken into account.

    Args:
        settings: of the adapter.
        module: name such as ``model.layers.0.self_attn.q_proj``.
    """
    rank = settings.rank_pattern.get(_matching(settings.rank_pattern, module), settings.rank)
    alpha = settings.alpha_pattern.get(_matching(settings.alpha_pattern, module), settings.alpha)
    return rank, alpha / (math.sqrt(rank) if settings.use_rslora else rank)


def _matching(patterns: Iterable[str], module: str) -> str:
    """Return the first pattern that the end of a name matches, as PEFT does, else the name."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def is_target(name: str) -> bool:
    """Say whether an adapter updates a tensor of the base, by its name on disk."""
    kind = name.removesuffix(".weight").rpartition(".")[2]
    return name.startswith("model.layers.") and name.endswith(".weight") and kind in TARGET_MODULES


def expected_adapter_shapes(
    base_shapes: Mapping[str, tuple[int, ...]], settings: LoraSettings
) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every adapter tensor for a base model's tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in base_shapes.items():
        module = name.removesuffix(".weight")
        if is_target(name):
            rank, _ = module_settings(settings, module)
            shapes[f"{ADAPTER_PREFIX}{module}.lora_A.weight"] = (rank, shape[1])
            shapes[f"{ADAPTER_PREFIX}{module}.lora_B.weight"] = (shape[0], rank)
            if settings.use_dora:
                shapes[f"{ADAPTER_PREFIX}{module}.{_MAGNITUDE}"] = (shape[0],)
    return shapes


def read_update(adapter: Mapping[str, Any], settings: LoraSettings, name: str) -> Update | None:
    """Return what an adapter's file does to a base weight, or None if it leaves it alone.

    Args:
        adapter: the file's tensors by name, each with ``load``.
        settings: of the adapter.
        name: of the base's tensor.
    """
    module = name.removesuffix(".weight")
    stem = ADAPTER_PREFIX + module
    a, b = adapter.get(f"{stem}.lora_A.weight"), adapter.get(f"{stem}.lora_B.weight")
    if a is None or b is None:
        return None
    magnitude = adapter[f"{stem}.{_MAGNITUDE}"].load() if settings.use_dora else None
    return Update(a.load(), b.load(), module_settings(settings, module)[1], magnitude)


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
        if not is_finite(given):
            raise RecapError(f"{name} holds NaN or infinite values")
        parameter.data = given.detach().clone().to(parameter.device)


def row_blocks(weight: torch.Tensor) -> Iterator[slice]:
    """Yield slices of rows, small enough to be worked on in a wider type."""
    rows = max(1, _BLOCK // max(weight.shape[1], 1))
    for start in range(0, weight.shape[0], rows):
        yield slice(start, start + rows)


def merged_weight(base: torch.Tensor, update: Update, dtype: torch.dtype) -> torch.Tensor:
    """Return the updated weight, computed in float32 and rounded once.

    Only a block of rows is in float32 at a time.

    Args:
        base: W, (out, in).
        update: what the adapter does to it.
        dtype: of the result.
    """
    result = torch.empty(base.shape, dtype=dtype, device=base.device)
    a = update.a.float()
    for rows in row_blocks(base):
        updated = base[rows].float() + update.scale * (update.b[rows].float() @ a)
        if update.magnitude is not None:
            norm = torch.linalg.vector_norm(updated, dim=1, keepdim=True)
            lengths = update.magnitude[rows].float().unsqueeze(1)
            updated *= lengths / norm.clamp(min=torch.finfo(torch.float32).tiny)
        result[rows] = updated.to(dtype)
    return result


def layer_update(layer: Any) -> Update:
    """Return what a wrapped layer does to its weight."""
    a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    lengths = layer.lora_magnitude_vector
    magnitude = lengths[_ADAPTER].weight if _ADAPTER in lengths else None
    return Update(a, b, float(layer.scaling[_ADAPTER]), magnitude)


@torch.no_grad()
def merge_adapter(model: MGMForCausalLM, *, dtype: torch.dtype) -> MGMForCausalLM:
    """Fold the adapter into the weights and drop it.

    Summed on the CPU wherever the model is, as for files: a GPU sums in another
    order, which rounds some weights to their other neighbour.

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
        merged = merged_weight(plain.weight.cpu(), layer_update(layer).cpu(), dtype)
        plain.weight.data = merged.to(plain.weight)
        parent, _, child = name.rpartition(".")
        setattr(model.language_model.get_submodule(parent), child, plain)
    return model
