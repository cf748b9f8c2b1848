"""Paths and parameters of recipes that are more than filters.

A *place* is a folder in which a recipe runs: ``corpus/<corpus>/recipes/<recipe>``
before captioning, ``arms/<arm>`` after it. A recipe of filters alone needs one
measurement and one selection there; any other has one folder a step below
``steps/``, and its outcome is joined under the same names.
"""

from ..curate.recipe import Operator, Step, is_plain, steps
from .wiring import NO_RECIPE, Wiring


class StepWiring:
    """Answers the rules' questions about places whose recipe runs in steps."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.experiment = wiring.experiment
        self._corpora: dict[str, str] = {}
        self._steps: dict[str, list[Step]] = {}
        for name, arm in self.experiment.arms.items():
            if arm.pre_recipe:
                place = f"corpus/{arm.corpus}/recipes/{arm.pre_recipe}"
                self._add(place, arm.corpus, wiring.operators(arm.pre_recipe))
            if arm.post_recipe:
                self._add(f"arms/{name}", arm.corpus, wiring.post_operators(name))

    def _add(self, place: str, corpus: str, operators: list[Operator]) -> None:
        if not is_plain(operators):
            self._corpora[place] = corpus
            self._steps[place] = steps(operators)

    @property
    def places(self) -> str:
        """Return the places as a regular expression that matches nothing else."""
        return "|".join(self._steps) or NO_RECIPE

    def chain(self, place: str) -> list[Step]:
        """Return the steps of a place; none where its recipe has filters alone."""
        return self._steps.get(place, [])

    def corpus(self, place: str) -> str:
        """Return the corpus whose records come to a place."""
        return self._corpora[place]

    def operators(self, place: str, step: str) -> list[Operator]:
        """Return the operators of a step, all parameters filled in."""
        return self._step(place, step).operators

    def records(self, place: str, step: str, shard: str) -> str:
        """Return the records that a step begins with: those the one before it left."""
        chain = self._steps[place]
        index = chain.index(self._step(place, step))
        if index:
            return self._kept(place, chain[index - 1], shard)
        base = f"results/{self.experiment.config.experiment}"
        if place.startswith("arms/"):
            return f"{base}/{place}/text/{shard}.jsonl"
        return f"{base}/corpus/{self.corpus(place)}/shards/{shard}.jsonl"

    def hashes(self, place: str, step: str) -> list[str]:
        """Return the hashes of all shards that a deduplicator decides on."""
        shards = self.wiring.shards(self.corpus(place))
        return [f"{self._folder(place)}/{step}/hashes/{shard}.parquet" for shard in shards]

    def last(self, place: str, shard: str) -> str:
        """Return the records that the last step leaves."""
        return self._kept(place, self._steps[place][-1], shard)

    def counts(self, place: str, shard: str) -> list[str]:
        """Return the counts of every step."""
        folder = self._folder(place)
        return [f"{folder}/{step.name}/counts/{shard}.json" for step in self._steps[place]]

    def drops(self, place: str, shard: str) -> list[str]:
        """Return the drops of the steps that can drop a record."""
        chain = [step for step in self._steps[place] if step.kind != "mapper"]
        return [f"{self._folder(place)}/{step.name}/drops/{shard}.jsonl" for step in chain]

    def _step(self, place: str, name: str) -> Step:
        return next(step for step in self._steps[place] if step.name == name)

    def _kept(self, place: str, step: Step, shard: str) -> str:
        return f"{self._folder(place)}/{step.name}/kept/{shard}.jsonl"

    def _folder(self, place: str) -> str:
        return f"results/{self.experiment.config.experiment}/{place}/steps"
