"""Paths and parameter values that the rules need, derived from an experiment.

The rules only wire: whatever depends on the configuration is decided here, in
plain functions that tests can call.
"""

from functools import cache
from pathlib import Path
from shlex import quote

from ..curate.model_operators import is_batched
from ..curate.recipe import Operator, Recipe, name_of, resolve_recipe
from ..shards import shard_names
from .data_paths import as_json
from .evaluation import EvaluationWiring
from .experiment import Experiment

NO_RECIPE = "none"


def _drops_of(counts: str) -> str:
    """Return the drops beside a shard's counts."""
    path = Path(counts)
    return str(path.parent.with_name("drops") / f"{path.stem}.jsonl")


class Wiring(EvaluationWiring):
    """Answers the rules' questions about one experiment."""

    def __init__(self, experiment: Experiment) -> None:
        """Answer for ``experiment``."""
        super().__init__(experiment)
        # Every job of a shard asks; reading the file again would dominate a dry run.
        self._recipe = cache(self._read_recipe)

    # curation

    def shards(self, corpus: str) -> list[str]:
        """Return the shard wildcards of a corpus."""
        return shard_names(self.experiment.shard_count(corpus))

    def operators(self, recipe: str, *, after: bool = False) -> list[Operator]:
        """Return a recipe's filters, all parameters and local models filled in.

        Args:
            recipe: name of the recipe.
            after: whether to take the filters of the new text, which follow the
                captioning step where the recipe has one.
        """
        resolved = self._recipe(recipe)
        return resolved.after if after and resolved.captioner else resolved.before

    def _read_recipe(self, recipe: str) -> Recipe:
        path = self.experiment.recipe_path(recipe)
        return resolve_recipe(path, self.experiment.operator_overrides())

    def post_operators(self, arm: str) -> list[Operator]:
        """Return the filters on an arm's own text."""
        return self.operators(self.experiment.arms[arm].post_recipe, after=True)

    def operator_manifests(self, operators: list[Operator]) -> list[str]:
        """Return the manifests of the models that operators use."""
        names = {name_of(operator) for operator in operators}
        models = self.config.operator_models
        return sorted(
            self.model_manifest(model)
            for operator in names & set(models)
            for model in models[operator].values()
        )

    def model_settings_flag(self, operators: list[Operator]) -> str:
        """Return the flag that says how operators with a model run, where there are any."""
        if not any(is_batched(operator) for operator in operators):
            return ""
        return f"--model-settings {quote(as_json(self.config.curate.operator_models))}"

    def kept_before_captioning(self, corpus: str, recipe: str, shard: str) -> str:
        """Return a shard's records that reach the captioner."""
        base = f"results/{self.config.experiment}/corpus/{corpus}"
        if recipe in ("", NO_RECIPE):
            return f"{base}/shards/{shard}.jsonl"
        return f"{base}/recipes/{recipe}/kept/{shard}.jsonl"

    def arm_records(self, arm: str, shard: str) -> str:
        """Return a shard's records of an arm before its caption policy."""
        row = self.experiment.arms[arm]
        return self.kept_before_captioning(row.corpus, row.pre_recipe, shard)

    def arm_captions(self, arm: str, shard: str) -> list[str]:
        """Return a shard's new captions, for arms that recaption."""
        row = self.experiment.arms[arm]
        if row.caption_policy == "keep":
            return []
        return [self.new_captions(row.corpus, row.pre_recipe, row.captioner, shard)]

    def new_captions(self, corpus: str, recipe: str, captioner: str, shard: str) -> str:
        """Return a shard's new captions: the captioner's, or the best of its candidates."""
        base = f"results/{self.config.experiment}/corpus/{corpus}/recipes/{recipe or NO_RECIPE}"
        stage = "chosen" if self.config.caption.candidates > 1 else "captions"
        return f"{base}/{stage}/{captioner}/{shard}.jsonl"

    def similarity(self, corpus: str, recipe: str, captioner: str) -> list[str]:
        """Return the tables of similarities of old and new captions, one a shard."""
        base = self._similarity_folder(corpus, recipe, captioner)
        return [f"{base}/{shard}.parquet" for shard in self.shards(corpus)]

    def _similarity_folder(self, corpus: str, recipe: str, captioner: str) -> str:
        base = f"results/{self.config.experiment}/corpus/{corpus}/recipes/{recipe or NO_RECIPE}"
        return f"{base}/similarity/{captioner}"

    def arm_similarity(self, arm: str, shard: str) -> list[str]:
        """Return a shard's similarities, for arms whose policy reads them."""
        row = self.experiment.arms[arm]
        if row.caption_policy != "replace_low_similarity":
            return []
        folder = self._similarity_folder(row.corpus, row.pre_recipe, row.captioner)
        return [f"{folder}/{shard}.parquet"]

    def arm_threshold(self, arm: str) -> list[str]:
        """Return the document that says which similarity is low, where it is read."""
        row = self.experiment.arms[arm]
        if row.caption_policy != "replace_low_similarity":
            return []
        folder = self._similarity_folder(row.corpus, row.pre_recipe, row.captioner)
        return [f"{folder}/threshold.json"]

    def policy_flags(self, arm: str) -> str:
        """Return the flags that say how an arm chooses between captions."""
        row, curate = self.experiment.arms[arm], self.config.curate
        flags = [f"--policy {row.caption_policy}"]
        if row.caption_policy != "keep":
            flags.append(f"--captioner {row.captioner}")
        if row.caption_policy == "mix":
            flags.append(f"--mix-share {curate.mix_share} --seed {curate.seed}")
        if row.max_caption_words:
            flags.append(f"--max-caption-words {row.max_caption_words}")
        return " ".join(flags)

    def decisions(self, arm: str) -> list[str]:
        """Return an arm's decision tables: which caption each record got, and why."""
        arm = self.data_arm(arm)
        base = f"results/{self.config.experiment}/arms/{arm}/decisions"
        return [f"{base}/{s}.jsonl" for s in self.shards(self.experiment.arms[arm].corpus)]

    def arm_kept(self, arm: str) -> list[str]:
        """Return an arm's shards after all its filters."""
        row = self.experiment.arms[arm]
        stage = "kept" if row.post_recipe else "text"
        base = f"results/{self.config.experiment}/arms/{arm}/{stage}"
        return [f"{base}/{shard}.jsonl" for shard in self.shards(row.corpus)]

    def pre_counts(self, arm: str) -> list[str]:
        """Return the counts of an arm's filters before captioning."""
        row = self.experiment.arms[arm]
        if not row.pre_recipe:
            return []
        base = f"results/{self.config.experiment}/corpus/{row.corpus}/recipes/{row.pre_recipe}"
        return [f"{base}/counts/{shard}.json" for shard in self.shards(row.corpus)]

    def post_counts(self, arm: str) -> list[str]:
        """Return the counts of an arm's filters on its own text."""
        row = self.experiment.arms[arm]
        if not row.post_recipe:
            return []
        base = f"results/{self.config.experiment}/arms/{arm}/counts"
        return [f"{base}/{shard}.json" for shard in self.shards(row.corpus)]

    def pre_drops(self, arm: str) -> list[str]:
        """Return what an arm's operators before captioning dropped, and why."""
        return [_drops_of(path) for path in self.pre_counts(arm)]

    def post_drops(self, arm: str) -> list[str]:
        """Return what the operators on an arm's own text dropped, and why."""
        return [_drops_of(path) for path in self.post_counts(arm)]

    def matched(self, arm: str) -> list[str]:
        """Return the merged records whose ids an arm must use, if it is matched."""
        other = self.experiment.arms[arm].match_ids_to
        return [f"results/{self.config.experiment}/arms/{other}/merged.jsonl"] if other else []

    def sized(self, arm: str) -> list[str]:
        """Return the merged records whose number is an arm's budget, if it borrows one."""
        other = self.experiment.arms[arm].max_records_of
        return [f"results/{self.config.experiment}/arms/{other}/merged.jsonl"] if other else []

    def budget_flags(self, arm: str) -> str:
        """Return the flags that limit an arm's number of records."""
        row, seed = self.experiment.arms[arm], self.config.curate.seed
        if row.max_records_of:
            return f"--max-records-of {self.sized(arm)[0]} --seed {seed}"
        return f"--max-records {row.max_records} --seed {seed}" if row.max_records else ""

    # training

    def data_arm(self, arm: str) -> str:
        """Return the arm whose training set an arm uses: its own, unless it repeats another."""
        return self.experiment.arms[arm].identical_to or arm

    def train_data(self, arm: str) -> str:
        """Return an arm's training set."""
        return f"results/{self.config.experiment}/arms/{self.data_arm(arm)}/train.json"

    def train_seed(self, arm: str, seed: str) -> int:
        """Return the seed a run is trained with; ``seed`` names the run in every path."""
        return int(seed) + self.experiment.arms[arm].seed_offset

    def curated_arms(self) -> list[str]:
        """Return the arms with a funnel of their own."""
        names = self.config.arms + self.config.funnel_arms
        return [arm for arm in names if self.data_arm(arm) == arm]

    # quality of captions

    def quality_similarity(self, arm: str) -> list[str]:
        """Return the similarities of old and new captions, for every arm that recaptions."""
        row = self.experiment.arms[arm]
        if row.caption_policy == "keep":
            return []
        return self.similarity(row.corpus, row.pre_recipe, row.captioner)

    def quality(self, arm: str) -> str:
        """Return the document about an arm's captions."""
        return f"results/{self.config.experiment}/arms/{self.data_arm(arm)}/quality.json"

    def quality_differences(self, arm: str) -> str | None:
        """Return the paired differences of an arm from the reference, if they are measured.

        An arm without data of its own has none, nor has one of another corpus.
        """
        reference = self.quality_reference()
        arms = self.experiment.arms
        if self.data_arm(arm) != arm or arm == reference:
            return None
        if arms[arm].corpus != arms[reference].corpus:
            return None
        return f"results/{self.config.experiment}/arms/{arm}/quality_differences.json"

    def quality_reference(self) -> str:
        """Return the arm whose captions the others are compared with."""
        return self.data_arm(self.config.reference_arm)
