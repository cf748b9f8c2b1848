"""``compare_evaluation_results.py`` on answer files in upstream's format, made without our code.

A small pair always; all 5,000 TextVQA questions where RECAP_SHARED names them.
"""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[3]
INSTRUCTION = "Answer the question using a single word or phrase."
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Soft accuracy of an answer that so many of ten annotators gave; spec of the benchmark.
WORTH = {1: 0.3, 2: 0.6, 3: 0.9, 4: 1.0, 10: 1.0}
Question = tuple[str, str]


def write_annotations(path: Path, questions: list[Question]) -> dict[Question, int]:
    """Write ten answers a question; return how many of them say ``right <number>``."""
    rng = random.Random(1)
    entries, given = [], {}
    for number, (image, prompt) in enumerate(questions):
        count = rng.choice(list(WORTH))
        given[image, prompt] = count
        others = [f"other {number} {n}" for n in range(10 - count)]
        question = prompt.split("\n")[0]
        answers = [f"right {number}"] * count + others
        entries.append({"image_id": image, "question": question, "answers": answers})
    path.write_text(json.dumps({"data": entries}))
    return given


def write_answers(path: Path, questions: list[Question], right: list[bool], model: str) -> Path:
    """Write what LLaVA's ``model_vqa_loader.py`` writes, keys in its order."""
    rng = random.Random(model)
    with path.open("w") as stream:
        for number, ((image, prompt), good) in enumerate(zip(questions, right, strict=True)):
            row = {
                "question_id": image,
                "prompt": prompt,
                "text": f"Right {number}." if good else f"wrong {number % 997}",
                "answer_id": "".join(rng.choices(ALPHABET, k=22)),
                "model_id": model,
                "metadata": {},
            }
            stream.write(json.dumps(row) + "\n")
    return path


