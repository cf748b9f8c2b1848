"""The weights of base plus adapter, computed one by one as they are read."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from . import tensors as files
from .adapter_config import adapter_kind, read_adapter_settings
from .adapters import find_file, read_projector
from .bases import base_sources, folder_of
from .checkpoint_files import cast_finite, check_sources, load_finite, require_range
from .configuration import MGMConfig
from .lora import Update, merged_weight, module_settings, read_update, row_blocks
from .names import HEAD_NAME, expected_shapes, projector_suffix
from .parts import ModelParts
from .provenance import open_trained_file

_DIGITS = 6
_TINY = 1e-300
QUANTIZATION_NOTE = (
    "The adapter was trained on a quantised base and merged into the unquantised one: answers "
    "differ from those seen in training by the quantisation error of the base. The parity gate "
    "compares with the unquantised base and adapter."
)


class AdapterMerger:
    """Lazily merged tensors of a full checkpoint, and what merging changed."""

    def __init__(self, adapter_dir: str | Path, parts: ModelParts, dtype: torch.dtype) -> None:
        """Open base, adapter and projector.

        Args:
            adapter_dir: the adapter's folder.
            parts: the base.
            dtype: type each tensor is rounded to.
        """
        self.settings = read_adapter_settings(adapter_dir)
        self.parts = parts
        self.dtype = dtype
        self.base = base_sources(parts)
        self.adapter = open_trained_file(find_file(adapter_dir, "adapter_model"))
        self.projector_file = find_file(adapter_dir, "non_lora_trainables")
        self.projector = read_projector(self.projector_file)
        self.changes: dict[str, dict[str, Any]] = {}

    def update(self, name: str) -> Update | None:
        """Return what the adapter does to a base weight, or None if it leaves it alone."""
        return read_update(self.adapter, self.settings, name)

    def sources(self, *, tied: bool) -> dict[str, files.TensorSource]:
        """Return all tensors of the merged checkpoint in name order.

        Args:
            tied: whether the head is the embedding and must not be stored.
        """
        merged = {
            name: files.TensorSource(source.shape, self.dtype, self._merging(name, source))
            for name, source in self.base.items()
            if not (tied and name == HEAD_NAME)
        }
        rounded = {
            f"model.{name}": cast_finite(self.projector_file, name, source, self.dtype)
            for name, source in files.as_sources(self.projector).items()
        }
        return dict(sorted((merged | files.as_sources(rounded)).items()))

    def require_complete(self, config: MGMConfig) -> None:
        """Compare names and shapes of all tensors with what a model needs.

        Raises:
            RecapError: naming the folder that the first wrong tensor belongs to.
        """
        tied = bool(config.text_config.tie_word_embeddings)
        sources, wanted = self.sources(tied=tied), expected_shapes(config)

        def origin(name: str) -> Path:
            trained = projector_suffix(name) is not None
            return self.projector_file if trained else folder_of(self.parts, name)

        names = dict.fromkeys((*wanted, *sources))
        for place in dict.fromkeys(map(origin, names)):
            some = {name for name in names if origin(name) == place}
            check_sources(
                place,
                {name: source for name, source in sources.items() if name in some},
                {name: shape for name, shape in wanted.items() if name in some},
            )

    def _merging(self, name: str, source: files.TensorSource) -> Any:
        def load() -> torch.Tensor:
            where, update = folder_of(self.parts, name), self.update(name)
            if update is None:
                return cast_finite(where, name, source, self.dtype)
            base = load_finite(where, name, source)
            result = merged_weight(base, update, self.dtype)
            require_range(where, name, result, self.dtype)
            self._note_change(name, base, result)
            return result

        return load

    def _note_change(self, name: str, base: torch.Tensor, result: torch.Tensor) -> None:
        before, moved, largest = 0.0, 0.0, 0.0
        for rows in row_blocks(base):
            old = base[rows].double()
            change = result[rows].double() - old
            before += float(old.square().sum())
            moved += float(change.square().sum())
            largest = max(largest, float(change.abs().max()))
        self.changes[name.removesuffix(".weight")] = {
            "relative_change": _significant(math.sqrt(moved / max(before, _TINY))),
            "max_abs_change": _significant(largest),
        }

    def report(self, dtype: str, quantization: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return kind, type and the change of each merged module, in name order.

        Args:
            dtype: of the merged weights.
            quantization: how the base was quantised while the adapter was trained.
        """
        modules = [
            {"module": name, "scale": module_settings(self.settings, name)[1]} | self.changes[name]
            for name in sorted(self.changes)
        ]
        note = None if quantization is None else QUANTIZATION_NOTE
        return {
            "kind": adapter_kind(self.settings),
            "dtype": dtype,
            "quantization": None if note is None else {"trained_on": quantization, "note": note},
            "merged_modules": len(modules),
            "unchanged_modules": sum(not entry["max_abs_change"] for entry in modules),
            "modules": modules,
        }


def _significant(value: float) -> float:
    """Round, so that the order of a sum over threads cannot show."""
    return float(f"{value:.{_DIGITS}g}")
