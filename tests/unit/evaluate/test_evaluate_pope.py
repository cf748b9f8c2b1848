"""POPE: reading yes and no, figures per category, labels in question order."""

import json

import pytest

from recap.errors import RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.pope import read_yes_no, yes_no_figures
from recap.evaluate.protocol import BenchmarkProtocol

POPE = get_benchmark("pope")
PROTOCOL = BenchmarkProtocol(kind="pope")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no, there is", "no"),
        ("There is not", "no"),
        ("Yes. There is no dog", "yes"),
        ("NO", "yes"),
        ("nothing", "yes"),
        ("", "yes"),
        ("yes\nno", "yes"),
    ],
)
def test_read_yes_no(text, expected):
    assert read_yes_no(text) == expected


def test_figures_by_hand():
    pairs = [("yes", "yes")] * 3 + [("yes", "no")] + [("no", "no")] * 4 + [("no", "yes")] * 2
    assert yes_no_figures(pairs) == {
        "n": 10, "true_yes": 3, "false_yes": 1, "true_no": 4, "false_no": 2,
        "accuracy": 70.0, "precision": 75.0, "recall": 60.0, "f1": 66.67, "yes_ratio": 40.0,
    }  # fmt: skip
    assert yes_no_figures([("no", "no")])["precision"] is None


@pytest.fixture
def files(tmp_path):
    questions = [
        {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {n}?\nOne word.",
         "category": category}
        for n, category in enumerate(["adversarial", "random", "random", "popular"])
    ]  # fmt: skip
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in questions))
    labels = {"adversarial": ["no"], "random": ["yes", "no"], "popular": ["yes"]}
    for name, values in labels.items():
        lines = [json.dumps({"label": value}) for value in values]
        (tmp_path / f"coco_pope_{name}.json").write_text("\n".join(lines) + "\n")
    return path, tmp_path


def answers_to(path, texts):
    questions = POPE.load(path, PROTOCOL).questions
    return [
        POPE.answer_row(question, text, "m", {})
        for question, text in zip(questions, texts, strict=True)
    ]


def test_labels_follow_the_question_order_of_their_category(files):
    path, folder = files
    answers = answers_to(path, ["No", "Yes", "Yes", "Yes"])
    scores = POPE.score(answers[::-1], folder, PROTOCOL, path)
    assert [row["accuracy"] for row in scores.rows] == [1.0, 1.0, 0.0, 1.0]
    assert [row["question_type"] for row in scores.rows] == [
        "adversarial", "random", "random", "popular",
    ]  # fmt: skip
    assert scores.facts["by_category"]["random"]["precision"] == 50.0
    assert scores.rows[0]["question"] == "Is there a 0?"


def test_answers_that_are_neither_yes_nor_no_are_counted(files):
    path, folder = files
    for texts, count in (
        (["No", "Yes.", "yes, it is", "not"], 0),
        (["blue", "", "Yes", "yesterday"], 3),
    ):
        scores = POPE.score(answers_to(path, texts), folder, PROTOCOL, path)
        assert scores.facts["neither_yes_nor_no"] == count


def test_mismatches_are_errors(files):
    path, folder = files
    answers = answers_to(path, ["No", "Yes", "Yes", "Yes"])
    with pytest.raises(RecapError, match="pass --questions"):
        POPE.score(answers, folder, PROTOCOL)
    with pytest.raises(RecapError, match="not one to each of 4"):
        POPE.score(answers[1:], folder, PROTOCOL, path)
    labels = folder / "coco_pope_random.json"
    full = labels.read_text()
    labels.write_text(full + full)
    with pytest.raises(RecapError, match="2 labels too many for category random"):
        POPE.score(answers, folder, PROTOCOL, path)
    labels.write_text(full.splitlines()[0])
    with pytest.raises(RecapError, match="question 2: no label left"):
        POPE.score(answers, folder, PROTOCOL, path)
    labels.write_text(full.replace("yes", "maybe"))
    with pytest.raises(RecapError, match="line 1: the label must be yes or no, not 'maybe'"):
        POPE.score(answers, folder, PROTOCOL, path)


def test_unknown_category_and_ocr_are_refused(files):
    path, _ = files
    path.write_text(path.read_text().replace("popular", "rare"))
    with pytest.raises(RecapError, match=r"line 4 \(question 3\): category 'rare'"):
        POPE.load(path, PROTOCOL)
    with pytest.raises(RecapError, match="no OCR tokens"):
        POPE.load(path, PROTOCOL.model_copy(update={"ocr": True}))
