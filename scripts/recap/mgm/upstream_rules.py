"""What upstream's loaders demand of names and keys; nothing here reads weights.

Upstream picks the class by the folder's name, the towers by their paths, and
reads configurations with transformers 4.38 and PEFT 0.4.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecapError

logger = logging.getLogger(__name__)

# by type of the language model: a folder's name must hold one of these words ...
SIZE_WORDS = {"gemma": ("2b",), "llama": ("7b", "13b", "8b"), "mistral": ("7b",)}
# ... and, since upstream looks for these first, none of the others' words
_ROUTING_WORDS = ("8x7b", "2b")
# keys of transformers 4.38's configuration classes, without what it fills in itself
_COMMON_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "hidden_act",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
)
LANGUAGE_KEYS: dict[str, tuple[str, ...]] = {
    "gemma": (*_COMMON_KEYS, "head_dim", "rope_scaling", "attention_bias"),
    "llama": (*_COMMON_KEYS, "rope_scaling", "attention_bias", "pretraining_tp"),
    "mistral": (*_COMMON_KEYS, "sliding_window"),
}
TIED_BY_DEFAULT = {"gemma": True, "llama": False, "mistral": False}
# of PEFT 0.4.0's LoraConfig; it refuses any other
PEFT_KEYS = (
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "revision",
    "target_modules",
    "task_type",
)
_AUX_FILES = ("open_clip_pytorch_model.bin", "open_clip_config.json")
_AUX_WORDS = ("openclip", "convnext", "large", "d-320")


@dataclass(frozen=True)
class UpstreamTowers:
    """Where upstream finds the towers on the machine it runs on.

    Attributes:
        clip: written as ``mm_vision_tower``.
        convnext: written as ``mm_vision_tower_aux``.
    """

    clip: str
    convnext: str

    def __post_init__(self) -> None:
        """Check both paths against upstream's rules.

        Raises:
            RecapError: naming the rule that is broken.
        """
        if "openai" not in self.clip.lower() and "ShareGPT4V" not in self.clip:
            raise RecapError(
                f"--vision-tower {self.clip}: upstream takes a path for CLIP only if it contains "
                "'openai' or 'ShareGPT4V'; rename or link the folder, for instance "
                "openai/clip-vit-large-patch14-336"
            )
        missing = [word for word in _AUX_WORDS if word not in self.convnext]
        if missing:
            raise RecapError(
                f"--vision-tower-aux {self.convnext}: upstream takes a path for ConvNeXt only if "
                f"it contains {', '.join(_AUX_WORDS)}; {', '.join(missing)} is missing; rename or "
                "link the folder, for instance openclip-convnext-large-d-320-laion2B-s29B-b131K"
            )
        self._check_files()

    def _check_files(self) -> None:
        folder = Path(self.convnext)
        if not folder.is_dir():
            logger.warning("%s does not exist here; it must where upstream runs", folder)
            return
        absent = [name for name in _AUX_FILES if not (folder / name).is_file()]
        if absent:
            raise RecapError(
                f"--vision-tower-aux {folder} lacks {', '.join(absent)}, which upstream reads"
            )


def require_folder_name(folder: str | Path, language: str) -> None:
    """Check a checkpoint's folder name: upstream chooses the model's class by it.

    Args:
        folder: the folder to be written.
        language: model type of the language model.

    Raises:
        RecapError: with the rule and a name that satisfies it.
    """
    problem = find_name_problem(folder, language)
    if problem is not None:
        raise RecapError(problem)


def find_name_problem(folder: str | Path, language: str) -> str | None:
    """Return why upstream would not load a folder by its name, with a better one, or None."""
    if language not in SIZE_WORDS:
        return (
            f"upstream has no class for the language model {language!r}; it knows "
            f"{', '.join(sorted(SIZE_WORDS))}"
        )
    name, words = Path(folder).resolve().name, SIZE_WORDS[language]
    lower = name.lower()
    foreign = [word for word in _ROUTING_WORDS if word in lower and word not in words]
    fits = "mgm" in lower and any(word in lower for word in words)
    if fits and not foreign and not lower.startswith("checkpoint-"):
        return None
    rest = lower.removeprefix("checkpoint-")
    for word in ("mgm", *foreign):
        rest = rest.replace(word, "")
    suggestion = "-".join(part for part in ("mgm", words[0], rest.strip("-_.")) if part)
    return (
        f"the folder name {name!r} does not work with upstream, which chooses the class by it: it "
        f"must contain 'mgm' and {' or '.join(words)}, not start with 'checkpoint-'"
        + (f" and not contain {' or '.join(foreign)}" if foreign else "")
        + f"; for instance {suggestion}"
    )


def peft_config(values: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """Return an ``adapter_config.json`` with PEFT 0.4's keys alone.

    Args:
        values: what the file holds now.
        where: its path, for the message.

    Raises:
        RecapError: if the adapter is of a kind that PEFT 0.4 does not know.
    """
    for name, value in values.items():
        if name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") and value:
            raise RecapError(
                f"{where}: {name} is unknown to PEFT 0.4, which upstream uses; merge the adapter "
                "with merge_lora_weights.py and hand over the merged checkpoint"
            )
    return {name: values.get(name) for name in PEFT_KEYS}
