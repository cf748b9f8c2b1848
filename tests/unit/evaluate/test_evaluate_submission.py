"""Files to submit: forms, order, and what is refused."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from evaluate_kinds import KINDS, write_lines

from recap.errors import GateError, RecapError
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.spreadsheet import write_spreadsheet
from recap.evaluate.submission import write_submission
from recap.io import read_json, read_jsonl

SCRIPT = Path(__file__).parents[3] / "scripts" / "write_submission.py"
SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def prepare(name, folder, count=8, text=None, **metadata):
    kind = KINDS[name](folder, count)
    benchmark = get_benchmark(name)
    questions = benchmark.load(kind.questions, kind.protocol).questions
    rows = [
        benchmark.answer_row(q, text or kind.look(q), "m", metadata) for q in reversed(questions)
    ]
    return kind, write_lines(folder / "merge.jsonl", rows)


def cells(path):
    """Return a sheet's cells by place, read with nothing but an XML parser."""
    with zipfile.ZipFile(path) as archive:
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))  # noqa: S314
    found = {}
    for cell in sheet.iter(f"{SPACE}c"):
        number = cell.find(f"{SPACE}v")
        text = cell.find(f"{SPACE}is/{SPACE}t")
        found[cell.get("r")] = int(number.text) if number is not None else text.text
    return found


def test_mmbench_table_has_upstreams_columns_and_the_raw_answers(tmp_path):
    kind, answers = prepare("mmbench", tmp_path)
    rows = read_jsonl(answers)
    rows[0]["text"] = "(B) because"
    write_lines(answers, rows)
    out = tmp_path / "submission.xlsx"
    write_submission(kind.protocol, answers, kind.annotations, out)
    table = cells(out)
    header = [table[f"{column}1"] for column in "ABCDEFGHI"]
    assert header == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert [table[f"A{n}"] for n in range(2, 18)] == [
        *range(8), *(1_000_000 + n for n in range(8)),
    ]  # fmt: skip
    assert [table[f"G{n}"] for n in range(2, 17)] == [table[f"H{n}"] for n in range(2, 17)]
    assert table["G17"] == "(B) because"
    assert table["C2"] == "red" and table["I17"] == "dev"
    first = out.read_bytes()
    write_submission(kind.protocol, answers, kind.annotations, out)
    assert out.read_bytes() == first


def test_gqa_and_seedbench_forms(tmp_path):
    kind, answers = prepare("gqa", tmp_path / "gqa")
    rows = read_jsonl(answers)
    rows[-1]["text"] = "Red."
    write_lines(answers, rows)
    out = tmp_path / "s.json"
    write_submission(kind.protocol, answers, kind.annotations, out)
    found = {row["questionId"]: row["prediction"] for row in read_json(out)}
    assert found["00"] == "red" and found["03"] == "black" and len(found) == 8
    assert list(read_json(out)[0]) == ["questionId", "prediction"]

    kind, answers = prepare("seedbench", tmp_path / "seed")
    write_submission(kind.protocol, answers, kind.annotations, tmp_path / "s.jsonl")
    lines = read_jsonl(tmp_path / "s.jsonl")
    assert [row["question_id"] for row in lines] == [str(n) for n in range(8)]
    assert lines[1] == {"question_id": "1", "prediction": "B"}
    write_lines(answers, read_jsonl(answers)[1:])
    with pytest.raises(RecapError, match=r"1 questions .* no answer: \['7'\]"):
        write_submission(kind.protocol, answers, kind.annotations, tmp_path / "s.jsonl")


def test_vqav2_lists_the_whole_split_with_empty_answers_where_nothing_was_asked(tmp_path):
    kind, answers = prepare("vqav2", tmp_path, 3, text="The Dogs.")
    split = [{"question_id": number} for number in (999, 1002, 1000, 1001, 2000)]
    whole = write_lines(tmp_path / "llava_vqav2_mscoco_test2015.jsonl", split)
    out = tmp_path / "s.json"
    write_submission(kind.protocol, answers, whole, out)
    assert read_json(out) == [
        {"question_id": 999, "answer": ""},
        {"question_id": 1002, "answer": "dogs"},
        {"question_id": 1000, "answer": "dogs"},
        {"question_id": 1001, "answer": "dogs"},
        {"question_id": 2000, "answer": ""},
    ]
    write_lines(whole, [*split, {"question_id": 999}])
    with pytest.raises(RecapError, match="line 6: question 999 is there twice"):
        write_submission(kind.protocol, answers, whole, out)
    write_lines(whole, split[:2])
    with pytest.raises(RecapError, match="question 1001 has no annotation"):
        write_submission(kind.protocol, answers, whole, out)


def test_what_is_no_models_answer_is_not_submitted(tmp_path):
    kind, answers = prepare("gqa", tmp_path, control="blank_image")
    with pytest.raises(RecapError, match="made under blank_image"):
        write_submission(kind.protocol, answers, kind.annotations, tmp_path / "s.json")
    kind, answers = prepare("gqa", tmp_path, note="simulated")
    with pytest.raises(GateError, match="simulated"):
        write_submission(kind.protocol, answers, kind.annotations, tmp_path / "s.json")
    answers.write_text("")
    with pytest.raises(GateError, match="nothing to submit"):
        write_submission(kind.protocol, answers, kind.annotations, tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()


def test_kinds_without_a_server_and_other_suffixes_are_refused(tmp_path):
    kind, answers = prepare("pope", tmp_path)
    with pytest.raises(RecapError, match="Pope is scored here"):
        write_submission(kind.protocol, answers, kind.annotations, tmp_path / "s.json")
    kind, answers = prepare("gqa", tmp_path)
    with pytest.raises(RecapError, match=r"submitted as \.json"):
        write_submission(kind.protocol, answers, kind.annotations, tmp_path / "s.xlsx")


def test_texts_that_xml_cannot_hold_are_escaped_as_office_does(tmp_path):
    path = tmp_path / "t.xlsx"
    write_spreadsheet(path, ["a"], [["bell \x07, _x0041_ & <b>"], [""], [None], [2.5]])
    with zipfile.ZipFile(path) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    assert "bell _x0007_, _x005F_x0041_ &amp; &lt;b&gt;" in sheet
    assert '<row r="3"></row><row r="4"></row><row r="5"><c r="A5"><v>2.5</v>' in sheet
    with pytest.raises(RecapError, match="cell A2: 40000 characters"):
        write_spreadsheet(path, ["a"], [["x" * 40_000]])


def test_columns_go_on_after_z(tmp_path):
    path = tmp_path / "t.xlsx"
    write_spreadsheet(path, [f"c{n}" for n in range(704)], [])
    table = cells(path)
    assert (table["Z1"], table["AA1"], table["AZ1"]) == ("c25", "c26", "c51")
    assert (table["ZZ1"], table["AAA1"], table["AAB1"]) == ("c701", "c702", "c703")


def test_command_line(tmp_path):
    kind, answers = prepare("mmbench", tmp_path)
    command = [sys.executable, str(SCRIPT), "--protocol", json.dumps({"kind": "mmbench"})]
    command += ["--answers", str(answers), "--annotations", str(kind.annotations)]
    command += ["--out", str(tmp_path / "submission.xlsx")]
    subprocess.run(command, check=True)
    assert zipfile.is_zipfile(tmp_path / "submission.xlsx")
