"""The values of upstream's ``mm_*`` settings that this model computes; others are refused."""

from collections.abc import Mapping
from typing import Any

from ..errors import RecapError

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "use_mm_proj": (True,),
    "image_grid_pinpoints": (None,),
    "image_aspect_ratio": ("square", "pad"),
    "tokenizer_padding_side": ("right", "left"),
}


def find_unsupported(settings: Mapping[str, Any], clip_layers: int | None) -> dict[str, str]:
    """Return what is wrong, by the name of each setting that would not be honoured.

    Args:
        settings: content of a ``config.json``; an absent or null key stands for the default.
        clip_layers: layers of the CLIP tower, which ``mm_vision_select_layer`` counts.
    """
    wrong = {}
    for name, allowed in SUPPORTED.items():
        value = settings.get(name)
        if value is not None and value not in allowed:
            known = " or ".join(repr(choice) for choice in allowed)
            wrong[name] = f"is {value!r}, but only {known} is implemented"
    layer = settings.get("mm_vision_select_layer")
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int)):
        wrong["mm_vision_select_layer"] = f"is {layer!r}, but only a whole number is implemented"
    elif layer is not None and clip_layers is not None:
        steps = layer if layer >= 0 else clip_layers + 1 + layer
        if not 0 <= steps <= clip_layers:
            problem = f"is {layer}, which a CLIP tower of {clip_layers} layers does not have"
            wrong["mm_vision_select_layer"] = problem
    return wrong


def require_supported(settings: Mapping[str, Any], clip_layers: int | None) -> None:
    """Refuse settings that would not be honoured.

    Raises:
        RecapError: naming each of them.
    """
    wrong = find_unsupported(settings, clip_layers)
    if wrong:
        listed = "; ".join(f"{name} {problem}" for name, problem in wrong.items())
        raise RecapError(f"{listed}; a model trained so would be computed otherwise than it learnt")
