"""TextVQA's prompts, question files, annotations and matching."""

import json
import os
from pathlib import Path

import pytest

from recap.errors import RecapError
from recap.evaluate.answers import answer_id
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.textvqa import load_annotations
from recap.evaluate.benchmarks.textvqa.prompts import (
    QUESTION_TYPES,
    drop_ocr,
    extract_question,
    has_ocr_tokens,
    question_type,
)
from recap.evaluate.protocol import BenchmarkProtocol

INSTRUCTION = "Answer the question using a single word or phrase."
OCR = f"What brand is it?\nReference OCR token: NIKE, 7\n{INSTRUCTION}"
EMPTY_OCR = f"What brand is it?\nReference OCR token: \n{INSTRUCTION}"
WITH = BenchmarkProtocol(kind="textvqa", ocr=True)
WITHOUT = BenchmarkProtocol(kind="textvqa", ocr=False)
TEXTVQA = get_benchmark("textvqa")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answer(prompt=OCR, text="nike", question_id="i1"):
    return {
        "question_id": question_id,
        "prompt": prompt,
        "text": text,
        "answer_id": "x",
        "model_id": "m",
        "metadata": {},
    }


@pytest.fixture
def annotations(tmp_path):
    entry = {"image_id": "i1", "question": "What BRAND is it?", "answers": ["Nike"] * 10}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"data": [entry]}))
    return path


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (OCR, "What brand is it?"),
        (EMPTY_OCR, "What brand is it?"),
        (f"Reference OCR token: A\nWhat?\n{INSTRUCTION}", "What?"),
        (f"What?\n{INSTRUCTION}", "What?"),
        ("OCR tokens: A, B. Question: What is\nit? Short answer:", "What is\nit?"),
    ],
)
def test_extract_question(prompt, question):
    assert extract_question(prompt) == question


@pytest.mark.parametrize("prompt", ["one line", f"a\nb\n{INSTRUCTION}", "OCR tokens: A, B"])
def test_extract_question_refuses_other_forms(prompt):
    with pytest.raises(ValueError, match=r"expected|no text"):
        extract_question(prompt)


def test_drop_ocr_removes_only_the_middle_line():
    assert drop_ocr(OCR) == drop_ocr(EMPTY_OCR) == f"What brand is it?\n{INSTRUCTION}"
    assert drop_ocr(drop_ocr(OCR)) == drop_ocr(OCR)
    # A token holding an exotic line separator stays one line.
    assert drop_ocr(f"Q\nReference OCR token: a\u2028b\n{INSTRUCTION}") == f"Q\n{INSTRUCTION}"


def test_has_ocr_tokens():
    assert has_ocr_tokens(OCR)
    assert not has_ocr_tokens(EMPTY_OCR)
    assert not has_ocr_tokens(drop_ocr(OCR))


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what brand and colour is it?", "brand"),
        ("Which company?", "brand"),
        ("What color?", "color"),
        ("what colour and how many?", "color"),
        ("How many bottles?", "number"),
        ("what number is it", "number"),
        ("What country is this?", "what"),
        ("where and when?", "where"),
        ("When was it?", "when"),
        ("Who is it?", "who"),
        ("how tall?", "how"),
        ("is it open?", "other"),
    ],
)
def test_question_type(question, expected):
    assert question_type(question) == expected
    assert len(QUESTION_TYPES) == 9


def test_load_writes_the_prompt_the_protocol_asks_for(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", [{"question_id": "i1", "image": "a.jpg", "text": OCR}])
    assert TEXTVQA.load(path, WITH).questions[0].prompt == OCR
    assert TEXTVQA.load(path, WITHOUT).questions[0].prompt == drop_ocr(OCR)
    short = WITHOUT.model_copy(update={"instruction": "One word."})
    assert TEXTVQA.load(path, short).questions[0].prompt == "What brand is it?\nOne word."


def test_load_finds_images(tmp_path):
    rows = [
        {"question_id": "i1", "text": OCR},
        {"question_id": "i2", "text": OCR, "image": None},
        {"question_id": "i3", "text": OCR, "image": "d/x.png"},
    ]
    questions = TEXTVQA.load(write_lines(tmp_path / "q.jsonl", rows), WITH).questions
    assert [question.image for question in questions] == ["i1.jpg", None, "d/x.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no question"),
        ([{"text": OCR}], r"line 1 \(question no question_id\): needs question_id"),
        ([{"question_id": "i1", "text": OCR}] * 2, "line 2: question i1 .* already on line 1"),
        ([{"question_id": "i1", "text": "What?\n" + INSTRUCTION}], "no OCR line"),
        ([{"question_id": "i1", "text": "What?"}], "1 lines; expected two"),
        ([{"question_id": "i1", "text": OCR.replace("7", "\ud800")}], "not valid text"),
        ([{"question_id": "i1", "text": OCR, "image": 5}], r"line 1 \(question i1\): image must"),
    ],
)
def test_load_names_what_is_wrong(tmp_path, rows, message):
    path = write_lines(tmp_path / "q.jsonl", rows)
    with pytest.raises(RecapError, match=message):
        TEXTVQA.load(path, WITH)


