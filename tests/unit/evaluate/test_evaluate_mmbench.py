"""MMBench: the TSV, the prompt, and CircularEval on keys of the published structure."""

import base64
import csv
import json
import os
from pathlib import Path

import pytest

from recap.errors import RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.mmbench import INSTRUCTION
from recap.evaluate.benchmarks.mmbench.circular import extract_letter
from recap.evaluate.gather import gather_answers
from recap.evaluate.protocol import BenchmarkProtocol
from recap.evaluate.score import score_answers

MMBENCH = get_benchmark("mmbench")
PROTOCOL = BenchmarkProtocol(kind="mmbench", max_new_tokens=1024)
COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
ROTATION = 1_000_000


def picture(number):
    return base64.b64encode(b"picture %04d " % number * 20).decode()


def write_table(path, rows, columns=COLUMNS, delimiter="\t"):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, delimiter=delimiter, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def table_row(index, **cells):
    row = {"index": str(index), "question": "Which?", "A": "red", "B": "blue", "answer": "A"}
    return row | {"category": "color", "image": picture(int(index) % ROTATION)} | cells


def answers_to(table, text):
    return [
        MMBENCH.answer_row(question, text(question), "m", {})
        for question in MMBENCH.load(table, PROTOCOL).questions
    ]


def published_structure():
    """Return (index, options, answer) rows: 1,176 questions, 4,377 rows, letters as published.

    In the unrotated rows 404 answers are A. 53 four-option questions keep D in
    place and rotate three options; in ten of them D is the answer.
    """
    kinds = [(4, 4)] * 938 + [(4, 3)] * 53 + [(3, 3)] * 96 + [(2, 2)] * 89
    rows = []
    for base, (options, rotations) in enumerate(kinds):
        fixed_d = 938 <= base < 948
        first = "D" if fixed_d else ("A" if base < 404 else "B")
        for turn in range(rotations):
            letter = "D" if fixed_d else "ABCD"[("ABCD".index(first) + turn) % rotations]
            rows.append({"index": base + turn * ROTATION, "n_options": options, "answer": letter})
    return rows


def score_keys(rows, choose):
    return [
        {"question_id": row["index"], "prompt": "p", "text": choose(row), "metadata": {}}
        for row in rows
    ]


@pytest.fixture
def keys(tmp_path):
    rows = published_structure()
    path = write_table(tmp_path / "k.csv", rows, ["index", "n_options", "answer"], ",")
    return rows, path


@pytest.mark.parametrize(("letter", "vanilla", "circular"), [("A", 34.35, 0.0), ("D", 0.85, 0.85)])
def test_constant_letters_score_what_the_structure_gives(keys, letter, vanilla, circular):
    rows, path = keys
    assert len(rows) == 4377
    scores = MMBENCH.score(score_keys(rows, lambda _: letter), path, PROTOCOL)
    assert len(scores.rows) == 1176
    assert scores.facts["vanilla_accuracy"] == vanilla
    assert scores.facts["circular_accuracy"] == circular


def test_the_published_keys(tmp_path):
    shared = os.environ.get("RECAP_SHARED")
    if not shared:
        pytest.skip("set RECAP_SHARED to the folder that holds data/seed_reference")
    path = Path(shared) / "data/seed_reference/mmbench_dev_20230712_keys.csv"
    rows = list(csv.DictReader(path.open()))
    for letter, vanilla, circular in (("A", 34.35, 0.0), ("D", None, 0.85)):
        facts = MMBENCH.score(score_keys(rows, lambda _, x=letter: x), path, PROTOCOL).facts
        assert facts["circular_accuracy"] == circular
        assert vanilla in (None, facts["vanilla_accuracy"])
    facts = MMBENCH.score(score_keys(rows, lambda row: row["answer"]), path, PROTOCOL).facts
    assert facts["circular_hits"] == facts["vanilla_hits"] == 1176
    assert facts["circular_accuracy"] == 100


def test_one_wrong_rotation_loses_the_question(keys):
    rows, path = keys
    given = score_keys(rows, lambda row: row["answer"])
    wrong = next(a for a in given if a["question_id"] == 5 + 2 * ROTATION)
    wrong["text"] = "E"
    facts = MMBENCH.score(given, path, PROTOCOL).facts
    assert facts["circular_hits"] == 1175 and facts["vanilla_hits"] == 1176


def test_wordy_answers_count_only_after_extraction(keys):
    rows, path = keys
    given = score_keys(rows, lambda row: f"({row['answer']}) because")
    scores = MMBENCH.score(given, path, PROTOCOL)
    assert scores.facts["circular_accuracy"] == 0
    assert scores.facts["circular_robust_accuracy"] == 100
    assert scores.facts["questions_that_needed_letter_extraction"] == 1176
    assert scores.rows[0]["letters"] == "ABCD"
    # What is compared is the whole answer, so a bare letter is a changed answer.
    assert scores.rows[0]["normalized"].startswith("(A) because | (B) because")


@pytest.mark.parametrize("key", ["", "E", "a", "AB"])
def test_a_row_without_a_key_is_named(keys, key):
    rows, path = keys
    given = score_keys(rows, lambda row: row["answer"])
    lines = path.read_text().splitlines()
    cells = lines[7].split(",")
    lines[7] = ",".join([*cells[:-1], key])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecapError, match=rf"line 8 \(index {cells[0]}\): the answer is '{key}'"):
        MMBENCH.score(given, path, PROTOCOL)


