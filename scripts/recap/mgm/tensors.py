"""Files of named tensors: safetensors and pickled ``.bin``, sharded or not."""

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import RecapError
from ..io import atomic_path, read_json, write_json
from .digests import describe_tensor

INDEX_FILE = "model.safetensors.index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class TensorSource:
    """A tensor that is only read when it is needed.

    Attributes:
        shape: its shape.
        dtype: its type.
        load: reads it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.dtype.itemsize * int(torch.Size(self.shape).numel())


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch type of a settings name.

    Raises:
        RecapError: for any other name.
    """
    if name not in DTYPES:
        raise RecapError(f"unknown dtype {name!r}; known: {sorted(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the settings name of a torch type."""
    return str(dtype).removeprefix("torch.")


def is_finite(tensor: torch.Tensor) -> bool:
    """Say whether a tensor is free of NaN and infinite values; makes no copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # both propagate NaN
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor))


def write_safetensors(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors in name order, atomically; equal tensors give equal bytes."""
    ready: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        # the format refuses tensors that share storage
        ready[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    with atomic_path(path) as temporary:
        try:
            save_file(ready, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), f"{path} cannot be written: {error}") from error


def open_tensor_file(path: str | Path) -> dict[str, TensorSource]:
    """Return the tensors of one file, read lazily where the format allows it.

    Raises:
        RecapError: if the file is missing, truncated or holds anything but tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise RecapError(f"{file} does not exist")
    if file.suffix == ".safetensors":
        return _open_safetensors(file)
    return {
        name: TensorSource(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in _read_pickle(file).items()
    }


def _open_safetensors(file: Path) -> dict[str, TensorSource]:
    try:
        with safe_open(file, framework="pt") as archive:
            slices = {name: archive.get_slice(name) for name in archive.keys()}  # noqa: SIM118
            kinds = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise RecapError(
            f"{file} is not a whole safetensors file: {error}; copy it again"
        ) from error

    def read(name: str) -> torch.Tensor:
        with safe_open(file, framework="pt") as archive:
            tensor: torch.Tensor = archive.get_tensor(name)
        return tensor

    return {
        name: TensorSource(shape, _safetensors_dtype(file, kind), lambda name=name: read(name))  # type: ignore[misc]
        for name, (shape, kind) in kinds.items()
    }


def _safetensors_dtype(file: Path, kind: str) -> torch.dtype:
    known = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
        "U8": torch.uint8, "BOOL": torch.bool,
    }  # fmt: skip
    if kind not in known:
        raise RecapError(f"{file} holds a tensor of unsupported type {kind}")
    return known[kind]


def _read_pickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        # mapped, not read: a shard's tensors come into memory one by one
        mapped = zipfile.is_zipfile(file)
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise RecapError(
            f"{file} cannot be read as a file of tensors (truncated, or it holds code, which is "
            f"refused); copy it again or save it as safetensors: {error}"
        ) from error
    if not isinstance(values, dict) or not all(
        isinstance(v, torch.Tensor) for v in values.values()
    ):
        raise RecapError(f"{file} must hold one flat mapping of names to tensors")
    return values


def read_tensor_file(path: str | Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a ``.safetensors`` or ``.bin`` file into memory."""
    return {name: source.load() for name, source in open_tensor_file(path).items()}


def open_model_folder(folder: str | Path) -> dict[str, TensorSource]:
    """Return all tensors of a Hugging Face model folder, sharded or not, read lazily.

    Raises:
        RecapError: if there are no weights, a shard is missing, or the index
            and the shards disagree.
    """
    root = Path(folder)
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = root / f"{stem}.index.json"
        if index.is_file():
            return _open_shards(root, index)
        if (root / stem).is_file():
            return open_tensor_file(root / stem)
    raise RecapError(f"{root} holds no model.safetensors, pytorch_model.bin or index of shards")


def _open_shards(root: Path, index: Path) -> dict[str, TensorSource]:
    weight_map = _read_weight_map(index)
    sources: dict[str, TensorSource] = {}
    for shard in sorted(set(weight_map.values())):
        listed = {name for name, file in weight_map.items() if file == shard}
        if not (root / shard).is_file():
            raise RecapError(
                f"{root / shard} does not exist, but {index.name} places {len(listed)} tensors in "
                f"it, {min(listed)} among them; copy the missing shard"
            )
        found = open_tensor_file(root / shard)
        missing, extra = sorted(listed - set(found)), sorted(set(found) - listed)
        if missing or extra:
            raise RecapError(
                f"{index} and {shard} disagree: missing {missing[:3]}, not listed {extra[:3]}; "
                "index and shards come from different saves, copy all of them again"
            )
        sources |= found
    return sources


def _read_weight_map(index: Path) -> dict[str, str]:
    document = read_json(index)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise RecapError(f"{index} has no weight_map; it is not an index of shards")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise RecapError(f"{index} places {name} in {shard!r}, which is not a file beside it")
    return weight_map


def require_filled(where: str | Path, sources: Mapping[str, TensorSource]) -> None:
    """Refuse tensors without elements.

    Raises:
        RecapError: naming the first of them.
    """
    empty = sorted(name for name, source in sources.items() if not source.nbytes)
    if empty:
        raise RecapError(
            f"{where}: {empty[0]} has no elements (shape {sources[empty[0]].shape}; "
            f"{len(empty)} such tensors): a ZeRO-3 run saved its placeholders instead of the "
            "weights; gather them before saving"
        )


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``5GB`` or ``64MiB``.

    Raises:
        RecapError: for anything else.
    """
    match = re.fullmatch(r"(\d+)\s*([KMG]i?B)", text.strip(), flags=re.IGNORECASE)
    if not match:
        raise RecapError(f"cannot read the size {text!r}; write for instance 5GB or 64MiB")
    return int(match.group(1)) * _UNITS[match.group(2).upper()]


def plan_shards(sources: Mapping[str, TensorSource], limit: int) -> list[list[str]]:
    """Distribute names, in their order, over files of at most ``limit`` bytes each."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, source in sources.items():
        if shards[-1] and used + source.nbytes > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += source.nbytes
    return shards


def write_sharded(
    sources: Mapping[str, TensorSource],
    folder: str | Path,
    max_shard_size: str,
    *,
    min_shards: int = 1,
) -> dict[str, dict[str, Any]]:
    """Write ``model-0000i-of-0000n.safetensors`` and the index, a shard in memory at a time.

    Args:
        sources: tensors in the order they are to be distributed.
        folder: where; created if need be.
        max_shard_size: such as ``5GB``.
        min_shards: write at least that many files, smaller ones if need be.

    Returns:
        What :func:`describe_tensor` says of each tensor, and its ``file``.
    """
    root = Path(folder)
    total = sum(source.nbytes for source in sources.values())
    limit = parse_size(max_shard_size)
    if min_shards > 1:
        limit = min(limit, max(1, total // min_shards))
    shards = plan_shards(sources, limit)
    table: dict[str, dict[str, Any]] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        described = _write_shard(root / file, {name: sources[name] for name in names})
        table |= {name: {"file": file, **entry} for name, entry in described.items()}
    weight_map = {name: table[name]["file"] for name in sorted(table)}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(root / INDEX_FILE, index)
    return table


def _write_shard(path: Path, sources: Mapping[str, TensorSource]) -> dict[str, dict[str, Any]]:
    """Load, write and describe one file's tensors; they are released on return."""
    tensors = {name: source.load() for name, source in sources.items()}
    write_safetensors(path, tensors)
    return {name: describe_tensor(tensor) for name, tensor in tensors.items()}


def as_sources(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorSource]:
    """Wrap tensors that are in memory already."""
    return {
        name: TensorSource(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in tensors.items()
    }
