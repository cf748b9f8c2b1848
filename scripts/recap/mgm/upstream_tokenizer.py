"""A ``tokenizer.json`` in the form that tokenizers 0.15 reads, the one of transformers 4.38.

Later versions write merges as pairs, and give Metaspace a key ``split`` that
0.15 refuses: it always splits in front of each space. What does not split is
therefore written as the normalizer that Llama's files had before.
"""

import copy
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RecapError

logger = logging.getLogger(__name__)

_PROBES = (
    "What is  it?\nAnswer the question using a single word or phrase.",
    "   Reference OCR token: A1, 3.50, é, 日本\n\n",
    "USER: a\tb ASSISTANT:",
    "[INST] x [/INST]",
)


def older_tokenizer(document: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` in the older form; equal if it has that already.

    Args:
        document: the file's content.
        where: its path, for messages.

    Raises:
        RecapError: if the older form cannot say the same.
    """
    older: dict[str, Any] = copy.deepcopy(dict(document))
    model = older.get("model") or {}
    if any(isinstance(merge, list) for merge in model.get("merges") or ()):
        model["merges"] = [_join(merge, where) for merge in model["merges"]]
    if model.get("ignore_merges"):
        logger.warning(
            "%s takes whole words from the vocabulary before merging (ignore_merges), which "
            "tokenizers 0.15 does not know: some words are cut otherwise there",
            where,
        )
    _rewrite_metaspace(older, where)
    return older


def _join(merge: Any, where: str | Path) -> str:
    if isinstance(merge, str):
        return merge
    if any(" " in piece for piece in merge):
        raise RecapError(
            f"{where}: the merge {merge} has a space in a piece, which the form that upstream "
            "reads cannot hold; take the tokenizer files that the base model was published with"
        )
    return " ".join(merge)


def _rewrite_metaspace(older: dict[str, Any], where: str | Path) -> None:
    cutter = older.get("pre_tokenizer") or {}
    if cutter.get("type") == "Metaspace" and cutter.get("split") is False:
        if older.get("normalizer") is not None:
            raise RecapError(
                f"{where}: Metaspace without split behind a normalizer has no older form; take "
                "the tokenizer files that the base model was published with"
            )
        older["pre_tokenizer"] = None
        older["normalizer"] = _as_normalizer(cutter, where)
        cutter = {}
    for part in (cutter, older.get("decoder") or {}):
        for inner in (part, *part.get("pretokenizers", ()), *part.get("decoders", ())):
            if inner.get("type") == "Metaspace" and "split" in inner:
                del inner["split"]
                inner["add_prefix_space"] = inner.get("prepend_scheme") != "never"


def _as_normalizer(cutter: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """Return what marks spaces, and the start of a text unless a space stands there."""
    scheme, sign = cutter.get("prepend_scheme", "always"), cutter["replacement"]
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": sign}
    unmarked = rf"\A(?!{re.escape(sign)})"  # ^ would match behind each newline
    start = {"type": "Replace", "pattern": {"Regex": unmarked}, "content": sign}
    if scheme == "first":
        logger.warning(
            "%s puts a space in front of the first word alone; as upstream reads it, in front of "
            "text behind a special token too (never in a prompt of one round)",
            where,
        )
    return {"type": "Sequence", "normalizers": [mark, *([] if scheme == "never" else [start])]}


def require_same_ids(
    before: Mapping[str, Any], after: Mapping[str, Any], where: str | Path
) -> None:
    """Cut a few texts by both forms.

    Raises:
        RecapError: if the ids of one differ.
    """
    from tokenizers import Tokenizer

    first, second = (Tokenizer.from_str(json.dumps(document)) for document in (before, after))
    for text in _PROBES:
        ours, theirs = first.encode(text).ids, second.encode(text).ids
        if ours != theirs:
            raise RecapError(
                f"{where}: in the form that upstream reads, {text!r} would be cut into {theirs}, "
                f"not {ours}; take the tokenizer files that the base model was published with"
            )
