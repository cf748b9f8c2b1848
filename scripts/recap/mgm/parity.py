"""Does the merged model answer as base plus adapter do?

Three models are compared on the same prompts, all computed in float32:

* ``merged``: the checkpoint as it will be used;
* ``folded``: base and adapter, loaded from their own files, the update added
  in memory and rounded to the merged type. Same weights by another path, so it
  must agree up to float32 noise;
* ``unmerged``: base with the adapter attached, never rounded. The only
  difference is the rounding of the merged weights.

Tolerance of ``unmerged``. How far rounding moves the logits depends on the
model, so it is measured: every merged map gets the error of one stochastic
rounding to the merged type, which is as large as, and independent of, the
error that merging makes. ``SAFETY`` times the largest effect seen on any
prompt is allowed. Greedy tokens must be equal; they may part only where the
two best logits are closer than that tolerance, and from there on the texts are
no longer comparable.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import GateError
from ..io import write_evidence
from ..settings import MergeSettings
from .adapter_config import read_quantization
from .adapters import adapter_model_config
from .check import adapter_kind
from .checkpoint import build_configured, load_adapter, load_checkpoint, load_tokenizer
from .configuration import config_from_disk
from .generation import greedy_decode
from .localize import first_divergence
from .lora import merge_adapter
from .merge import AdapterMerger
from .modeling import MGMForCausalLM
from .parts import ModelParts
from .prompts import ParityPrompt, build_prompts
from .reference import compare_weights
from .rounding import stochastically_rounded
from .tensors import open_model_folder, torch_dtype

logger = logging.getLogger(__name__)

FLOAT32_TOLERANCE = 1e-4  # of the largest logit: sums in another order
SAFETY = 4.0
NOISE_SEED = 0
_MERGE_AGAIN = "merge again from the adapter and base of this run"


@dataclass(frozen=True)
class Trace:
    """What a model said to one prompt: its tokens, and (steps, vocabulary) logits."""

    tokens: list[int]
    logits: torch.Tensor


def check_parity(
    merged_dir: str | Path,
    adapter_dir: str | Path,
    parts: ModelParts,
    *,
    images_root: str | Path,
    questions: str | Path,
    settings: MergeSettings,
    out: str | Path,
    device: str = "cpu",
) -> dict[str, Any]:
    """Compare a merged checkpoint with base and adapter, and write what was found.

    Args:
        merged_dir: the merged checkpoint.
        adapter_dir: the adapter it was made from.
        parts: the base it was made from.
        images_root: folder of the questions' images.
        questions: JSONL with ``question_id``, ``image``, ``text``.
        settings: type of the merged weights, number of prompts, tokens a prompt.
        out: JSON report to write.
        device: where to compute.

    Returns:
        The report.

    Raises:
        GateError: naming the first diverging module.
        RecapError: if an input is missing or broken.
    """
    config = config_from_disk(merged_dir)
    prompts = build_prompts(merged_dir, config, images_root, questions, settings.parity_prompts)
    merger = AdapterMerger(adapter_dir, parts, torch_dtype(settings.dtype))
    wrong = compare_weights(merger, open_model_folder(merged_dir))
    report: dict[str, Any] = {
        "dtype": settings.dtype,
        "kind": adapter_kind(merger.settings),
        "quantization": read_quantization(adapter_dir),
        "tokenizer_equal": _same_tokenizer(merged_dir, parts, prompts),
        "wrong_tensors": wrong,
        "first_diverging_module": wrong[0]["module"] if wrong else None,
        "prompts": [],
    }
    if all(entry["loadable"] for entry in wrong):
        unmerged = partial(_unmerged, adapter_dir, parts, merger.dtype, device)
        checkpoint, _ = load_checkpoint(merged_dir, dtype="float32", device=device)
        report |= _compare_answers(checkpoint, unmerged, prompts, settings, find=not wrong)
    failed = any(not row["passed"] for row in report["prompts"])
    report["passed"] = not failed and not wrong and report["tokenizer_equal"]
    write_evidence(out, report, passed=report["passed"])
    if not report["passed"]:
        raise GateError(_message(merged_dir, report), _failures(report))
    logger.info("%s answers as base plus adapter on %d prompts", merged_dir, len(prompts))
    return report


def _compare_answers(
    checkpoint: MGMForCausalLM,
    unmerged: Callable[[], MGMForCausalLM],
    prompts: list[ParityPrompt],
    settings: MergeSettings,
    *,
    find: bool,
) -> dict[str, Any]:
    """Return what the models say to each prompt; where they part, name the module if asked."""
    plain, folded, tolerance = _reference_traces(unmerged(), prompts, settings)
    merged = [trace(checkpoint, prompt, settings.parity_max_new_tokens) for prompt in prompts]
    report = _judge(prompts, merged, folded, plain, tolerance)
    rows = zip(prompts, report["prompts"], strict=True)
    failed = next((prompt for prompt, row in rows if not row["passed"]), None)
    if failed is not None and find:
        again = merge_adapter(unmerged(), dtype=torch_dtype(settings.dtype))
        report["first_diverging_module"] = first_divergence(
            checkpoint, again, lambda model: trace(model, failed, 1), FLOAT32_TOLERANCE
        )
    return report


def _reference_traces(
    model: MGMForCausalLM, prompts: list[ParityPrompt], settings: MergeSettings
) -> tuple[list[Trace], list[Trace], float]:
    """Return traces of the unmerged and the folded model, and the tolerance between them."""
    dtype, limit = torch_dtype(settings.dtype), settings.parity_max_new_tokens
    plain = [trace(model, prompt, limit) for prompt in prompts]
    with stochastically_rounded(model, dtype, NOISE_SEED):
        noisy = [trace(model, prompt, limit) for prompt in prompts]
    pairs = zip(noisy, plain, strict=True)
    effects = [compare_traces(ours, theirs, 0.0)["max_difference"] or 0.0 for ours, theirs in pairs]
    merge_adapter(model, dtype=dtype)
    folded = [trace(model, prompt, limit) for prompt in prompts]
    return plain, folded, max(SAFETY * max(effects), FLOAT32_TOLERANCE)


def _unmerged(
    adapter_dir: str | Path, parts: ModelParts, dtype: torch.dtype, device: str
) -> MGMForCausalLM:
    """Return base plus adapter in float32, everything but the merged maps rounded."""
    config = adapter_model_config(adapter_dir, parts)
    model = build_configured(config, parts, dtype="float32", seed=0)
    return attach_exact(model, adapter_dir, dtype).to(device)  # type: ignore[arg-type]


@torch.no_grad()
def attach_exact(
    model: MGMForCausalLM, adapter_dir: str | Path, dtype: torch.dtype
) -> MGMForCausalLM:
    """Attach the adapter to a float32 model; round all but the wrapped maps to ``dtype``."""
    load_adapter(model, adapter_dir)
    for name, parameter in model.named_parameters():
        if "lora_" not in name and "base_layer" not in name:
            parameter.data = parameter.data.to(dtype).float()
        else:
            parameter.data = parameter.data.float()
    return model


@torch.no_grad()
def trace(model: MGMForCausalLM, prompt: ParityPrompt, max_new_tokens: int) -> Trace:
    """Decode one prompt greedily and keep the logits of every step."""
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([prompt.input_ids], device=device)  # type: ignore[arg-type]
    images = None if prompt.image is None else prompt.image.unsqueeze(0).to(device)  # type: ignore[arg-type]
    batch = model.prepare_inputs(ids, torch.ones_like(ids), images_aux=images, padding_side="left")
    steps: list[torch.Tensor] = []
    tokens = greedy_decode(model.language_model, batch, max_new_tokens, prompt.stops, steps)
    return Trace(tokens[0], torch.cat(steps).float().cpu())


def _judge(
    prompts: list[ParityPrompt],
    merged: list[Trace],
    folded: list[Trace],
    unmerged: list[Trace],
    tolerance: float,
) -> dict[str, Any]:
    rows = []
    for prompt, ours, same, plain in zip(prompts, merged, folded, unmerged, strict=True):
        exact = compare_traces(ours, same, FLOAT32_TOLERANCE)
        rounded = compare_traces(ours, plain, tolerance)
        rows.append(
            {
                "prompt": prompt.name,
                "tokens": ours.tokens,
                "folded": exact,
                "unmerged": rounded,
                "passed": bool(exact["tokens_equal"] and exact["within"] and rounded["agrees"]),
            }
        )
    return {
        "float32_tolerance": FLOAT32_TOLERANCE,
        "unmerged_tolerance": round(tolerance, 6),
        "prompts": rows,
    }


def compare_traces(ours: Trace, theirs: Trace, tolerance: float) -> dict[str, Any]:
    """Compare two traces up to the first step where their tokens part.

    Args:
        ours: of one model.
        theirs: of the other.
        tolerance: largest difference of logits, as a share of the largest logit.

    Returns:
        ``tokens_equal``, ``steps_compared``, ``max_difference`` (share of the
        largest logit), ``within`` the tolerance, and ``agrees``: within, and
        tokens equal or parted at a tie that the tolerance does not resolve.
    """
    pairs = list(zip(ours.tokens, theirs.tokens, strict=False))
    parted = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    steps = len(pairs) if parted is None else parted + 1
    left, right = ours.logits[:steps], theirs.logits[:steps]
    scale = right.abs().max().clamp(min=1e-30)
    difference = float((left - right).abs().max() / scale)
    equal = ours.tokens == theirs.tokens
    finite = bool(torch.isfinite(left).all() and torch.isfinite(right).all())
    within = finite and difference <= tolerance
    tie = parted is not None and _is_tie(right[parted], pairs[parted], tolerance * float(scale))
    return {
        "tokens_equal": equal,
        "steps_compared": steps,
        # what is rounded away here depends on the order of sums over threads
        "max_difference": round(difference, 6) if finite else None,
        "within": within,
        "agrees": within and (equal or tie),
    }


def _is_tie(logits: torch.Tensor, tokens: tuple[int, int], gap: float) -> bool:
    return float((logits[tokens[0]] - logits[tokens[1]]).abs()) <= 2 * gap


def _same_tokenizer(merged_dir: str | Path, parts: ModelParts, prompts: list[ParityPrompt]) -> bool:
    ours, theirs = load_tokenizer(merged_dir), load_tokenizer(parts.language_model)
    return all(ours(p.text).input_ids == theirs(p.text).input_ids for p in prompts)


def _failures(report: dict[str, Any]) -> list[dict[str, str]]:
    """Return each failure with name, problem and what to do, the first diverging module first."""
    found = [(entry["module"], entry["reason"]) for entry in report["wrong_tensors"]]
    culprit = report["first_diverging_module"]
    if culprit is not None and not found:
        found.append((culprit, "computes something else than in base plus adapter"))
    found += [
        (f"prompt {row['prompt']}", "is answered otherwise than by base plus adapter")
        for row in report["prompts"]
        if not row["passed"]
    ]
    if not report["tokenizer_equal"]:
        found.append(("tokenizer", "encodes a prompt otherwise than the base's"))
    return [{"name": name, "problem": why, "fix": _MERGE_AGAIN} for name, why in found]


def _message(merged_dir: str | Path, report: dict[str, Any]) -> str:
    failed = [row["prompt"] for row in report["prompts"] if not row["passed"]]
    parts = [f"{merged_dir} does not answer as base plus adapter"]
    if report["first_diverging_module"]:
        parts.append(f"first diverging module: {report['first_diverging_module']}")
    if report["wrong_tensors"]:
        first = report["wrong_tensors"][0]
        parts.append(f"{len(report['wrong_tensors'])} wrong tensors, the first {first['reason']}")
    if failed:
        parts.append(f"failing prompts: {', '.join(failed)}")
    if not report["tokenizer_equal"]:
        parts.append("the tokenizers differ")
    return "; ".join([*parts, _MERGE_AGAIN])
