"""Paths and values that the rules of positive controls need."""

from pathlib import Path
from shlex import quote
from typing import Any

from .data_paths import as_json
from .rows import PositiveControlRow
from .wiring import NO_RECIPE, Wiring


class PositiveControlWiring:
    """Answers the rules' questions about released models with published scores."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._experiment = wiring.experiment
        self._base = f"results/{wiring.config.experiment}/positive_controls"

    def models(self) -> str:
        """Return a pattern of the released models that the experiment names."""
        rows = self._experiment.positive_controls.values()
        return "|".join(dict.fromkeys(row.model for row in rows)) or NO_RECIPE

    def entries(self) -> list[dict[str, Any]]:
        """Return the controls as ``recap.compare.inputs`` defines them."""
        return [
            {
                "name": name,
                "model": row.model,
                "benchmark": row.benchmark,
                "published": row.published,
                "citation": row.citation,
                "missing": self._missing(row.model),
                "report": None if self._missing(row.model) else self._report(row),
            }
            for name, row in self._experiment.positive_controls.items()
        ]

    def control(self, model: str, benchmark: str) -> str:
        """Return a model's control on a benchmark as JSON."""
        return as_json(
            next(e for e in self.entries() if (e["model"], e["benchmark"]) == (model, benchmark))
        )

    def towers(self) -> dict[str, str]:
        """Return the manifests of the towers, which a released checkpoint comes without."""
        base = self._wiring.base_manifests()
        return {name: base[name] for name in ("clip", "convnext")}

    def tower_flags(self) -> str:
        """Return the flags that name the towers' folders."""
        base, folder = self._experiment.base_model, self._experiment.model_dir
        return f"--clip {quote(folder(base.clip))} --convnext {quote(folder(base.convnext))}"

    def model_folder(self, model: str) -> str:
        """Return the folder of a released model's files."""
        return self._experiment.model_dir(model)

    def manifest(self, model: str) -> str:
        """Return the manifest of a released model's files."""
        return self._wiring.model_manifest(model)

    def answer_shards(self, model: str, benchmark: str) -> list[str]:
        """Return the answer files of a released model, under upstream's names."""
        count = self._wiring.config.evaluation_shards
        folder = f"{self._base}/{model}/{benchmark}/answers"
        return [f"{folder}/{count}_{index}.jsonl" for index in range(count)]

    def _report(self, row: PositiveControlRow) -> str:
        return f"{self._base}/{row.model}/{row.benchmark}/agreement.json"

    def _missing(self, model: str) -> str:
        """Return where a model's weights would have to lie, or nothing if they can be had."""
        row = self._experiment.models[model]
        if row.source != "manual" or Path(f"resources/models/{model}/manifest.json").is_file():
            return ""
        folder = Path(self._wiring.config.data_root) / (row.location or f"models/{model}")
        return "" if (folder / "config.json").is_file() else str(folder)
