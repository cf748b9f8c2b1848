"""The list of result files that the comparison reads, built from an experiment."""

from typing import Any

from ..compare.lmms_names import run_files
from ..evaluate.protocol import MAJORITY
from .fetching import FetchWiring
from .jobs import JobWiring
from .positive import PositiveControlWiring
from .wiring import Wiring

_SHOWN = (
    "curate",
    "caption",
    "similarity",
    "quality",
    "held_out",
    "train",
    "merge",
    "evaluate",
)


class ComparisonWiring:
    """Names the files behind every number of the comparison and the report."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._config = wiring.config
        self._fetching = FetchWiring(wiring)
        self._jobs = JobWiring(wiring)
        self._positive = PositiveControlWiring(wiring)
        self._base = f"results/{wiring.config.experiment}"

    def document(self) -> dict[str, Any]:
        """Return the comparison inputs as ``recap.compare.inputs`` defines them."""
        config, experiment = self._config, self._wiring.experiment
        return {
            "experiment": config.experiment,
            "title": config.title,
            "scale": config.experiment,
            "notes": config.notes,
            "stand_ins": experiment.stand_ins,
            "reference": config.reference_arm,
            "arms": [self._arm(arm, trained=True) for arm in config.arms],
            "funnel_arms": [self._arm(arm, trained=False) for arm in config.funnel_arms],
            "seeds": config.seeds,
            "runs": [self._run(arm, seed) for arm in config.arms for seed in config.seeds],
            "benchmarks": [self._benchmark(name) for name in config.benchmarks],
            "evaluations": [
                self._evaluation(arm, seed, benchmark)
                for benchmark in config.benchmarks
                for arm in config.arms
                for seed in config.seeds
            ],
            "controls": self._controls(),
            "positive_controls": self._positive.entries(),
            "perf": self._jobs.entries(),
            "brought_in": self._fetching.brought_in(),
            "settings": {key: getattr(config, key).model_dump(mode="json") for key in _SHOWN},
            "commands": [
                "make setup",
                f"snakemake --profile profiles/local --config experiment={config.experiment}",
            ],
        }

    def results(self) -> list[str]:
        """Return every file whose change must redo the comparison."""
        document = self.document()
        files: list[str] = []
        for arm in document["arms"] + document["funnel_arms"]:
            files += [arm[key] for key in ("dataset_manifest", "dataset", "funnel") if arm[key]]
            files += arm["decisions"]
        for run in document["runs"]:
            for kind in ("telemetry", "metrics", "manifests"):
                files += run[kind].values()
            files += [run["check"], run["merge"], run["parity"]]
        for answers in document["evaluations"] + document["controls"]:
            files += [answers["score"], answers["scores"]]
        files += [entry["report"] for entry in document["positive_controls"] if entry["report"]]
        return list(dict.fromkeys(files))

    def lmms_eval(self) -> list[str]:
        """Return every run's results in lmms-eval's form; ``{experiment}`` is left open."""
        return [
            f"results/{{experiment}}/compare/lmms_eval/{name}"
            for arm in self._config.arms
            for seed in self._config.seeds
            for name in run_files(arm, seed, self._config.benchmarks)
        ]

    def quality(self) -> list[str]:
        """Return the documents about the arms' captions and their differences."""
        document = self.document()
        arms = document["arms"] + document["funnel_arms"]
        keys = ("quality", "quality_differences")
        return [arm[key] for arm in arms for key in keys if arm[key]]

    def perf(self) -> list[str]:
        """Return the files that tell what each job cost."""
        return [entry["path"] for entry in self._jobs.entries()]

    def brought_in(self) -> list[str]:
        """Return the manifests of models and data that came from outside."""
        return [entry["manifest"] for entry in self._fetching.brought_in()]

    def gallery(self) -> list[str]:
        """Return the gallery of the first arm that recaptions, if there is one."""
        arm = self._gallery_arm()
        return [f"{self._base}/arms/{arm}/gallery.jsonl"] if arm else []

    def gallery_image_root(self) -> str:
        """Return the folder that the gallery's pictures are relative to."""
        experiment = self._wiring.experiment
        arm = self._gallery_arm()
        corpus = experiment.arms[arm].corpus if arm else self._config.corpus
        return self._wiring.image_root(experiment.corpora[corpus])

    def _gallery_arm(self) -> str | None:
        arms = self._wiring.experiment.arms
        return next((a for a in self._config.arms if arms[a].caption_policy != "keep"), None)

    def _arm(self, arm: str, trained: bool) -> dict[str, Any]:
        row = self._wiring.experiment.arms[arm]
        folder = f"{self._base}/arms/{self._wiring.data_arm(arm)}"
        other = row.identical_to or self._config.reference_arm
        return {
            "arm": arm,
            "description": row.description,
            "dataset_manifest": f"{folder}/train.manifest.json" if trained else None,
            "dataset": self._wiring.train_data(arm) if trained else None,
            "image_root": self._wiring.image_root(self._wiring.experiment.corpora[row.corpus]),
            "funnel": f"{folder}/funnel.json",
            "matched": self._ids_of(arm) == self._ids_of(other),
            "identical_to": row.identical_to or None,
            "compared_with": self._draw_for(arm) if trained else None,
            "decisions": self._wiring.decisions(arm) if trained else [],
            "quality": None if row.identical_to else self._wiring.quality(arm),
            "quality_differences": self._wiring.quality_differences(arm),
        }

    def _ids_of(self, arm: str) -> str:
        """Return the arm whose ids an arm trains on."""
        own = self._wiring.data_arm(arm)
        return self._wiring.experiment.arms[own].match_ids_to or own

    def _draw_for(self, arm: str) -> str | None:
        """Return the trained arm that is a random draw of an arm's size, if there is one."""
        rows = self._wiring.experiment.arms
        draws = (name for name in self._config.arms if rows[name].max_records_of == arm)
        return next((name for name in draws if not rows[name].identical_to), None)

    def _controls(self) -> list[dict[str, Any]]:
        config = self._config
        entries: list[dict[str, Any]] = []
        for benchmark in config.benchmarks:
            for control in config.controls:
                names = {"control": control, "benchmark": benchmark}
                if control == MAJORITY:
                    folder = f"{self._base}/eval/{MAJORITY}/{benchmark}"
                    entries.append({**names, "arm": None, "seed": None, **_files(folder)})
                    continue
                for arm in config.arms:
                    for seed in config.seeds:
                        folder = self._wiring.evaluation(arm, seed, benchmark, f".{control}")
                        entries.append({**names, "arm": arm, "seed": seed, **_files(folder)})
        return entries

    def _run(self, arm: str, seed: int) -> dict[str, Any]:
        folder = f"{self._base}/runs/{arm}/seed{seed}"
        stages = ("pretrain", "finetune")
        return {
            "arm": arm,
            "seed": seed,
            "telemetry": {stage: f"{folder}/{stage}/telemetry.jsonl" for stage in stages},
            "metrics": {stage: f"{folder}/{stage}/metrics.json" for stage in stages},
            "manifests": {stage: f"{folder}/{stage}/manifest.json" for stage in stages},
            "check": f"{folder}/check.json",
            "merge": f"{folder}/merge_report.json",
            "parity": f"{folder}/parity.json",
        }

    def _benchmark(self, name: str) -> dict[str, Any]:
        row = self._wiring.experiment.benchmarks[name]
        return {
            "name": name,
            "image_root": self._wiring.image_root(row),
            "protocol": {
                "kind": row.kind,
                "ocr_tokens": row.ocr,
                **({"ocr_source": row.ocr_source} if row.ocr_source != "file" else {}),
                "max_new_tokens": row.max_new_tokens,
                "decoding": "greedy",
                "dtype": self._config.evaluate.dtype,
                "questions": self._wiring.questions(name),
            },
        }

    def _evaluation(self, arm: str, seed: int, benchmark: str) -> dict[str, Any]:
        files = _files(self._wiring.evaluation(arm, seed, benchmark))
        return {"arm": arm, "seed": seed, "benchmark": benchmark, **files}


def _files(folder: str) -> dict[str, str]:
    return {"score": f"{folder}/score.json", "scores": f"{folder}/scores.jsonl"}
