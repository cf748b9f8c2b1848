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

    def arms(self) -> list[str]:
        """Return the merged records of every trained arm."""
        names = dict.fromkeys(self._wiring.data_arm(arm) for arm in self._config.arms)
        return [f"results/{self._config.experiment}/arms/{arm}/merged.jsonl" for arm in names]

    def ids(self) -> list[str]:
        """Return the drawn ids of caption records, if there are any."""
        return [f"{self._folder}/ids.json"] if self._config.held_out.records else []

    def styles(self) -> list[str]:
        """Return the caption styles: the original, and each captioner of a trained arm."""
        return [ORIGINAL, *self._captioners()]

    def _captioners(self) -> dict[str, str]:
        """Return captioner to an arm that it writes for."""
        arms = self._wiring.experiment.arms
        rows = ((arms[arm].captioner, arm) for arm in reversed(self._config.arms))
        return {captioner: arm for captioner, arm in rows if captioner}

    def corpus(self) -> str:
        """Return the corpus of the trained arms, which is one where records are held out."""
        return self._wiring.experiment.arms[self._config.arms[0]].corpus

    def records(self, style: str) -> list[str]:
        """Return the shards that hold every record of a style."""
        corpus = self.corpus()
        arm = self._captioners().get(style)
        if arm is None:
            base = f"results/{self._config.experiment}/corpus/{corpus}/shards"
            return [f"{base}/{shard}.jsonl" for shard in self._wiring.shards(corpus)]
        return [self._wiring.arm_records(arm, shard) for shard in self._wiring.shards(corpus)]

    def captions(self, style: str) -> list[str]:
        """Return the shards of new captions of a style; none for the original."""
        arm = self._captioners().get(style)
        if arm is None:
            return []
        shards = self._wiring.shards(self.corpus())
        return [path for shard in shards for path in self._wiring.arm_captions(arm, shard)]

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
