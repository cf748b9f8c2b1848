"""How many captions fit a GPU at once, from a model's files alone.

The number is part of what a caption depends on below float32, so it must not
depend on the machine: it is derived from shapes and a memory budget.
"""

import json
import struct
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json
from ..settings import CaptionSettings

LARGEST = 256
_ON_CPU = 16
_STEP = 32
_GIB = 1 << 30
_FIXED = 1.0 * _GIB  # CUDA context, cuBLAS workspaces, fragmentation


def resolve_batch_size(model: str | Path, settings: CaptionSettings) -> int:
    """Return the captions a forward pass, derived where the setting is ``auto``.

    The estimate adds weights, key-value cache, and the larger of the vision
    tower's and the prefill's activations; docs/performance.md compares it with
    what was measured. Float32 is taken for a run on CPU.

    Raises:
        RecapError: if not even the candidates of one image fit.
    """
    if isinstance(settings.batch_size, int):
        return settings.batch_size
    if settings.dtype == "float32":
        return max(_ON_CPU, settings.candidates)
    config = read_json(Path(model) / "config.json")
    budget = settings.memory_gib * _GIB - _FIXED - 2 * count_parameters(model)
    rows = int(budget // bytes_a_caption(config, settings))
    size = min(LARGEST, rows // _STEP * _STEP if rows >= _STEP else rows)
    if size < settings.candidates:
        raise RecapError(
            f"{model}: {settings.candidates} captions do not fit {settings.memory_gib} GiB; "
            "raise caption.memory_gib, or set caption.batch_size yourself"
        )
    return size


def bytes_a_caption(config: dict[str, Any], settings: CaptionSettings) -> int:
    """Return the bytes that one more row of a batch takes, two bytes a number.

    Args:
        config: the model's ``config.json``; what it leaves out has the default of
            BLIP-2's configuration.
        settings: length of captions, candidates and beams.
    """
    vision = {"hidden_size": 1408, "intermediate_size": 6144, "image_size": 224, "patch_size": 14}
    vision |= config.get("vision_config") or {}
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    tower = patches * (2 * vision["intermediate_size"] + 6 * vision["hidden_size"])
    text = config.get("text_config") or {}
    width = _first(text, ("hidden_size", "d_model"), 2560)
    inner = _first(text, ("ffn_dim", "intermediate_size", "d_ff"), 4 * width)
    layers = _first(text, ("num_hidden_layers", "num_layers"), 32)
    prefix = config.get("num_query_tokens", 32) + 1
    if settings.prompt is not None:
        prefix += len(settings.prompt.encode("utf-8"))  # no tokenizer makes more
    cache = 2 * layers * width * (prefix + settings.max_new_tokens)
    prefill = prefix * (2 * inner + 6 * width)
    logits = 6 * text.get("vocab_size", 50_272)
    rows = cache * settings.num_beams + prefill + logits
    return 2 * max(rows, cache + tower // settings.candidates)


def count_parameters(model: str | Path) -> int:
    """Return the number of parameters in a folder, from its weight files' headers.

    Pickled ``.bin`` files have no such header; they are taken to hold two bytes a
    parameter, which can only overestimate.
    """
    folder = Path(model)
    safe = sorted(folder.glob("*.safetensors"))
    if not safe:
        return sum(path.stat().st_size // 2 for path in folder.glob("*.bin"))
    return sum(_count_safetensors(path) for path in safe)


def _count_safetensors(path: Path) -> int:
    with path.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        except (struct.error, ValueError, OverflowError, MemoryError) as error:
            raise RecapError(f"{path} is not a safetensors file: {error}") from error
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for extent in entry["shape"]:
                count *= extent
            total += count
    return total


def _first(config: dict[str, Any], keys: tuple[str, ...], default: int) -> int:
    return next((int(config[key]) for key in keys if key in config), default)
