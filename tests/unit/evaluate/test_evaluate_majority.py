"""The text-only control: most frequent answers, by instruction line and question type."""

import json

import pytest

from recap.errors import RecapError
from recap.evaluate.majority import answer_by_majority
from recap.evaluate.protocol import BenchmarkProtocol
from recap.evaluate.score import score_answers
from recap.io import read_jsonl

SHORT = "Answer the question using a single word or phrase."
PROTOCOL = BenchmarkProtocol(kind="textvqa", ocr=True)


def turns(*pairs):
    return [
        {"from": role, "value": text}
        for pair in pairs
        for role, text in zip(("human", "gpt"), pair, strict=True)
    ]


def instructions(tmp_path, *conversations):
    path = tmp_path / "sft.json"
    path.write_text(json.dumps([{"id": "x", "conversations": c} for c in conversations]))
    return path


def answered(tmp_path, data, *questions):
    path = tmp_path / "q.jsonl"
    rows = [
        {"question_id": f"i{n}", "text": f"{text}\nReference OCR token: number, color\n{SHORT}"}
        for n, text in enumerate(questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer_by_majority(path, PROTOCOL, data, tmp_path / "merge.jsonl")
    return read_jsonl(tmp_path / "merge.jsonl")


def test_the_most_frequent_answer_of_the_type_wins(tmp_path):
    data = instructions(
        tmp_path,
        turns(
            (f"<image>\nWhat color is it?\nReference OCR token: how many\n{SHORT}", "red"),
            (f"Which color?\n{SHORT}", "blue "),
            (f"The color?\n{SHORT}", "blue"),
        ),
        turns((f"How many?\n{SHORT}", "2")),
        *[turns(("<image>\nWhat color do you see? Say it all.", "a long tale"))] * 9,
    )
    rows = answered(tmp_path, data, "What color is the car?", "How many cars?", "Is it open?")
    # No turn with this instruction asks the third type, so all of them count.
    assert [row["text"] for row in rows] == ["blue", "2", "blue"]
    assert {row["metadata"]["control"] for row in rows} == {"text_only_majority"}
    assert {row["model_id"] for row in rows} == {"text-only-majority"}


def test_other_instruction_lines_are_the_last_resort_and_ties_are_stable(tmp_path):
    data = instructions(tmp_path, turns(("Tell me.\nAt length.", "zebra"), ("A?\nB.", "ant")))
    assert [row["text"] for row in answered(tmp_path, data, "What is this?")] == ["ant"]


def test_its_answers_are_scored_like_any_control(tmp_path):
    data = instructions(tmp_path, turns((f"What color is it?\n{SHORT}", "red")))
    answered(tmp_path, data, *[f"what color is {n}?" for n in range(12)])
    entries = [
        {
            "image_id": f"i{n}",
            "question": f"What color is {n}?",
            "answers": [("red", "b")[n % 2]] * 10,
        }
        for n in range(12)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"data": entries}))
    out, rows = tmp_path / "score.json", tmp_path / "scores.jsonl"
    score_answers("b", PROTOCOL, tmp_path / "merge.jsonl", tmp_path / "a.json", out, rows)
    document = json.loads(out.read_text())
    assert document["accuracy"] == 50 and document["control"] == "text_only_majority"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[]", "holds no question"),
        ('[{"conversations": [{"value": "a"}]}]', "sample 1: needs"),
        ('[{"conversations": [{"value": "a"}, {"text": "b"}]}]', "sample 1: a turn must be"),
        ('[{"conversations": ["a", "b"]}]', r"sft\.json, sample 1: a turn must be"),
    ],
)
def test_useless_instruction_data_are_named(tmp_path, data, message):
    path = tmp_path / "sft.json"
    path.write_text(data)
    with pytest.raises(RecapError, match=message):
        answered(tmp_path, path, "What?")
