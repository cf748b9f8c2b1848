"""Settings that decide what a model computes, held against those of its base."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig

from ..errors import RecapError
from .configuration import (
    MM_DEFAULTS,
    NOT_TEXT,
    MGMConfig,
    config_to_disk,
    pin_activation,
)
from .families import LANGUAGES
from .processing import ImagePreprocessor
from .provenance import SECTION_KEY, read_section
from .reading import CONFIG_ERRORS, read_mapping
from .rope import pop_rope, rope_to_disk

Difference = dict[str, Any]

_SIZES = ("mm_hidden_size", "mm_hidden_size_aux")
_ROPE = ("rope_theta", "rope_scaling")
# of the file, its place and its training: they say nothing about the answers
_PLACES = {"torch_dtype", "mm_vision_tower", "mm_vision_tower_aux", "drop_path"}
# of training and of generation by the library, which is not used here
_TRAINING = {
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "initializer_factor",
    "initializer_range",
    "pad_token_id",
    "pretraining_tp",
    "use_cache",
}


def config_differences(found: MGMConfig, wanted: MGMConfig) -> list[Difference]:
    """Return what differs between two configurations of full models.

    Towers' names, the weights' type and stochastic depth are left aside, and keys that
    the configurations' classes do not know.

    Returns:
        ``{"name", "found", "expected"}`` each.
    """
    ours, theirs = (_flatten(config_to_disk(config, "")) for config in (found, wanted))
    known = _known(wanted.text_config) | {f"vision_config.{n}" for n in _known(CLIPVisionConfig())}
    known |= {*MM_DEFAULTS, *_ROPE, "text_model_type", "convnext", "preprocessor", "conversation"}
    return _differences(ours, theirs, known - _PLACES)


def adapter_differences(
    adapter_dir: str | Path, base: MGMConfig, known_wrong: Iterable[str] = ()
) -> list[Difference]:
    """Return the settings that an adapter was trained with and its base does not have.

    Only what the adapter's files state is compared: upstream's ``config.json`` does not
    describe the towers.

    Args:
        adapter_dir: the adapter's folder.
        base: configuration of the base.
        known_wrong: settings that were found wrong before.

    Returns:
        ``{"name", "found", "expected"}`` each; ``found`` is the adapter's.

    Raises:
        RecapError: if a file of the adapter's is not a configuration.
    """
    path = Path(adapter_dir) / "config.json"
    stored = read_mapping(path) if path.is_file() else {}
    section = read_section(adapter_dir) or {}
    wanted = _flatten(config_to_disk(base, ""))
    try:
        ours = _text_settings(stored, section, base)
        ours |= {name: stored[name] for name in _SIZES if stored.get(name) is not None}
        ours |= _tower_settings(section, base)
    except CONFIG_ERRORS as error:
        raise RecapError(
            f"{path} does not describe a model: {error}; restore it from the adapter's run"
        ) from error
    skipped = {*_PLACES, *_TRAINING, *(f"vision_config.{name}" for name in _TRAINING)}
    return _differences(ours, wanted, set(ours) - skipped - set(known_wrong))


def _text_settings(
    stored: Mapping[str, Any], section: Mapping[str, Any], base: MGMConfig
) -> dict[str, Any]:
    """Return what a flat ``config.json`` states of the language model, in the form on disk."""
    wanted = base.text_config.model_type
    named = section.get("text_model_type", stored.get("model_type", wanted))
    kind = LANGUAGES.get(str(named), str(named))
    if kind != wanted:
        return {"text_model_type": kind}
    flat = {key: value for key, value in stored.items() if key not in {*NOT_TEXT, *MM_DEFAULTS}}
    known = set(flat) & _known(base.text_config)
    rope = pop_rope(flat)
    text = pin_activation(AutoConfig.for_model(kind, **flat, **rope))
    read = text.to_dict()
    positions = rope_to_disk(read.get("rope_parameters")) if rope else {}
    return {name: read[name] for name in known if name in read} | positions


def _tower_settings(section: Mapping[str, Any], base: MGMConfig) -> dict[str, Any]:
    """Return what this library's section states of the towers and of pictures."""
    found: dict[str, Any] = {}
    if "vision_config" in section:
        vision = CLIPVisionConfig(**section["vision_config"]).to_dict()
        known = _known(base.vision_config) - {"model_type"}
        found |= {f"vision_config.{name}": vision[name] for name in known if name in vision}
    if "convnext" in section:
        found["convnext"] = dict(section["convnext"])
    if "preprocessor" in section:
        settings = ImagePreprocessor.from_settings(section["preprocessor"])
        found["preprocessor"] = settings.as_settings()
    return found


def _known(config: Any) -> set[str]:
    """Return the keys that a configuration's class knows and that reach the disk."""
    return set(type(config)().to_dict()) - NOT_TEXT


def _flatten(disk: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``config.json`` with the section's keys, and those of CLIP by their full names."""
    section = dict(disk[SECTION_KEY])
    vision = section.pop("vision_config")
    rest = {key: value for key, value in disk.items() if key != SECTION_KEY}
    return rest | section | {f"vision_config.{name}": value for name, value in vision.items()}


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], names: Iterable[str]
) -> list[Difference]:
    return [
        {"name": name, "found": ours.get(name), "expected": theirs.get(name)}
        for name in sorted(names)
        if ours.get(name) != theirs.get(name)
    ]
