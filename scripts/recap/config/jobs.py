"""The jobs that measure their cost: which file each one leaves, and for which arms it works."""

from collections.abc import Iterator
from typing import Any

from ..evaluate.protocol import MAJORITY
from .positive import PositiveControlWiring
from .steps import StepWiring
from .wiring import Wiring

Entry = dict[str, Any]
_STEP_RULES = {
    "filter": "measure_step_shard",
    "mapper": "map_shard",
    "deduplicator": "hash_shard",
}


class JobWiring:
    """Names the cost file of every job of an experiment that writes one."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._config = wiring.config
        self._steps = StepWiring(wiring)
        self._base = f"results/{wiring.config.experiment}/perf"

    def entries(self) -> list[Entry]:
        """Return ``stage`` (the rule), ``arms``, ``label`` and ``path`` of each file, in order.

        A job that several arms share is listed once, with all of them; one that
        works for no arm, such as a published model's, has none.
        """
        found: dict[str, Entry] = {}
        jobs = [*self._data_jobs(), *self._model_jobs(), *self._released_jobs()]
        for stage, arm, name, label in jobs:
            path = f"{self._base}/{stage}/{name}.json"
            entry = {"stage": stage, "arms": [], "label": label, "path": path}
            arms = found.setdefault(path, entry)["arms"]
            if arm and arm not in arms:
                arms.append(arm)
        return list(found.values())

    def _data_jobs(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield rule, arm, file name and label of the jobs that make training sets."""
        rows = self._wiring.experiment.arms
        arms = self._wiring.curated_arms()
        for arm in arms:
            row = rows[arm]
            if row.pre_recipe:
                place = f"corpus/{row.corpus}/recipes/{row.pre_recipe}"
                plain = ("measure_shard", f"{row.corpus}.{row.pre_recipe}")
                yield from self._recipe_jobs(arm, place, plain)
        for arm in arms:
            yield from self._caption_jobs(arm)
        for arm in arms:
            if rows[arm].post_recipe:
                yield from self._recipe_jobs(arm, f"arms/{arm}", ("measure_arm_shard", arm))
        for arm in arms:
            yield "measure_quality", arm, arm, f"quality of {arm}"
            if self._wiring.quality_differences(arm):
                yield "compare_quality", arm, arm, f"quality of {arm} against the reference"

    def _recipe_jobs(
        self, arm: str, place: str, plain: tuple[str, str]
    ) -> Iterator[tuple[str, str, str, str]]:
        chain = self._steps.chain(place)
        for shard in self._wiring.shards(self._wiring.experiment.arms[arm].corpus):
            if not chain:
                rule, name = plain
                yield rule, arm, f"{name}.{shard}", f"measure {name} shard {shard}"
            for step in chain:
                name = f"{place}/{step.name}.{shard}"
                yield _STEP_RULES[step.kind], arm, name, f"{step.name} of {place} shard {shard}"

    def _caption_jobs(self, arm: str) -> Iterator[tuple[str, str, str, str]]:
        row = self._wiring.experiment.arms[arm]
        if row.caption_policy == "keep":
            return
        stages = [("caption_shard", "caption"), ("choose_caption", "choice")]
        if self._config.caption.candidates == 1:
            stages.pop()
        for stage, word in [*stages, ("score_similarity", "similarity")]:
            for shard in self._wiring.shards(row.corpus):
                name = f"{row.corpus}.{row.pre_recipe or 'none'}.{row.captioner}.{shard}"
                yield stage, arm, name, f"{word} {row.captioner} shard {shard}"

    def _model_jobs(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield rule, arm, file name and label of the jobs that train and ask models."""
        runs = [
            (arm, f"{arm}.seed{seed}") for arm in self._config.arms for seed in self._config.seeds
        ]
        for stage in ("pretrain", "finetune", "check_parity"):
            for arm, run in runs:
                yield stage, arm, run, f"{stage} {run}"
        shards = self._config.evaluation_shards
        for arm, run in runs:
            for answered in self._answered():
                for index in range(shards):
                    name = f"{run}.{answered}.{shards}_{index}"
                    yield "predict_shard", arm, name, f"predict {name}"

    def _released_jobs(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield the jobs that ask released models, whose published scores are reproduced."""
        shards = self._config.evaluation_shards
        for entry in PositiveControlWiring(self._wiring).entries():
            for index in range(shards if entry["report"] else 0):
                name = f"{entry['model']}.{entry['benchmark']}.{shards}_{index}"
                yield "positive_control", "", name, f"predict {name}"

    def _answered(self) -> list[str]:
        """Return what every run's model answers: each benchmark, then under each control."""
        controls = ["", *(f".{name}" for name in self._config.controls if name != MAJORITY)]
        return [f"{name}{control}" for name in self._config.benchmarks for control in controls]
