"""The contract between arms: what must be equal for a comparison to mean anything.

Two arms may differ in the captions alone: same image ids in the same order,
same question per id, same seeds, and in each stage the same settings, updates
and batches; stage 2 also the same data. A fact that was not recorded counts
as a violation, since nobody can show that it is equal.

Two kinds of pairs differ in more on purpose. The arms of an A/A pair share the
captions too, and their runs must *not* share a seed, or they would be copies. An
arm and a random draw of the same size share everything but the records.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import GateError
from ..hashing import digest_json
from ..manifest import read_manifest
from .inputs import STAGES, ArmInputs, ComparisonInputs

Facts = dict[str, Any]
Manifest = Mapping[str, Any]

_ORDER = tuple(f"{stage}.order" for stage in STAGES)
_RECORDS = ("dataset.ids", "dataset.images", "dataset.questions", "pretrain.order")
_CAPTIONS, _WEIGHT_SEEDS = "dataset.captions", "weight_seeds"

_DATASET_FACTS: dict[str, tuple[str, Callable[[Manifest], Any]]] = {
    "records": ("records in the training set", lambda m: m["details"].get("records")),
    "ids": ("ids, in order", lambda m: m["details"].get("ids_sha256")),
    "images": ("image of each id", lambda m: m["details"].get("images_sha256")),
    "questions": ("question of each id", lambda m: m["details"].get("questions_sha256")),
}
_STAGE_FACTS: dict[str, tuple[str, Callable[[Manifest], Any]]] = {
    "updates": ("optimizer updates", lambda m: m["counts"].get("updates")),
    "samples": ("training samples", lambda m: m["counts"].get("samples")),
    "global_batch_size": ("global batch size", lambda m: m["settings"].get("global_batch_size")),
    "micro_batch_size": ("micro-batch size", lambda m: m["settings"].get("micro_batch_size")),
    "learning_rate": ("peak learning rate", lambda m: m["settings"].get("learning_rate")),
    "settings": ("all settings of the stage", lambda m: _digest(m["settings"])),
    "order": ("order of the samples", lambda m: m["details"].get("id_order_hash")),
    "plan": ("ranks, batches and accumulation", lambda m: _digest(m["details"].get("plan"))),
    "base": ("base models", lambda m: _digest(m["details"].get("base_fingerprints"))),
}


def _digest(value: Any) -> str | None:
    return None if value is None else digest_json(value)


def _finetune_data(manifest: Manifest) -> Any:
    return manifest["inputs"].get("data", {}).get("sha256")


def arm_facts(inputs: ComparisonInputs, arm: ArmInputs) -> dict[str, tuple[str, Any]]:
    """Return the facts the contract is about: name to (description, value).

    Values of several seeds are one value where they agree, else a list.
    """
    facts: dict[str, tuple[str, Any]] = {}
    manifest = read_manifest(arm.dataset_manifest) if arm.dataset_manifest is not None else None
    for name, (text, read) in _DATASET_FACTS.items():
        facts[f"dataset.{name}"] = (text, read(manifest) if manifest else None)
    runs = sorted((run for run in inputs.runs if run.arm == arm.arm), key=lambda run: run.seed)
    if arm.identical_to is not None or arm.arm in {a.identical_to for a in inputs.arms}:
        captions = manifest["details"].get("captions_sha256") if manifest else None
        facts[_CAPTIONS] = ("captions of an A/A pair", captions)
        given = [read_manifest(path).get("seed") for run in runs for path in run.manifests.values()]
        found = sorted({seed for seed in given if seed is not None})
        facts[_WEIGHT_SEEDS] = ("seeds of an A/A pair, none in common", found or None)
    facts["seeds"] = ("training seeds", [run.seed for run in runs] or None)
    for stage in STAGES:
        manifests = [read_manifest(run.manifests[stage]) for run in runs if stage in run.manifests]
        for name, (text, read) in _STAGE_FACTS.items():
            facts[f"{stage}.{name}"] = (f"{stage}: {text}", _common([read(m) for m in manifests]))
        if stage == "finetune":
            data = _common([_finetune_data(m) for m in manifests])
            facts["finetune.data"] = ("finetune: hash of the instruction data", data)
    return facts


def _common(values: list[Any]) -> Any:
    if not values or any(value is None for value in values):
        return None
    return values[0] if all(value == values[0] for value in values) else values


def check_contract(inputs: ComparisonInputs) -> list[dict[str, Any]]:
    """Compare every arm with the reference, fact by fact.

    Returns:
        One row a fact and arm: ``arm``, ``reference``, ``fact``,
        ``description``, ``reference_value``, ``value``, ``ok``.

    Raises:
        GateError: naming every violation of an arm that isn't declared unmatched. The
            arms of an A/A pair cannot be.
    """
    facts = {arm.arm: arm_facts(inputs, arm) for arm in inputs.arms}
    rows = []
    for arm in inputs.challengers:
        other = inputs.opponent(arm)
        for fact, (text, value) in facts[arm.arm].items():
            reference_value = facts[other].get(fact, (text, None))[1]
            if fact in _free_facts(arm):
                continue
            rows.append(
                {
                    "arm": arm.arm,
                    "reference": other,
                    "fact": fact,
                    "description": text,
                    "reference_value": reference_value,
                    "value": value,
                    "ok": _holds(fact, value, reference_value),
                }
            )
    _require(inputs, rows)
    return rows


def _free_facts(arm: ArmInputs) -> tuple[str, ...]:
    """Return the facts in which an arm may differ from what it is compared with."""
    if arm.identical_to is not None:
        return _ORDER
    own = _RECORDS if arm.compared_with is not None else ()
    return (*own, _CAPTIONS, _WEIGHT_SEEDS)


def _holds(fact: str, value: Any, other: Any) -> bool:
    if value is None or other is None:
        return False
    return not set(value) & set(other) if fact == _WEIGHT_SEEDS else bool(value == other)


def _require(inputs: ComparisonInputs, rows: list[dict[str, Any]]) -> None:
    declared = {
        arm.arm
        for arm in inputs.arms
        if not arm.matched and arm.compared_with is None and arm.identical_to is None
    }
    broken = [row for row in rows if not row["ok"] and row["arm"] not in declared]
    if not broken:
        return
    lines = [
        f"  {row['arm']}: {row['description']} is {_show(row['value'])}, "
        f"but {_show(row['reference_value'])} in {row['reference']}"
        for row in broken
    ]
    raise GateError(
        "the arms may not be compared, since they differ in more than their captions:\n"
        + "\n".join(lines)
        + "\nMake them equal, or declare the arm as unmatched on purpose."
    )


def _show(value: Any) -> str:
    return "not recorded" if value is None else str(value)
