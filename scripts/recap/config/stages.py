"""The stages of an experiment in order, each with the files that say it is done."""

from .comparison import ComparisonWiring
from .jobs import JobWiring
from .wiring import Wiring

Stages = dict[str, list[str]]


def stage_files(wiring: Wiring) -> Stages:
    """Return the files of every stage, in the order of the flow.

    A stage whose jobs measure their cost is known by those files, any other by
    one result a job.
    """
    document = ComparisonWiring(wiring).document()
    measured: Stages = {}
    for entry in JobWiring(wiring).entries():
        measured.setdefault(entry["stage"], []).append(entry["path"])
    base = f"results/{wiring.config.experiment}"
    arms = [*document["arms"], *document["funnel_arms"]]
    corpora = dict.fromkeys(wiring.experiment.arms[arm["arm"]].corpus for arm in arms)
    runs = document["runs"]
    models = ("pretrain", "finetune", "check_parity", "predict_shard", "positive_control")
    stages: Stages = {
        "validate_corpus": [f"{base}/corpus/{corpus}/validate.json" for corpus in corpora],
        **{name: files for name, files in measured.items() if name not in models},
        "merge_arm": [arm["funnel"] for arm in arms],
        "convert_llava": [arm["dataset_manifest"] for arm in document["arms"]],
        "pretrain": measured["pretrain"],
        "finetune": measured["finetune"],
        "check_lora_model": [run["check"] for run in runs],
        "merge_lora_weights": [run["merge"] for run in runs],
        "check_parity": measured["check_parity"],
        "predict_shard": measured["predict_shard"],
        "positive_control": measured.get("positive_control", []),
        "score_answers": [e["score"] for e in document["evaluations"] + document["controls"]],
        "compare_runs": [f"{base}/compare/comparison.json"],
        "build_report": [f"{base}/report/report.html"],
    }
    return {name: list(dict.fromkeys(files)) for name, files in stages.items() if files}
