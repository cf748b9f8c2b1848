"""Checks across configuration and sheets, made while the workflow is parsed."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..curate.recipe import resolve_recipe
from ..evaluate.benchmarks import get_benchmark
from ..evaluate.protocol import BenchmarkProtocol
from ..mgm.templates import TEMPLATES
from ..settings import explain
from .arms import check_draw, check_twin, fail
from .launching import TrainLaunch

if TYPE_CHECKING:
    from .experiment import Experiment
    from .rows import BenchmarkRow, CorpusRow, InstructionsRow


def check_experiment(experiment: "Experiment") -> None:
    """Refuse contradictions and impossible requests, with key path and fix.

    Raises:
        RecapError: at the first problem found.
    """
    _check_names(experiment)
    for name in experiment.arms:
        check_twin(experiment, name)
    for name in experiment.arms:
        _check_arm(experiment, name)
        check_draw(experiment, name)
    _check_models(experiment)
    _check_sources(experiment)
    _check_training(experiment)
    _check_evaluation(experiment)
    _check_positive_controls(experiment)


def _check_names(experiment: "Experiment") -> None:
    config = experiment.config
    for key in (
        "arms",
        "funnel_arms",
        "seeds",
        "benchmarks",
        "controls",
        "submissions",
        "positive_controls",
    ):
        values = getattr(config, key)
        if len(values) != len(set(values)):
            fail(key, f"lists a value twice: {values}")
    if config.reference_arm not in config.arms:
        fail("reference_arm", f"`{config.reference_arm}` is not among `arms`; add it there")
    both = set(config.arms) & set(config.funnel_arms)
    if both:
        fail("funnel_arms", f"{sorted(both)} are trained already; remove them here")


def _check_arm(experiment: "Experiment", name: str) -> None:
    arm = experiment.arms[name]
    sheet = f"{experiment.config.sheets.arms}: {name}"
    if not arm.caption_policy:
        fail(sheet, "`caption_policy` is empty; say which caption the arm trains on")
    if arm.corpus not in experiment.corpora:
        fail(sheet, f"corpus `{arm.corpus}` is no row of {experiment.config.sheets.corpora}")
    if arm.caption_policy == "keep" and arm.captioner:
        fail(sheet, f"policy `keep` contradicts captioner `{arm.captioner}`; remove one")
    if arm.caption_policy == "keep" and arm.max_caption_words:
        fail(sheet, "policy `keep` leaves captions alone; clear `max_caption_words`")
    for recipe in filter(None, (arm.pre_recipe, arm.post_recipe)):
        if not Path(experiment.recipe_path(recipe)).is_file():
            fail(sheet, f"recipe `{recipe}`: {experiment.recipe_path(recipe)} does not exist")
    if arm.pre_recipe and resolve_recipe(experiment.recipe_path(arm.pre_recipe)).after:
        fail(sheet, f"pre_recipe `{arm.pre_recipe}` filters after a captioner: use post_recipe")
    if arm.match_ids_to:
        _check_match(experiment, name)


def _check_match(experiment: "Experiment", name: str) -> None:
    arm = experiment.arms[name]
    sheet = f"{experiment.config.sheets.arms}: {name}"
    other = experiment.arms.get(arm.match_ids_to)
    if other is None:
        fail(sheet, f"`match_ids_to` names `{arm.match_ids_to}`, which this experiment lacks")
        return
    if other.match_ids_to or arm.match_ids_to == name:
        fail(sheet, "`match_ids_to` must name an arm with ids of its own")
    if (other.corpus, other.pre_recipe) != (arm.corpus, arm.pre_recipe):
        fail(sheet, f"matched arms need the same corpus and pre_recipe as `{arm.match_ids_to}`")
    if arm.post_recipe or arm.max_records or arm.max_records_of:
        fail(
            sheet,
            "a matched arm takes its ids from the other: clear post_recipe and both max_records",
        )


def _check_models(experiment: "Experiment") -> None:
    config, base = experiment.config, experiment.base_model
    sheet = f"{config.sheets.base_models}: {config.base_model}"
    if base.conversation not in TEMPLATES:
        fail(sheet, f"no template `{base.conversation}`; known: {', '.join(sorted(TEMPLATES))}")
    wanted = [
        (sheet, base.language_model, "language_model"),
        (sheet, base.clip, "clip"),
        (sheet, base.convnext, "convnext"),
    ]
    wanted += [(f"arm {n}", a.captioner, "captioner") for n, a in experiment.arms.items()]
    if experiment.scores_similarity:
        wanted.append(("similarity.model", config.similarity.model, "similarity"))
    wanted += [
        ("operator_models", model, "")
        for names in config.operator_models.values()
        for model in names.values()
    ]
    for key, model, role in wanted:
        if not model:
            continue
        if model not in experiment.models:
            fail(key, f"model `{model}` is no row of {config.sheets.models}")
        row = experiment.models[model]
        # A whole CLIP model scores similarities and lends MGM its tower.
        lends = role == "similarity" and config.similarity.kind == "clip"
        if role and row.role not in {role, "clip" if lends else role}:
            fail(key, f"model `{model}` has role `{row.role}`, not `{role}`")
        if row.in_place and not Path(row.location).is_dir():
            fail(key, f"model `{model}`: folder {row.location} does not exist")


def _check_sources(experiment: "Experiment") -> None:
    config = experiment.config
    rows: list[tuple[str, CorpusRow | InstructionsRow | BenchmarkRow, str]] = [
        (f"corpora: {arm.corpus}", experiment.corpora[arm.corpus], "jsonl original")
        for arm in experiment.arms.values()
    ]
    rows.append((f"instructions: {config.instructions}", experiment.instructions, "json_file"))
    rows += [
        (f"benchmarks: {name}", row, "questions annotations")
        for name, row in experiment.benchmarks.items()
    ]
    folders = {download.folder for download in experiment.downloads.values()}
    for key, row, fields in rows:
        if row.source == "world" and row.root not in config.worlds:
            fail(key, f"world `{row.root}` is not described under `worlds`")
        if row.source == "fetched" and row.root.split("/")[0] not in folders:
            fail(key, f"no row of {config.sheets.downloads} has the folder of root `{row.root}`")
        for field in fields.split():
            for name in getattr(row, field).split(",") if row.source == "local" else ():
                path = Path(row.root) / name
                if name and not path.is_file():
                    fail(key, f"{path} does not exist; correct `root` and `{field}`")


def _check_training(experiment: "Experiment") -> None:
    ranks = TrainLaunch(experiment.config.compute).ranks
    for stage in ("pretrain", "finetune"):
        settings = getattr(experiment.config.train, stage)
        given = settings.micro_batch_size
        share = (1 if given == "auto" else given) * ranks
        if settings.global_batch_size % share:
            fail(
                f"train.{stage}.micro_batch_size",
                f"{given} x {ranks} ranks does not divide the global batch "
                f"{settings.global_batch_size}; choose a divisor",
            )
    left = experiment.instructions.samples - experiment.config.held_out.instructions
    if left < experiment.config.train.finetune.global_batch_size:
        fail(
            "train.finetune.global_batch_size",
            f"larger than the {left} instruction samples that are trained on: no update",
        )


def _check_evaluation(experiment: "Experiment") -> None:
    for name, row in experiment.benchmarks.items():
        _check_protocol(experiment, name)
        if experiment.config.evaluation_shards > row.count:
            fail(
                "evaluation_shards",
                f"{experiment.config.evaluation_shards} shards for the {row.count} questions of "
                f"{name}: some would be empty; choose fewer",
            )
    for name in experiment.config.benchmarks:
        if not experiment.benchmarks[name].scored:
            fail(
                "benchmarks",
                f"`{name}` is scored by a server alone; list it under `submissions` instead",
            )
    for name in experiment.config.submissions:
        kind = experiment.benchmarks[name].kind
        if not get_benchmark(kind).submission_format:
            fail("submissions", f"`{name}` is of kind {kind}, which is scored here; remove it")


def _check_protocol(experiment: "Experiment", name: str) -> None:
    row = experiment.benchmarks[name]
    try:
        BenchmarkProtocol(kind=row.kind, ocr=row.ocr, max_new_tokens=row.max_new_tokens)
    except ValidationError as error:
        fail(f"{experiment.config.sheets.benchmarks}: {name}", explain(error))
    if row.ocr_source != "file" and (row.kind != "textvqa" or not row.ocr):
        fail(
            f"{experiment.config.sheets.benchmarks}: {name}",
            f"`ocr_source` {row.ocr_source} is for rows of kind textvqa with `ocr` true",
        )


def _check_positive_controls(experiment: "Experiment") -> None:
    for name, row in experiment.positive_controls.items():
        where = f"{experiment.config.sheets.positive_controls}: {name}"
        model = experiment.models.get(row.model)
        if model is None or model.role != "checkpoint":
            fail(where, f"model `{row.model}` is no model of role `checkpoint`")
        if row.benchmark not in experiment.config.benchmarks:
            fail(where, f"`{row.benchmark}` is not among `benchmarks`; add it there")
