"""MME: accuracy, accuracy+ and their sums by hand; keys matched as the converter does."""

import pytest
from evaluate_kinds import SHORT, write_lines

from recap.errors import RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.benchmarks.mme import read_answer
from recap.evaluate.benchmarks.mme.figures import COGNITION, PERCEPTION
from recap.evaluate.benchmarks.mme.keys import bare_question, read_keys
from recap.evaluate.protocol import BenchmarkProtocol

MME = get_benchmark("mme")
PROTOCOL = BenchmarkProtocol(kind="mme")
ASK = "Please answer yes or no."


def answer(name, question, text):
    return {"question_id": name, "prompt": f"{question}\n{SHORT}", "text": text}


def task_file(folder, task, pictures, separator=" "):
    lines = []
    for name in pictures:
        lines.append(f"{name}.jpg\tIs it A?{separator}{ASK}\tYes")
        lines.append(f"{name}.jpg\tIs it B?{separator}{ASK}\tNo")
    (folder / f"{task}.txt").write_text("\n".join(lines) + "\n")


def answers_to(task, given):
    """``given``: picture to the answers to its two questions, of which Yes and No are right."""
    return [
        answer(f"{task}/{name}.jpg", question, text)
        for name, texts in given.items()
        for question, text in zip(("Is it A?", "Is it B?"), texts, strict=True)
    ]


def test_the_groups_have_ten_and_four_tasks():
    assert (len(PERCEPTION), len(COGNITION)) == (10, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"), ("no", "no"), ("NO.", "no"), ("Yes, it is", "yes"), ("Not", "no"),
        ("It is no", "other"), ("", "other"), ("y", "other"), (" yes", "yes"), ("unknown", "other"),
        ("know", "no"),
    ],
)  # fmt: skip
def test_the_first_four_characters_decide(text, expected):
    assert read_answer(text) == expected


def test_figures_by_hand(tmp_path):
    task_file(tmp_path, "count", ["1", "2", "3", "4"])
    task_file(tmp_path, "code_reasoning", ["9"], separator="  ")
    given = {
        "1": ("Yes", "No"),  # both right
        "2": ("yes", "no."),  # both right
        "3": ("Yes", "Yes"),  # one right
        "4": ("maybe", "who knows"),  # none right, neither yes nor no
    }
    answers = answers_to("count", given) + answers_to("code_reasoning", {"9": ("No", "No")})
    scores = MME.score(answers, tmp_path, PROTOCOL)
    facts = scores.facts
    # count: 5 of 8 answers, 2 of 4 pictures: 62.5 + 50. code_reasoning: 50 + 0.
    assert facts["by_question_type"]["count"] == {
        "n": 8, "accuracy": 62.5, "accuracy_plus": 50.0, "score": 112.5, "neither_yes_nor_no": 2,
    }  # fmt: skip
    assert facts["by_question_type"]["code_reasoning"]["score"] == 50
    assert (facts["perception_score"], facts["cognition_score"]) == (112.5, 50.0)
    assert len(facts["tasks_not_asked"]) == 12
    assert [row["accuracy"] for row in scores.rows] == [1, 1, 1, 1, 0.5, 0, 0, 0, 0, 0.5]
    # Within a task the mean of the rows is its score over 200.
    assert sum(row["accuracy"] for row in scores.rows[:8]) / 8 == 112.5 / 200
    assert {row["image_id"] for row in scores.rows} == {
        "count/1", "count/2", "count/3", "count/4", "code_reasoning/9",
    }  # fmt: skip


def test_a_perfect_model_has_2000_and_800_points(tmp_path):
    answers = []
    for task in (*PERCEPTION, *COGNITION):
        task_file(tmp_path, task, ["1", "2"])
        answers += answers_to(task, {"1": ("Yes", "No"), "2": ("Yes", "No")})
    facts = MME.score(answers, tmp_path, PROTOCOL).facts
    assert (facts["perception_score"], facts["cognition_score"]) == (2000, 800)
    assert facts["tasks_not_asked"] == []
    constant = [{**row, "text": "Yes"} for row in answers]
    facts = MME.score(constant, tmp_path, PROTOCOL).facts
    assert (facts["perception_score"], facts["cognition_score"]) == (500, 200)


def test_a_picture_with_one_answer_is_refused(tmp_path):
    task_file(tmp_path, "scene", ["1"])
    with pytest.raises(RecapError, match="scene: 1 answers about 1 pictures"):
        MME.score(answers_to("scene", {"1": ("Yes", "No")})[:1], tmp_path, PROTOCOL)


def test_questions_match_whatever_instruction_they_carry():
    bare = "Is it A?"
    for text in (
        bare,
        f"{bare} {ASK}",
        f"{bare}  {ASK}",
        f"{bare}\n{SHORT}",
        f"{bare} {ASK}\n{SHORT}",
    ):
        assert bare_question(text) == bare


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg\tIs it?\n", r"OCR.txt, line 1 \(a.jpg\): 2 columns"),
        ("\na.jpg\tIs it?\tmaybe\n", r"line 2 \(a.jpg\): the answer must be Yes or No"),
        ("a.jpg\tIs it?\tYes\na.png\tIs it?\tNo\n", r"line 2 \(a.png\): .* there twice"),
        ("a.jpg\tIs it?\tYes\n", "without exactly two questions: a"),
    ],
)
def test_malformed_keys_are_named(tmp_path, content, message):
    (tmp_path / "OCR.txt").write_text(content)
    with pytest.raises(RecapError, match=message):
        read_keys(tmp_path)


def test_a_filled_in_column_is_not_read_and_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(RecapError, match="none of the task files existence"):
        read_keys(tmp_path)
    (tmp_path / "OCR.txt").write_text("a.jpg\tIs it A?\tYes\tno\na.jpg\tIs it B?\tNo\tyes\n")
    assert list(read_keys(tmp_path).values()) == ["yes", "no"]


@pytest.mark.parametrize("name", ["0001.jpg", "count/", "counting/1.jpg"])
def test_a_question_id_without_a_task_is_refused(tmp_path, name):
    row = {"question_id": name, "image": "x.jpg", "text": f"Is it?\n{SHORT}"}
    path = write_lines(tmp_path / "q.jsonl", [row])
    with pytest.raises(RecapError, match=r"line 1 .* must be <task>/<picture>"):
        MME.load(path, PROTOCOL)
