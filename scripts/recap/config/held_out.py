"""Where held-out samples lie, and who reads them."""

from typing import Literal

from .wiring import Wiring

ORIGINAL = "original"
INSTRUCTIONS = "instructions"


class HeldOutWiring:
    """Answers the rules' questions about samples that no arm trains on."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._config = wiring.config
        self._folder = f"results/{self._config.experiment}/held_out"

    @property
    def _source(self) -> str:
        """Return the arm whose records are drawn from: the reference, or what it is matched to."""
        reference = self._config.reference_arm
        return self._wiring.experiment.arms[reference].match_ids_to or reference

    @property
    def corpus(self) -> str:
        """Return the corpus of the held-out records."""
        return self._wiring.experiment.arms[self._source].corpus

    def image_root(self) -> str:
        """Return the folder that their pictures are relative to."""
        return self._wiring.image_root(self._wiring.experiment.corpora[self.corpus])

    def population(self) -> list[str]:
        """Return the shards that held-out ids are drawn from."""
        return self._wiring.arm_kept(self._source)

    def ids(self) -> list[str]:
        """Return the file of drawn ids, if any are."""
        return [f"{self._folder}/ids.json"] if self._config.held_out.records else []

    def styles(self) -> list[str]:
        """Return the caption styles: the original, and that of each captioner that an arm uses."""
        arms = self._wiring.experiment.arms.values()
        return [ORIGINAL, *dict.fromkeys(arm.captioner for arm in arms if arm.captioner)]

    def records(self) -> list[str]:
        """Return the shards that hold every record drawn, with its original caption."""
        shards = self._wiring.shards(self.corpus)
        return [self._wiring.arm_records(self._source, shard) for shard in shards]

    def captions(self, style: str) -> list[str]:
        """Return the shards of new captions of a style; none for the original."""
        if style == ORIGINAL:
            return []
        recipe = self._wiring.experiment.arms[self._source].pre_recipe
        return [
            self._wiring.new_captions(self.corpus, recipe, style, shard)
            for shard in self._wiring.shards(self.corpus)
        ]

    def instructions(self) -> str:
        """Return the instruction data that stage 2 trains on."""
        row = self._wiring.experiment.instructions
        if self._config.held_out.instructions:
            return f"{self._folder}/train/{INSTRUCTIONS}.json"
        return self._wiring.data_file(row, row.json_file)

    def sets(self, stage: Literal["pretrain", "finetune"]) -> dict[str, str]:
        """Return the held-out sets that a stage is asked, by name: captions, or instructions."""
        sizes, names = self._config.held_out, self.styles()
        if stage == "finetune":
            names = [INSTRUCTIONS] if sizes.instructions else []
        elif not sizes.records:
            names = []
        return {name: f"{self._folder}/{name}.json" for name in names}

    def flags(self, stage: Literal["pretrain", "finetune"]) -> str:
        """Return the flags of a training job that name its held-out sets."""
        sets = self.sets(stage)
        if not sets:
            return ""
        named = " ".join(f"{name}={path}" for name, path in sets.items())
        every = self._config.held_out.every_updates
        return f"--held-out {named} --held-out-every {every}"
