"""Building, saving and loading models, projectors and adapters in upstream's files."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import RecapError
from ..hashing import digest_json, sha256_file
from ..io import atomic_path, read_json, write_json
from ..settings import LoraSettings
from . import tensors as files
from .configuration import config_from_disk, config_from_parts, config_to_disk
from .loading import assemble, fill_projector, quiet_transformers
from .lora import TARGET_MODULES, adapter_state, add_lora, fill_adapter, has_lora
from .modeling import MGMForCausalLM
from .names import (
    ADAPTER_PREFIX,
    CLIP_PREFIX,
    CONVNEXT_PREFIX,
    checkpoint_state,
    compare_names,
    expected_shapes,
    projector_names,
    projector_suffix,
)
from .openclip import load_convnext_state, weights_file
from .parts import ModelParts
from .processing import ImagePreprocessor

ADAPTER_FILE = "adapter_model.safetensors"
PROJECTOR_FILE = "non_lora_trainables.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def base_sources(parts: ModelParts) -> dict[str, files.TensorSource]:
    """Return the tensors of all three parts under a full checkpoint's names, read lazily."""
    parts.require()
    sources = dict(files.open_model_folder(parts.language_model))
    for name, source in files.open_model_folder(parts.clip).items():
        inner = name.removeprefix("clip.").removeprefix("vision_model.")
        if inner.startswith(("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")):
            if not name.startswith("text_model.") and inner != "embeddings.position_ids":
                sources[CLIP_PREFIX + inner] = source
    aux = files.as_sources(load_convnext_state(parts.convnext))
    return sources | {CONVNEXT_PREFIX + name: source for name, source in aux.items()}


