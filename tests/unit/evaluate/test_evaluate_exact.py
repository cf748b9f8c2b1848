"""GQA, VQAv2 and SEED-Bench on answers whose scores are worked out by hand."""

import json

import pytest
from evaluate_kinds import SHORT, write_json

from recap.errors import RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.gqa import prediction
from recap.evaluate.protocol import BenchmarkProtocol


def answer(question_id, text, question="What is it?"):
    return {"question_id": question_id, "prompt": f"{question}\n{SHORT}", "text": text}


def score(kind, answers, annotations):
    protocol = BenchmarkProtocol(kind=kind)
    return get_benchmark(kind).score(answers, annotations, protocol)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Yes", "yes"), ("On the left.", "on the left"), ("no...", "no"), (".5", ".5"), ("", "")],
)
def test_gqa_compares_lower_case_without_final_periods(text, expected):
    assert prediction(text) == expected


def gqa_entry(answer_text, structural, image):
    return {
        "question": "What is it?",
        "imageId": image,
        "answer": answer_text,
        "types": {"structural": structural},
    }


@pytest.fixture
def gqa_file(tmp_path):
    entries = {
        "01": gqa_entry("cat", "query", "n1"),
        "02": gqa_entry("yes", "verify", "n1"),
        "03": gqa_entry("left", "choose", "n2"),
        "04": gqa_entry("dog", "query", "n3"),
    }
    return write_json(tmp_path / "testdev_balanced_questions.json", entries)


def test_gqa_by_hand(gqa_file):
    answers = [answer("01", "Cat."), answer("02", "no"), answer("03", "left side")]
    scores = score("gqa", answers, gqa_file)
    assert [row["accuracy"] for row in scores.rows] == [1, 0, 0]
    assert [row["image_id"] for row in scores.rows] == ["n1", "n1", "n2"]
    assert scores.facts["by_answer_kind"] == {
        "binary": {"n": 2, "accuracy": 0.0},
        "open": {"n": 1, "accuracy": 100.0},
    }
    assert scores.facts["by_question_type"]["verify"] == {"n": 1, "accuracy": 0.0}
    assert (scores.facts["annotated_questions"], scores.facts["unanswered_questions"]) == (4, 1)
    assert scores.rows[0]["question"] == "What is it?" and scores.rows[0]["truth"] == "cat"


@pytest.mark.parametrize(
    ("truth", "given"), [("Paris", "paris"), ("St. Louis.", "St. Louis"), (3, "3.")]
)
def test_gqa_reads_the_reference_as_the_answer(tmp_path, truth, given):
    path = write_json(tmp_path / "a.json", {"01": gqa_entry(truth, "query", "n1")})
    (row,) = score("gqa", [answer("01", given)], path).rows
    assert (row["accuracy"], row["truth"]) == (1, str(truth))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "one entry a question id"),
        ({"01": {"answer": "x"}}, "question 01: lacks question, imageId"),
        ({"01": 3}, "question 01: expected an object"),
        ({"01": gqa_entry("x", "query", "n") | {"types": ["a"]}}, "question 01: types must be"),
    ],
)
def test_malformed_gqa_annotations_are_named(tmp_path, document, message):
    path = write_json(tmp_path / "a.json", document)
    with pytest.raises(RecapError, match=message):
        score("gqa", [answer("01", "x")], path)


def vqa_entry(question_id, answers, kind="other"):
    return {
        "question_id": question_id,
        "image_id": question_id // 10,
        "answer_type": kind,
        "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(answers, 1)],
    }


