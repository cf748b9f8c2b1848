"""Tensor names: in the module tree and in upstream's files.

Upstream keeps the vision parts inside the language model's inner ``model`` and
its CLIP tower two levels deep; our module tree keeps the parts side by side.
"""

from collections.abc import Iterable

import torch

from ..errors import RecapError
from .configuration import MGMConfig
from .modeling import PROJECTOR_MODULES, MGMForCausalLM

CLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."
CONVNEXT_PREFIX = "model.vision_tower_aux."
ADAPTER_PREFIX = "base_model.model."
HEAD_NAME = "lm_head.weight"
_LANGUAGE = "language_model."
_CLIP = "vision_tower.vision_tower."


def to_disk_name(name: str) -> str:
    """Map a name of :class:`MGMForCausalLM`'s state to a full checkpoint's."""
    if name.startswith(_LANGUAGE):
        return name.removeprefix(_LANGUAGE)
    if name.startswith(_CLIP):
        return CLIP_PREFIX + name.removeprefix(_CLIP).removeprefix("vision_model.")
    return f"model.{name}"


def checkpoint_state(model: MGMForCausalLM) -> dict[str, torch.Tensor]:
    """Return the tensors of a full checkpoint under their names on disk, in name order.

    Raises:
        RecapError: if an adapter is still attached.
    """
    state = {to_disk_name(name): tensor for name, tensor in model.state_dict().items()}
    if any(".lora_" in name for name in state):
        raise RecapError("an adapter is attached; merge it before saving a full checkpoint")
    if model.config.text_config.tie_word_embeddings:
        state.pop(HEAD_NAME, None)
    return dict(sorted(state.items()))


def meta_model(config: MGMConfig) -> MGMForCausalLM:
    """Return the model without storage, for names and shapes."""
    with torch.device("meta"):
        return MGMForCausalLM(config)


def expected_shapes(config: MGMConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor a full checkpoint of ``config`` has."""
    state = checkpoint_state(meta_model(config))
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def projector_names() -> list[str]:
    """Return the 16 names ``<module>.<index>.<kind>`` of projector and mining."""
    return [
        f"{module}.{index}.{kind}"
        for module in PROJECTOR_MODULES
        for index in (("0", "2") if module == "mm_projector" else ("0", "1"))
        for kind in ("weight", "bias")
    ]


def projector_suffix(name: str) -> str | None:
    """Return ``<module>.<index>.<kind>`` of a name with any prefix, or None if it is another's."""
    for module in PROJECTOR_MODULES:
        head, found, tail = name.partition(f"{module}.")
        if found and (not head or head.endswith(".")):
            return f"{module}.{tail}"
    return None


def is_tower_name(name: str) -> bool:
    """Say whether a trained file's tensor belongs to one of the two towers."""
    return any(part in ("vision_tower", "vision_tower_aux") for part in name.split("."))


def compare_names(found: Iterable[str], wanted: Iterable[str]) -> str | None:
    """Say in a few words how two sets of names differ, or return None."""
    missing = sorted(set(wanted) - set(found))
    extra = sorted(set(found) - set(wanted))
    parts = []
    for label, names in (("missing", missing), ("unexpected", extra)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{label} {', '.join(names[:3])}{more}")
    return "; ".join(parts) or None
