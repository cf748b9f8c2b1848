"""Data-Juicer recipes, split into what measures and what decides.

A recipe is a YAML file that ``dj-process`` accepts. Its ``process`` list is cut
at the captioner; each filter before and after it is used twice, once to compute
statistics (:func:`measurements`) and once to apply thresholds
(:func:`thresholds`), so that a threshold never recomputes a statistic.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecapError

Operator = dict[str, dict[str, Any]]

CAPTIONERS = ("image_captioning_mapper", "recap_captioning_mapper")

# Filters that decide without a stored statistic cannot be cut in two.
_WITHOUT_STATISTICS = (
    "specified_field_filter",
    "specified_numeric_field_filter",
    "suffix_filter",
    "video_tagging_from_frames_filter",
)
# Exceptions to the naming rule of is_threshold().
_ALSO_THRESHOLDS = {
    "language_id_score_filter": ("lang",),
    "video_face_ratio_filter": ("threshold",),
}
_NOT_THRESHOLDS = {
    "image_subplot_filter": ("hough_threshold", "min_line_length", "max_line_gap"),
    "video_motion_score_filter": ("max_size",),
    "video_motion_score_ptlflow_filter": ("max_size",),
    "video_motion_score_raft_filter": ("max_size",),
}
# How an operator is run, never what it computes.
_EXECUTION = (
    "accelerator",
    "auto_op_parallelism",
    "batch_size",
    "cpu_required",
    "gpu_required",
    "mem_required",
    "memory",
    "num_cpus",
    "num_gpus",
    "num_proc",
    "skip_op_error",
    "stats_export_path",
    "turbo",
)


@dataclass(frozen=True)
class Recipe:
    """A recipe's operators around its captioner.

    Attributes:
        path: the YAML file.
        before: filters on the original text, in order.
        captioner: the captioning step, or ``None``.
        after: filters on the new text, in order.
    """

    path: str
    before: list[Operator]
    captioner: Operator | None
    after: list[Operator]


def resolve_recipe(path: str | Path, overrides: dict[str, dict[str, Any]] | None = None) -> Recipe:
    """Read a recipe and replace parameters of named operators.

    Args:
        path: the YAML file.
        overrides: operator name to parameters that win over the recipe's, for
            instance the local folder of a model; operators the recipe lacks
            are passed over.

    Raises:
        RecapError: if the file is not a recipe, or holds an operator that
            cannot be run as measure + select.
    """
    operators = [_override(operator, overrides or {}) for operator in _read_process(Path(path))]
    places = [i for i, operator in enumerate(operators) if name_of(operator) in CAPTIONERS]
    if len(places) > 1:
        raise RecapError(f"{path}: {len(places)} captioning steps; keep one")
    if not places:
        return Recipe(str(path), operators, None, [])
    cut = places[0]
    return Recipe(str(path), operators[:cut], operators[cut], operators[cut + 1 :])


def measurements(operators: list[Operator]) -> list[Operator]:
    """Return the distinct operators with only the parameters that shape statistics."""
    distinct: list[Operator] = []
    for operator in operators:
        reduced = measurement(operator)
        if reduced not in distinct:
            distinct.append(reduced)
    return distinct


def thresholds(operators: list[Operator]) -> list[Operator]:
    """Return the full operators in recipe order, as ``select_shard.py`` takes them."""
    return [{name_of(operator): dict(params_of(operator))} for operator in operators]


def measurement(operator: Operator) -> Operator:
    """Return one operator without thresholds and execution parameters."""
    name = name_of(operator)
    kept = {
        key: value
        for key, value in params_of(operator).items()
        if key not in _EXECUTION and not is_threshold(name, key)
    }
    return {name: kept}


def is_threshold(name: str, parameter: str) -> bool:
    """Tell whether a parameter only decides, and shapes no statistic."""
    if parameter in _NOT_THRESHOLDS.get(name, ()):
        return False
    return (
        parameter.startswith(("min_", "max_"))
        or parameter in ("any_or_all", "reversed_range")
        or parameter.endswith("_threshold")
        or parameter in _ALSO_THRESHOLDS.get(name, ())
    )


def name_of(operator: Operator) -> str:
    """Return an operator's name."""
    return next(iter(operator))


def params_of(operator: Operator) -> dict[str, Any]:
    """Return an operator's parameters."""
    return next(iter(operator.values()))


def load_operators(text: str) -> list[Operator]:
    """Read a list of operators given as inline JSON or as a JSON file.

    Raises:
        RecapError: if it is not a list of ``{"name_filter": {...}}`` objects.
    """
    source, content = "the inline JSON", text
    if not text.lstrip().startswith("["):
        source = text
        if not Path(text).is_file():
            raise RecapError(f"operators {text} does not exist; pass a JSON list or a path")
        content = Path(text).read_text(encoding="utf-8")
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        raise RecapError(f"operators from {source} are not JSON: {error}") from error
    if not isinstance(value, list):
        raise RecapError(f"operators from {source} must be a list")
    return [_parse_operator(entry, source) for entry in value]


def _read_process(path: Path) -> list[Operator]:
    if not path.is_file():
        raise RecapError(f"recipe {path} does not exist")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecapError(f"recipe {path} is not valid YAML: {error}") from error
    process = document.get("process") if isinstance(document, dict) else None
    if not isinstance(process, list):
        raise RecapError(f"recipe {path} needs a `process:` list of operators")
    return [_parse_operator(entry, str(path), captioner=True) for entry in process]


def _parse_operator(entry: Any, source: str, *, captioner: bool = False) -> Operator:
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise RecapError(
            f"{source}: each operator must be one `name: {{parameters}}` entry, not {entry!r}"
        )
    name, params = next(iter(entry.items()))
    params = {} if params is None else params
    if not isinstance(name, str) or not isinstance(params, dict):
        raise RecapError(f"{source}: operator {name!r} needs a mapping of parameters")
    if not (captioner and name in CAPTIONERS):
        _check_filter(name, source)
    return {name: params}


def _check_filter(name: str, source: str) -> None:
    if not name.endswith("_filter"):
        raise RecapError(
            f"{source}: operator {name!r} is neither a filter nor one of {', '.join(CAPTIONERS)}; "
            "only those run as measure + select. Remove it, or run it with dj-process beforehand"
        )
    if name in _WITHOUT_STATISTICS:
        raise RecapError(
            f"{source}: {name} decides without a statistic, so it cannot be measured once and "
            "applied later. Remove it, or run it with dj-process beforehand"
        )
    spec = find_spec("data_juicer")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    if roots and not any((root / "ops" / "filter" / f"{name}.py").is_file() for root in roots):
        raise RecapError(f"{source}: Data-Juicer has no operator {name!r}; check the spelling")


def _override(operator: Operator, overrides: dict[str, dict[str, Any]]) -> Operator:
    name = name_of(operator)
    return {name: {**params_of(operator), **overrides.get(name, {})}}
