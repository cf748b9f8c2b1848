"""OpenCLIP folders: reading and writing the ConvNeXt tower."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json, write_json
from .convnext import ConvNextTower, resolve_size
from .processing import CLIP_MEAN, CLIP_STD
from .tensors import TensorSource, open_tensor_file, write_safetensors

CONFIG_FILE = "open_clip_config.json"
SAFETENSORS_FILE = "open_clip_model.safetensors"
PICKLE_FILE = "open_clip_pytorch_model.bin"
_TRUNK = "visual.trunk."


def read_convnext_size(folder: str | Path) -> dict[str, Any]:
    """Return ``{"name", "depths", "dims"}`` that ``open_clip_config.json`` states."""
    path = Path(folder) / CONFIG_FILE
    try:
        vision = read_json(path)["model_cfg"]["vision_cfg"]
        name = str(vision["timm_model_name"])
    except (KeyError, TypeError) as error:
        raise RecapError(f"{path}: model_cfg.vision_cfg.timm_model_name is missing") from error
    return resolve_size(name, vision.get("timm_model_kwargs"))


def weights_file(folder: str | Path) -> Path:
    """Return the weights of an OpenCLIP folder, safetensors preferred."""
    for name in (SAFETENSORS_FILE, PICKLE_FILE):
        if (path := Path(folder) / name).is_file():
            return path
    raise RecapError(f"{folder} holds neither {SAFETENSORS_FILE} nor {PICKLE_FILE}")


def to_tower_name(name: str) -> str | None:
    """Map an OpenCLIP tensor name to the tower's, or to None if MGM drops it."""
    if not name.startswith(_TRUNK):
        return None
    rest = name.removeprefix(_TRUNK)
    for theirs, ours in (("stem.", "vision_stem."), ("stages.", "vision_stages.")):
        if rest.startswith(theirs):
            return ours + rest.removeprefix(theirs)
    return None


def open_convnext(folder: str | Path) -> dict[str, TensorSource]:
    """Return the tower's tensors under the tower's names, read lazily; all others are dropped."""
    sources = open_tensor_file(weights_file(folder))
    named = ((to_tower_name(name), source) for name, source in sources.items())
    return {name: source for name, source in named if name is not None}


def load_convnext_state(folder: str | Path) -> dict[str, Any]:
    """Return what :func:`open_convnext` opens, loaded."""
    return {name: source.load() for name, source in open_convnext(folder).items()}


def save_openclip_convnext(
    tower: ConvNextTower,
    folder: str | Path,
    *,
    timm_model_name: str = "convnext_large",
    image_size: int = 320,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
) -> None:
    """Write a tower as an OpenCLIP folder that :func:`load_convnext_state` reads.

    Args:
        tower: the tower; its depths and widths are written as
            ``timm_model_kwargs``, so that any size is found again.
        folder: where; created if need be.
        timm_model_name: the timm name in the configuration.
        image_size: the size in the configuration.
        mean: pixel mean; must equal the CLIP tower's.
        std: pixel standard deviation; must equal the CLIP tower's.
    """
    vision = {
        "timm_model_name": timm_model_name,
        "timm_model_pretrained": False,
        "timm_model_kwargs": {"depths": tower.depths, "dims": tower.dims},
        "timm_pool": "",
        "timm_proj": "mlp",
        "image_size": image_size,
    }
    config = {
        "model_cfg": {"vision_cfg": vision},
        "preprocess_cfg": {"mean": list(mean), "std": list(std)},
    }
    state = {
        _TRUNK + name.removeprefix("vision_"): tensor for name, tensor in tower.state_dict().items()
    }
    write_safetensors(Path(folder) / SAFETENSORS_FILE, state)
    write_json(Path(folder) / CONFIG_FILE, config)