def test_an_answer_whose_id_is_no_number_has_no_key(keys):
    rows, path = keys
    given = score_keys(rows, lambda row: row["answer"])
    given[3]["question_id"] = "q3"
    with pytest.raises(RecapError, match="answer to row q3 has no key"):
        MMBENCH.score(given, path, PROTOCOL)


@pytest.mark.parametrize(
    ("text", "letter"),
    [("A", "A"), ("B.", "B"), ("(C)", "C"), ("The answer is D", "D"), ("Dog", None), ("", None),
     ("option B or C", "B"), ("E", None), ("a", None), ("A1 B", "B")],
)  # fmt: skip
def test_extract_letter(text, letter):
    assert extract_letter(text) == letter


def test_prompt_options_and_image(tmp_path):
    rows = [
        table_row(7, hint="Look.\nTwice.", C="NA", D="None"),
        table_row(7 + ROTATION, A="blue", B="red", answer="B", image="7"),
        table_row(8, hint="NaN", B="", C="green"),
    ]
    loaded = MMBENCH.load(write_table(tmp_path / "t.tsv", rows), PROTOCOL)
    first, second, third = loaded.questions
    assert first.prompt == "Look.\nTwice.\nWhich?\nA. red\nB. blue\nC. NA"
    assert first.model_text == f"{first.prompt}\n{INSTRUCTION}"
    assert third.prompt == "Which?\nA. red"
    assert first.image == second.image != third.image
    assert loaded.inline_images[first.image] == base64.b64decode(picture(7))
    chinese = PROTOCOL.model_copy(update={"instruction": "请直接回答选项字母。"})
    asked = MMBENCH.load(tmp_path / "t.tsv", chinese).questions[1]
    assert asked.model_text == "Which?\nA. blue\nB. red\n请直接回答选项字母。"
    row = MMBENCH.answer_row(first, "A", "m", {})
    assert list(row) == [
        "question_id", "round_id", "prompt", "text", "options", "option_char", "answer_id",
        "model_id", "metadata",
    ]  # fmt: skip
    assert row["option_char"] == ["A", "B", "C"] and INSTRUCTION not in row["prompt"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([table_row(1), table_row(1)], r"line 3 \(index 1\): the index is there twice"),
        ([table_row(1) | {"index": "x"}], r"line 2 \(index x\): the index is not a number"),
        (
            [table_row(1, hint="two\nlines"), table_row(2, image="!" * 99)],
            r"line 4 \(index 2\): the image is not base64",
        ),
    ],
)
def test_malformed_tables_are_named(tmp_path, rows, message):
    with pytest.raises(RecapError, match=message):
        MMBENCH.load(write_table(tmp_path / "t.tsv", rows), PROTOCOL)


def test_a_ragged_record_is_named(tmp_path):
    path = write_table(tmp_path / "t.tsv", [table_row(1), table_row(2)])
    path.write_text(path.read_text().rstrip("\n") + "\tone more\n")
    with pytest.raises(RecapError, match=r"line 3 \(index 2\): more cells than columns"):
        MMBENCH.load(path, PROTOCOL)


def test_questions_with_one_picture_are_one_cluster(tmp_path):
    rows = [table_row(1), table_row(2, image=picture(1)), table_row(3, image="1"), table_row(4)]
    table = write_table(tmp_path / "t.tsv", rows)
    images = [
        row["image_id"]
        for row in MMBENCH.score(answers_to(table, lambda _: "A"), table, PROTOCOL).rows
    ]
    assert images[0] == images[1] == images[2] != images[3]


def test_score_refuses_missing_foreign_and_double_rows(tmp_path):
    table = write_table(tmp_path / "t.tsv", [table_row(1), table_row(2), table_row(2 + ROTATION)])
    given = answers_to(table, lambda _: "A")
    with pytest.raises(RecapError, match=r"1 rows .* no answer: \[1000002\]"):
        MMBENCH.score(given[:2], table, PROTOCOL)
    with pytest.raises(RecapError, match="row 1 is answered twice"):
        MMBENCH.score([*given, given[0]], table, PROTOCOL)
    with pytest.raises(RecapError, match="row 9 has no key"):
        MMBENCH.score([*given, given[0] | {"question_id": 9}], table, PROTOCOL)
    orphan = write_table(tmp_path / "o.tsv", [table_row(1), table_row(3 + ROTATION)])
    with pytest.raises(RecapError, match="without their unrotated question"):
        MMBENCH.score(answers_to(orphan, lambda _: "A"), orphan, PROTOCOL)


def test_gather_and_score_files(tmp_path):
    table = write_table(
        tmp_path / "t.tsv", [table_row(1), table_row(1 + ROTATION, answer="B"), table_row(2)]
    )
    given = answers_to(table, lambda question: "B" if question.question_id > ROTATION else "A")
    shard = tmp_path / "1_0.jsonl"
    shard.write_text("".join(json.dumps(row) + "\n" for row in reversed(given)))
    merged = tmp_path / "merge.jsonl"
    gather_answers(table, PROTOCOL, [shard], merged, tmp_path / "gather.json")
    assert [json.loads(line) for line in merged.read_text().splitlines()] == given
    out, rows = tmp_path / "score.json", tmp_path / "scores.jsonl"
    score_answers("mmbench_dev_en", PROTOCOL, merged, table, out, rows)
    document = json.loads(out.read_text())
    assert document["accuracy"] == 100 and document["n"] == 2 and document["answers"] == 3
    assert document["facts"]["by_question_type"] == {"color": {"n": 2, "accuracy": 100.0}}