def test_vqav2_by_hand(tmp_path):
    document = {
        "annotations": [
            vqa_entry(10, ["2"] * 3 + ["two"] * 7, "number"),  # one answer, given by all ten
            vqa_entry(11, ["yes"] * 2 + ["no"] * 8, "yes/no"),
            vqa_entry(20, ["The Dog"] + ["a cat"] * 9),
        ]
    }
    path = write_json(tmp_path / "a.json", document)
    answers = [answer(10, "Two."), answer(11, "Yes"), answer(20, "dog")]
    scores = score("vqav2", answers, path)
    assert [row["accuracy"] for row in scores.rows] == [1.0, 0.6, 0.3]
    assert [row["image_id"] for row in scores.rows] == ["1", "1", "2"]
    assert scores.facts["by_question_type"]["yes/no"] == {"n": 1, "accuracy": 60.0}
    assert scores.rows[1]["truth"] == "no (8), yes (2)"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "a list 'annotations'"),
        ({"annotations": [{"question_id": 1}]}, "annotation 1: lacks image_id, answers"),
        (
            {"annotations": [vqa_entry(7, ["x"] * 9)]},
            r"annotation 1 \(question 7\): needs a list of",
        ),
        ({"annotations": [vqa_entry(7, ["x"] * 10)] * 2}, r"annotation 2 .* a second annotation"),
    ],
)
def test_malformed_vqa_annotations_are_named(tmp_path, document, message):
    path = write_json(tmp_path / "a.json", document)
    with pytest.raises(RecapError, match=message):
        score("vqav2", [answer(7, "x")], path)


def test_a_split_without_public_answers_has_no_score(tmp_path):
    path = tmp_path / "llava_vqav2_mscoco_test2015.jsonl"
    path.write_text(json.dumps({"question_id": 1, "image": "x", "text": "y"}) + "\n")
    with pytest.raises(RecapError, match=r"scored by a server alone\. List the row under `subm"):
        score("vqav2", [answer(1, "x")], path)


def seed_entry(number, letter, task, kind):
    return {
        "question_id": number,
        "question_type_id": task,
        "answer": letter,
        "data_id": f"p{number}",
        "data_type": kind,
    }


def test_seedbench_by_hand(tmp_path):
    document = {
        "questions": [
            seed_entry("1", "A", 1, "image"),
            seed_entry("2", "B", 1, "image"),
            seed_entry("3", "C", 5, "image"),
            seed_entry("4", "D", 10, "video"),
            seed_entry("v_5", "D", 99, "video"),
        ],
        "question_type": {
            "Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10,
        },
    }  # fmt: skip
    path = write_json(tmp_path / "SEED-Bench.json", document)
    given = [(1, "A"), ("2", "B."), ("3", "A"), (4, "D"), ("v_5", "(D) because")]
    scores = score("seedbench", [answer(*pair) for pair in given], path)
    assert [row["accuracy"] for row in scores.rows] == [1, 0, 0, 1, 0]
    assert [row["accuracy_robust"] for row in scores.rows] == [1, 1, 0, 1, 1]
    assert scores.facts["robust_accuracy"] == 80
    assert scores.facts["questions_that_needed_letter_extraction"] == 2
    assert scores.facts["by_data_type"] == {
        "image": {"n": 3, "accuracy": 33.33},
        "video": {"n": 2, "accuracy": 50.0},
    }
    assert scores.facts["by_question_type"] == {
        "action recognition": {"n": 1, "accuracy": 100.0},
        "instances counting": {"n": 1, "accuracy": 0.0},
        "scene understanding": {"n": 2, "accuracy": 50.0},
        "task 99": {"n": 1, "accuracy": 0.0},
    }


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, "a list 'questions'"),
        ([{"question_id": "1"}], "entry 1: lacks question_type_id, answer"),
        ([seed_entry("1", "E", 1, "image")], r"entry 1 \(question 1\): the answer must be one of"),
        ([seed_entry("1", "A", 1, "image")] * 2, r"entry 2 \(question 1\): .* there twice"),
    ],
)
def test_malformed_seedbench_annotations_are_named(tmp_path, entries, message):
    path = write_json(tmp_path / "a.json", {"questions": entries})
    with pytest.raises(RecapError, match=message):
        score("seedbench", [answer("1", "A")], path)
