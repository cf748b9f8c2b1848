"""Where data and models of an experiment are, and how parameters are written down."""

import json
from pathlib import Path
from shlex import quote
from typing import Any

from ..fetch.files import model_files
from ..settings import Settings
from .experiment import Experiment
from .rows import BenchmarkRow, CorpusRow, InstructionsRow


def as_json(value: Any, exclude: set[str] | None = None) -> str:
    """Return canonical JSON, so that equal settings are equal parameters.

    Args:
        value: settings, or anything JSON can hold.
        exclude: keys of the settings that change no result.
    """
    if isinstance(value, Settings):
        value = value.model_dump(mode="json", exclude=exclude)
    return json.dumps(value, sort_keys=True)


class DataPaths:
    """Data files and model folders of one experiment."""

    def __init__(self, experiment: Experiment) -> None:
        """Answer for ``experiment``."""
        self.experiment = experiment
        self.config = experiment.config

    def data_file(self, row: CorpusRow | InstructionsRow | BenchmarkRow, name: str) -> str:
        """Return where a row's file is when the pipeline reads it."""
        imported = "resources/imported"
        folder = {
            "world": "resources/worlds",
            "local": "",
            "manual": imported,
            "fetched": imported,
        }
        return str(Path(folder[row.source]) / row.root / name)

    def image_root(self, row: CorpusRow | InstructionsRow | BenchmarkRow) -> str:
        """Return the folder that a row's image paths are relative to."""
        folder = {
            "world": "resources/worlds",
            "local": "",
            "manual": self.config.data_root,
            "fetched": "resources/data",
        }
        root = Path(folder[row.source]) / row.root
        return str(root / row.images if isinstance(row, BenchmarkRow) else root)

    def original(self, corpus: str) -> list[str]:
        """Return the LLaVA JSON that holds each id's question, if the corpus has one."""
        row = self.experiment.corpora[corpus]
        return [self.data_file(row, row.original)] if row.original else []

    def truth(self, corpus: str) -> list[str]:
        """Return what the pictures of a drawn corpus show; real ones have no such file."""
        row = self.experiment.corpora[corpus]
        return [self.data_file(row, "truth.jsonl")] if row.source == "world" else []

    def model_manifest(self, model: str) -> str:
        """Return the manifest that stands for a model's files in the workflow."""
        return f"resources/models/{model}/manifest.json"

    def local_model_files(self, model: str) -> list[str]:
        """Return the files of a model folder that is not fetched."""
        return [str(path) for path in model_files(self.experiment.models[model].location)]

    def base_manifests(self) -> dict[str, str]:
        """Return the manifests of the base model's parts, by role."""
        base = self.experiment.base_model
        return {
            "language_model": self.model_manifest(base.language_model),
            "clip": self.model_manifest(base.clip),
            "convnext": self.model_manifest(base.convnext),
        }

    def base_flags(self) -> str:
        """Return the command-line flags that name the base model's parts."""
        base = self.experiment.base_model
        return " ".join(
            (
                f"--language-model {quote(self.experiment.model_dir(base.language_model))}",
                f"--clip {quote(self.experiment.model_dir(base.clip))}",
                f"--convnext {quote(self.experiment.model_dir(base.convnext))}",
                f"--image-size-aux {base.image_size_aux}",
                f"--image-grid {base.image_grid}",
                *(["--image-global"] if base.image_global else []),
                f"--conversation {base.conversation}",
            )
        )
