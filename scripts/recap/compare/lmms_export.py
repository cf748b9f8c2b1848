"""Results in the form that lmms-eval writes, so that tools for its files read ours.

The form is that of lmms-eval 0.7.3: ``*_results.json`` with a table of metrics
a task, and ``*_samples_<task>.jsonl`` with a line a question. A run
(an arm with a seed) is a model there, a benchmark a task. Metrics have
lmms-eval's names where they mean the same, and ours where they don't.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..hashing import digest_json
from ..io import read_json, write_json, write_jsonl
from ..manifest import code_state
from .comparison import rounded
from .inputs import ComparisonInputs, EvaluationInputs
from .lmms_names import run_files, run_folder
from .resampling import crossed_spread, crossed_table
from .scores import BenchmarkScores

Row = dict[str, Any]

_FILTER = "none"
# By kind of benchmark and our metric. On SEED-Bench it reads the first character of an answer, on
# MMBench it asks a language model: those are other metrics.
_NAMES = {
    ("textvqa", "vqa_accuracy"): "exact_match",
    ("vqav2", "vqa_accuracy"): "exact_match",
    ("gqa", "exact_match"): "exact_match",
    ("pope", "yes_no_accuracy"): "pope_accuracy",
}
_FIGURES = {
    "perception_score": "mme_perception_score",
    "cognition_score": "mme_cognition_score",
}


def export_runs(
    inputs: ComparisonInputs, scores: dict[str, BenchmarkScores], folder: Path
) -> list[Path]:
    """Write every run's results and samples; return the files.

    Nothing in them depends on when or where they were written.

    Args:
        inputs: where the score documents are.
        scores: aligned scores by benchmark.
        folder: gets a folder a run.
    """
    written = []
    for arm in inputs.arm_names:
        for row, seed in enumerate(inputs.seeds):
            files = [folder / name for name in run_files(arm, seed, list(scores))]
            write_json(files[0], rounded(_results(inputs, scores, arm, row)))
            for path, table in zip(files[1:], scores.values(), strict=True):
                write_jsonl(path, rounded(_samples(inputs, table, arm, row)))
            written += files
    return written


def _results(
    inputs: ComparisonInputs, scores: dict[str, BenchmarkScores], arm: str, row: int
) -> Row:
    seed = inputs.seeds[row]
    tasks = {name: inputs.evaluation(arm, seed, name) for name in scores}
    documents = {name: read_json(item.score) for name, item in tasks.items()}
    metrics = {name: metric_name(document) for name, document in documents.items()}
    counts = {name: len(table.questions) for name, table in scores.items()}
    model = run_folder(arm, seed)
    return {
        "results": {
            name: _figures(table, arm, row, documents[name]) for name, table in scores.items()
        },
        "group_subtasks": {name: [] for name in scores},
        "configs": {name: _config(name, documents[name], metrics[name]) for name in scores},
        "versions": {name: documents[name].get("stage_version") for name in scores},
        "n-shot": dict.fromkeys(scores, 0),
        "higher_is_better": {name: {metrics[name]: True} for name in scores},
        "n-samples": {name: {"original": n, "effective": n} for name, n in counts.items()},
        "config": {
            "model": "mgm-recap",
            "model_args": f"pretrained={model}",
            "batch_size": None,
            "device": None,
            "limit": None,
            "bootstrap_iters": 0,
            "random_seed": seed,
        },
        "git_hash": code_state()["git_commit"],
        "task_hashes": {name: _task_hash(item) for name, item in tasks.items()},
        "model_source": "mgm-recap",
        "model_name": model,
        "model_name_sanitized": model,
        "simulated": False,
    }


def metric_name(document: Row) -> str:
    """Return the name of a score document's metric, lmms-eval's where it means the same."""
    metric = str(document.get("metric", "accuracy"))
    kind = document.get("protocol", {}).get("kind", "")
    return _NAMES.get((kind, metric), metric)


def _figures(table: BenchmarkScores, arm: str, row: int, document: Row) -> Row:
    """Return metric and standard errors, as shares: of independent questions, and clustered."""
    values = table.accuracy[arm][row] / 100
    metric = metric_name(document)
    naive = float(np.std(values, ddof=1) / np.sqrt(values.size)) if values.size > 1 else "N/A"
    spread = crossed_spread(crossed_table(values[None], table.images))
    figures: Row = {
        "alias": table.benchmark,
        f"{metric},{_FILTER}": float(values.mean()),
        f"{metric}_stderr,{_FILTER}": naive,
        f"{metric}_stderr_clt,{_FILTER}": naive,
        f"{metric}_stderr_clustered,{_FILTER}": spread.standard_error,
    }
    facts = document.get("facts", {})
    figures |= {f"{_FIGURES[n]},{_FILTER}": facts[n] for n in _FIGURES if n in facts}
    return figures


def _config(task: str, document: Row, metric: str) -> Row:
    protocol = document.get("protocol", {})
    return {
        "task": task,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "repeats": 1,
        "generation_kwargs": {
            "max_new_tokens": protocol.get("max_new_tokens"),
            "do_sample": False,
            "temperature": 0,
            "num_beams": 1,
        },
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": document.get("stage_version"), "protocol": protocol},
    }


def _task_hash(item: EvaluationInputs) -> str:
    document = read_json(item.score)
    return digest_json([document.get("answers_sha256"), document.get("annotations_sha256")])


def _samples(inputs: ComparisonInputs, table: BenchmarkScores, arm: str, row: int) -> list[Row]:
    """Return a line a question; ``score`` is what lmms-eval's ``--baseline`` reads."""
    document = read_json(inputs.evaluation(arm, inputs.seeds[row], table.benchmark).score)
    metric = metric_name(document)
    return [
        {
            "doc_id": number,
            "doc_hash": digest_json([str(question["question_id"]), question["question"]]),
            "question_id": question["question_id"],
            "input": question["question"],
            "target": str(question["truth"] or ""),
            "filtered_resps": [str(table.predictions[arm][row, number])],
            metric: float(table.accuracy[arm][row, number] / 100),
            "score": float(table.accuracy[arm][row, number] / 100),
        }
        for number, question in enumerate(table.questions)
    ]
