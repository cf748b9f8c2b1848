"""Differences by category, whose sizes are put in by hand, and captions of seen pictures."""

import json
from pathlib import Path
from typing import Any

import pytest
from compare_experiment import FAST, Experiment, build_page
from jsonschema import Draft202012Validator

from recap.compare.categories import question_categories
from recap.compare.comparison import compare
from recap.compare.contrast import contrast_arms
from recap.compare.inputs import load_inputs
from recap.compare.scores import BenchmarkScores, align_scores

SCHEMA = Path(__file__).parents[3] / "config" / "schemas" / "comparison.schema.json"


def scores(words: list[int | None], right: dict[str, list[float]]) -> BenchmarkScores:
    """Return scores of two arms, one question an image."""
    rows = {
        (arm, 1): {
            (str(number), "q"): {
                "image_id": str(number),
                "question_id": str(number),
                "question": "q",
                "prediction": str(value),
                "normalized": str(value),
                "accuracy": value,
                "question_type": None,
                "has_ocr": number % 2 == 0,
                "answer_words": words[number],
            }
            for number, value in enumerate(values)
        }
        for arm, values in right.items()
    }
    return align_scores("b", list(right), [1], rows)


def by_value(rows: list[dict[str, Any]], name: str) -> dict[str, tuple[int, float]]:
    return {r["value"]: (r["questions"], r["difference"]) for r in rows if r["category"] == name}


def test_length_of_the_reference_answer_parts_the_questions() -> None:
    table = scores([1, 1, 2, 2, 3, 7], {"old": [0, 0, 1, 1, 0, 0], "new": [1, 0, 0, 0, 1, 1]})
    row = contrast_arms(table, "new", "old", FAST, comparisons=1)
    assert by_value(row["categories"], "answer_words") == {
        "1": (2, pytest.approx(50)),
        "2": (2, pytest.approx(-100)),
        "3 or more": (2, pytest.approx(100)),
    }
    assert by_value(row["categories"], "has_ocr") == {
        "false": (3, pytest.approx(0)),
        "true": (3, pytest.approx(100 / 3)),
    }
    assert by_value(row["categories"], "question_type") == {}


def test_a_category_without_spread_has_no_interval() -> None:
    """One question, seven images, or differences that are all alike, show none."""
    words = [1] + [2] * 7 + [3] * 8 + [0] * 8
    old, new = [0.0] * 24, [1.0, *[0.0, 1.0] * 3, 1.0, *[1.0] * 8, *[0.0, 1.0] * 4]
    row = contrast_arms(scores(words, {"old": old, "new": new}), "new", "old", FAST, comparisons=1)
    found = {r["value"]: r for r in row["categories"] if r["category"] == "answer_words"}
    assert [found[name]["interval"] for name in ("1", "2", "3 or more")] == [None] * 3
    low, high = found["0"]["interval"]
    assert low < found["0"]["difference"] == 50 < high


def test_the_page_says_that_there_is_no_interval(tmp_path: Path) -> None:
    page = build_page(Experiment(tmp_path, questions=10, effect=0.5)).read_text()
    assert '<td class="n" data-value="|">none</td>' in page
    assert "Fewer than 8 images" in page


@pytest.mark.parametrize("words", [[1, 1], [None, None], [1, None]])
def test_one_length_or_none_is_no_category(words: list[int | None]) -> None:
    assert "answer_words" not in question_categories(scores(words, {"a": [0, 1]}))


def test_parts_of_a_category_add_up_to_the_whole(tmp_path: Path) -> None:
    document, _ = compare(load_inputs(Experiment(tmp_path, effect=0.3).write()), FAST)
    (row,) = document["comparisons"]
    for name in ("question_type", "has_ocr"):
        parts = [part for part in row["categories"] if part["category"] == name]
        assert sum(part["questions"] for part in parts) == row["questions"]
        weighted = sum(part["questions"] * part["difference"] for part in parts)
        assert weighted / row["questions"] == pytest.approx(row["difference"], abs=1e-5)
    assert row["pictures"] is None, "nobody said where the training sets are"


def with_training_sets(experiment: Experiment, seen: int) -> Path:
    """Give both arms a corpus that holds copies of the first pictures, under other names.

    The new arm changed the captions of those with an odd number.
    """
    path = experiment.write()
    corpus = experiment.root / "corpus"
    corpus.mkdir()
    for number in range(seen):
        picture = experiment.root / f"images/img{number}.png"
        (corpus / f"copy{number}.png").write_bytes(picture.read_bytes())
    other = bytearray((experiment.root / "images/img20.png").read_bytes())
    other[-20] ^= 1
    (corpus / "same_size.png").write_bytes(other)
    names = [f"copy{number}.png" for number in range(seen)] + ["same_size.png"]
    for arm in experiment.arms:
        samples = []
        for number, name in enumerate(names):
            new = arm == "blip2_enhanced" and number % 2 == 1
            turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": f"{new} {number}"}]
            samples.append({"id": str(number), "image": name, "conversations": turns})
        (experiment.root / f"arms/{arm}/train.json").write_text(json.dumps(samples))

    def name_them(document: dict[str, Any]) -> None:
        for arm in document["arms"]:
            arm["dataset"] = str(experiment.root / f"arms/{arm['arm']}/train.json")
            arm["image_root"] = str(corpus)

    experiment.edit(path.name, name_them)
    return path


def test_questions_about_pictures_that_were_trained_on_are_told_by_caption(tmp_path: Path) -> None:
    path = with_training_sets(Experiment(tmp_path, effect=0.3), seen=8)
    document, tables = compare(load_inputs(path), FAST)
    (row,) = document["comparisons"]
    assert row["pictures"] == {"found": 30, "trained_on": 8}
    parts = by_value(row["categories"], "caption")
    assert {name: count for name, (count, _) in parts.items()} == {
        "changed": 8,
        "kept": 8,
        "not trained on": 44,
    }
    table = tables["textvqa_ocr"]
    gain = table.accuracy["blip2_enhanced"] - table.accuracy["baseline"]
    odd = [n for n in range(60) if n // 2 < 8 and (n // 2) % 2]
    assert parts["changed"][1] == pytest.approx(float(gain[:, odd].mean()), abs=1e-4)
    assert Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(document)


def test_a_benchmark_about_other_pictures_says_that_none_was_trained_on(tmp_path: Path) -> None:
    path = with_training_sets(Experiment(tmp_path), seen=0)
    (row,) = compare(load_inputs(path), FAST)[0]["comparisons"]
    assert row["pictures"] == {"found": 30, "trained_on": 0}
    assert by_value(row["categories"], "caption") == {}


def test_a_picture_of_one_arm_alone_is_neither_changed_nor_kept(tmp_path: Path) -> None:
    path = with_training_sets(Experiment(tmp_path), seen=2)
    samples = tmp_path / "arms/baseline/train.json"
    samples.write_text(json.dumps(json.loads(samples.read_text())[1:]))
    (row,) = compare(load_inputs(path), FAST)[0]["comparisons"]
    parts = by_value(row["categories"], "caption")
    assert {name: count for name, (count, _) in parts.items()} == {
        "changed": 2,
        "not trained on": 56,
        "trained on by one arm": 2,
    }


def test_pictures_that_are_gone_leave_the_question_open(tmp_path: Path) -> None:
    path = with_training_sets(Experiment(tmp_path), seen=3)
    for picture in (tmp_path / "corpus").iterdir():
        picture.unlink()
    assert compare(load_inputs(path), FAST)[0]["comparisons"][0]["pictures"] is None
