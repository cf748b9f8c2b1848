"""Gathering shards, the gates in front of a score, and the command lines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recap.errors import GateError, RecapError
from recap.evaluate.answers import answer_id
from recap.evaluate.gather import gather_answers
from recap.evaluate.protocol import BenchmarkProtocol
from recap.evaluate.score import score_answers

SCRIPTS = Path(__file__).parents[3] / "scripts"
INSTRUCTION = "Answer the question using a single word or phrase."
PROTOCOL = BenchmarkProtocol(kind="textvqa", ocr=True)
SEED_HISTOGRAM = {"text": 2950, "unknown": 855, "3": 642, "Nike": 485, "blue": 68}


def prompt(number):
    return (
        f"What is word {number}?\nReference OCR token: {'A' if number % 2 else ''}\n{INSTRUCTION}"
    )


def row(number, text, metadata=None, model_id="m"):
    return {
        "question_id": f"img{number // 2}",
        "prompt": prompt(number),
        "text": text,
        "answer_id": answer_id("m", str(number)),
        "model_id": model_id,
        "metadata": metadata or {},
    }


def write_lines(path, rows):
    path.write_text("".join(json.dumps(value) + "\n" for value in rows))
    return path


def annotate(path, texts):
    data = [
        {"image_id": f"img{n // 2}", "question": f"what is WORD {n}?", "answers": [text] * 10}
        for n, text in enumerate(texts)
    ]
    path.write_text(json.dumps({"data": data}))
    return path


@pytest.fixture
def questions(tmp_path):
    rows = [{"question_id": f"img{n // 2}", "text": prompt(n)} for n in range(10)]
    return write_lines(tmp_path / "q.jsonl", rows)


def gather(tmp_path, questions, *shards, expected=None):
    paths = [write_lines(tmp_path / f"s{i}.jsonl", rows) for i, rows in enumerate(shards)]
    out = tmp_path / "merge.jsonl"
    gather_answers(questions, PROTOCOL, paths, out, tmp_path / "gather.json", expected)
    return [json.loads(line) for line in out.read_text().splitlines()]


def score(tmp_path, answers, annotations, **more):
    path = write_lines(tmp_path / "merge.jsonl", answers)
    out, rows = tmp_path / "score.json", tmp_path / "scores.jsonl"
    score_answers("textvqa_ocr", PROTOCOL, path, annotations, out, rows, **more)
    return json.loads(out.read_text()), [json.loads(line) for line in rows.read_text().splitlines()]


def test_gather_restores_file_order_whatever_the_shards(tmp_path, questions):
    rows = [row(n, f"w{n}") for n in range(10)]
    assert gather(tmp_path, questions, rows[6:], rows[:1], rows[5:0:-1]) == rows
    report = json.loads((tmp_path / "gather.json").read_text())
    assert report["answers"] == report["questions"] == 10
    assert [shard["answers"] for shard in report["shards"]] == [4, 1, 5]
    assert report["model_id"] == "m" and report["control"] == "none"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:4] + rows[5:], r"1 missing: img2 'What is word 4\?'"),
        (lambda rows: rows[:1], r"9 missing: .* and 4 more"),
        (lambda rows: [*rows, row(11, "x")], r"1 foreign: img5 'What is word 11\?'"),
        (lambda rows: [*rows, rows[2]], r"1 answered more than once: img1 'What is word 2\?'"),
        (lambda rows: [*rows[1:], row(11, "x"), rows[3]], "1 missing.*1 foreign.*more than once"),
        (lambda _: [], "no answer at all"),
    ],
)
def test_gather_names_missing_foreign_and_double_answers(tmp_path, questions, spoil, message):
    rows = [row(n, f"w{n}") for n in range(10)]
    with pytest.raises(GateError, match=message):
        gather(tmp_path, questions, spoil(rows))
    assert not (tmp_path / "merge.jsonl").exists()


def test_gather_checks_the_declared_count(tmp_path, questions):
    rows = [row(n, f"w{n}") for n in range(10)]
    assert len(gather(tmp_path, questions, rows, expected=10)) == 10
    with pytest.raises(GateError, match="holds 10 questions, but 5000"):
        gather(tmp_path, questions, rows, expected=5000)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (row(9, "x", model_id="m2"), "several model_ids"),
        (row(9, "x", {"control": "blank_image"}), "several controls"),
        ({"question_id": "img4", "prompt": prompt(9), "text": "x"}, "lacks answer_id, model_id"),
        (row(9, 5), "must be strings"),
    ],
)
def test_gather_refuses_mixed_or_malformed_shards(tmp_path, questions, changed, message):
    with pytest.raises(RecapError, match=message):
        gather(tmp_path, questions, [row(n, f"w{n}") for n in range(9)], [changed])


def test_score_reports_accuracy_count_protocol_and_hashes(tmp_path):
    annotations = annotate(tmp_path / "a.json", [f"w{n}" for n in range(10)])
    document, rows = score(
        tmp_path, [row(n, f"W{n}." if n < 7 else "no") for n in range(9)], annotations
    )
    assert document["accuracy"] == 77.78 and document["n"] == 9
    assert document["benchmark"] == "textvqa_ocr" and document["metric"] == "vqa_accuracy"
    assert document["protocol"] == PROTOCOL.model_dump()
    assert document["simulated"] is False and document["control"] == "none"
    assert len(document["answers_sha256"]) == len(document["annotations_sha256"]) == 64
    assert document["facts"]["unanswered_questions"] == 1
    assert document["facts"]["by_has_ocr"] == {
        "false": {"n": 5, "accuracy": 80.0},
        "true": {"n": 4, "accuracy": 75.0},
    }
    assert document["diversity"]["distinct_answers"] == 8
    assert document["diversity"]["top_answers"]["no"] == 2
    assert document["degenerate"] is False
    assert [r["accuracy"] for r in rows] == [1.0] * 7 + [0.0] * 2
    assert rows[0]["normalized"] == "w0" and rows[1]["has_ocr"] is True


def test_simulated_answers_are_refused(tmp_path):
    annotations = annotate(tmp_path / "a.json", ["w0", "w1"])
    note = {"model_type": "lora_mgm", "note": "simulated_answer_for_testing"}
    with pytest.raises(GateError, match=r"answer 2 .* 'simulated_answer_for_testing'"):
        score(tmp_path, [row(0, "w0"), row(1, "w1", note)], annotations)
    with pytest.raises(GateError, match="simulated: True"):
        score(tmp_path, [row(0, "w0", {"extra": [{"simulated": True}]})], annotations)
    document, _ = score(tmp_path, [row(0, "w0", {"simulated": False})], annotations)
    assert document["accuracy"] == 100


def test_the_predecessors_histogram_is_refused_with_the_reason(tmp_path):
    texts = [text for text, count in SEED_HISTOGRAM.items() for _ in range(count)]
    annotations = annotate(tmp_path / "a.json", texts)
    with pytest.raises(
        GateError,
        match=r"5 distinct answers to 5000 questions \(text 2950, unknown 855, 3 642, Nike 485, "
        r"blue 68\); degenerate by the rule: at most 5 distinct",
    ):
        score(tmp_path, [row(n, text) for n, text in enumerate(texts)], annotations)
    assert not (tmp_path / "score.json").exists()
    six = [row(n, text) for n, text in enumerate([*texts[:-1], "a sixth"])]
    assert score(tmp_path, six, annotations)[0]["degenerate"] is False
    blank = [row(n, text, {"control": "blank_image"}) for n, text in enumerate(texts)]
    document, _ = score(tmp_path, blank, annotations)
    assert document["degenerate"] is True and document["control"] == "blank_image"


def test_small_degenerate_files_are_marked_not_refused(tmp_path):
    annotations = annotate(tmp_path / "a.json", ["x"] * 9)
    document, _ = score(tmp_path, [row(n, "x") for n in range(9)], annotations)
    assert document["degenerate"] is True and document["accuracy"] == 100
    assert "at most 1 distinct among 9 answers" in document["degenerate_rule"]


def test_control_answers_are_scored_and_compared_with_the_real_ones(tmp_path):
    annotations = annotate(tmp_path / "a.json", ["x"] * 4)
    blank = [row(n, "x" if n else "y", {"control": "blank_image"}) for n in range(4)]
    answers = [row(n, "x") for n in range(4)]
    real = write_lines(tmp_path / "real.jsonl", answers)
    document, _ = score(tmp_path, blank, annotations, real_answers=real)
    assert document["accuracy"] == 75 and document["control"] == "blank_image"
    assert document["against_real"] == {
        "same_answers": 3,
        "same_share": 0.75,
        "image_ignored": False,
    }
    assert score(tmp_path, answers, annotations)[0]["against_real"] is None
    with pytest.raises(RecapError, match="answers other questions"):
        score(tmp_path, blank[:3], annotations, real_answers=real)
    with pytest.raises(RecapError, match="not hold answers of a control"):
        score(tmp_path, answers, annotations, real_answers=real)
    write_lines(real, [{**answer, "model_id": "other"} for answer in answers])
    with pytest.raises(RecapError, match=r"is by m, but .* by other"):
        score(tmp_path, blank, annotations, real_answers=real)


def test_a_model_that_a_blank_picture_does_not_change_is_refused(tmp_path):
    annotations = annotate(tmp_path / "a.json", ["x"] * 1000)
    blank = [row(n, f"w{n}", {"control": "blank_image"}) for n in range(1000)]
    answers = [row(n, f"w{n}") for n in range(1000)]
    real = write_lines(tmp_path / "real.jsonl", answers)
    with pytest.raises(GateError, match="all 1000 answers are the same under blank_image"):
        score(tmp_path, blank, annotations, real_answers=real)
    answers[7] = row(7, "seen")
    write_lines(real, answers)
    document, _ = score(tmp_path, blank, annotations, real_answers=real)
    assert document["against_real"]["same_answers"] == 999


def test_zero_answers_have_no_score(tmp_path):
    with pytest.raises(GateError, match="holds no answer"):
        score(tmp_path, [], annotate(tmp_path / "a.json", ["x"]))


def run(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_lines_gather_and_score(tmp_path, questions):
    shards = [
        write_lines(tmp_path / "2_0.jsonl", [row(n, f"w{n}") for n in range(5)]),
        write_lines(tmp_path / "2_1.jsonl", [row(n, f"w{n}") for n in range(5, 10)]),
    ]
    annotations = annotate(tmp_path / "a.json", [f"w{n}" for n in range(10)])
    protocol = '{"kind": "textvqa", "ocr": true, "max_new_tokens": 16}'
    common = ("--protocol", protocol)
    merged = tmp_path / "merge.jsonl"
    gathered = (
        "--questions",
        questions,
        *common,
        "--out",
        merged,
        "--report",
        tmp_path / "gather.json",
    )
    done = run("gather_answers.py", *gathered, "--expected-questions", 10, "--shards", *shards)
    assert done.returncode == 0, done.stderr
    done = run(
        "score_answers.py", "--benchmark", "textvqa_ocr", *common, "--answers", merged,
        "--annotations", annotations, "--out", tmp_path / "score.json",
        "--per-question", tmp_path / "scores.jsonl",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "score.json").read_text())["accuracy"] == 100
    done = run("gather_answers.py", *gathered, "--shards", shards[0])
    assert done.returncode == 3 and "5 missing" in done.stderr
    done = run(
        "gather_answers.py",
        "--questions",
        questions,
        "--protocol",
        '{"kind": "x"}',
        "--shards",
        shards[0],
        "--out",
        merged,
        "--report",
        tmp_path / "g.json",
    )
    assert done.returncode == 2 and "`kind`: Value error, unknown kind 'x'" in done.stderr
