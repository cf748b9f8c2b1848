"""Which weights gave which answers to which questions, by hash."""

from typing import Any

from ..hashing import digest_json, sha256_file
from ..io import read_json
from ..manifest import read_manifest
from .inputs import ComparisonInputs, RunInputs

Row = dict[str, Any]
_HASHES = ("answers_sha256", "annotations_sha256", "questions_sha256")


def score_files(inputs: ComparisonInputs) -> list[Row]:
    """Return path and hash of every file of per-question scores."""
    return [
        {
            "arm": item.arm,
            "seed": item.seed,
            "benchmark": item.benchmark,
            "path": str(item.scores),
            "sha256": sha256_file(item.scores),
        }
        for item in inputs.evaluations
    ]


def answer_origins(inputs: ComparisonInputs) -> list[Row]:
    """Return one row a run and benchmark: model, weights, files, generation settings.

    ``weights_sha256`` is one hash over those of the run's trained files and base
    models; it, like any other fact, is none where it wasn't recorded.
    """
    rows = []
    for item in inputs.evaluations:
        document = read_json(item.score)
        run = inputs.run(item.arm, item.seed)
        row: Row = {"arm": item.arm, "seed": item.seed, "benchmark": item.benchmark}
        row["model_id"] = document.get("model_id")
        row["weights_sha256"] = _weights(run) if run is not None else None
        row |= {name: document.get(name) for name in _HASHES}
        row["generation"] = {"do_sample": False, "num_beams": 1, **document.get("protocol", {})}
        rows.append(row)
    return rows


def _weights(run: RunInputs) -> str | None:
    if "finetune" not in run.manifests:
        return None
    manifest = read_manifest(run.manifests["finetune"])
    files = {name: entry["sha256"] for name, entry in manifest.get("outputs", {}).items()}
    base = manifest["details"].get("base_fingerprints")
    return digest_json({"files": files, "base": base}) if files and base else None
