"""Bringing up the parts of a model from folders or from tensors in memory."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, CLIPVisionModel
from transformers.utils import logging

from ..errors import RecapError
from .configuration import MGMConfig
from .convnext import ConvNextTower
from .modeling import MGMForCausalLM
from .names import (
    CLIP_PREFIX,
    CONVNEXT_PREFIX,
    HEAD_NAME,
    projector_names,
    projector_suffix,
)
from .tensors import is_finite


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars and warnings of transformers; what matters is checked here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def is_vision_name(name: str) -> bool:
    """Say whether a checkpoint's tensor belongs to a tower, the projector or mining."""
    return name.startswith((CLIP_PREFIX, CONVNEXT_PREFIX)) or projector_suffix(name) is not None


def assemble(
    config: MGMConfig, state: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> MGMForCausalLM:
    """Return a model in evaluation mode with the given tensors.

    Args:
        config: the configuration; its ``text_config`` decides the class.
        state: names of a full checkpoint; projector and mining may be absent
            and are then freshly initialised from torch's global generator.
        dtype: type of the language model and of the towers. Projector and
            mining keep the type they are given (float32 when fresh).

    Raises:
        RecapError: if a part's tensors do not fit its configuration.
    """
    text = {name: tensor for name, tensor in state.items() if not is_vision_name(name)}
    clip = {k.removeprefix(CLIP_PREFIX): v for k, v in state.items() if k.startswith(CLIP_PREFIX)}
    aux = {
        k.removeprefix(CONVNEXT_PREFIX): v
        for k, v in state.items()
        if k.startswith(CONVNEXT_PREFIX)
    }
    model = MGMForCausalLM(
        config,
        _load_language_model(config, text, dtype),
        _load_clip(config, clip, dtype),
        _load_convnext(config, aux, dtype),
    )
    given = {projector_suffix(name): tensor for name, tensor in state.items()}
    fill_projector(model, {k: v for k, v in given.items() if k is not None}, optional=True)
    for part in (model.vision_tower, model.vision_tower_aux):
        part.requires_grad_(False)
    return model.eval()


def fill_projector(
    model: MGMForCausalLM, tensors: Mapping[str, torch.Tensor], *, optional: bool = False
) -> None:
    """Copy the 16 tensors in, in their own type.

    Raises:
        RecapError: if one is missing (unless none is given and ``optional``) or surplus,
            has another shape, or is not finite.
    """
    if optional and not tensors:
        return
    surplus = sorted(set(tensors) - set(projector_names()))
    if surplus:
        raise RecapError(
            f"projector tensor {surplus[0]} has no place in this model ({len(surplus)} such "
            "tensors): it comes from a projector of another kind"
        )
    for name in projector_names():
        if name not in tensors:
            raise RecapError(f"projector tensor {name} is missing; all 16 are needed")
        module_name, index, kind = name.rsplit(".", 2)
        layer = getattr(model, module_name)[int(index)]
        current, given = getattr(layer, kind), tensors[name]
        if current.shape != given.shape:
            raise RecapError(
                f"projector tensor {name} has shape {tuple(given.shape)}, this model needs "
                f"{tuple(current.shape)}: it comes from a model of another size"
            )
        if not is_finite(given):
            raise RecapError(f"projector tensor {name} holds NaN or infinite values")
        fresh = torch.nn.Parameter(
            given.detach().clone().to(current.device), requires_grad=current.requires_grad
        )
        setattr(layer, kind, fresh)


def _load_language_model(
    config: MGMConfig, state: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> Any:
    kind = AutoModelForCausalLM._model_mapping[type(config.text_config)]
    tensors = {name: tensor.to(dtype) for name, tensor in state.items()}
    if config.text_config.tie_word_embeddings:
        tensors.pop(HEAD_NAME, None)
    return _from_state(kind, config.text_config, tensors, dtype, "language model")


def _load_clip(config: MGMConfig, state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> Any:
    tensors = {f"vision_model.{name}": tensor.to(dtype) for name, tensor in state.items()}
    return _from_state(CLIPVisionModel, config.vision_config, tensors, dtype, "CLIP tower")


def _from_state(kind: Any, config: Any, state: Any, dtype: torch.dtype, what: str) -> Any:
    try:
        with quiet_transformers():
            model, info = kind.from_pretrained(
                None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
            )
    except RuntimeError as error:
        raise RecapError(f"the {what}'s tensors do not fit its configuration: {error}") from error
    problems = {name: sorted(map(str, values)) for name, values in info.items() if values}
    if problems:
        raise RecapError(f"the {what}'s tensors do not fit its configuration: {problems}")
    return model


def _load_convnext(
    config: MGMConfig, state: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> ConvNextTower:
    with torch.device("meta"):
        tower = ConvNextTower(config.convnext["depths"], config.convnext["dims"], config.drop_path)
    tensors = {name: tensor.to(dtype) for name, tensor in state.items()}
    try:
        tower.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise RecapError(
            f"the ConvNeXt tower's tensors do not fit its configuration: {error}"
        ) from error
    return tower
