"""Writing a full checkpoint that unmodified upstream evaluation code loads."""

import shutil
from pathlib import Path
from typing import Any

import transformers

from ..errors import RecapError
from ..io import atomic_path, read_json, write_json
from .configuration import config_to_disk
from .processing import ImagePreprocessor
from .provenance import SECTION_FILE
from .upstream_config import upstream_config
from .upstream_rules import UpstreamTowers
from .upstream_tokenizer import older_tokenizer, require_same_ids

# upstream re-reads the mining weights through the index, so a single file will not do
MIN_SHARDS = 2
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
# classes of transformers 5 that 4.38 does not know; both read tokenizer.json as it is
_NEWER_CLASSES = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")
_NEWER_KEYS = ("backend", "is_local", "local_files_only", "tokenizer_backend")


def write_upstream_side_files(
    config: Any, tokenizer_dir: Path, out: Path, dtype: str, towers: UpstreamTowers
) -> None:
    """Write everything of an upstream checkpoint but the weights.

    Args:
        config: configuration of the model.
        tokenizer_dir: folder whose tokenizer is copied.
        out: the checkpoint's folder.
        dtype: written as ``torch_dtype``.
        towers: paths to write for the towers.

    Raises:
        RecapError: if there is no tokenizer.
    """
    theirs, section = upstream_config(config_to_disk(config, dtype), towers)
    write_json(out / "config.json", theirs)
    write_json(out / SECTION_FILE, section)
    preprocessor = ImagePreprocessor.from_settings(config.preprocessor)
    write_json(out / "preprocessor_config.json", preprocessor.as_dict())
    write_upstream_tokenizer(tokenizer_dir, out)
    _write_generation_config(tokenizer_dir, out, theirs)


def write_upstream_tokenizer(source: Path, out: Path) -> None:
    """Copy a tokenizer; its JSON files in the form that transformers 4.38 reads.

    Raises:
        RecapError: if there is none, or it has no such form.
    """
    names = [name for name in _TOKENIZER_FILES if (source / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & set(names):
        raise RecapError(f"{source} holds no tokenizer files to copy")
    for name in names:
        with atomic_path(out / name) as temporary:
            shutil.copyfile(source / name, temporary)
    if "tokenizer.json" in names:
        _rewrite_tokenizer(source / "tokenizer.json", out / "tokenizer.json")
    path = source / "tokenizer_config.json"
    values = dict(read_json(path)) if path.is_file() else {}
    write_json(out / "tokenizer_config.json", older_tokenizer_config(values))


def _rewrite_tokenizer(source: Path, out: Path) -> None:
    document = read_json(source)
    older = older_tokenizer(document, source)
    if older != document:
        require_same_ids(document, older, source)
        write_json(out, older)


def older_tokenizer_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return a ``tokenizer_config.json`` without what transformers 5 alone knows."""
    kept = {key: value for key, value in values.items() if key not in _NEWER_KEYS}
    extra = kept.pop("extra_special_tokens", None)
    if isinstance(extra, list) and extra:
        kept.setdefault("additional_special_tokens", extra)
    if kept.get("tokenizer_class", _NEWER_CLASSES[0]) in _NEWER_CLASSES:
        kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    return dict(sorted(kept.items()))


def _write_generation_config(source: Path, out: Path, config: dict[str, Any]) -> None:
    path = source / "generation_config.json"
    if path.is_file():
        with atomic_path(out / path.name) as temporary:
            shutil.copyfile(path, temporary)
        return
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    version = {"transformers_version": transformers.__version__}
    write_json(out / path.name, {"_from_model_config": True} | ids | version)
