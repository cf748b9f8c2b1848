"""Data-Juicer recipes, split into what measures and what decides.

A recipe is a YAML file that ``dj-process`` accepts. Its ``process`` list is cut
at the captioner, and each part into steps (:func:`steps`): filters, mappers, a
deduplicator. A filter is used twice, once to compute statistics
(:func:`measurements`) and once to apply thresholds (:func:`thresholds`), so
that a threshold never recomputes a statistic.
"""

import json
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecapError
from .catalogue import CAPTIONERS, check_operator, kind_of
from .texts import CLEAN, FAITHFUL, Operator, flagged

# Data-Juicer accepts no key of ours, so the flag stands in a comment.
_FLAG = re.compile(r"^#\s*recap:\s*(.*?)\s*$", re.MULTILINE)
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
        before: operators on the original text, in order.
        captioner: the captioning step, or ``None``.
        after: operators on the new text, in order.
    """

    path: str
    before: list[Operator]
    captioner: Operator | None
    after: list[Operator]


@dataclass(frozen=True)
class Step:
    """Operators of one kind that run in the same jobs.

    Attributes:
        name: its place in the list and its kind, such as ``01_deduplicator``.
        kind: ``filter``, ``mapper`` or ``deduplicator``.
        operators: any number of filters or mappers, or one deduplicator.
    """

    name: str
    kind: str
    operators: list[Operator]


def resolve_recipe(path: str | Path, overrides: dict[str, dict[str, Any]] | None = None) -> Recipe:
    """Read a recipe and replace parameters of named operators.

    Args:
        path: the YAML file.
        overrides: operator name to parameters that win over the recipe's, for
            instance the local folder of a model; operators the recipe lacks
            are passed over.

    Raises:
        RecapError: if the file is not a recipe, or holds an operator that
            cannot run shard by shard.
    """
    process, text = _read_recipe(Path(path))
    operators = [flagged(_override(operator, overrides or {}), text) for operator in process]
    places = [i for i, operator in enumerate(operators) if name_of(operator) in CAPTIONERS]
    if len(places) > 1:
        raise RecapError(f"{path}: {len(places)} captioning steps; keep one")
    if not places:
        return Recipe(str(path), operators, None, [])
    cut = places[0]
    return Recipe(str(path), operators[:cut], operators[cut], operators[cut + 1 :])


def steps(operators: list[Operator]) -> list[Step]:
    """Cut a list of operators into steps; neighbours of one kind share one."""
    found: list[Step] = []
    for kind, group in groupby(operators, key=lambda operator: kind_of(name_of(operator))):
        members = list(group)
        shares = [[member] for member in members] if kind == "deduplicator" else [members]
        for share in shares:
            found.append(Step(f"{len(found):02d}_{kind}", kind, share))
    return found


def is_plain(operators: list[Operator]) -> bool:
    """Tell whether a list holds filters only, and so is one step at most."""
    return all(kind_of(name_of(operator)) == "filter" for operator in operators)


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


def load_operators(text: str, kind: str = "filter") -> list[Operator]:
    """Read a list of operators given as inline JSON or as a JSON file.

    Args:
        text: the JSON, or the path of a file with it.
        kind: what all of them must be: ``filter``, ``mapper`` or ``deduplicator``.

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
    operators = [_parse_operator(entry, source) for entry in value]
    for operator in operators:
        if kind_of(name_of(operator)) != kind:
            raise RecapError(f"operators from {source}: {name_of(operator)} is no {kind}")
    return operators


def single(operators: list[Operator]) -> Operator:
    """Return the only operator of a list.

    Raises:
        RecapError: if there are several, or none.
    """
    if len(operators) != 1:
        raise RecapError(f"exactly one operator is needed here, not {len(operators)}")
    return operators[0]


def _read_recipe(path: Path) -> tuple[list[Operator], str]:
    if not path.is_file():
        raise RecapError(f"recipe {path} does not exist")
    try:
        content = path.read_text(encoding="utf-8")
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecapError(f"recipe {path} is not valid YAML: {error}") from error
    process = document.get("process") if isinstance(document, dict) else None
    if not isinstance(process, list):
        raise RecapError(f"recipe {path} needs a `process:` list of operators")
    return [_parse_operator(entry, str(path)) for entry in process], _text_flag(content, path)


def _text_flag(content: str, path: Path) -> str:
    """Return what text operators see: the value of the recipe's flag, or ``clean``."""
    flags = _FLAG.findall(content)
    if not flags:
        return CLEAN
    key, _, value = flags[0].partition("=")
    if len(flags) > 1 or key != "text" or value not in (FAITHFUL, CLEAN):
        raise RecapError(
            f"recipe {path}: the line `# recap: {flags[-1]}` is not understood; write one line, "
            f"`# recap: text={FAITHFUL}` (operators see the special tokens, as in dj-process) or "
            f"`# recap: text={CLEAN}` (they see the bare caption)"
        )
    return value


def _parse_operator(entry: Any, source: str) -> Operator:
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
    check_operator(name, source)
    return {name: params}


def _override(operator: Operator, overrides: dict[str, dict[str, Any]]) -> Operator:
    name = name_of(operator)
    return {name: {**params_of(operator), **overrides.get(name, {})}}