def test_score_matches_on_image_and_lower_case_question(annotations):
    (row,) = TEXTVQA.score([answer()], annotations, WITH).rows
    assert row == {
        "question_id": "i1",
        "image_id": "i1",
        "image": None,
        "question": "What brand is it?",
        "prediction": "nike",
        "normalized": "nike",
        "accuracy": 1.0,
        "question_type": "brand",
        "has_ocr": True,
        "truth": "nike (10)",
        "answer_words": 1,
    }


def test_questions_of_one_picture_share_it_whatever_their_ids(tmp_path):
    """Own files number their questions; intervals are over pictures."""
    names = {"q1": "signs/a.jpg", "q2": "signs/a.jpg", "q3": "b.png", "q4": None, "i1": "i1.jpg"}
    lines = [{"question_id": name, "image": image, "text": OCR} for name, image in names.items()]
    path = tmp_path / "a.json"
    entry = {"question": "What brand is it?", "answers": ["Nike"] * 10}
    path.write_text(json.dumps({"data": [{"image_id": name, **entry} for name in names]}))
    questions = write_lines(tmp_path / "q.jsonl", lines)
    answers = [answer(question_id=name) for name in names]
    rows = TEXTVQA.score(answers, path, WITH, questions).rows
    assert [row["image_id"] for row in rows] == ["signs/a", "signs/a", "b.png", "q4", "i1"]
    assert [row["image"] for row in rows] == list(names.values())
    assert [row["image_id"] for row in TEXTVQA.score(answers, path, WITH).rows] == list(names)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([answer(question_id="i9")], "question i9 .* has no annotation"),
        ([answer(), answer(EMPTY_OCR)], "is there twice"),
        ([answer(drop_ocr(OCR))], "lacks a line of OCR tokens, but the protocol says ocr=True"),
        ([answer("what?")], "cannot find the question"),
    ],
)
def test_score_refuses_what_does_not_match(annotations, answers, message):
    with pytest.raises(RecapError, match=message):
        TEXTVQA.score(answers, annotations, WITH)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "list 'data'"),
        ({"data": [{"image_id": 1, "answers": []}]}, "entry 1: lacks question"),
        ({"data": [{"image_id": 1, "question": "q", "answers": ["x"] * 9}]}, "exactly 10"),
        ({"data": [{"image_id": 1, "question": "q", "answers": ["x"] * 9 + [3]}]}, "exactly 10"),
        ({"data": [{"image_id": 1, "question": "q", "answers": ["x"] * 10}] * 2}, "second entry"),
    ],
)
def test_annotations_of_another_form_are_refused(tmp_path, document, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(RecapError, match=message):
        load_annotations(path)


def test_answer_id_looks_like_a_shortuuid_and_is_stable():
    first = answer_id("m", "i1", OCR)
    assert first == answer_id("m", "i1", OCR) != answer_id("m2", "i1", OCR)
    assert len(first) == 22
    assert not set(first) & set("01IOl")


def test_protocol_refuses_unknown_kinds_and_keys():
    with pytest.raises(ValueError, match=r"known are .*textvqa"):
        BenchmarkProtocol(kind="textvqa_ocr")
    with pytest.raises(ValueError, match="extra"):
        BenchmarkProtocol(kind="textvqa", max_tokens=3)


def test_the_5000_public_questions(tmp_path):
    shared = os.environ.get("RECAP_SHARED")
    if not shared:
        pytest.skip("set RECAP_SHARED to the folder that holds data/textvqa_questions")
    path = Path(shared) / "data/textvqa_questions/textvqa_val_questions.jsonl"
    questions = TEXTVQA.load(path, WITH).questions
    assert len(questions) == 5000
    assert len({q.image for q in questions}) == 3166
    assert sum(not has_ocr_tokens(q.prompt) for q in questions) == 115
    keys = {(q.question_id, extract_question(q.prompt).lower()) for q in questions}
    assert len(keys) == 5000
    assert len({q.key for q in TEXTVQA.load(path, WITHOUT).questions}) == 5000


@pytest.mark.parametrize(
    ("references", "words"),
    [
        (["Nike"] * 10, 1),
        (["Coca-Cola"] * 6 + ["pepsi"] * 4, 2),
        (["the A"] * 10, 0),
        (["new york city"] * 5 + ["ny"] * 5, 3),
    ],
)
def test_length_is_that_of_the_answer_most_annotators_gave(tmp_path, references, words):
    entry = {"image_id": "i1", "question": "What brand is it?", "answers": references}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [entry]}))
    (row,) = TEXTVQA.score([answer(text="a very long answer")], path, WITH).rows
    assert row["answer_words"] == words
