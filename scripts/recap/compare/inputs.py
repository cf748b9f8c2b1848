"""The file that tells the comparison where every result of an experiment lies.

The rules write it, so this module imports nothing heavy. Paths are relative
to the working directory of the job that reads them.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import RecapError
from ..io import read_json

Stage = Literal["pretrain", "finetune"]
STAGES: tuple[Stage, ...] = ("pretrain", "finetune")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmInputs(_Part):
    """One arm: where its training set and its curation are described."""

    arm: str = Field(description="name of the arm, a row of the arms sheet")
    description: str = Field(default="", description="one line about the recipe, from the sheet")
    dataset_manifest: Path | None = Field(
        default=None, description="manifest of the LLaVA training set; none for funnel-only arms"
    )
    dataset: Path | None = Field(
        default=None, description="LLaVA training set of stage 1; none for funnel-only arms"
    )
    image_root: Path | None = Field(
        default=None, description="folder that the training set's pictures are relative to"
    )
    funnel: Path | None = Field(
        default=None, description="funnel.json: records in and out by stage"
    )
    matched: bool = Field(
        default=True,
        description="false declares that ids, questions or budget may differ on purpose",
    )
    identical_to: str | None = Field(
        default=None, description="arm this one repeats on purpose: an A/A pair, the noise floor"
    )
    compared_with: str | None = Field(
        default=None,
        description="random draw of the same size this arm is compared with, not the reference",
    )
    decisions: list[Path] = Field(
        default=[], description="which caption each record got and why, one file a shard"
    )
    quality: Path | None = Field(default=None, description="quality.json: its captions, measured")
    quality_differences: Path | None = Field(
        default=None, description="its captions against the reference's, paired by id"
    )


class RunInputs(_Part):
    """One arm trained with one seed."""

    arm: str
    seed: int
    telemetry: dict[Stage, Path] = Field(default={}, description="JSONL, one row an update")
    metrics: dict[Stage, Path] = Field(
        default={}, description="metrics.json: convergence, stability, held-out loss"
    )
    manifests: dict[Stage, Path] = Field(default={}, description="train manifest by stage")
    check: Path | None = Field(default=None, description="check.json of the adapter")
    merge: Path | None = Field(default=None, description="report of the merge")
    parity: Path | None = Field(default=None, description="parity.json, merged against unmerged")


class EvaluationInputs(_Part):
    """One run's answers to one benchmark."""

    arm: str
    seed: int
    benchmark: str
    score: Path = Field(description="score.json: accuracy in points, count, protocol")
    scores: Path = Field(description="scores.jsonl: one row a question")


class ControlInputs(_Part):
    """Answers of one run, or of no model at all, under a control condition."""

    control: str = Field(description="`blank_image`, `shuffled_images` or `text_only_majority`")
    benchmark: str
    arm: str | None = Field(default=None, description="arm of the run; none if no model answered")
    seed: int | None = Field(default=None, description="seed of the run; none without a model")
    score: Path = Field(description="score.json of the control's answers")
    scores: Path = Field(description="scores.jsonl of the control's answers")


class PositiveControlInputs(_Part):
    """A released model whose published score the evaluation must reproduce."""

    name: str
    model: str
    benchmark: str
    published: float = Field(description="published score in points")
    citation: str = Field(description="who published it, under which protocol")
    missing: str = Field(default="", description="where its weights were looked for in vain")
    report: Path | None = Field(
        default=None, description="agreement.json; none where the weights are missing"
    )


class BenchmarkInputs(_Part):
    """A benchmark and its protocol, as it is printed beside every number."""

    name: str
    protocol: dict[str, Any] = Field(default={}, description="prompt, decoding, metric, data")
    image_root: Path | None = Field(None, description="folder of the questions' pictures")


class FileInputs(_Part):
    """A model or a file of data that came from outside, as the provenance shows it."""

    name: str = Field(description="row of a sheet, or a file")
    licence: str = Field(default="", description="terms of use, from the sheet")
    manifest: Path = Field(description="manifest that says where it came from")


class PerfInputs(_Part):
    """What a job cost."""

    label: str = Field(description="such as `caption blip2 00003` or `finetune baseline seed 1`")
    path: Path
    stage: str = Field(default="", description="the rule that wrote it")
    arms: list[str] = Field(default=[], description="the arms it worked for; several share a job")


