"""The parity gate's findings in words: settings that differ, failures, the message."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json
from .configuration import MGMConfig
from .parts import ModelParts
from .processing import ImagePreprocessor

# what decides how pictures and conversations are shown; sizes are the weights' business
_COMPARED = (
    "conversation",
    "image_aspect_ratio",
    "image_grid",
    "image_global",
    "image_size_aux",
    "mm_vision_select_layer",
    "mm_vision_select_feature",
    "tokenizer_padding_side",
)
MERGE_AGAIN = "merge again from the adapter and base of this run"


def find_wrong_settings(
    merged_dir: str | Path, found: MGMConfig, wanted: MGMConfig, parts: ModelParts
) -> list[dict[str, Any]]:
    """Return the settings of a merged checkpoint that are not those of adapter and base.

    Args:
        merged_dir: the merged checkpoint.
        found: its configuration.
        wanted: the base's, with what the adapter was trained with.
        parts: the base.

    Returns:
        ``{"name", "found", "expected"}`` each.
    """
    path = Path(merged_dir) / "preprocessor_config.json"
    stored = read_json(path) if path.is_file() else {}
    if not isinstance(stored, dict):
        raise RecapError(f"{path} is not an image preprocessor: it holds no mapping")
    pairs = {name: (getattr(found, name), getattr(wanted, name)) for name in _COMPARED}
    exact = ImagePreprocessor.from_parts(parts)
    for name, value in exact.as_dict().items():
        pairs[f"preprocessor_config.json {name}"] = (stored.get(name), value)
    ours = ImagePreprocessor.from_settings(found.preprocessor)
    pairs["preprocessor"] = (ours.as_settings(), exact.as_settings())
    return [
        {"name": name, "found": ours, "expected": theirs}
        for name, (ours, theirs) in pairs.items()
        if ours != theirs
    ]


def list_failures(report: dict[str, Any]) -> list[dict[str, str]]:
    """Return each failure with name, problem and what to do, the first diverging module first."""
    found = [(entry["module"], entry["reason"]) for entry in report["wrong_tensors"]]
    culprit = report["first_diverging_module"]
    if culprit is not None and not found:
        found.append((culprit, "computes something else than in base plus adapter"))
    found += [
        (entry["name"], f"is {entry['found']}, not {entry['expected']}")
        for entry in report["wrong_settings"]
    ]
    found += [
        (f"prompt {row['prompt']}", _describe_row(row, report["deployed_dtype"]))
        for row in report["prompts"]
        if not row["passed"]
    ]
    if not report["tokenizer_equal"]:
        found.append(("tokenizer", "encodes a prompt otherwise than the base's"))
    return [{"name": name, "problem": why, "fix": _advice(why)} for name, why in found]


def _describe_row(row: dict[str, Any], deployed: str) -> str:
    if not row["deployed"]["finite"]:
        return f"overflows when it is answered in {deployed}"
    exact = row["folded"]["tokens_equal"] and row["folded"]["within"]
    if exact and row["unmerged"]["agrees"]:
        return f"is answered otherwise in {deployed} than in float32"
    return "is answered otherwise than by base plus adapter"


def _advice(problem: str) -> str:
    if "overflows" in problem or "than in float32" in problem:
        return "evaluate in bfloat16 or float32"
    return MERGE_AGAIN


def describe_report(merged_dir: str | Path, report: dict[str, Any]) -> str:
    """Return one sentence on a failed report."""
    failed = [row["prompt"] for row in report["prompts"] if not row["passed"]]
    parts = [f"{merged_dir} does not answer as base plus adapter"]
    if report["first_diverging_module"]:
        parts.append(f"first diverging module: {report['first_diverging_module']}")
    if report["wrong_tensors"]:
        first = report["wrong_tensors"][0]
        parts.append(f"{len(report['wrong_tensors'])} wrong tensors, the first {first['reason']}")
    parts += [
        f"{entry['name']} is {entry['found']}, not {entry['expected']}"
        for entry in report["wrong_settings"]
    ]
    if failed:
        parts.append(f"failing prompts: {', '.join(failed)}")
    if not report["tokenizer_equal"]:
        parts.append("the tokenizers differ")
    fixes = dict.fromkeys(failure["fix"] for failure in list_failures(report))
    return "; ".join([*parts, *fixes])
