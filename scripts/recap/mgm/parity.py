"""Does the merged model answer as base plus adapter do?

Three models are compared on the same prompts, all computed in float32:

* ``merged``: the checkpoint as it will be used;
* ``folded``: base and adapter, loaded from their own files, the update added
  in memory and rounded to the merged type. Same weights by another path, so it
  must agree up to float32 noise;
* ``unmerged``: base with the adapter attached, never rounded. The only
  difference is the rounding of the merged weights.

Tolerance of ``unmerged``. How far rounding moves the logits depends on model,
prompt and step, so it is measured at each step: every merged map gets the error
of one stochastic rounding to the merged type, which is as large as, and
independent of, the error that merging makes. ``SAFETY`` times the effect is
allowed, and never more than ``CAP`` rounding steps of the step's largest logit.
Greedy tokens must be equal; they may part only where the two best logits are
closer than twice the effect at that step, and from there on the texts are no
longer comparable.

``deployed``. Then both models answer in the type that the checkpoint is used
in. The merged one's logits must be finite, and its tokens those it had in
float32, with ties as wide as twice the effect that this type has on the
unmerged model's logits at that step.

One model is in memory at a time, so that the gate fits where the model fits in
float32.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import GateError
from ..io import write_evidence
from ..settings import MergeSettings
from .adapters import adapter_model_config
from .checkpoint import describe_base
from .localize import Run, first_divergence, first_overflow, largest_change, record_outputs
from .lora import merge_adapter
from .modeling import MGMForCausalLM
from .parity_files import compare_files
from .parity_models import Sides, release_memory
from .parity_report import describe_report, list_failures
from .parts import ModelParts
from .prompts import ParityPrompt, build_prompts
from .provenance import require_base
from .rounding import folded, lower, stochastically_rounded
from .tensors import torch_dtype
from .traces import (
    FLOAT32_TOLERANCE,
    Allowance,
    Trace,
    allow,
    compare_traces,
    largest_logits,
    only_ties,
    rounding_effect,
    trace,
)

logger = logging.getLogger(__name__)

NOISE_SEED = 0


@dataclass(frozen=True)
class Reference:
    """What base plus adapter says to one prompt, and what rounding does to it.

    Attributes:
        plain: never rounded.
        folded: merged in memory.
        allowed: what rounding the merged maps may change.
        deployed: which ties that and computing in the deployed type may turn.
    """

    plain: Trace
    folded: Trace
    allowed: Allowance
    deployed: Allowance


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
    deployed_dtype: str | None = None,
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
        deployed_dtype: type the checkpoint is used in; by default the merged one.

    Returns:
        The report.

    Raises:
        GateError: naming the first diverging module, or what keeps the checkpoint from
            answering.
        RecapError: if an input is missing, broken, or of another base.
    """
    base = describe_base(parts)
    for folder in (adapter_dir, merged_dir):
        require_base(folder, base)
    dtype, deployed = torch_dtype(settings.dtype), torch_dtype(deployed_dtype or settings.dtype)
    sides = Sides(Path(merged_dir), Path(adapter_dir), parts, dtype, deployed, device)
    # what is asked comes from adapter and base: the checkpoint is what is judged
    wanted = adapter_model_config(adapter_dir, parts)
    prompts = build_prompts(parts, wanted, images_root, questions, settings.parity_prompts)
    report = compare_files(sides, wanted, prompts)
    wrong = report["wrong_tensors"]
    if report["unloadable"] is None and all(entry["loadable"] for entry in wrong):
        report |= _compare_answers(sides, prompts, settings.parity_max_new_tokens)
        if not wrong:
            report |= _localize(sides, prompts, report["prompts"])
    failed = any(not row["passed"] for row in report["prompts"])
    sound = not wrong and not report["wrong_settings"] and report["unloadable"] is None
    report["passed"] = sound and not failed
    write_evidence(out, report, passed=report["passed"])
    if not report["passed"]:
        raise GateError(describe_report(merged_dir, report), list_failures(report))
    logger.info("%s answers as base plus adapter on %d prompts", merged_dir, len(prompts))
    return report


def _compare_answers(sides: Sides, prompts: list[ParityPrompt], limit: int) -> dict[str, Any]:
    """Return what the models say to each prompt; one model is alive at a time."""
    references = _trace_unmerged(sides, prompts, limit)
    release_memory()
    merged, deployed = _trace_merged(sides, prompts, limit)
    release_memory()
    rows = [
        {"prompt": prompt.name, **_judge(ours, low, reference)}
        for prompt, ours, low, reference in zip(prompts, merged, deployed, references, strict=True)
    ]
    kinds = ("folded", "unmerged", "deployed")
    shares = [(r.allowed.difference / largest_logits(r.plain)).max() for r in references]
    widest = float(torch.stack(shares).max())  # NaN where the unmerged model's logits are
    return {
        "float32_tolerance": FLOAT32_TOLERANCE,
        "unmerged_tolerance": round(widest, 6) if math.isfinite(widest) else None,
        "tokens_equal": all(row[kind]["tokens_equal"] for row in rows for kind in kinds),
        "prompts": rows,
    }


