"""Checks of the base that an adapter is held against: files, shapes, values, tokenizer."""

from collections.abc import Mapping

import torch

from .adapter_config import read_quantization
from .bases import folder_of
from .checkpoint_files import EMBEDDING_NAME
from .configuration import MGMConfig
from .findings import Findings
from .names import HEAD_NAME, projector_suffix
from .parts import ModelParts
from .tensors import TensorSource, is_finite
from .tokenizer_files import count_entries, load_tokenizer


class ValueCheck:
    """Looks at each of the base's tensors while its fingerprint is taken."""

    def __init__(self, findings: Findings, parts: ModelParts) -> None:
        self._findings = findings
        self._parts = parts

    def __call__(self, part: str, name: str, tensor: torch.Tensor) -> None:
        """Add a failure if a tensor holds NaN or infinite values."""
        if not is_finite(tensor):
            fix = f"fetch or build {getattr(self._parts, part)} again"
            self._findings.fail(f"{part} tensor {name}", "holds NaN or infinite values", fix)


def check_base_files(
    findings: Findings,
    parts: ModelParts,
    config: MGMConfig,
    sources: Mapping[str, TensorSource],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Check names and shapes of the base's tensors, a tied head, and the tokenizer's size.

    Args:
        findings: where failures go.
        parts: the base.
        config: its configuration.
        sources: its tensors under a full checkpoint's names.
        shapes: of a full checkpoint.
    """
    if read_quantization(parts.language_model) is not None:
        fix = "pass the unquantised language model: an update cannot be added to quantised weights"
        findings.fail("language_model", "is quantised", fix)
        return
    wanted = {name: shape for name, shape in shapes.items() if projector_suffix(name) is None}
    for name in sorted(wanted):
        again = f"fetch or build {folder_of(parts, name)} again"
        if name not in sources:
            findings.fail(f"base tensor {name}", "is missing", again)
        elif sources[name].shape != wanted[name]:
            problem = f"has shape {sources[name].shape}, its config.json asks for {wanted[name]}"
            findings.fail(f"base tensor {name}", problem, again)
    tied = bool(config.text_config.tie_word_embeddings)
    for name in sorted(set(sources) - set(shapes) - ({HEAD_NAME} if tied else set())):
        fix = f"fetch or build {folder_of(parts, name)} again, or correct its config.json"
        findings.fail(f"base tensor {name}", "has no place in this model", fix)
    _check_head(findings, sources, tied=tied)
    _check_tokenizer(findings, parts, config.vocab_size)


def _check_head(findings: Findings, sources: Mapping[str, TensorSource], *, tied: bool) -> None:
    embedding = sources.get(EMBEDDING_NAME)
    head = sources.get(HEAD_NAME) if tied else None
    if head and embedding and not torch.equal(head.load(), embedding.load()):
        problem = "is tied to the embedding by config.json, but the file holds other values"
        fix = "remove it from the file, or set tie_word_embeddings to false"
        findings.fail(f"base tensor {HEAD_NAME}", problem, fix)


def _check_tokenizer(findings: Findings, parts: ModelParts, rows: int) -> None:
    folder = parts.language_model
    again = f"fetch or build {folder} again"
    tokenizer = findings.attempt("tokenizer", again, lambda: load_tokenizer(folder))
    if tokenizer is None:
        return
    entries = findings.attempt("tokenizer", again, lambda: count_entries(folder, tokenizer))
    if entries is not None and entries > rows:
        problem = f"has {entries} entries, the embedding {rows} rows"
        findings.fail("tokenizer", problem, "pass the tokenizer of this language model")