class ComparisonInputs(_Part):
    """Everything the comparison and the report read."""

    experiment: str
    title: str = ""
    scale: str = Field(default="", description="label of the scale, such as `demo` or `full_400k`")
    notes: str = Field(default="", description="what a reader must know before believing a number")
    stand_ins: list[str] = Field(
        default=[], description="models that only stand in for real ones; empty if none"
    )
    reference: str = Field(description="the arm the others are compared with")
    arms: list[ArmInputs] = Field(min_length=1, description="compared arms, in order")
    funnel_arms: list[ArmInputs] = Field(default=[], description="curated, but not trained")
    seeds: list[int] = Field(min_length=1)
    runs: list[RunInputs] = []
    benchmarks: list[BenchmarkInputs] = Field(min_length=1)
    evaluations: list[EvaluationInputs]
    controls: list[ControlInputs] = Field(
        default=[], description="the same questions with pictures that cannot help, or none"
    )
    positive_controls: list[PositiveControlInputs] = []
    perf: list[PerfInputs] = []
    brought_in: list[FileInputs] = Field(
        default=[], description="models and data from outside, with what verified them"
    )
    settings: dict[str, Any] = Field(
        default={}, description="resolved settings shown under provenance"
    )
    commands: list[str] = Field(default=[], description="shell lines that reproduce the result")

    @model_validator(mode="after")
    def _complete(self) -> "ComparisonInputs":
        names = self.arm_names
        if len(set(names)) != len(names):
            raise ValueError(f"`arms` lists a name twice: {names}")
        if self.reference not in names:
            raise ValueError(f"`reference` {self.reference} is not among `arms`: {names}")
        for arm in self.arms:
            for key in ("identical_to", "compared_with"):
                other = getattr(arm, key)
                if other is not None and other not in names:
                    raise ValueError(f"arm {arm.arm}: `{key}` {other} is no arm")
        keys = [(e.arm, e.seed, e.benchmark) for e in self.evaluations]
        wanted = [(a, s, b.name) for b in self.benchmarks for a in names for s in self.seeds]
        if sorted(keys) != sorted(wanted):
            missing = [k for k in wanted if k not in keys]
            extra = [k for k in keys if k not in wanted]
            raise ValueError(f"`evaluations` lack {missing} and have unexpected {extra}")
        for item in self.controls:
            if item.arm is not None and (item.arm, item.seed, item.benchmark) not in keys:
                raise ValueError(f"control {item.control} of {item.arm} is of no evaluated run")
        return self

    @property
    def arm_names(self) -> list[str]:
        """Return the names of the compared arms, in order."""
        return [arm.arm for arm in self.arms]

    @property
    def challengers(self) -> list[ArmInputs]:
        """Return the arms that a comparison is about, in order.

        A random draw that another arm is compared with has no comparison of its own.
        """
        draws = {arm.compared_with for arm in self.arms}
        return [arm for arm in self.arms if arm.arm not in draws | {self.reference}]

    def opponent(self, arm: ArmInputs) -> str:
        """Return what an arm is compared with: twin, random draw, or the reference."""
        return arm.identical_to or arm.compared_with or self.reference

    def evaluation(self, arm: str, seed: int, benchmark: str) -> EvaluationInputs:
        """Return the files of one run on one benchmark."""
        key = (arm, seed, benchmark)
        return next(e for e in self.evaluations if (e.arm, e.seed, e.benchmark) == key)

    def run(self, arm: str, seed: int) -> RunInputs | None:
        """Return the files of one run, or ``None`` if none are given."""
        return next((r for r in self.runs if (r.arm, r.seed) == (arm, seed)), None)


def load_inputs(path: str | Path) -> ComparisonInputs:
    """Read and validate the comparison inputs.

    Raises:
        RecapError: naming the file and every key that is wrong.
    """
    try:
        return ComparisonInputs.model_validate(read_json(path))
    except ValidationError as error:
        problems = "; ".join(
            f"`{'.'.join(str(p) for p in item['loc']) or '(top level)'}`: {item['msg']}"
            for item in error.errors()
        )
        raise RecapError(f"{path}: {problems}") from error
