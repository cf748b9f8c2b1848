"""A small experiment on disk, in the files the other stages write.

Arms ``baseline`` and ``blip2_enhanced`` (and on request an A/A twin of the
reference); answers have a known effect: ``effect`` is the chance that the
enhanced arm turns a wrong answer right.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import account_costs
from recap.compare.comparison import compare
from recap.compare.inputs import load_inputs
from recap.compare.report import ReportRequest, build_report
from recap.hashing import digest_json
from recap.io import write_json
from recap.settings import CompareSettings

TYPES = ("brand", "color", "number", "what", "other")
FAST = CompareSettings(bootstrap_samples=200, permutation_samples=200)
TRUTHS = ("keyword_spam", "none", "off_topic")
CAPTION = "Totally <script>alert('x')</script> & \"quoted\" free shipping"


@dataclass
class Experiment:
    """Knobs of the experiment; ``write`` makes the files and returns the inputs' path."""

    root: Path
    seeds: tuple[int, ...] = (1, 2)
    questions: int = 60
    effect: float = 0.0
    twin: bool = False
    benchmarks: tuple[str, ...] = ("textvqa_ocr",)
    stand_ins: tuple[str, ...] = ("micro_gemma", "micro_clip")
    arms: list[str] = field(default_factory=lambda: ["baseline", "blip2_enhanced"])
    unknown: tuple[str, ...] = ()  # of the gallery's facts

    def __post_init__(self) -> None:
        if self.twin:
            self.arms.append("baseline_twin")

    def write(self) -> Path:
        document = {
            "experiment": "demo",
            "title": "Does the recipe help?",
            "scale": "demo",
            "notes": "Micro models, trained for seconds.",
            "stand_ins": list(self.stand_ins),
            "reference": "baseline",
            "arms": [self._arm(arm) for arm in self.arms],
            "seeds": list(self.seeds),
            "runs": [self._run(arm, seed) for arm in self.arms for seed in self.seeds],
            "benchmarks": [
                {
                    "name": name,
                    "protocol": {"kind": "textvqa", "ocr_tokens": "noocr" not in name},
                    "image_root": str(self.root / "images"),
                }
                for name in self.benchmarks
            ],
            "evaluations": [
                self._evaluation(arm, seed, name)
                for name in self.benchmarks
                for arm in self.arms
                for seed in self.seeds
            ],
            "perf": [self._perf(arm) for arm in self.arms],
            "settings": {"train": {"pretrain": {"global_batch_size": 8}}},
            "commands": ["snakemake --config experiment=demo"],
        }
        self._images()
        return self._json("comparison_inputs.json", document)

    def costs(self, inputs: Path) -> Path:
        out = self.root / "costs.json"
        request = ["--inputs", inputs, "--results", self.root, "--out", out]
        table = out.with_suffix(".tsv")
        account_costs.main(
            account_costs.parser().parse_args([*map(str, request), "--table", str(table)])
        )
        return out

    def gallery(self) -> Path:
        rows = [
            {
                "id": f"{number:05d}",
                "image": f"images/img{number}.png",
                "original_text": CAPTION if number == 0 else f"old caption {number}",
                "new_text": f"a picture with shape {number}",
                "kept": number != 1,
                "replaced": number == 0,
                "truth": f"the true shape {number}",
                "corruption": TRUTHS[number],
                "similarity_original": 0.1 + number / 10,
                "similarity_new": 0.3,
            }
            for number in range(3)
        ]
        known = [{k: v for k, v in row.items() if k not in self.unknown} for row in rows]
        return self._jsonl("gallery.jsonl", known)

    def edit(self, name: str, change: Any) -> None:
        path = self.root / name
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    def _json(self, name: str, value: Any) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        return path

    def _jsonl(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def _images(self) -> None:
        (self.root / "images").mkdir(exist_ok=True)
        for number in range(self.questions // 2 + 3):
            color = (40 * number % 256, 90 * number % 256, 200)
            Image.new("RGB", (320, 240), color).save(self.root / f"images/img{number}.png")

    def _arm(self, arm: str) -> dict[str, Any]:
        captions = "old" if arm.startswith("baseline") else "new"
        manifest = {
            "settings": {},
            "counts": {"records_in": 64, "records_out": 64},
            "inputs": {},
            "details": {
                "records": 64,
                "ids_sha256": digest_json("ids"),
                "images_sha256": digest_json("images"),
                "questions_sha256": digest_json("questions"),
                "captions_sha256": digest_json(captions),
            },
        }
        stages = [
            ("validate", None, 100, 90),
            ("select", "words_num_filter", 90, 80),
            ("select", "image_shape_filter", 80, 70),
            ("match", None, 70, 64),
        ]
        funnel = {
            "arm": arm,
            "stages": [
                {"stage": s, "operator": o, "records_in": i, "records_out": k, "rejected": i - k}
                for s, o, i, k in stages
            ],
            "rejects_by_reason": {"malformed_json": 4, "missing_image": 6},
        }
        return {
            "arm": arm,
            "description": f"the {arm} recipe",
            "dataset_manifest": str(self._json(f"arms/{arm}/train.manifest.json", manifest)),
            "funnel": str(self._json(f"arms/{arm}/funnel.json", funnel)),
            "identical_to": "baseline" if arm == "baseline_twin" else None,
        }

    def _run(self, arm: str, seed: int) -> dict[str, Any]:
        folder = f"runs/{arm}/seed{seed}"
        rng = np.random.default_rng([seed, self.arms.index(arm) % 2])
        run: dict[str, Any] = {"arm": arm, "seed": seed}
        run |= {"telemetry": {}, "metrics": {}, "manifests": {}}
        for stage, updates, start in (("pretrain", 8, 7.0), ("finetune", 10, 4.0)):
            rows = [
                {
                    "step": step,
                    "loss": float(start * np.exp(-step / 6) + 1 + 0.1 * rng.normal()),
                    "grad_norm": float(2 * np.exp(-step / 8) + 0.05 * rng.random()),
                    "learning_rate": 1e-3 * step / updates,
                    "spike": False,
                }
                for step in range(1, updates + 1)
            ]
            run["telemetry"][stage] = str(self._jsonl(f"{folder}/{stage}/telemetry.jsonl", rows))
            metrics = {
                "stage": stage,
                "updates_to_convergence": updates - 1,
                "grad_norm_variation": 0.125 + seed,
                "spikes": 0,
                "held_out": [
                    {
                        "style": style,
                        "samples": 24,
                        "supervised_tokens": tokens,
                        "loss": 2.0 + self.arms.index(arm) + seed / 10,
                        "ids_sha256": "i",
                    }
                    for style, tokens in (("original", 301), ("blip2", 211))
                ],
            }
            run["metrics"][stage] = str(self._json(f"{folder}/{stage}/metrics.json", metrics))
            manifest = {
                "stage": "train",
                "seed": seed + 1000 * (arm == "baseline_twin"),
                "settings": {"global_batch_size": 8, "micro_batch_size": 2, "learning_rate": 1e-3},
                "counts": {"updates": updates, "samples": 8 * updates},
                "inputs": {"data": {"sha256": digest_json(stage)}},
                "outputs": {"adapter": {"sha256": digest_json([arm, seed, stage])}},
                "details": {
                    "stage": stage,
                    "id_order_hash": digest_json([stage, seed]),
                    "base_fingerprints": {"clip": "c"},
                    "plan": {"world_size": 1, "accumulation": 4},
                },
                "volatile": {"git_commit": "0" * 40, "wall_seconds": 12.5},
            }
            run["manifests"][stage] = str(self._json(f"{folder}/{stage}/manifest.json", manifest))
            gates = [{"name": "first_loss", "value": start, "bound": "<= 11.2", "passed": True}]
            self._json(f"{folder}/{stage}/gates.json", {"passed": True, "gates": gates})
        reports: dict[str, Any] = {
            "check": {"failures": [], "adapter_tensors": 56, "expected_tensors": 56},
            "merge": {"merged_modules": 28, "unchanged_modules": 0},
            "parity": {"passed": True, "prompts": [{"passed": True}] * 4},
        }
        for name, report in reports.items():
            run[name] = str(self._json(f"{folder}/{name}.json", report))
        return run

    def _evaluation(self, arm: str, seed: int, benchmark: str) -> dict[str, Any]:
        rng = np.random.default_rng([5, seed, self.benchmarks.index(benchmark)])
        right = rng.random(self.questions) < 0.4
        lucky = rng.random(self.questions) < self.effect
        if not arm.startswith("baseline"):
            right = right | lucky
        rows = [
            {
                "question_id": f"img{number // 2}",
                "image_id": f"img{number // 2}",
                "question": f"what is written on sign {number}?",
                "prediction": "Nike" if right[number] else f"no idea {number % 7}",
                "normalized": "nike" if right[number] else f"no idea {number % 7}",
                "accuracy": 1.0 if right[number] else 0.0,
                "question_type": TYPES[number % 5],
                "has_ocr": number % 3 == 0,
                "truth": "nike (10)",
            }
            for number in range(self.questions)
        ]
        folder = f"eval/{arm}/seed{seed}/{benchmark}"
        score = {
            "benchmark": benchmark,
            "accuracy": round(100 * float(right.mean()), 2),
            "n": self.questions,
            "simulated": False,
            "degenerate": False,
            "metric": "vqa_accuracy",
            "model_id": f"{arm}-seed{seed}",
            "protocol": {"kind": "textvqa", "ocr": "noocr" not in benchmark, "max_new_tokens": 16},
            "stage_version": 4,
            "answers_sha256": digest_json([arm, seed, benchmark]),
            "annotations_sha256": digest_json("annotations"),
            "questions_sha256": digest_json("questions"),
        }
        return {
            "arm": arm,
            "seed": seed,
            "benchmark": benchmark,
            "score": str(self._json(f"{folder}/score.json", score)),
            "scores": str(self._jsonl(f"{folder}/scores.jsonl", rows)),
        }

    def _perf(self, arm: str) -> dict[str, Any]:
        figures = {
            "stage": "train",
            "unit": "samples",
            "items": 80,
            "wall_seconds": 12.5,
            "items_per_second": 6.4,
            "peak_rss_mib": 900.0,
        }
        path = self._json(f"perf/finetune/{arm}.json", figures)
        label = f"finetune {arm} seed 1"
        return {"label": label, "path": str(path), "stage": "finetune", "arms": [arm]}


def build_page(experiment: Experiment, name: str = "report", settings: str = "{}") -> Path:
    """Compare the arms and write the page; return its path."""
    path = experiment.write()
    comparison = experiment.root / "comparison.json"
    write_json(comparison, compare(load_inputs(path), FAST)[0])
    out = experiment.root / name / "report.html"
    build_report(
        ReportRequest(
            inputs=path,
            comparison=comparison,
            settings=settings,
            out=out,
            training_analysis=out.with_name("training_comparison_analysis.md"),
            summary=out.with_name("final_project_summary.md"),
            gallery=(experiment.gallery(),),
            image_root=experiment.root,
            costs=experiment.costs(path),
            verdict=out.with_name("verdict.txt"),
            run_card=out.with_name("run_card.json"),
            figures=out.with_name("figures"),
            tables=out.with_name("tables"),
        )
    )
    return out
