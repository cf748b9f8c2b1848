"""Folding an adapter into its base: a full checkpoint that needs nothing else."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json, write_json
from ..manifest import write_manifest
from ..settings import MergeSettings
from . import tensors as files
from .adapters import adapter_model_config, find_file
from .check import inspect_adapter
from .checkpoint import write_checkpoint_files
from .findings import describe_failures
from .folders import refuse_inputs, replaced_folder
from .merger import QUANTIZATION_NOTE, AdapterMerger
from .parts import ModelParts
from .provenance import describe_origin
from .tokenizer_files import tokenizer_fingerprint
from .upstream_rules import UpstreamTowers, require_folder_name

__all__ = ["AdapterMerger", "merge_lora_weights"]

logger = logging.getLogger(__name__)
_NOTED = ("kind", "rank", "alpha", "projector_sha256")  # of the adapter, in the manifest
_MARKER = ".recap-merge"


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
    refuse_inputs(out, [adapter_dir, parts.language_model, parts.clip, parts.convnext])
    _refuse_foreign(out)
    checked = _require_sound(adapter_dir, parts)
    config = adapter_model_config(adapter_dir, parts)
    if towers is not None:
        require_folder_name(out, config.text_config.model_type)
    merger = AdapterMerger(adapter_dir, parts, files.torch_dtype(settings.dtype))
    merger.require_complete(config)
    with replaced_folder(out) as partial:
        tensors = write_checkpoint_files(
            merger.sources(tied=bool(config.text_config.tie_word_embeddings)),
            config,
            parts.language_model,
            partial,
            dtype=settings.dtype,
            max_shard_size=settings.max_shard_size,
            towers=towers,
        )
        summary = merger.report(settings.dtype, checked["quantization"])
        (partial / _MARKER).touch()
        details = _describe(adapter_dir, parts, checked, partial) | {"tensors": tensors}
        _write_manifest(partial, out, adapter_dir, parts, settings, details, summary, started)
        if report is not None:
            write_json(_place_report(Path(report), out, partial), summary)
    _log_changes(summary)
    logger.info("merged %d modules into %s", len(summary["modules"]), out)
    return summary


def _describe(
    adapter_dir: str | Path, parts: ModelParts, checked: Mapping[str, Any], partial: Path
) -> dict[str, Any]:
    """Return what a merge's manifest says of its origin."""
    return {
        "base": checked["base"],
        "tokenizer": tokenizer_fingerprint(partial),
        "conversation": parts.conversation,
        "origin": describe_origin(adapter_dir),
        "adapter": {name: checked[name] for name in _NOTED},
    }


def _place_report(report: Path, out: Path, partial: Path) -> Path:
    """Return where a report goes: one that is to lie in the folder moves with it."""
    place, folder = report.resolve(), out.resolve()
    return partial / place.relative_to(folder) if folder in place.parents else report


def _log_changes(summary: Mapping[str, Any]) -> None:
    """Log the relative change of each module, largest first, and what to bear in mind."""
    for entry in sorted(summary["modules"], key=lambda row: -row["relative_change"]):
        logger.info("%s changed by %.3g of its norm", entry["module"], entry["relative_change"])
    if summary["quantization"] is not None:
        logger.warning("%s", QUANTIZATION_NOTE)


def _refuse_foreign(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not _is_earlier_merge(out):
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