def _trace_unmerged(sides: Sides, prompts: list[ParityPrompt], limit: int) -> list[Reference]:
    model = sides.unmerged()

    def effects(plain: list[Trace]) -> list[torch.Tensor]:
        pairs = zip(prompts, plain, strict=True)
        return [rounding_effect(trace(model, p, limit, t.tokens), t) for p, t in pairs]

    plain = [trace(model, prompt, limit) for prompt in prompts]
    with stochastically_rounded(model, sides.merged_dtype, NOISE_SEED):
        moved = effects(plain)
    with folded(model, sides.merged_dtype):
        same = [trace(model, prompt, limit) for prompt in prompts]
    lower(model, sides.deployed)
    lowered = effects(plain)
    merging, both = sides.merged_dtype, max(sides.merged_dtype, sides.deployed, key=_step)
    return [
        Reference(
            exact, again, allow(exact, effect, merging), only_ties(allow(exact, effect + low, both))
        )
        for exact, again, effect, low in zip(plain, same, moved, lowered, strict=True)
    ]


def _step(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _trace_merged(
    sides: Sides, prompts: list[ParityPrompt], limit: int
) -> tuple[list[Trace], list[Trace]]:
    """Return the merged model's traces in float32 and in the deployed type."""
    model = sides.merged()
    exact = [trace(model, prompt, limit) for prompt in prompts]
    lower(model, sides.deployed)
    return exact, [trace(model, prompt, limit) for prompt in prompts]


def _judge(merged: Trace, lowered: Trace, reference: Reference) -> dict[str, Any]:
    """Return one prompt's row of the report."""
    exact = compare_traces(merged, reference.folded, FLOAT32_TOLERANCE)
    rounded = compare_traces(merged, reference.plain, reference.allowed)
    used = compare_traces(lowered, reference.plain, reference.deployed)
    del used["within"]  # activations are rounded too: any finite difference is
    used = {"finite": bool(torch.isfinite(lowered.logits).all())} | used
    passed = exact["tokens_equal"] and exact["within"] and rounded["agrees"] and used["agrees"]
    return {
        "tokens": merged.tokens,
        "folded": exact,
        "unmerged": rounded,
        "deployed": used,
        "passed": bool(passed and used["finite"]),
    }


def _localize(
    sides: Sides, prompts: list[ParityPrompt], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what explains the first failing prompt, for the report.

    ``first_diverging_module`` computes something else than the same weights merged in
    memory. Where none does, rounding is what moved the answer, and no module is wrong by
    itself: ``most_changed_module`` is then the one that it moved most.
    """
    pairs = zip(prompts, rows, strict=True)
    prompt, row = next(((p, row) for p, row in pairs if not row["passed"]), (None, None))
    if prompt is None or row is None:
        return {}
    failing = prompt

    def run(model: MGMForCausalLM) -> Trace:
        return trace(model, failing, 1)

    if not row["deployed"]["finite"]:
        lowered = lower(sides.merged(), sides.deployed)
        return {"first_diverging_module": first_overflow(lowered, run)}
    expected = record_outputs(merge_adapter(sides.unmerged(), dtype=sides.merged_dtype), run)
    release_memory()
    found = first_divergence(sides.merged(), expected, run, FLOAT32_TOLERANCE)
    if found is not None:
        return {"first_diverging_module": found}
    release_memory()
    if row["unmerged"]["agrees"]:
        against, change = "itself in float32", _change_by_type(sides, run)
    else:
        expected = record_outputs(sides.unmerged(), run)
        release_memory()
        against = "base with the adapter attached"
        change = largest_change(sides.merged(), expected, run)
    return {"most_changed_module": _describe_change(change, against)}


def _change_by_type(sides: Sides, run: Run) -> tuple[str, float] | None:
    expected = record_outputs(sides.merged(), run)
    release_memory()
    return largest_change(lower(sides.merged(), sides.deployed), expected, run)


def _describe_change(change: tuple[str, float] | None, against: str) -> dict[str, Any] | None:
    if change is None:
        return None
    module, share = change
    difference = round(share, 6) if math.isfinite(share) else None
    return {"module": module, "relative_difference": difference, "compared_with": against}
