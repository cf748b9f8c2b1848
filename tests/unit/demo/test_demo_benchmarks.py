"""The world's benchmarks in upstream's forms, read and scored by the pipeline's own readers."""

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recap.config.rows import BenchmarkRow
from recap.config.sheets import read_sheet
from recap.demo.settings import WorldSettings
from recap.demo.world import build_world
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.mmbench.circular import group_rotations
from recap.evaluate.benchmarks.mmbench.table import options_of, read_rows
from recap.evaluate.protocol import BenchmarkProtocol
from recap.io import iter_jsonl, read_json, write_jsonl

ROOT = Path(__file__).resolve().parents[3]
COUNTS = {"questions": 60, "mmbench_questions": 60, "pope_images": 40}
SETTINGS = WorldSettings(
    records=2, bad_lines=0, sft_samples=0, image_min_side=64, image_max_side=80, **COUNTS
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmarks")
    build_world(out, SETTINGS)
    return out


def paths(folder, kind):
    """Return question file, annotations and image folder of a benchmark."""
    return {
        "textvqa": (
            folder / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl",
            folder / "textvqa" / "TextVQA_0.5.1_val.json",
            folder / "textvqa" / "train_images",
        ),
        "mmbench": (*[folder / "mmbench" / "mmbench_dev_20230712.tsv"] * 2, folder / "mmbench"),
        "pope": (
            folder / "pope" / "llava_pope_test.jsonl",
            folder / "pope" / "coco",
            folder / "pope" / "val2014",
        ),
    }[kind]


def score(folder, kind, answer_of):
    """Answer each question by ``answer_of(position, question)`` and score the answers."""
    benchmark = get_benchmark(kind)
    asked, annotations, _ = paths(folder, kind)
    protocol = BenchmarkProtocol(kind=kind, ocr=kind == "textvqa", max_new_tokens=8)
    questions = benchmark.load(asked, protocol).questions
    answers = [
        benchmark.answer_row(question, answer_of(position, question), "oracle", {})
        for position, question in enumerate(questions)
    ]
    return benchmark.score(answers, annotations, protocol, asked)


def mean(scores):
    return float(np.mean([row["accuracy"] for row in scores.rows]))


def labels(folder):
    return {
        row["question_id"]: row["label"]
        for name in ("random", "popular", "adversarial")
        for row in iter_jsonl(folder / "pope" / "coco" / f"coco_pope_{name}.json")
    }


def test_the_truth_scores_full_marks(folder):
    truth = labels(folder)
    assert mean(score(folder, "pope", lambda _, q: truth[q.question_id].capitalize())) == 1
    keys = {int(row["index"]): row["answer"] for _, row in table(folder)}
    assert mean(score(folder, "mmbench", lambda _, q: keys[q.question_id])) == 1
    rows = read_json(paths(folder, "textvqa")[1])["data"]
    # The answer that most annotators give, as they would write it most often.
    modal = [Counter(plain(answer) for answer in row["answers"]).most_common(1) for row in rows]
    assert mean(score(folder, "textvqa", lambda position, _: modal[position][0][0])) > 0.97


def plain(answer):
    numbers = {"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"}
    words = answer.lower().removesuffix(".").removeprefix("the ")
    return numbers.get(words, words)


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_constant_yes_or_no_is_at_chance_in_every_category(folder, answer):
    scores = score(folder, "pope", lambda *_: answer)
    figures = scores.facts["by_category"]
    assert set(figures) == {"random", "popular", "adversarial"}
    assert {row["accuracy"] for row in figures.values()} == {50.0}
    assert {row["n"] for row in figures.values()} == {80}


def test_a_constant_letter_never_passes_circular_evaluation(folder):
    vanilla = []
    for letter in "ABCD":
        scores = score(folder, "mmbench", lambda *_, letter=letter: letter)
        assert mean(scores) == 0
        vanilla.append(scores.facts["vanilla_accuracy"])
    assert 15 < vanilla[0] < 45
    assert sum(vanilla) == pytest.approx(100, abs=0.1)


def test_a_constant_answer_to_textvqa_is_far_below_the_truth(folder):
    for answer in ("red", "2", "unanswerable", "stop"):
        assert mean(score(folder, "textvqa", lambda *_, answer=answer: answer)) < 0.35


def table(folder):
    return read_rows(paths(folder, "mmbench")[0], ("index", "question", "image", "answer"))


def test_rotations_move_options_and_answer_to_the_right(folder):
    rows = {int(row["index"]): row for _, row in table(folder)}
    groups = group_rotations(list(rows))
    assert len(groups) == COUNTS["mmbench_questions"]
    sizes = Counter(len(group) for group in groups.values())
    assert set(sizes) == {2, 3, 4}
    assert sizes[4] > sizes[3] + sizes[2]
    for base, group in groups.items():
        options = options_of(rows[base])
        assert len(set(options)) == len(group) == len(options)
        for rotation, index in enumerate(group):
            row = rows[index]
            assert index == base + rotation * 1_000_000
            assert options_of(row) == [*options[-rotation:], *options[:-rotation]][: len(options)]
            right = "ABCD".index(rows[base]["answer"])
            assert "ABCD".index(row["answer"]) == (right + rotation) % len(options)
            assert [row[k] for k in ("question", "hint", "category", "image")] == [
                rows[base][k] for k in ("question", "hint", "category", "image")
            ]


def test_pictures_are_there_for_every_question(folder):
    for kind in ("textvqa", "pope", "mmbench"):
        asked, _, images = paths(folder, kind)
        protocol = BenchmarkProtocol(kind=kind, ocr=False, max_new_tokens=8)
        loaded = get_benchmark(kind).load(asked, protocol)
        for question in loaded.questions:
            data = loaded.inline_images.get(question.image)
            source = io.BytesIO(data) if data else images / question.image
            with Image.open(source) as image:
                image.load()
                assert min(image.size) >= 64


def test_absent_objects_are_chosen_as_their_category_says(folder):
    shown, absent = {}, {}
    truth = labels(folder)
    for row in iter_jsonl(paths(folder, "pope")[0]):
        kind = tuple(row["text"].removesuffix(" in the image?").split()[-2:])
        if truth[row["question_id"]] == "yes":
            shown.setdefault(row["image"], set()).add(kind)
        else:
            absent.setdefault(row["category"], []).append((row["image"], kind))
    for category, pairs in absent.items():
        assert len(pairs) == 40
        assert not any(kind in shown[image] for image, kind in pairs), category
    assert len({kind for _, kind in absent["popular"]}) <= 8 < len(set(absent["random"]))

    def near(pairs):
        return np.mean([any({*kind} & {*other} for other in shown[image]) for image, kind in pairs])

    assert near(absent["adversarial"]) > 0.7 > near(absent["random"])


def test_the_scoring_script_takes_the_three_label_files(folder, tmp_path):
    truth, pope = labels(folder), get_benchmark("pope")
    asked, coco, _ = paths(folder, "pope")
    protocol = {"kind": "pope", "ocr": False, "max_new_tokens": 8}
    questions = pope.load(asked, BenchmarkProtocol(**protocol)).questions
    answers = [pope.answer_row(q, truth[q.question_id], "oracle", {}) for q in questions]
    write_jsonl(tmp_path / "answers.jsonl", answers)
    command = [
        *(sys.executable, str(ROOT / "scripts" / "score_answers.py"), "--benchmark", "pope_demo"),
        *("--protocol", json.dumps(protocol), "--answers", str(tmp_path / "answers.jsonl")),
        *("--annotations", *(str(path) for path in sorted(coco.iterdir()))),
        *("--questions", str(asked), "--out", str(tmp_path / "score.json")),
        *("--per-question", str(tmp_path / "rows.jsonl")),
    ]
    subprocess.run(command, check=True)
    assert {row["accuracy"] for row in iter_jsonl(tmp_path / "rows.jsonl")} == {1.0}


@pytest.mark.parametrize("name", ["textvqa_ocr_demo", "mmbench_demo", "pope_demo"])
def test_the_sheet_tells_the_default_worlds_files_and_counts(name, tmp_path):
    row = read_sheet(str(ROOT / "config" / "benchmarks.tsv"), "benchmark", BenchmarkRow)[name]
    defaults = WorldSettings()
    counts = {"questions": defaults.questions, "mmbench_questions": 0, "pope_images": 0}
    counts["mmbench_questions"] = defaults.mmbench_questions
    counts["pope_images"] = defaults.pope_images
    small = {"records": 2, "bad_lines": 0, "sft_samples": 0}
    sides = {"image_min_side": 64, "image_max_side": 64}
    build_world(tmp_path, WorldSettings(**small, **sides, **counts))
    protocol = BenchmarkProtocol(kind=row.kind, ocr=row.ocr, max_new_tokens=row.max_new_tokens)
    loaded = get_benchmark(row.kind).load(tmp_path / row.questions, protocol)
    assert len(loaded.questions) == row.count
    for path in row.annotations.split(","):
        assert (tmp_path / path).is_file()
