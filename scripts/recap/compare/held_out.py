"""Loss on the samples that no arm trained on: the one training number arms share."""

from typing import Any

import numpy as np

from ..errors import GateError
from ..io import read_json
from .inputs import ComparisonInputs, Stage

Row = dict[str, Any]


def held_out_rows(inputs: ComparisonInputs, stage: Stage) -> list[Row]:
    """Return one row a style and arm: the loss per supervised token at the end of a stage.

    Returns:
        ``style``, ``arm``, ``samples``, ``tokens``, ``seeds``, ``loss`` (mean over
        the seeds) and ``spread`` (their standard deviation, none for one seed),
        styles together; empty if nothing was held out.

    Raises:
        GateError: if two runs were asked other ids or tokens in the same style.
    """
    asked: dict[str, tuple[Any, ...]] = {}
    losses: dict[tuple[str, str], list[float]] = {}
    for run in inputs.runs:
        found = read_json(run.metrics[stage]).get("held_out", []) if stage in run.metrics else []
        for row in found:
            key = (row["ids_sha256"], row["samples"], row["supervised_tokens"])
            if asked.setdefault(row["style"], key) != key:
                raise GateError(
                    f"{run.metrics[stage]}: held-out set {row['style']} is not the one that the "
                    "other runs were asked, so the losses cannot be compared; train again"
                )
            losses.setdefault((row["style"], run.arm), []).append(row["loss"])
    return [
        {
            "style": style,
            "arm": arm,
            "samples": samples,
            "tokens": tokens,
            "seeds": len(losses[style, arm]),
            "loss": float(np.mean(losses[style, arm])),
            "spread": float(np.std(losses[style, arm], ddof=1))
            if len(losses[style, arm]) > 1
            else None,
        }
        for style, (_, samples, tokens) in asked.items()
        for arm in inputs.arm_names
        if (style, arm) in losses
    ]
