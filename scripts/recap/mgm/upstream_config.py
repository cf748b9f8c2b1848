"""Upstream's ``config.json``: reading it with the towers' folders, and writing it.

Upstream's file names folders instead of describing the towers. What a written
one cannot say lies beside it in ``recap_config.json``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from ..errors import RecapError
from .families import LANGUAGES, family_template
from .openclip import read_convnext_size
from .parts import ModelParts
from .processing import ImagePreprocessor
from .provenance import SECTION_KEY
from .reading import read_clip
from .rope import upstream_scaling
from .upstream_rules import LANGUAGE_KEYS, TIED_BY_DEFAULT, UpstreamTowers

_LANGUAGES = {name: kind for name, kind in LANGUAGES.items() if name.startswith("mgm")}


def section_from_towers(
    path: Path,
    flat: dict[str, Any],
    clip: str | Path | None = None,
    convnext: str | Path | None = None,
) -> dict[str, Any]:
    """Describe the towers of a checkpoint that upstream wrote.

    Args:
        path: its ``config.json``.
        flat: the file's content.
        clip: folder of the CLIP tower; by default the one in the file.
        convnext: folder of the ConvNeXt tower; by default the one in the file.

    Returns:
        What this library's own files carry under ``recap``.

    Raises:
        RecapError: if a folder is not found, or does not fit the file.
    """
    language = _LANGUAGES.get(str(flat.get("model_type")))
    if language is None:
        raise RecapError(
            f"{path} has model_type {flat.get('model_type')!r}; an MGM checkpoint has one of "
            f"{', '.join(sorted(_LANGUAGES))}"
        )
    parts = ModelParts(
        language_model=path.parent,
        clip=_tower(path, flat, "mm_vision_tower", "--clip", clip),
        convnext=_tower(path, flat, "mm_vision_tower_aux", "--convnext", convnext),
        image_size_aux=int(flat.get("image_size_aux") or 768),
    )
    vision = read_clip(parts.clip)
    size = read_convnext_size(parts.convnext)
    for key, found in (
        ("mm_hidden_size", vision.hidden_size),
        ("mm_hidden_size_aux", sum(size["dims"])),
    ):
        if flat.get(key, found) != found:
            raise RecapError(
                f"{path} says {key} {flat[key]}, but the tower's folder has {found}: pass the "
                "folders the checkpoint was trained with (--clip, --convnext)"
            )
    return {
        "text_model_type": language,
        "vision_config": vision.to_diff_dict() | {"model_type": vision.model_type},
        "convnext": size,
        "preprocessor": ImagePreprocessor.from_parts(parts).as_settings(),
        "conversation": family_template(path.parent, flat),
        "drop_path": 0.0,
    }


def _tower(
    path: Path, flat: Mapping[str, Any], key: str, option: str, given: str | Path | None
) -> Path:
    if given is not None:
        if not Path(given).is_dir():
            raise RecapError(f"{option} {given} is not a folder")
        return Path(given)
    named = flat.get(key)
    if isinstance(named, str) and named:
        for folder in (Path(named), path.parent / named):
            if (folder / "config.json").is_file() or (folder / "open_clip_config.json").is_file():
                return folder
    raise RecapError(
        f"{path} was written by upstream and names {key} {named!r}, which is not a folder here; "
        f"pass the tower's folder with {option} (convert_checkpoint.py takes it)"
    )


def upstream_config(
    flat: Mapping[str, Any], towers: UpstreamTowers, *, adapter: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split this library's ``config.json`` into upstream's and what goes beside it.

    Gemma's activation stays ``gelu_pytorch_tanh`` and ``hidden_activation`` is
    left out: so transformers 4.38, 4.39 and later all compute the tanh GELU
    this library computes.

    Args:
        flat: content of a ``config.json`` with the section ``recap``.
        towers: paths to write for the towers.
        adapter: whether it goes with an adapter, for which upstream writes the
            language model's own class.

    Returns:
        Upstream's configuration, and the section.

    Raises:
        RecapError: if the rotary positions are scaled in a way that upstream cannot compute.
    """
    from .configuration import MM_DEFAULTS

    section = dict(flat[SECTION_KEY])
    language = section["text_model_type"]
    keys = (*LANGUAGE_KEYS[language], *MM_DEFAULTS)
    written = {key: flat[key] for key in keys if key in flat}
    scaling = upstream_scaling(language, flat.get("rope_scaling"))
    if "rope_scaling" in written:
        written["rope_scaling"] = scaling
    if flat.get("tie_word_embeddings", TIED_BY_DEFAULT[language]) != TIED_BY_DEFAULT[language]:
        written["tie_word_embeddings"] = flat["tie_word_embeddings"]
    kind = f"{language.title()}ForCausalLM"
    written |= {
        "architectures": [kind] if adapter else flat["architectures"],
        "model_type": flat["model_type"],
        "mm_vision_tower": towers.clip,
        "mm_vision_tower_aux": towers.convnext,
        "torch_dtype": flat["torch_dtype"],
        "transformers_version": transformers.__version__,
        "use_cache": True,
    }
    return dict(sorted(written.items())), section
