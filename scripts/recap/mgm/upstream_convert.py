"""Rewriting existing files in the other form: this pipeline's or upstream's.

Tensors pass through byte for byte unless another type is asked for; names are
kept, so that converting back gives the same tensors.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json, write_json
from ..manifest import write_manifest
from . import tensors as files
from .checkpoint import (
    load_tokenizer,
    require_own_tokenizer,
    tokenizer_fingerprint,
    write_checkpoint_files,
)
from .checkpoint_files import open_checkpoint
from .configuration import config_from_disk
from .families import LANGUAGES
from .folders import refuse_inputs, replaced_folder
from .provenance import (
    MANIFEST,
    TensorTable,
    describe_origin,
    recorded_base,
    verify_checkpoint,
)
from .upstream_rules import find_name_problem, require_folder_name
from .upstream_trained import Conversion, checked_sources, convert_trained

logger = logging.getLogger(__name__)
# weights of a language model or of a full checkpoint
_MODEL_FILES = (
    "model*.index.json",
    "pytorch_model*.index.json",
    "model.safetensors",
    "pytorch_model.bin",
)


def convert_checkpoint(source: str | Path, out: str | Path, what: Conversion) -> dict[str, Any]:
    """Convert a full checkpoint, an adapter's folder or stage 1's folder.

    The folder is filled under another name and renamed, so that it is either
    whole or absent.

    Args:
        source: the folder to read.
        out: the folder to write; absent or empty.
        what: form, type and towers.

    Returns:
        ``{"kind", "tensors", "folder"}``.

    Raises:
        RecapError: if the source is broken or incomplete, or upstream could not
            load what would be written.
    """
    started = time.time()
    root, target = Path(source), Path(out)
    _refuse_overwrite(root, target)
    kind = _kind(root)
    with replaced_folder(target) as partial:
        if kind == "checkpoint":
            tables = _convert_full(root, partial, target, what)
        else:
            _warn_of_name(root, target, what)
            tables = convert_trained(root, partial, kind, what)
        _write_manifest(root, partial, target, kind, what, tables, started)
    count = sum(len(table) for table in tables.values())
    logger.info("converted %s with %d tensors into %s", kind, count, target)
    return {"kind": kind, "tensors": count, "folder": str(target)}


def _refuse_overwrite(root: Path, target: Path) -> None:
    if not root.is_dir():
        raise RecapError(f"{root} is not a folder; pass the folder of a checkpoint or adapter")
    refuse_inputs(target, [root])
    if target.exists() and any(target.iterdir()):
        raise RecapError(f"{target} exists and is not an empty folder; choose another one")


def _kind(root: Path) -> str:
    """Return what a folder holds.

    Raises:
        RecapError: if it holds nothing known, or files of two kinds, one of which would be
            left out.
    """
    weights = [path for pattern in _MODEL_FILES for path in sorted(root.glob(pattern))]
    for kind, pattern in (("adapter", "adapter_config.json"), ("projector", "mm_projector.*")):
        found = sorted(root.glob(pattern))
        if found and weights:
            raise RecapError(
                f"{root} holds {weights[0].name} of a full checkpoint and {found[0].name} of "
                f"{'an adapter' if kind == 'adapter' else 'a projector'}, and one of them would be "
                "left out; move the files that do not belong there to a folder of their own"
            )
        if found:
            return kind
    if (root / "config.json").is_file():
        return "checkpoint"
    raise RecapError(
        f"{root} is no checkpoint: it holds no config.json, adapter_config.json or mm_projector"
    )


def _convert_full(
    root: Path, partial: Path, target: Path, what: Conversion
) -> dict[str, TensorTable]:
    config = config_from_disk(root, clip=what.clip, convnext=what.convnext)
    if what.towers is not None:
        require_folder_name(target, config.text_config.model_type)
    sources = open_checkpoint(root, config)
    require_own_tokenizer(root, load_tokenizer(root), config.vocab_size)
    if what.verify:
        verify_checkpoint(root)
    return write_checkpoint_files(
        checked_sources(root, sources, what.dtype),
        config,
        root,
        partial,
        dtype=what.dtype or _language_dtype(sources),
        max_shard_size=what.max_shard_size,
        towers=what.towers,
    )


def _warn_of_name(root: Path, target: Path, what: Conversion) -> None:
    """Say where upstream would not find the class that goes with trained files.

    It chooses by this folder's name with ``--model-base`` too. Not refused: the
    files may be moved, or go into training, where names do not matter.
    """
    path = root / "config.json"
    stored = read_json(path) if path.is_file() else {}
    language = LANGUAGES.get(str(stored.get("model_type")))
    problem = None if language is None else find_name_problem(target, language)
    if what.towers is not None and problem is not None:
        logger.warning("%s", problem)


def _language_dtype(sources: Mapping[str, files.TensorSource]) -> str:
    return files.dtype_name(sources["model.embed_tokens.weight"].dtype)


def _write_manifest(
    root: Path,
    partial: Path,
    target: Path,
    kind: str,
    what: Conversion,
    tables: Mapping[str, TensorTable],
    started: float,
) -> None:
    base, origin = dict(recorded_base(root) or {}), describe_origin(root)
    details: dict[str, Any] = {
        "kind": kind,
        "base": base,
        "origin": origin,
        "tensors": dict(tables),
    }
    if kind == "checkpoint":
        base.setdefault("tokenizer", tokenizer_fingerprint(root))
        details["tokenizer"] = tokenizer_fingerprint(partial)
    inputs = {path.name: path for path in sorted(root.iterdir()) if _is_weights(path)}
    outputs = {path.name: path for path in sorted(partial.iterdir())}
    settings = {"dtype": what.dtype, "max_shard_size": what.max_shard_size}
    settings["format"] = "safetensors" if what.towers is None else "upstream"
    write_manifest(
        partial / MANIFEST,
        stage="convert",
        inputs=inputs,
        outputs=outputs,
        settings=settings,
        counts={"tensors": sum(len(table) for table in tables.values())},
        started=started,
        seed=None if origin is None else origin["seed"],
        details=details,
    )
    document = read_json(partial / MANIFEST)
    for name, entry in document["outputs"].items():
        entry["path"] = str(target / name)
    write_json(partial / MANIFEST, document)


def _is_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin")
