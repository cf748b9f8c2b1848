"""Files of what is trained: projector with mining, and the adapter."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import RecapError
from ..io import atomic_path, write_json
from ..train_settings import LoraSettings
from . import tensors as files
from .adapter_config import adapter_config, read_adapter_settings
from .configuration import MGMConfig, config_from_parts, config_to_disk
from .loading import fill_projector
from .lora import adapter_state, add_lora, fill_adapter, has_lora
from .modeling import MGMForCausalLM
from .names import ADAPTER_PREFIX, is_tower_name, projector_names, projector_suffix
from .parts import ModelParts
from .provenance import open_trained_file
from .reading import read_mapping
from .supported import require_supported

# what an adapter's config.json says of its training and the base's folders do not
_CARRIED = (
    "image_aspect_ratio",
    "mm_vision_select_layer",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
)
ADAPTER_FILE = "adapter_model.safetensors"
PROJECTOR_FILE = "non_lora_trainables.safetensors"
TOWERS_TRAINED = "is true: a tower was trained, and an adapter's folder does not hold its weights"
TAKE_FROZEN = "take a run that left the towers frozen, or merge with the code that trained it"


def save_projector(model: MGMForCausalLM, path: str | Path) -> None:
    """Write projector and mining: 16 tensors ``model.<name>``, ``.safetensors`` or ``.bin``."""
    state = projector_state(model)
    write_tensor_file(path, {f"model.{name}": tensor for name, tensor in state.items()})


def projector_state(model: MGMForCausalLM) -> dict[str, torch.Tensor]:
    """Return the 16 tensors of projector and mining by their bare names."""
    state = model.state_dict()
    return {name: state[name].detach().cpu() for name in projector_names()}


def write_tensor_file(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors in the format the suffix asks for, atomically.

    Raises:
        RecapError: if torch cannot write its file.
    """
    if Path(path).suffix != ".bin":
        files.write_safetensors(path, tensors)
        return
    plain = {name: tensors[name].detach().cpu().clone() for name in sorted(tensors)}
    # through a stream: given a path, torch writes the temporary file's name into the archive
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(plain, stream)
        except RuntimeError as error:
            raise RecapError(f"{path} cannot be written, is the disk full? {error}") from error


def read_projector(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of projector and mining by bare name, whatever prefix the file has.

    Raises:
        RecapError: if the file is broken, or holds tensors that would be lost.
    """
    sources = projector_sources(path, open_trained_file(path))
    return {name: source.load() for name, source in sources.items()}


def projector_sources(
    path: str | Path, sources: Mapping[str, files.TensorSource]
) -> dict[str, files.TensorSource]:
    """Return the tensors of projector and mining among a file's, by bare name.

    Upstream's ``mm_projector`` of stage 1 holds the frozen towers too; they are
    the base's own and passed over. Any other tensor was trained, and leaving it
    out would change the model.

    Args:
        path: of the file, for the message; ``config.json`` beside it tells whether the
            towers were trained.
        sources: the file's tensors.

    Raises:
        RecapError: naming the first tensor that would be lost.
    """
    towers_are_frozen = Path(path).stem == "mm_projector" and not trained_towers(Path(path).parent)
    found: dict[str, files.TensorSource] = {}
    lost = []
    for name, source in sources.items():
        bare = projector_suffix(name)
        if bare is not None and bare not in found:
            found[bare] = source
        elif bare is not None or not (towers_are_frozen and is_tower_name(name)):
            lost.append(name)
    if lost:
        raise RecapError(
            f"{path}: {min(lost)} is no tensor of projector or mining ({len(lost)} such tensors), "
            "and would be lost: here the language model is trained by an adapter alone and the "
            "towers are frozen. Take the file of a run that left them frozen, or merge with the "
            "code that trained it"
        )
    return found


def trained_towers(folder: str | Path) -> list[str]:
    """Return the settings by which a folder's ``config.json`` says that a tower was trained."""
    path = Path(folder) / "config.json"
    stored = read_mapping(path) if path.is_file() else {}
    names = ("optimize_vision_tower", "optimize_vision_tower_aux")
    return [name for name in names if stored.get(name)]


def load_projector(model: MGMForCausalLM, path: str | Path) -> None:
    """Copy projector and mining from a file; frozen towers in the same file are passed over.

    Raises:
        RecapError: if the file lacks one of the 16 tensors, holds another, one does
            not fit, or is not what the manifest beside the file says.
    """
    tensors = read_projector(path)
    try:
        fill_projector(model, tensors)
    except RecapError as error:
        raise RecapError(f"{path}: {error}") from error


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
    write_json(out / "adapter_config.json", adapter_config(lora))
    dtype = files.dtype_name(model.get_input_embeddings().weight.dtype)  # type: ignore[arg-type]
    config = config_to_disk(model.config, dtype)
    config["recap"]["base"] = dict(base)
    write_json(out / "config.json", config)


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
    """Attach a saved adapter and load its projector; the model stays in evaluation mode.

    Whether the adapter was trained on this base is for the caller to ask
    (:func:`recap.mgm.provenance.require_base`), who knows the base's folders.

    Raises:
        RecapError: if a file is broken, a tensor does not fit this base, or is
            not what the manifest in the folder says.
    """
    path = find_file(adapter_dir, "adapter_model")
    tensors = {name: source.load() for name, source in open_trained_file(path).items()}
    add_lora(model, read_adapter_settings(adapter_dir), seed=0)
    try:
        fill_adapter(model, tensors)
    except RecapError as error:
        raise RecapError(f"{path}: {error}") from error
    load_projector(model, find_file(adapter_dir, "non_lora_trainables"))
    return model.eval()


def adapter_model_config(adapter_dir: str | Path, parts: ModelParts) -> MGMConfig:
    """Return the base's configuration with what the adapter was trained with.

    Raises:
        RecapError: if a setting is not implemented, a tower was trained, or a part's folder
            is broken.
    """
    path = Path(adapter_dir) / "config.json"
    stored = read_mapping(path) if path.is_file() else {}
    try:
        require_supported(stored, None)
    except RecapError as error:
        raise RecapError(f"{path}: {error}") from error
    if towers := trained_towers(adapter_dir):
        raise RecapError(f"{path}: {towers[0]} {TOWERS_TRAINED}; {TAKE_FROZEN}")
    settings = {name: stored[name] for name in _CARRIED if stored.get(name) is not None}
    return config_from_parts(parts, **({"image_aspect_ratio": "pad"} | settings))
