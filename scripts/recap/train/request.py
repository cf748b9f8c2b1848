"""What one run of a training stage is asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ..errors import RecapError
from ..mgm.parts import ModelParts
from ..settings import explain
from ..train_settings import FinetuneSettings, StageSettings
from .trackers import TrackerName

Stage = Literal["pretrain", "finetune"]


@dataclass(frozen=True)
class StageRequest:
    """Inputs, outputs and settings of one stage.

    Attributes:
        stage: which of the two.
        data: LLaVA JSON.
        image_root: what image paths are relative to.
        parts: folders of the base models.
        settings: of the stage.
        seed: of initialisation, order and dropout.
        state_dir: resumable state, outside the outputs.
        out_dir: declared outputs.
        perf: where times and memory go.
        projector: stage 1's result; stage 2 needs it.
        projector_manifest: stage 1's manifest, by default beside the projector.
        held_out: name and LLaVA JSON of each set that is asked, not trained on.
        held_out_every: updates between evaluations on the way; 0 for none.
        log_dir: where the tracker writes; nothing is tracked without it.
        tracker: what the run can be watched with.
        probe_cache: folder of what fits into which GPU, shared by runs; none keeps nothing.
        time_limit_minutes: from the start of the process; the run ends itself in time for it.
        finished_state: state of the stage before, which is not needed any more.
    """

    stage: Stage
    data: Path
    image_root: Path
    parts: ModelParts
    settings: StageSettings
    seed: int
    state_dir: Path
    out_dir: Path
    perf: Path
    projector: Path | None = None
    projector_manifest: Path | None = None
    held_out: tuple[tuple[str, Path], ...] = ()
    held_out_every: int = 0
    log_dir: Path | None = None
    tracker: TrackerName = "tensorboard"
    probe_cache: Path | None = None
    time_limit_minutes: float | None = None
    finished_state: Path | None = None

    @property
    def stage1_manifest(self) -> Path | None:
        """Manifest that goes with ``projector``."""
        if self.projector is None:
            return None
        return self.projector_manifest or self.projector.with_name("manifest.json")

    @property
    def updates_log(self) -> Path:
        """What each update cost, beside ``perf``."""
        return self.perf.with_suffix(".updates.jsonl")

    def check(self) -> None:
        """Check what needs no reading.

        Raises:
            RecapError: if a folder is missing, stage 2 lacks stage 1's result,
                stage 1 is given one, or the time limit is not positive.
        """
        if self.time_limit_minutes is not None and not self.time_limit_minutes > 0:
            raise RecapError(f"--time-limit-minutes must be above 0, not {self.time_limit_minutes}")
        self.parts.require()
        if self.stage == "pretrain":
            if self.projector is not None:
                raise RecapError("--projector belongs to --stage finetune; pretrain starts afresh")
            return
        for name, path in (("projector", self.projector), ("manifest", self.stage1_manifest)):
            if path is None or not path.is_file():
                raise RecapError(
                    f"finetune needs stage 1's {name}, but {path} is not a file; pass --projector "
                    "and, if the manifest is not beside it, --projector-manifest"
                )


def parse_settings(stage: Stage, values: dict[str, Any]) -> StageSettings:
    """Return the typed settings of a stage.

    Raises:
        RecapError: naming each key that is unknown, missing or out of range.
    """
    model = FinetuneSettings if stage == "finetune" else StageSettings
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecapError(f"settings of {stage}: {explain(error)}") from error