def run(folder: Path, *extra: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/compare_evaluation_results.py"]
    command += ["--blip2_results", folder / "new.jsonl"]
    command += ["--baseline_results", folder / "old.jsonl"]
    command += ["--annotations", folder / "annotations.json", "--output", folder / "report.json"]
    return subprocess.run(
        [*map(str, command), *map(str, extra)], capture_output=True, text=True, check=False
    )


def load(path: Path, schema: str) -> Any:
    document = json.loads(path.read_text())
    definition = json.loads((ROOT / "config/schemas" / schema).read_text())
    assert not list(Draft202012Validator(definition).iter_errors(document))
    return document


def compare_known(folder: Path, questions: list[Question], seed: int) -> None:
    """Write two files of known accuracy, compare them, and check every number that is known."""
    rng = random.Random(seed)
    given = write_annotations(folder / "annotations.json", questions)
    old = [rng.random() < 0.5 for _ in questions]
    # Three wrong answers in twenty become right, one right answer in twenty wrong.
    new = [rng.random() >= 0.05 if good else rng.random() < 0.15 for good in old]
    for name, right in (("old", old), ("new", new)):
        write_answers(folder / f"{name}.jsonl", questions, right, f"some-{name}-model")
    done = run(folder, "--out", folder / "comparison.json", "--lmms-eval", folder / "lmms")
    assert done.returncode == 0, done.stderr
    assert "One training seed" in done.stderr

    worth = [100 * WORTH[given[question]] for question in questions]
    accuracy = {
        name: sum(w for w, good in zip(worth, right, strict=True) if good) / len(questions)
        for name, right in (("old", old), ("new", new))
    }
    report = load(folder / "report.json", "evaluation_comparison_report.schema.json")
    models = report["evaluation_comparison"]
    assert models["baseline_model"]["accuracy"] == pytest.approx(accuracy["old"], abs=1e-4)
    assert models["blip2_enhanced_model"]["accuracy"] == pytest.approx(accuracy["new"], abs=1e-4)
    (pair,) = report["comparison_metrics"]["pairs"]
    assert pair["difference"] == pytest.approx(accuracy["new"] - accuracy["old"], abs=1e-4)
    assert pair["changed_answers"] == {
        "answers": len(questions),
        "count": sum(a != b for a, b in zip(old, new, strict=True)),
        "gained": sum(b and not a for a, b in zip(old, new, strict=True)),
        "lost": sum(a and not b for a, b in zip(old, new, strict=True)),
    }
    # Right of 4 or 10 annotators is right for McNemar, and so is 60 or 90 of 100 points.
    one_way = [(a, b) for a, b, w in zip(old, new, worth, strict=True) if a != b and w >= 50]
    assert pair["mcnemar"]["only_arm"] == sum(b for _, b in one_way)
    assert pair["mcnemar"]["only_reference"] == sum(a for a, _ in one_way)
    assert pair["verdict"] == "better"
    document = load(folder / "comparison.json", "comparison.schema.json")
    assert {row["model_id"] for row in document["provenance"]["answers"]} == {
        "some-old-model",
        "some-new-model",
    }
    results = json.loads((folder / "lmms/baseline.seed0/run_results.json").read_text())
    (task,) = results["results"].values()
    assert 100 * task["exact_match,none"] == pytest.approx(accuracy["old"])


def small(count: int = 400) -> list[Question]:
    """Return questions, two an image, every seventh without an OCR token."""
    return [
        (
            f"{number // 2:016x}",
            f"What is word {number}?\nReference OCR token: "
            f"{'' if number % 7 == 0 else f'A{number}, B'}\n{INSTRUCTION}",
        )
        for number in range(count)
    ]


@pytest.fixture
def real() -> list[Question]:
    shared = os.environ.get("RECAP_SHARED")
    if not shared:
        pytest.skip("set RECAP_SHARED to the folder that holds data/textvqa_questions")
    path = Path(shared) / "data/textvqa_questions/textvqa_val_questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["question_id"], row["text"]) for row in rows]


def test_small_files(tmp_path: Path) -> None:
    compare_known(tmp_path, small(), seed=3)


def test_all_questions_of_textvqa(tmp_path: Path, real: list[Question]) -> None:
    assert len(real) == 5000
    compare_known(tmp_path, real, seed=5)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["evaluation_comparison"]["baseline_model"]["images"] == 3166
    (pair,) = report["comparison_metrics"]["pairs"]
    counts = {
        part["value"]: part["questions"]
        for part in pair["categories"]
        if part["category"] == "has_ocr"
    }
    assert counts == {"false": 115, "true": 4885}


def simulated_answer(prompt: str) -> str:
    """Answer as the predecessor did: by key words of the whole prompt, without a model."""
    low = prompt.lower()
    rules = (("brand", "Nike"), ("color", "blue"), ("number", "3"), ("how many", "3"))
    return next((text for word, text in (*rules, ("what", "text")) if word in low), "unknown")


def test_the_predecessors_answers_are_refused(tmp_path: Path, real: list[Question]) -> None:
    write_annotations(tmp_path / "annotations.json", real)
    for name in ("old", "new"):
        path = write_answers(tmp_path / f"{name}.jsonl", real, [False] * len(real), name)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row | {"text": simulated_answer(row["prompt"])} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(tmp_path)
    assert done.returncode == 3
    assert "5 distinct answers to 5000 questions" in done.stderr
    assert "text 2950, unknown 855, 3 642, Nike 485, blue 68" in done.stderr
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (("new",), r"new\.jsonl: 1 of 8 annotated questions have no answer"),
        (("old", "new"), r"old\.jsonl: 1 of 8 annotated questions have no answer"),
    ],
)
def test_every_annotated_question_must_be_answered(
    tmp_path: Path, drop: tuple[str, ...], message: str
) -> None:
    questions = small(8)
    write_annotations(tmp_path / "annotations.json", questions)
    for name in ("old", "new"):
        asked = questions[: -1 if name in drop else 8]
        write_answers(tmp_path / f"{name}.jsonl", asked, [True] * len(asked), name)
    done = run(tmp_path)
    assert done.returncode == 3
    assert re.search(message, done.stderr)


def test_empty_files_are_refused(tmp_path: Path) -> None:
    write_annotations(tmp_path / "annotations.json", small(4))
    for name in ("old", "new"):
        (tmp_path / f"{name}.jsonl").write_text("")
    done = run(tmp_path)
    assert done.returncode == 3
    assert "holds no answer" in done.stderr


def test_another_kind_of_benchmark(tmp_path: Path) -> None:
    """GQA: exact match, no OCR line."""
    keys, files = {}, {"old": [], "new": []}
    for number in range(40):
        keys[str(number)] = {"question": "q", "imageId": f"i{number // 2}", "answer": "cat"}
        prompt = f"Which {number}?\n{INSTRUCTION}"
        for name, limit in (("old", 10), ("new", 30)):
            text = "Cat." if number < limit else f"dog {number}"
            row = {"question_id": number, "prompt": prompt, "text": text}
            row |= {"answer_id": "x", "model_id": name, "metadata": {}}
            files[name].append(json.dumps(row) + "\n")
    (tmp_path / "annotations.json").write_text(json.dumps(keys))
    for name, lines in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    done = run(tmp_path, "--kind", "gqa")
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "report.json", "evaluation_comparison_report.schema.json")
    (pair,) = report["comparison_metrics"]["pairs"]
    assert (report["benchmark"], pair["difference"]) == ("gqa", 50)
    unknown = run(tmp_path, "--kind", "gqaa")
    assert unknown.returncode == 2 and "unknown kind" in unknown.stderr
