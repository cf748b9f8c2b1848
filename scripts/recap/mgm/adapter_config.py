"""What an adapter's folder says of it: PEFT's ``adapter_config.json`` and ``config.json``."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..train_settings import LoraSettings
from .lora import TARGET_MODULES
from .reading import read_mapping

# keys of PEFT that change what an adapter does to a weight in a way not computed here
_REFUSED = (
    "alora_invocation_tokens",
    "arrow_config",
    "exclude_modules",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
# initialisations that move the base's weights too, so that the original base does not fit
_MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_OPTIONAL = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


def adapter_config(lora: LoraSettings) -> dict[str, Any]:
    """Return the content of ``adapter_config.json``; kinds beyond plain LoRA only where used."""
    config: dict[str, Any] = {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": list(TARGET_MODULES),
        "task_type": "CAUSAL_LM",
    }
    return config | {name: value for name in _OPTIONAL if (value := getattr(lora, name))}


def read_adapter_settings(adapter_dir: str | Path) -> LoraSettings:
    """Return the settings of a saved adapter.

    Raises:
        RecapError: if the file is missing or describes something else than
            LoRA, rsLoRA or DoRA on the seven linear layers.
    """
    path = Path(adapter_dir) / "adapter_config.json"
    values = read_mapping(path)
    try:
        optional = {name: values[name] for name in _OPTIONAL if values.get(name)}
        settings = LoraSettings(
            rank=values["r"],
            alpha=values["lora_alpha"],
            dropout=values["lora_dropout"],
            **optional,
        )
        targets = set(values["target_modules"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecapError(f"{path} does not describe a LoRA adapter: {error}") from error
    if values.get("peft_type") != "LORA" or targets != set(TARGET_MODULES):
        raise RecapError(
            f"{path}: expected LoRA on {sorted(TARGET_MODULES)}, not {sorted(targets)}"
        )
    refused = [f"{name} is not supported" for name in _REFUSED if values.get(name)]
    if values.get("bias", "none") != "none":
        refused.append("bias other than none is not supported")
    start = str(values.get("init_lora_weights", True)).lower()
    if start.startswith(_MOVES_BASE):
        refused.append(f"init_lora_weights {start} changed the base too; convert it to plain LoRA")
    if refused:
        raise RecapError(f"{path}: {'; '.join(refused)}")
    return settings


def read_quantization(folder: str | Path) -> dict[str, Any] | None:
    """Return ``quantization_config`` of a folder's ``config.json``, or None.

    An adapter's says how the base was quantised while it was trained (QLoRA);
    a base's says that its own weights are quantised.
    """
    path = Path(folder) / "config.json"
    found = read_mapping(path).get("quantization_config") if path.is_file() else None
    return found if isinstance(found, dict) and found else None


def read_base_name(adapter_dir: str | Path) -> str | None:
    """Return ``base_model_name_or_path`` of an adapter, or None if it names no base."""
    path = Path(adapter_dir) / "adapter_config.json"
    named = read_mapping(path).get("base_model_name_or_path") if path.is_file() else None
    return str(named) if named else None


def names_base(adapter_dir: str | Path, language_model: Path) -> bool:
    """Say whether the base an adapter names is the given folder, by path or by last name."""
    named = read_base_name(adapter_dir)
    if named is None:
        return False
    return (
        Path(named).resolve() == language_model.resolve() or Path(named).name == language_model.name
    )


def adapter_kind(settings: LoraSettings) -> str:
    """Return LoRA, rsLoRA, DoRA or rsDoRA."""
    return f"{'rs' * settings.use_rslora}{'DoRA' if settings.use_dora else 'LoRA'}"
