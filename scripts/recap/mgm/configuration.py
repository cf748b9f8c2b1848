"""The configuration of an MGM model, and its form on disk.

On disk it is upstream's flat ``config.json``: the language model's keys, the
``mm_*`` keys, and under ``recap`` what upstream looks up in folders that may
not exist where the checkpoint is read.
"""

import copy
from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig

from ..errors import RecapError
from .openclip import read_convnext_size
from .parts import ModelParts
from .processing import ImagePreprocessor
from .provenance import SECTION_KEY, read_section
from .reading import CONFIG_ERRORS, read_clip, read_language, read_mapping
from .rope import pop_rope, rope_to_disk
from .supported import require_supported
from .upstream_config import section_from_towers

MODEL_TYPES = {"gemma": "mgm_gemma", "llama": "mgm", "mistral": "mgm_mistral"}
ARCHITECTURES = {
    "gemma": "MGMGemmaForCausalLM",
    "llama": "MGMLlamaForCausalLM",
    "mistral": "MGMMistralForCausalLM",
}
# mm_* keys of upstream's config.json and the values MGM-2B has
MM_DEFAULTS: dict[str, Any] = {
    "mm_hidden_size": 1024,
    "mm_hidden_size_aux": 2880,
    "mm_vision_tower": "clip",
    "mm_vision_tower_aux": "convnext",
    "mm_projector_type": "mlp2x_gelu",
    "mm_projector_lr": None,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "use_mm_proj": True,
    "image_size_aux": 768,
    "image_grid": 1,
    "image_global": False,
    "image_grid_pinpoints": None,
    "image_aspect_ratio": "square",
    "optimize_vision_tower": False,
    "optimize_vision_tower_aux": False,
    "tune_mm_mlp_adapter": False,
    "freeze_mm_mlp_adapter": False,
    "tokenizer_padding_side": "right",
    "tokenizer_model_max_length": 2048,
}
# settings of the library that say nothing about the model
_OMITTED = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "model_type",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
}
_VISION_OMITTED = _OMITTED - {"model_type"}
# keys of a checkpoint's config.json that do not configure the language model
NOT_TEXT = _OMITTED | {SECTION_KEY, "torch_dtype", "use_cache"}


