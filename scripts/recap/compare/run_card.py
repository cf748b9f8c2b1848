"""The run card: what an experiment found and how, for machines.

``config/schemas/run_card.schema.json`` is generated from these models.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .comparison import rounded
from .inputs import ComparisonInputs

Row = dict[str, Any]
RUN_CARD_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CardArm(_Part):
    """One arm and the data it was trained on."""

    arm: str
    description: str
    matched: bool = Field(description="whether ids, questions and budget equal the reference's")
    identical_to: str | None = Field(description="the arm that this one repeats: an A/A pair")
    records: int | None = Field(description="records of its training set")
    ids_sha256: str | None = Field(description="of its ids, in order")
    captions_sha256: str | None = Field(description="of its captions, in order")


class CardAccuracy(_Part):
    """One arm's accuracy on one benchmark, in points (0 to 100)."""

    benchmark: str
    arm: str
    accuracy: float
    interval: tuple[float, float]
    questions: int
    images: int
    seed_accuracy: list[float] = Field(description="of each training seed")


class CardComparison(_Part):
    """One pair of arms on one benchmark; differences in points."""

    benchmark: str
    arm: str
    reference: str
    identical_pair: bool = Field(description="an A/A pair: the difference is luck")
    verdict: Literal["better", "worse", "not distinguishable"]
    difference: float
    interval: tuple[float, float]
    p_adjusted: float = Field(description="by Holm over benchmarks and arms")
    minimum_detectable_effect: float
    noise_floor: float | None = Field(description="largest A/A difference; none without a pair")
    sentence: str


class CardCode(_Part):
    """The code that made the results."""

    report_commit: str
    local_edits: bool | None
    run_commits: list[str]
    stage_versions: dict[str, int]


class CardCost(_Part):
    """What the jobs took, in seconds summed over jobs."""

    jobs: int
    seconds: float
    gpu_seconds: float
    planned_seconds: float | None = Field(description="none without a plan")


class RunCard(_Part):
    """What an experiment found, on what data and models, and how to repeat it."""

    schema_version: Literal[1]
    experiment: str
    title: str
    scale: str
    headline: str = Field(description="the verdict in one sentence")
    scope: str = Field(description="what the number of seeds lets the verdict say")
    warning: str = Field(description="what forbids taking the numbers at face value; or empty")
    simulated: Literal[False] = Field(description="every answer comes from a forward pass")
    stand_ins: list[str] = Field(description="models that only stand in for real ones")
    reference: str
    arms: list[CardArm]
    seeds: list[int]
    contract: Literal["kept", "broken", "not checked"] = Field(
        description="whether the arms differ in their captions alone"
    )
    gates: dict[Literal["passed", "failed"], int] = Field(description="number of gate results")
    controls: dict[Literal["beaten", "all"], int] = Field(
        description="pairs of arm and control, and those in which the arm does better"
    )
    protocols: dict[str, dict[str, Any]] = Field(description="by benchmark")
    accuracies: list[CardAccuracy]
    comparisons: list[CardComparison]
    cost: CardCost
    code: CardCode
    sources: list[dict[str, Any]] = Field(description="models and data from outside")
    answers: list[dict[str, Any]] = Field(
        description="which weights gave each run's answers to which questions, by hash"
    )
    score_files: list[dict[str, Any]] = Field(description="SHA-256 of each run's scores")
    settings: dict[str, Any] = Field(description="resolved configuration")
    commands: list[str] = Field(description="shell lines that reproduce the result")


def run_card(context: Row, inputs: ComparisonInputs) -> Row:
    """Return the run card of what :func:`recap.compare.page.page_context` gathered."""
    document, provenance = context["document"], context["provenance"]
    total, gates = context["costs"]["total"], context["gates"]
    shared = ("experiment", "title", "scale", "headline", "scope", "warning", "simulated")
    card = RunCard(
        schema_version=RUN_CARD_VERSION,
        **{name: document[name] for name in (*shared, "stand_ins", "reference", "seeds")},
        arms=_arms(inputs, provenance["data"]),
        contract=_contract(document["contract"]),
        gates={
            "passed": sum(gate["passed"] for gate in gates),
            "failed": sum(len(gate["failed"]) for gate in gates),
        },
        controls={
            "beaten": sum(bool(row["beats_control"]) for row in context["controls"]),
            "all": len(context["controls"]),
        },
        protocols={facts["benchmark"]: facts["protocol"] for facts in document["benchmarks"]},
        accuracies=_accuracies(document),
        comparisons=[_pick(row, CardComparison) for row in document["comparisons"]],
        cost=CardCost(
            jobs=total["jobs"],
            seconds=total["seconds"],
            gpu_seconds=total["gpu_seconds"],
            planned_seconds=total["planned"],
        ),
        code=_pick(provenance, CardCode),
        sources=provenance["brought_in"],
        answers=provenance["answers"],
        score_files=provenance["score_files"],
        settings=provenance["settings"],
        commands=provenance["commands"],
    )
    result: Row = rounded(card.model_dump(mode="json"))
    return result


def _pick(row: Row, model: type[Any]) -> Any:
    return model(**{name: row[name] for name in model.model_fields})


def _contract(contract: Row) -> Literal["kept", "broken", "not checked"]:
    if not contract["rows"]:
        return "not checked"
    return "kept" if contract["ok"] else "broken"


def _arms(inputs: ComparisonInputs, data: list[Row]) -> list[CardArm]:
    known = {row["arm"]: row for row in data}
    own = {"arm", "description", "matched", "identical_to"}
    hashes = ("records", "ids_sha256", "captions_sha256")
    return [
        CardArm(
            **arm.model_dump(include=own),
            **{name: known.get(arm.arm, {}).get(name) for name in hashes},
        )
        for arm in inputs.arms
    ]


def _accuracies(document: Row) -> list[CardAccuracy]:
    return [
        CardAccuracy(
            benchmark=facts["benchmark"],
            questions=facts["questions"],
            images=facts["images"],
            **{name: row[name] for name in ("arm", "accuracy", "interval", "seed_accuracy")},
        )
        for facts in document["benchmarks"]
        for row in facts["arms"]
    ]
