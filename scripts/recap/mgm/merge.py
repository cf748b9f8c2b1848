"""Folding an adapter into its base: a full checkpoint that needs nothing else."""

import logging
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import RecapError
from ..io import read_json, write_json
from ..manifest import write_manifest
from ..settings import MergeSettings
from . import tensors as files
from .adapter_config import read_adapter_settings
from .adapters import adapter_model_config, find_file, read_projector
from .check import adapter_kind, inspect_adapter
from .checkpoint import base_sources, check_sources, write_checkpoint_files
from .findings import describe_failures
from .lora import Update, merged_weight, module_settings, read_update, row_blocks
from .names import HEAD_NAME, expected_shapes
from .parts import ModelParts
from .provenance import describe_origin, open_trained_file
from .upstream_rules import UpstreamTowers, require_folder_name

logger = logging.getLogger(__name__)
_DIGITS = 6
_TINY = 1e-300
_NOTED = ("kind", "rank", "alpha", "projector_sha256")  # of the adapter, in the manifest
_MARKER = ".recap-merge"
_QUANTIZATION_NOTE = (
    "The adapter was trained on a quantised base and merged into the unquantised one: answers "
    "differ from those seen in training by the quantisation error of the base. The parity gate "
    "compares with the unquantised base and adapter."
)


def merge_lora_weights(
    adapter_dir: str | Path,
    parts: ModelParts,
    output_path: str | Path,
    settings: MergeSettings,
    *,
    report: str | Path | None = None,
    towers: UpstreamTowers | None = None,
) -> dict[str, Any]:
    """Write the updated weights (see :class:`Update`) and everything else as one checkpoint.

    Each weight is computed in float32 and rounded once. One shard and one layer
    are in memory at a time. The folder is filled under another name and renamed,
    so that it is either whole or absent; equal inputs give equal bytes.

    Args:
        adapter_dir: adapter, projector and their configuration.
        parts: the base the adapter was trained on.
        output_path: folder to write; must be absent, empty or an earlier merge.
        settings: type and shard size.
        report: JSON file for the relative change of each merged module.
        towers: write what unmodified upstream code loads, with these paths of the towers.

    Returns:
        The report.

    Raises:
        RecapError: if the adapter does not fit the base, or the folder would
            overwrite something else.
    """
    started = time.time()
    out = Path(output_path)
    _refuse_overwrite(out, [Path(adapter_dir), parts.language_model, parts.clip, parts.convnext])
    checked = _require_sound(adapter_dir, parts)
    config = adapter_model_config(adapter_dir, parts)
    if towers is not None:
        require_folder_name(out, config.text_config.model_type)
    dtype = files.torch_dtype(settings.dtype)
    merger = AdapterMerger(adapter_dir, parts, dtype)
    sources = merger.sources(tied=bool(config.text_config.tie_word_embeddings))
    check_sources(parts.language_model, sources, expected_shapes(config))
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tensors = write_checkpoint_files(
        sources,
        config,
        parts.language_model,
        partial,
        dtype=settings.dtype,
        max_shard_size=settings.max_shard_size,
        towers=towers,
    )
    summary = merger.report(settings.dtype, checked["quantization"])
    (partial / _MARKER).touch()
    details = {"base": checked["base"], "tensors": tensors, "conversation": parts.conversation}
    details["origin"] = describe_origin(adapter_dir)
    details["adapter"] = {name: checked[name] for name in _NOTED}
    _write_manifest(partial, out, adapter_dir, parts, settings, details, summary, started)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    if report is not None:
        write_json(report, summary)
    _log_changes(summary)
    logger.info("merged %d modules into %s", len(summary["modules"]), out)
    return summary


def _log_changes(summary: Mapping[str, Any]) -> None:
    """Log the relative change of each module, largest first, and what to bear in mind."""
    for entry in sorted(summary["modules"], key=lambda row: -row["relative_change"]):
        logger.info("%s changed by %.3g of its norm", entry["module"], entry["relative_change"])
    if summary["quantization"] is not None:
        logger.warning("%s", _QUANTIZATION_NOTE)


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
        self.dtype = dtype
        self.base = base_sources(parts)
        self.adapter = open_trained_file(find_file(adapter_dir, "adapter_model"))
        self.projector = read_projector(find_file(adapter_dir, "non_lora_trainables"))
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
        rounded = {f"model.{name}": value.to(self.dtype) for name, value in self.projector.items()}
        return dict(sorted((merged | files.as_sources(rounded)).items()))

    def _merging(self, name: str, source: files.TensorSource) -> Any:
        def load() -> torch.Tensor:
            base = source.load()
            update = self.update(name)
            if update is None:
                return base.to(self.dtype)
            result = merged_weight(base, update, self.dtype)
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
        note = None if quantization is None else _QUANTIZATION_NOTE
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


def _refuse_overwrite(out: Path, inputs: list[Path]) -> None:
    if out.is_symlink():
        raise RecapError(f"{out} is a symbolic link; choose a folder of its own")
    for folder in inputs:
        ours, theirs = out.resolve(), folder.resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            raise RecapError(
                f"{out} is, holds or lies in the input {folder}; choose another folder"
            )
    if not out.exists():
        return
    if not out.is_dir():
        raise RecapError(f"{out} is a file; choose another folder")
    if any(out.iterdir()) and not _is_earlier_merge(out):
        raise RecapError(
            f"{out} is not empty and was not written by this tool; choose another folder"
        )


def _is_earlier_merge(out: Path) -> bool:
    # Snakemake deletes a rule's declared outputs, the manifest among them, before it
    # runs the rule again: the marker is what tells whose folder this is.
    manifest = out / "manifest.json"
    by_manifest = manifest.is_file() and read_json(manifest).get("stage") == "merge"
    return by_manifest or (out / _MARKER).is_file()


def _require_sound(adapter_dir: str | Path, parts: ModelParts) -> dict[str, Any]:
    checked = inspect_adapter(adapter_dir, parts, trained=False)
    if checked["failures"]:
        raise RecapError(
            f"{adapter_dir} cannot be merged into this base:\n"
            f"{describe_failures(checked['failures'])}",
            checked["failures"],
        )
    for warning in checked["warnings"]:
        logger.warning("%s", warning)
    return checked


def _write_manifest(
    partial: Path,
    out: Path,
    adapter_dir: str | Path,
    parts: ModelParts,
    settings: MergeSettings,
    details: Mapping[str, Any],
    summary: Mapping[str, Any],
    started: float,
) -> None:
    root = Path(adapter_dir)
    outputs = {path.name: path for path in sorted(partial.iterdir()) if path.is_file()}
    write_manifest(
        partial / "manifest.json",
        stage="merge",
        inputs={
            "adapter": find_file(root, "adapter_model"),
            "adapter_config": root / "adapter_config.json",
            "projector": find_file(root, "non_lora_trainables"),
            "language_model_config": parts.language_model / "config.json",
        },
        outputs=outputs,
        settings=settings.model_dump(include={"dtype", "max_shard_size"}),
        counts={"merged_modules": summary["merged_modules"]},
        started=started,
        details=details,
    )
    document = read_json(partial / "manifest.json")
    for name, entry in document["outputs"].items():
        entry["path"] = str(out / name)
    write_json(partial / "manifest.json", document)