class MGMConfig(PreTrainedConfig):
    """Language model, both towers and the ``mm_*`` settings.

    Attributes:
        text_config: configuration of the language model.
        vision_config: configuration of the CLIP tower.
        convnext: ``{"name", "depths", "dims"}`` of the auxiliary tower.
        preprocessor: ``{"image_size_aux", "mean", "std"}``.
        conversation: name of the template.
        drop_path: stochastic depth of the auxiliary tower in training, 0 is none.

    Raises:
        RecapError: for a value of an ``mm_*`` setting that is not implemented.
    """

    model_type = "mgm"
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: Any = None,
        vision_config: Any = None,
        convnext: dict[str, Any] | None = None,
        preprocessor: dict[str, Any] | None = None,
        conversation: str = "gemma",
        drop_path: float = 0.0,
        **kwargs: Any,
    ) -> None:
        for name, default in MM_DEFAULTS.items():
            given = kwargs.pop(name, None)
            setattr(self, name, default if given is None else given)
        layers = None if vision_config is None else int(vision_config.num_hidden_layers)
        require_supported({name: getattr(self, name) for name in MM_DEFAULTS}, layers)
        self.text_config = pin_activation(text_config)
        self.vision_config = vision_config
        self.convnext = dict(convnext or {})
        self.preprocessor = dict(preprocessor or {})
        self.conversation = conversation
        self.drop_path = drop_path
        if text_config is not None:
            kwargs.setdefault("tie_word_embeddings", bool(text_config.tie_word_embeddings))
        super().__init__(**kwargs)

    @property
    def image_tokens(self) -> int:
        """Tokens a picture becomes: one a CLIP patch and view."""
        side = int(self.vision_config.image_size) // int(self.vision_config.patch_size)
        return side**2 * (self.image_grid**2 + bool(self.image_global))

    def get_text_config(self, *_args: Any, **_kwargs: Any) -> Any:
        """Return the language model's configuration."""
        return self.text_config

    @property
    def hidden_size(self) -> int:
        """Width of the language model."""
        return int(self.text_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""
        return int(self.text_config.vocab_size)


def pin_activation(text_config: Any) -> Any:
    """Make Gemma's activation the tanh GELU, whatever the library's version reads.

    transformers 4.38 takes ``hidden_act: gelu`` for the exact GELU, later
    versions for the tanh form that Gemma was trained with.
    """
    if getattr(text_config, "model_type", None) == "gemma":
        text_config.hidden_act = "gelu_pytorch_tanh"
        text_config.hidden_activation = "gelu_pytorch_tanh"
    return text_config


def config_from_parts(parts: ModelParts, **settings: Any) -> MGMConfig:
    """Return the configuration of a model put together from folders.

    Args:
        parts: the folders.
        settings: values for ``mm_*`` keys, for instance ``image_aspect_ratio``.

    Raises:
        RecapError: if a folder is missing or not what it should be.
    """
    parts.require()
    vision = read_clip(parts.clip)
    convnext = read_convnext_size(parts.convnext)
    preprocessor = ImagePreprocessor.from_parts(parts)
    _check_sizes(parts, vision, convnext)
    return MGMConfig(
        text_config=read_language(parts.language_model),
        vision_config=vision,
        convnext=convnext,
        preprocessor=preprocessor.as_settings(),
        conversation=parts.conversation,
        mm_hidden_size=vision.hidden_size,
        mm_hidden_size_aux=sum(convnext["dims"]),
        mm_vision_tower=parts.clip.name,
        mm_vision_tower_aux=parts.convnext.name,
        image_size_aux=parts.image_size_aux,
        image_grid=parts.image_grid,
        image_global=parts.image_global,
        **settings,
    )


def _check_sizes(parts: ModelParts, vision: Any, convnext: dict[str, Any]) -> None:
    if parts.image_grid < 1 or (parts.image_global and parts.image_grid < 2):
        raise RecapError(
            f"image_grid {parts.image_grid} does not go with image_global {parts.image_global}: "
            "a grid has at least one crop a side, and a global view belongs to two or more"
        )
    grid = vision.image_size // vision.patch_size * parts.image_grid
    stride = 4 * 2 ** (len(convnext["dims"]) - 1)
    size = parts.image_size_aux
    if size % stride or (size // 4) % grid:
        raise RecapError(
            f"image_size_aux {size} does not fit: it must be a multiple of {stride} (ConvNeXt) "
            f"and a quarter of it a multiple of {grid} (CLIP's grid over all crops)"
        )


def config_to_disk(config: MGMConfig, dtype: str) -> dict[str, Any]:
    """Return upstream's flat ``config.json``, portable between machines."""
    text = config.text_config.to_dict()
    kind = text["model_type"]
    flat = {key: value for key, value in text.items() if key not in _OMITTED}
    flat |= rope_to_disk(flat.pop("rope_parameters", None))
    vision = config.vision_config.to_dict()
    flat |= {name: getattr(config, name) for name in MM_DEFAULTS}
    flat |= {
        "architectures": [ARCHITECTURES.get(kind, f"MGM{kind.title()}ForCausalLM")],
        "model_type": MODEL_TYPES.get(kind, f"mgm_{kind}"),
        "torch_dtype": dtype,
        "use_cache": True,
        SECTION_KEY: {
            "text_model_type": kind,
            "vision_config": {k: v for k, v in vision.items() if k not in _VISION_OMITTED},
            "convnext": config.convnext,
            "preprocessor": config.preprocessor,
            "conversation": config.conversation,
            "drop_path": config.drop_path,
        },
    }
    return dict(sorted(flat.items()))


def config_from_disk(
    folder: str | Path, *, clip: str | Path | None = None, convnext: str | Path | None = None
) -> MGMConfig:
    """Read the configuration of a full checkpoint, this library's or upstream's.

    Args:
        folder: the checkpoint.
        clip: folder of the CLIP tower, for a checkpoint that upstream wrote; by
            default the one its ``config.json`` names.
        convnext: the same of the ConvNeXt tower.

    Raises:
        RecapError: if the file is missing, a setting is not implemented, or the towers'
            folders are not found.
    """
    path = Path(folder) / "config.json"
    flat = copy.deepcopy(read_mapping(path))
    ours = read_section(folder) or section_from_towers(path, flat, clip, convnext)
    flat = {key: value for key, value in flat.items() if key not in NOT_TEXT}
    settings = {name: flat.pop(name) for name in MM_DEFAULTS if name in flat}
    try:
        rope = pop_rope(flat)
        return MGMConfig(
            text_config=AutoConfig.for_model(ours["text_model_type"], **flat, **rope),
            vision_config=CLIPVisionConfig(**ours["vision_config"]),
            convnext=ours["convnext"],
            preprocessor=ours["preprocessor"],
            conversation=ours["conversation"],
            drop_path=ours["drop_path"],
            **settings,
        )
    except RecapError as error:
        raise RecapError(f"{path}: {error}") from error
    except CONFIG_ERRORS as error:
        raise RecapError(
            f"{path} does not describe an MGM model: {type(error).__name__}: {error}; restore it "
            "from the run or conversion that wrote it"
        ) from error
