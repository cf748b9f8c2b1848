"""Rewriting the files of an adapter, or of stage 1's projector, in the other form."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import RecapError
from ..io import read_json, write_json
from . import tensors as files
from .adapter_config import read_adapter_settings
from .adapters import find_file, projector_sources, write_tensor_file
from .checkpoint import open_towers
from .checkpoint_files import cast_finite, check_sources, load_finite
from .configuration import MGMConfig, config_from_disk, config_to_disk
from .lora import expected_adapter_shapes
from .names import expected_shapes, projector_names
from .parts import ModelParts
from .provenance import (
    SECTION_FILE,
    SECTION_KEY,
    TensorTable,
    open_trained_file,
    read_section,
    recorded_base,
    tensor_table,
)
from .upstream_config import upstream_config
from .upstream_rules import UpstreamTowers, peft_config

logger = logging.getLogger(__name__)
_STEMS = {"adapter": ("adapter_model", "non_lora_trainables"), "projector": ("mm_projector",)}


@dataclass(frozen=True)
class Conversion:
    """What to write.

    Attributes:
        towers: paths for upstream's form; None writes this pipeline's.
        dtype: type to cast to; None keeps each tensor's.
        max_shard_size: of a full checkpoint, such as ``5GB``.
        clip: folder of the CLIP tower, for files that do not describe it.
        convnext: folder of the ConvNeXt tower, for the same.
        verify: whether a full checkpoint's tensors must be those of its manifest.
    """

    towers: UpstreamTowers | None = None
    dtype: str | None = None
    max_shard_size: str = "5GB"
    clip: Path | None = None
    convnext: Path | None = None
    verify: bool = False

    @property
    def suffix(self) -> str:
        """End of the names of files of trained tensors."""
        return ".safetensors" if self.towers is None else ".bin"


def checked_sources(
    where: Path, sources: Mapping[str, files.TensorSource], dtype: str | None
) -> dict[str, files.TensorSource]:
    """Return sources that refuse NaN and overflow when they are read, cast if asked to."""
    kind = None if dtype is None else files.torch_dtype(dtype)

    def reading(name: str, source: files.TensorSource) -> files.TensorSource:
        def load() -> torch.Tensor:
            if kind is None:
                return load_finite(where, name, source)
            return cast_finite(where, name, source, kind)

        return files.TensorSource(source.shape, kind or source.dtype, load)

    return {name: reading(name, source) for name, source in sources.items()}


def convert_trained(
    root: Path, partial: Path, kind: str, what: Conversion
) -> dict[str, TensorTable]:
    """Convert the files of an adapter's or of stage 1's folder.

    Args:
        root: the folder to read.
        partial: the folder to write.
        kind: ``adapter`` or ``projector``.
        what: form, type and towers.

    Returns:
        Type, shape and hash of each tensor, by file.

    Raises:
        RecapError: if a file is broken, or a tensor is missing, empty, not finite
            or of a shape that the configuration does not ask for.
    """
    config = _stored_config(root, what)
    tables = {}
    for stem in _STEMS[kind]:
        path = find_file(root, stem)
        sources = open_trained_file(path)
        if stem == "adapter_model":
            _require_adapter(path, sources, config)
        else:
            _require_projector(path, sources, config)
        if stem == "mm_projector" and what.towers is not None:
            sources = sources | _towers_of(sources, what)
        written = partial / f"{stem}{what.suffix}"
        ready = checked_sources(path, sources, what.dtype)
        write_tensor_file(written, {name: source.load() for name, source in ready.items()})
        tables[written.name] = tensor_table(written)
    if kind == "adapter":
        _write_adapter_config(root, partial, what)
    _write_config(root, partial, config, kind, what)
    return tables


def _require_adapter(
    path: Path, sources: Mapping[str, files.TensorSource], config: MGMConfig | None
) -> None:
    settings = read_adapter_settings(path.parent)
    if config is not None:
        check_sources(path, sources, expected_adapter_shapes(expected_shapes(config), settings))


def _require_projector(
    path: Path, sources: Mapping[str, files.TensorSource], config: MGMConfig | None
) -> None:
    """Check that the 16 tensors are there and no others, with their shapes if known."""
    found = projector_sources(path, sources)
    missing = [name for name in projector_names() if name not in found]
    if missing:
        raise RecapError(
            f"{path}: projector tensor {missing[0]} is missing ({len(missing)} of 16); take the "
            "file that the stage itself wrote"
        )
    surplus = sorted(set(found) - set(projector_names()))
    if surplus:
        raise RecapError(f"{path}: {surplus[0]} has no place in MGM's projector or mining")
    if config is not None:
        check_sources(path, found, _projector_shapes(config))


def _projector_shapes(config: MGMConfig) -> dict[str, tuple[int, ...]]:
    shapes = expected_shapes(config)
    return {name: shapes[f"model.{name}"] for name in projector_names()}


def _towers_of(
    sources: Mapping[str, files.TensorSource], what: Conversion
) -> dict[str, files.TensorSource]:
    """Return the towers' tensors for the 747-tensor form, if asked for and not there yet."""
    if what.clip is None or what.convnext is None or len(sources) > len(projector_names()):
        return {}
    return open_towers(ModelParts(what.clip, what.clip, what.convnext))


def _stored_config(root: Path, what: Conversion) -> MGMConfig | None:
    """Return the model's configuration if the folder has one that can be completed."""
    if not (root / "config.json").is_file():
        return None
    if read_section(root) is None and (what.clip is None or what.convnext is None):
        logger.warning("%s does not describe the towers; shapes are checked on loading", root)
        return None
    return config_from_disk(root, clip=what.clip, convnext=what.convnext)


def _write_adapter_config(root: Path, partial: Path, what: Conversion) -> None:
    path = root / "adapter_config.json"
    values = read_json(path)
    if what.towers is not None:
        values = peft_config(values, path)
    write_json(partial / path.name, values)


def _write_config(
    root: Path, partial: Path, config: MGMConfig | None, kind: str, what: Conversion
) -> None:
    path = root / "config.json"
    if not path.is_file():
        return
    stored = read_json(path)
    if config is None:
        write_json(partial / path.name, stored | _tower_keys(what))
        return
    flat = config_to_disk(config, what.dtype or str(stored.get("torch_dtype", "bfloat16")))
    base = recorded_base(root)
    if base is not None:
        flat[SECTION_KEY]["base"] = base
    if what.towers is None:
        write_json(partial / "config.json", flat)
        return
    theirs, section = upstream_config(flat, what.towers, adapter=kind == "adapter")
    write_json(partial / "config.json", theirs)
    write_json(partial / SECTION_FILE, section)


def _tower_keys(what: Conversion) -> dict[str, str]:
    if what.towers is None:
        return {}
    return {"mm_vision_tower": what.towers.clip, "mm_vision_tower_aux": what.towers.convnext}