def build_model(
    parts: ModelParts,
    *,
    dtype: str,
    seed: int,
    projector: Path | None = None,
    image_aspect_ratio: str = "square",
    max_length: int = 2048,
) -> MGMForCausalLM:
    """Put a model together from its parts.

    Args:
        parts: the folders.
        dtype: type of the language model and the towers. Projector and mining
            stay in float32, so that a file passes through unchanged.
        seed: of a fresh projector.
        projector: file of a trained projector and mining, instead.
        image_aspect_ratio: ``square`` (stage 1) or ``pad`` (stage 2).
        max_length: longest sequence, image tokens included.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        RecapError: if a folder or file is missing, broken or does not fit.
    """
    config = config_from_parts(
        parts, image_aspect_ratio=image_aspect_ratio, tokenizer_model_max_length=max_length
    )
    state = {name: source.load() for name, source in base_sources(parts).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = assemble(config, state, files.torch_dtype(dtype))
    if projector is not None:
        load_projector(model, projector)
    return model


def load_tokenizer(path: str | Path) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        RecapError: if there is none, or it does not add BOS as MGM expects.
    """
    from transformers import AutoTokenizer

    if not any((Path(path) / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise RecapError(f"{path} holds no tokenizer.json or tokenizer.model")
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    ids = tokenizer("a").input_ids
    if not ids or ids[0] != tokenizer.bos_token_id:
        raise RecapError(f"the tokenizer in {path} does not put BOS first; set add_bos_token")
    return tokenizer


def save_projector(model: MGMForCausalLM, path: str | Path) -> None:
    """Write projector and mining: 16 tensors ``model.<name>``, ``.safetensors`` or ``.bin``."""
    state = projector_state(model)
    write_tensor_file(path, {f"model.{name}": tensor for name, tensor in state.items()})


def projector_state(model: MGMForCausalLM) -> dict[str, torch.Tensor]:
    """Return the 16 tensors of projector and mining by their bare names."""
    state = model.state_dict()
    return {name: state[name].detach().cpu() for name in projector_names()}


def write_tensor_file(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors in the format the suffix asks for, atomically."""
    if Path(path).suffix != ".bin":
        files.write_safetensors(path, tensors)
        return
    plain = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        torch.save(plain, temporary)


def read_projector(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of projector and mining by bare name, whatever prefix the file has."""
    named = (
        (projector_suffix(name), source) for name, source in files.open_tensor_file(path).items()
    )
    return {name: source.load() for name, source in named if name is not None}


def load_projector(model: MGMForCausalLM, path: str | Path) -> None:
    """Copy projector and mining from a file; towers in the same file are ignored.

    Raises:
        RecapError: if the file lacks one of the 16 tensors or one does not fit.
    """
    try:
        fill_projector(model, read_projector(path))
    except RecapError as error:
        raise RecapError(f"{path}: {error}") from error


def describe_base(parts: ModelParts) -> dict[str, str]:
    """Return the fingerprints an adapter is bound to: weights of each part, and tokenizer."""
    convnext = files.open_tensor_file(weights_file(parts.convnext))
    tokenizer = {
        name: sha256_file(parts.language_model / name)
        for name in ("tokenizer.json", "tokenizer.model")
        if (parts.language_model / name).is_file()
    }
    return {
        "language_model": files.fingerprint(files.open_model_folder(parts.language_model)),
        "clip": files.fingerprint(files.open_model_folder(parts.clip)),
        "convnext": files.fingerprint(convnext),
        "tokenizer": digest_json(tokenizer),
    }


def save_adapter(model: MGMForCausalLM, out_dir: str | Path, *, base: dict[str, str]) -> None:
    """Write adapter, projector and configuration.

    Args:
        model: with an adapter attached.
        out_dir: where; created if need be.
        base: fingerprints from :func:`describe_base`.

    Raises:
        RecapError: if there is no adapter.
    """
    if not has_lora(model):
        raise RecapError("there is no adapter to save")
    out = Path(out_dir)
    lora = LoraSettings(**model.config.lora)
    files.write_safetensors(out / ADAPTER_FILE, adapter_state(model))
    prefix = f"{ADAPTER_PREFIX}model."
    state = {prefix + name: tensor for name, tensor in projector_state(model).items()}
    files.write_safetensors(out / PROJECTOR_FILE, state)
    write_json(out / "adapter_config.json", _adapter_config(lora))
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    config = config_to_disk(model.config, dtype)
    config["recap"]["base"] = dict(base)
    write_json(out / "config.json", config)


def _adapter_config(lora: LoraSettings) -> dict[str, Any]:
    return {
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


def read_adapter_settings(adapter_dir: str | Path) -> LoraSettings:
    """Return rank, alpha and dropout of a saved adapter.

    Raises:
        RecapError: if the file is missing or describes something else than LoRA
            on the seven linear layers.
    """
    path = Path(adapter_dir) / "adapter_config.json"
    values = read_json(path)
    try:
        settings = LoraSettings(
            rank=values["r"], alpha=values["lora_alpha"], dropout=values["lora_dropout"]
        )
        targets = set(values["target_modules"])
    except (KeyError, TypeError, ValueError) as error:
        raise RecapError(f"{path} does not describe a LoRA adapter: {error}") from error
    if values.get("peft_type") != "LORA" or targets != set(TARGET_MODULES):
        raise RecapError(
            f"{path}: expected LoRA on {sorted(TARGET_MODULES)}, not {sorted(targets)}"
        )
    for name in ("use_rslora", "use_dora", "fan_in_fan_out"):
        if values.get(name):
            raise RecapError(f"{path}: {name} is not supported")
    return settings


def find_file(folder: str | Path, stem: str) -> Path:
    """Return ``stem.safetensors`` or ``stem.bin`` of a folder.

    Raises:
        RecapError: if there is neither.
    """
    for suffix in (".safetensors", ".bin"):
        if (path := Path(folder) / f"{stem}{suffix}").is_file():
            return path
    raise RecapError(f"{folder} holds neither {stem}.safetensors nor {stem}.bin")


def load_adapter(model: MGMForCausalLM, adapter_dir: str | Path) -> MGMForCausalLM:
    """Attach a saved adapter and load its projector; the model stays in evaluation mode."""
    add_lora(model, read_adapter_settings(adapter_dir), seed=0)
    fill_adapter(model, files.read_tensor_file(find_file(adapter_dir, "adapter_model")))
    load_projector(model, find_file(adapter_dir, "non_lora_trainables"))
    return model.eval()


def save_checkpoint(
    model: MGMForCausalLM,
    tokenizer: Any,
    out_dir: str | Path,
    *,
    dtype: str,
    max_shard_size: str = "5GB",
) -> None:
    """Write a full checkpoint: sharded safetensors with index, configuration, tokenizer."""
    kind = files.torch_dtype(dtype)
    state = {name: tensor.detach().to(kind) for name, tensor in checkpoint_state(model).items()}
    files.write_sharded(files.as_sources(state), out_dir, max_shard_size)
    write_side_files(model.config, Path(tokenizer.name_or_path), Path(out_dir), dtype)


def write_side_files(config: Any, tokenizer_dir: Path, out: Path, dtype: str) -> None:
    """Write configuration and preprocessor, and copy the tokenizer's files unchanged."""
    write_json(out / "config.json", config_to_disk(config, dtype))
    preprocessor = ImagePreprocessor.from_settings(config.preprocessor)
    write_json(out / "preprocessor_config.json", preprocessor.as_dict())
    names = [name for name in TOKENIZER_FILES if (tokenizer_dir / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & set(names):
        raise RecapError(f"{tokenizer_dir} holds no tokenizer files to copy")
    for name in names:
        with atomic_path(out / name) as temporary:
            shutil.copyfile(tokenizer_dir / name, temporary)


def load_checkpoint(
    path: str | Path, *, dtype: str, device: str = "cpu"
) -> tuple[MGMForCausalLM, Any]:
    """Load a full checkpoint and its tokenizer from one folder.

    Args:
        path: the folder.
        dtype: type to compute in; weights are cast.
        device: where to put the model.

    Returns:
        Model in evaluation mode, and tokenizer.

    Raises:
        RecapError: if tensors are missing, surplus, of another shape, or a file is broken.
    """
    config = config_from_disk(path)
    sources = files.open_model_folder(path)
    check_sources(path, sources, expected_shapes(config))
    kind = files.torch_dtype(dtype)
    state = {name: source.load().to(kind) for name, source in sources.items()}
    model = assemble(config, state, kind)
    return model.to(device), load_tokenizer(path)  # type: ignore[arg-type]


def check_sources(
    where: str | Path,
    sources: Mapping[str, files.TensorSource],
    wanted: Mapping[str, tuple[int, ...]],
) -> None:
    """Compare names and shapes with what a model needs.

    Raises:
        RecapError: naming the first differences.
    """
    difference = compare_names(sources, wanted)
    if difference:
        raise RecapError(f"{where}: tensors do not match the configuration: {difference}")
    for name, shape in wanted.items():
        if sources[name].shape != shape:
            raise RecapError(
                f"{where}: {name} has shape {sources[name].shape}, the configuration asks for {shape}"
            )
