"""What the results were made from: code, data, models, settings, and how to repeat them."""

from typing import Any

from ..manifest import code_state, read_manifest
from ..settings import ReportSettings
from ..versions import STAGE_VERSIONS
from .inputs import ComparisonInputs
from .origins import origin

Row = dict[str, Any]
_HASHES = ("ids_sha256", "images_sha256", "questions_sha256", "captions_sha256")


def provenance(inputs: ComparisonInputs, document: Row, settings: ReportSettings) -> Row:
    """Return what the page and the run card say about where the results came from.

    Args:
        inputs: where results lie.
        document: the comparison document.
        settings: what the page shows.
    """
    code = code_state()
    manifests = [read_manifest(path) for run in inputs.runs for path in run.manifests.values()]
    volatile = [manifest.get("volatile", {}) for manifest in manifests]
    checkout = [] if code["git_commit"] == "unknown" else [f"git checkout {code['git_commit']}"]
    return {
        "report_commit": code["git_commit"],
        "local_edits": code["dirty"],
        "run_commits": _known(volatile, "git_commit"),
        "run_edits": any(entry.get("dirty") for entry in volatile),
        "pythons": _known(volatile, "python"),
        "stage_versions": STAGE_VERSIONS,
        "commands": [*checkout, *inputs.commands],
        "data": [row for arm in inputs.arms if (row := _data(arm.arm, arm.dataset_manifest))],
        "brought_in": [origin(entry) for entry in inputs.brought_in],
        "answers": document["provenance"]["answers"],
        "score_files": document["provenance"]["score_files"],
        "settings": {
            **inputs.settings,
            "compare": document["settings"],
            "report": settings.model_dump(),
        },
    }


def _known(entries: list[Row], name: str) -> list[str]:
    return sorted({str(entry[name]) for entry in entries if entry.get(name)})


def _data(arm: str, manifest: Any) -> Row | None:
    """Return an arm's number of records and the hashes of what it trains on."""
    if manifest is None:
        return None
    details = read_manifest(manifest).get("details", {})
    return {"arm": arm, "records": details.get("records")} | {
        name: details.get(name) for name in _HASHES
    }
