"""The parity gate's findings in words: settings that differ, failures, the message."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..io import read_json
from .parts import ModelParts
from .processing import ImagePreprocessor

MERGE_AGAIN = "merge again from the adapter and base of this run"


def preprocessor_differences(merged_dir: str | Path, parts: ModelParts) -> list[dict[str, Any]]:
    """Return what a checkpoint's ``preprocessor_config.json`` says otherwise than the base's.

    Returns:
        ``{"name", "found", "expected"}`` each.
    """
    path = Path(merged_dir) / "preprocessor_config.json"
    wanted = ImagePreprocessor.from_parts(parts).as_dict()
    if not path.is_file():
        return [{"name": path.name, "found": "missing", "expected": "there"}]
    try:
        stored = read_json(path)
    except RecapError:
        stored = None
    if not isinstance(stored, dict):
        return [{"name": path.name, "found": "no mapping", "expected": wanted}]
    return [
        {"name": f"{path.name} {name}", "found": stored.get(name), "expected": value}
        for name, value in wanted.items()
        if stored.get(name) != value
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
    if report["tokenizer_problem"] is not None:
        found.append(("tokenizer", report["tokenizer_problem"]))
    if not found:
        found.append(("checkpoint", f"cannot be loaded: {report['unloadable']}"))
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
    if report["most_changed_module"] is not None:
        most = report["most_changed_module"]
        parts.append(
            "no module diverges in float32 from the same weights merged in memory; held against "
            f"{most['compared_with']}, {most['module']} differs most, by "
            f"{most['relative_difference']} of its largest output"
        )
    if report["wrong_tensors"]:
        first = report["wrong_tensors"][0]
        parts.append(f"{len(report['wrong_tensors'])} wrong tensors, the first {first['reason']}")
    parts += [
        f"{entry['name']} is {entry['found']}, not {entry['expected']}"
        for entry in report["wrong_settings"]
    ]
    if failed:
        parts.append(f"failing prompts: {', '.join(failed)}")
    if report["tokenizer_problem"] is not None:
        parts.append(f"the tokenizer {report['tokenizer_problem']}")
    elif report["unloadable"] is not None:
        parts.append(f"it cannot be loaded: {report['unloadable']}")
    fixes = dict.fromkeys(failure["fix"] for failure in list_failures(report))
    return "; ".join([*parts, *fixes])
