"""What holds for every kind of benchmark: prompts, answer rows, scores, controls."""

import json

import pytest
from evaluate_kinds import KINDS, SHORT, write_lines

from recap.compare.controls import control_rows, control_warning
from recap.compare.inputs import ComparisonInputs
from recap.compare.scores import load_scores
from recap.errors import RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.controls import apply_control
from recap.evaluate.gather import gather_answers
from recap.evaluate.majority import answer_by_majority
from recap.evaluate.protocol import MAJORITY, available_kinds
from recap.evaluate.score import score_answers
from recap.io import read_json, read_jsonl
from recap.settings import CompareSettings

PICTURES = 64
FAST = CompareSettings(bootstrap_samples=300, permutation_samples=300)
KEYS = ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
EXTRA_KEYS = {"mmbench": ["round_id", "options", "option_char"]}


@pytest.fixture(params=available_kinds())
def kind(request, tmp_path):
    return KINDS[request.param](tmp_path, PICTURES)


def answer_all(kind, look, control="none", **more):
    """Return the answer rows of a model that is shown what the control shows."""
    benchmark = get_benchmark(kind.protocol.kind)
    asked = apply_control(benchmark.load(kind.questions, kind.protocol), control)
    metadata = {} if control == "none" else {"control": control}
    return [benchmark.answer_row(q, look(q), "m", metadata) for q in asked.questions]


def score(kind, answers, folder):
    folder.mkdir(parents=True)
    path = write_lines(folder / "merge.jsonl", answers)
    out, rows = folder / "score.json", folder / "scores.jsonl"
    score_answers("row", kind.protocol, path, kind.annotations, out, rows, questions=kind.questions)
    return {"score": str(out), "scores": str(rows)}


def compared(kind, folder, look, controls=("blank_image", "shuffled_images"), files=()):
    """Score a model and its controls, and compare them as the report does."""
    names = {"arm": "a", "seed": 1, "benchmark": "row"}
    real = score(kind, answer_all(kind, look), folder / "real")
    entries = [
        {**names, "control": control}
        | score(kind, answer_all(kind, look, control), folder / control)
        for control in controls
    ]
    inputs = ComparisonInputs.model_validate(
        {
            "experiment": "e",
            "reference": "a",
            "arms": [{"arm": "a"}],
            "seeds": [1],
            "benchmarks": [{"name": "row"}],
            "evaluations": [{**names, **real}],
            "controls": [*entries, *files],
        }
    )
    return control_rows(inputs, load_scores(inputs, "row"), FAST)


def test_every_kind_has_a_small_benchmark_here():
    assert sorted(KINDS) == available_kinds()


def test_a_model_that_looks_is_right_and_a_wrong_one_is_not(kind, tmp_path):
    right = read_json(score(kind, answer_all(kind, kind.look), tmp_path / "r")["score"])
    assert right["accuracy"] == 100 and not right["degenerate"]
    assert right["metric"] == get_benchmark(kind.protocol.kind).metric
    rows = read_jsonl(tmp_path / "r" / "scores.jsonl")
    assert right["n"] == len(rows)
    assert len({(row["question_id"], row["question"]) for row in rows}) == len(rows)
    wrong = read_json(score(kind, answer_all(kind, lambda q: "E"), tmp_path / "w")["score"])
    # To POPE whatever is not no is yes.
    expected = yes_share(kind) if kind.protocol.kind == "pope" else 0
    assert wrong["accuracy"] == pytest.approx(expected, abs=0.01)


def yes_share(kind):
    labels = [
        json.loads(line)["label"]
        for path in kind.annotations.glob("coco_pope_*.json")
        for line in path.read_text().splitlines()
    ]
    return 100 * labels.count("yes") / len(labels)


def test_answer_rows_have_upstreams_keys_in_order(kind):
    row = answer_all(kind, kind.look)[0]
    extra = EXTRA_KEYS.get(kind.protocol.kind, [])
    assert [name for name in row if name not in extra] == KEYS
    assert set(row) == {*KEYS, *extra}
    assert len(row["answer_id"]) == 22 and row["metadata"] == {}


def test_the_prompt_is_the_files_text_and_its_instruction_can_be_replaced(kind):
    benchmark = get_benchmark(kind.protocol.kind)
    plain = benchmark.load(kind.questions, kind.protocol).questions
    if kind.protocol.kind != "mmbench":
        assert [q.model_text for q in plain] == [r["text"] for r in read_jsonl(kind.questions)]
    other = kind.protocol.model_copy(update={"instruction": "Say it."})
    for before, after in zip(plain, benchmark.load(kind.questions, other).questions, strict=True):
        assert after.model_text.split("\n")[:-1] == before.model_text.split("\n")[:-1]
        assert after.model_text.split("\n")[-1] == "Say it."


def test_shards_in_any_order_give_one_file(kind, tmp_path):
    answers = answer_all(kind, kind.look)
    shards = [write_lines(tmp_path / f"3_{n}.jsonl", answers[n::3]) for n in range(3)]
    out = tmp_path / "merge.jsonl"
    gather_answers(kind.questions, kind.protocol, shards, out, tmp_path / "gather.json")
    assert read_jsonl(out) == answers


def test_questions_scored_together_are_shown_one_picture(kind):
    """Rotations of a question, or two questions about a picture, stay together."""
    benchmark = get_benchmark(kind.protocol.kind)
    own = benchmark.load(kind.questions, kind.protocol)
    shown = apply_control(own, "shuffled_images")
    swapped = {}
    for before, after in zip(own.questions, shown.questions, strict=True):
        assert after.image != before.image and after.model_text == before.model_text
        assert swapped.setdefault(before.image, after.image) == after.image
    assert len(set(swapped.values())) == len(swapped)
    assert shown == apply_control(own, "shuffled_images")


