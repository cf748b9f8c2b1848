"""What a model says to a prompt, and whether two models say the same.

How far rounding moves a model's logits depends on model, prompt and step, so
it is measured there: a model of the same exact weights, rounded in another
way, follows the tokens of the reference, and the largest change of a logit at
a step is the effect of rounding at that step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .generation import greedy_decode
from .modeling import MGMForCausalLM
from .prompts import ParityPrompt

FLOAT32_TOLERANCE = 1e-4  # of the largest logit: sums in another order
SAFETY = 4.0  # between two effects of one size
CAP = 16.0  # rounding steps of the largest logit, whatever was measured
_TINY = 1e-30


@dataclass(frozen=True)
class Trace:
    """What a model said to one prompt: its tokens, and (steps, vocabulary) logits."""

    tokens: list[int]
    logits: torch.Tensor


@dataclass(frozen=True)
class Allowance:
    """What two traces may differ by.

    Attributes:
        difference: (steps,), of any logit.
        tie: (steps,), gap of two logits below which either token is the best one.
    """

    difference: torch.Tensor
    tie: torch.Tensor


@torch.no_grad()
def trace(
    model: MGMForCausalLM,
    prompt: ParityPrompt,
    max_new_tokens: int,
    follow: Sequence[int] | None = None,
) -> Trace:
    """Decode one prompt greedily and keep the logits of every step.

    Args:
        model: in evaluation mode.
        prompt: ids, picture, and tokens that end the answer.
        max_new_tokens: longest answer.
        follow: tokens to continue with instead of the most likely ones.
    """
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([prompt.input_ids], device=device)  # type: ignore[arg-type]
    images = None if prompt.image is None else prompt.image.unsqueeze(0).to(device)  # type: ignore[arg-type]
    batch = model.prepare_inputs(ids, torch.ones_like(ids), images_aux=images, padding_side="left")
    steps: list[torch.Tensor] = []
    tokens = greedy_decode(
        model.language_model, batch, max_new_tokens, prompt.stops, steps, follow=follow
    )
    return Trace(tokens[0], torch.cat(steps).float().cpu())


def largest_logits(reference: Trace) -> torch.Tensor:
    """Return the largest absolute logit of each step, (steps,)."""
    return reference.logits.abs().amax(dim=-1).clamp(min=_TINY)


def rounding_effect(rounded: Trace, reference: Trace) -> torch.Tensor:
    """Return the largest change of a logit at each step, (steps,).

    One step's change scatters by chance, so that it counts as no less than the
    mean over the prompt's steps. One that is not finite counts as infinite.

    Args:
        rounded: followed the tokens of ``reference``.
        reference: of the exact model.
    """
    moved = (rounded.logits - reference.logits).abs().amax(dim=-1)
    moved = torch.nan_to_num(moved, nan=torch.inf, posinf=torch.inf)
    return torch.maximum(moved, moved.mean())


def allow(reference: Trace, effect: torch.Tensor, dtype: torch.dtype) -> Allowance:
    """Return what rounding to a type may change in a trace.

    Args:
        reference: of the exact model.
        effect: of :func:`rounding_effect`, (steps,).
        dtype: rounded to.

    Returns:
        A difference of ``SAFETY`` times the effect, and ties as wide as twice the
        effect; both at least ``FLOAT32_TOLERANCE`` and at most ``CAP`` rounding
        steps of the step's largest logit.
    """
    scale = largest_logits(reference)
    low = FLOAT32_TOLERANCE * scale
    high = torch.maximum(CAP * torch.finfo(dtype).eps * scale, low)
    return Allowance((SAFETY * effect).clamp(low, high), (2 * effect).clamp(low, high))


def only_ties(allowed: Allowance) -> Allowance:
    """Return the same ties, with any finite difference: where activations are rounded too."""
    return Allowance(torch.full_like(allowed.difference, torch.inf), allowed.tie)


def compare_traces(ours: Trace, theirs: Trace, allowed: Allowance | float) -> dict[str, Any]:
    """Compare two traces up to the first step where their tokens part.

    Args:
        ours: of one model.
        theirs: of the other, the reference.
        allowed: what they may differ by; a number is a share of each step's
            largest logit, and ties are twice as wide.

    Returns:
        ``tokens_equal``, ``steps_compared``, ``max_difference`` (share of the
        step's largest logit, None if not finite), ``within`` what is allowed, and
        ``agrees``: within, and tokens equal or parted at a tie.
    """
    pairs = list(zip(ours.tokens, theirs.tokens, strict=False))
    parted = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    steps = len(pairs) if parted is None else parted + 1
    left, right = ours.logits[:steps], theirs.logits[:steps]
    scale = largest_logits(theirs)
    if not isinstance(allowed, Allowance):
        allowed = Allowance(allowed * scale, 2 * allowed * scale)
    moved = (left - right).abs().amax(dim=-1)
    equal = ours.tokens == theirs.tokens
    finite = bool(torch.isfinite(left).all() and torch.isfinite(right).all())
    within = finite and bool((moved <= allowed.difference[:steps]).all())
    tie = parted is not None and _gap(right[parted], pairs[parted]) <= float(allowed.tie[parted])
    return {
        "tokens_equal": equal,
        "steps_compared": steps,
        # what is rounded away here depends on the order of sums over threads
        "max_difference": round(float((moved / scale[:steps]).max()), 6) if finite else None,
        "within": within,
        "agrees": within and (equal or tie),
    }


def _gap(logits: torch.Tensor, tokens: tuple[int, int]) -> float:
    return float((logits[tokens[0]] - logits[tokens[1]]).abs())