def test_a_model_that_looks_beats_its_controls(kind, tmp_path):
    rows = compared(kind, tmp_path, kind.look)
    assert [row["control"] for row in rows] == ["blank_image", "shuffled_images"]
    for row in rows:
        assert row["beats_control"] and row["model_accuracy"] == 100
        assert "beats its control" in row["sentence"]
    assert control_warning([{"benchmark": "row", "controls": rows}]) == ""


def test_a_model_that_reads_the_question_alone_does_not_use_the_image(kind, tmp_path):
    for row in compared(kind, tmp_path, lambda question: kind.blind):
        assert row["image_ignored"] and not row["beats_control"]
        assert "does not use the image" in row["sentence"]
        warning = control_warning([{"benchmark": "row", "controls": [row]}])
        assert "a does not use the image on row" in warning


def test_a_model_that_changes_its_mind_without_gain_does_not_use_the_image(kind, tmp_path):
    """Its answers depend on the picture's file, but not on what is to be seen."""
    options = {"pope": ("Yes", "No"), "mme": ("Yes", "No")}.get(
        kind.protocol.kind,
        tuple("ABCD") if kind.protocol.kind in ("mmbench", "seedbench") else ("red", "blue"),
    )

    def guess(question):
        return options[hash_of(question) % len(options)]

    (row,) = compared(kind, tmp_path, guess, controls=("shuffled_images",))
    assert not row["image_ignored"] and not row["beats_control"]
    assert "does not use the image on row, as far as can be seen" in row["sentence"]


def hash_of(question):
    return sum(f"{question.image}{question.prompt}{question.question_id}".encode()) // 7


def test_the_majority_answer_is_one_that_can_be_right(kind, tmp_path):
    short = [("Is it red?", "No"), ("What color is it?", "blue"), ("Is it?", "no."), ("Who?", "X")]
    turns = [*[(f"{q}\n{SHORT}", a) for q, a in short], ("Which?\nLetter.", "C")]
    turns += [("Tell me.\nSay it all.", "a long tale")] * 9
    sample = [
        {"from": role, "value": text}
        for pair in turns
        for role, text in zip(("human", "gpt"), pair, strict=True)
    ]
    instructions = tmp_path / "sft.json"
    instructions.write_text(json.dumps([{"conversations": sample}]))
    out = tmp_path / "majority" / "merge.jsonl"
    answer_by_majority(kind.questions, kind.protocol, instructions, out)
    answers = read_jsonl(out)
    expected = {"pope": "No", "mme": "No", "mmbench": "C", "seedbench": "C"}
    assert {row["text"] for row in answers} == {expected.get(kind.protocol.kind, "blue")}
    files = score(kind, answers, tmp_path / "scored")
    control = {"control": MAJORITY, "benchmark": "row", **files}
    (row,) = compared(kind, tmp_path, kind.look, controls=(), files=[control])
    assert row["beats_control"] and row["accuracy"] < 80


def test_without_counted_answers_the_first_that_can_be_right_is_given(tmp_path):
    kind = KINDS["mmbench"](tmp_path, 4)
    instructions = tmp_path / "sft.json"
    turns = [{"from": "human", "value": "Hi\nx"}, {"from": "gpt", "value": "yes"}]
    instructions.write_text(json.dumps([{"conversations": turns}]))
    answer_by_majority(kind.questions, kind.protocol, instructions, tmp_path / "m.jsonl")
    assert {row["text"] for row in read_jsonl(tmp_path / "m.jsonl")} == {"A"}


LINES = [name for name in available_kinds() if name != "mmbench"]


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda row: row.pop("question_id"), r"line 3 \(question no question_id\)"),
        (lambda row: row.pop("text"), r"line 3 .*text"),
        (lambda row: row.update(text=5), r"line 3 .*text"),
        (lambda row: row.update(text="\ud800"), "line 3"),
    ],
)
def test_a_malformed_question_is_named_with_line_and_id(tmp_path, name, spoil, message):
    kind = KINDS[name](tmp_path, 4)
    rows = read_jsonl(kind.questions)
    spoil(rows[1])
    lines = [json.dumps(row) for row in rows]
    lines.insert(1, "")
    kind.questions.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecapError, match=message):
        get_benchmark(name).load(kind.questions, kind.protocol)


@pytest.mark.parametrize("name", [name for name in available_kinds() if name != "textvqa"])
def test_ocr_tokens_are_refused_where_there_are_none(tmp_path, name):
    kind = KINDS[name](tmp_path, 4)
    asked = kind.protocol.model_copy(update={"ocr": True})
    with pytest.raises(RecapError, match="no OCR tokens; set ocr to false"):
        get_benchmark(name).load(kind.questions, asked)


@pytest.mark.parametrize("name", [n for n in LINES if n not in ("textvqa", "pope")])
def test_foreign_and_double_answers_are_named(tmp_path, name):
    kind = KINDS[name](tmp_path, 4)
    benchmark = get_benchmark(name)
    answers = answer_all(kind, kind.look)
    with pytest.raises(RecapError, match="is answered twice"):
        benchmark.score([*answers, answers[0]], kind.annotations, kind.protocol)
    foreign = {**answers[0], "question_id": "existence/77777.jpg"}
    with pytest.raises(RecapError, match=r"77777.*has no annotation"):
        benchmark.score([foreign], kind.annotations, kind.protocol)
