"""OCR tokens made for a question file without them, by a reader whose words are known."""

import json

import pytest
from PIL import Image

import make_ocr_tokens as script
from recap.cli import run_cli
from recap.errors import RecapError
from recap.evaluate import ocr
from recap.evaluate.benchmarks import get_benchmark
from recap.evaluate.ocr import make_ocr_tokens
from recap.evaluate.protocol import BenchmarkProtocol
from recap.settings import OcrSettings

INSTRUCTION = "Answer the question using a single word or phrase."
ROWS = [
    {"question_id": "a", "image": "a.png", "text": f"What is it?\n{INSTRUCTION}"},
    {"question_id": "b", "text": f"Which brand?\n{INSTRUCTION}"},
    {"question_id": "a", "image": "a.png", "text": f"What colour?\n{INSTRUCTION}", "more": 1},
    {
        "question_id": "c",
        "image": "c.png",
        "text": f"Who?\nReference OCR token: ME, 7\n{INSTRUCTION}",
    },
]


class Reader:
    """Says the words that belong to a picture's colour, and counts its calls."""

    def __init__(self, words):
        self.words, self.calls = words, 0

    def __call__(self, picture):
        self.calls += 1
        return self.words[picture.getpixel((0, 0))]


RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), GREEN).save(tmp_path / "b.jpg", quality=100, subsampling=0)
    Image.open(tmp_path / "b.jpg").load()
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def make(folder, reader, **settings):
    make_ocr_tokens(
        folder / "q.jsonl",
        folder,
        OcrSettings(**settings),
        folder / "out.jsonl",
        folder / "state",
        manifest=folder / "m.json",
        reader=reader,
    )
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def green(folder):
    return Image.open(folder / "b.jpg").convert("RGB").getpixel((0, 0))


def test_words_stand_in_the_line_of_the_prompt_format(folder):
    reader = Reader({RED: ["STOP", "24", "hours,", "24"], green(folder): []})
    rows = make(folder, reader)
    tokens = "Reference OCR token: STOP, 24, hours,, 24"
    assert [row["text"].split("\n")[1] for row in rows] == [
        tokens,
        "Reference OCR token: ",
        tokens,
        "Reference OCR token: ME, 7",
    ]
    assert rows[0]["text"] == f"What is it?\n{tokens}\n{INSTRUCTION}"
    assert [{**row, "text": ""} for row in rows] == [{**row, "text": ""} for row in ROWS]
    counts = json.loads((folder / "m.json").read_text())["counts"]
    assert counts == {
        "questions": 4,
        "questions_with_tokens_of_their_own": 1,
        "images": 2,
        "images_without_text": 1,
        "images_cut": 0,
        "words": 4,
    }


def test_the_runner_reads_the_file_with_and_without_tokens(folder):
    make(folder, Reader({RED: ["STOP"], green(folder): []}))
    load = get_benchmark("textvqa").load
    with_tokens = load(folder / "out.jsonl", BenchmarkProtocol(kind="textvqa", ocr=True)).questions
    assert len(with_tokens) == len(ROWS)
    assert "STOP" in with_tokens[0].prompt
    without = load(folder / "out.jsonl", BenchmarkProtocol(kind="textvqa")).questions
    assert [q.prompt for q in without[:3]] == [row["text"] for row in ROWS[:3]]


def test_words_are_cut_and_every_picture_is_read_once(folder):
    reader = Reader({RED: ["one", "two", "three"], green(folder): ["x"]})
    rows = make(folder, reader, max_words=2)
    assert "one, two\n" in rows[0]["text"]
    assert reader.calls == 2


def test_a_killed_job_goes_on_and_other_settings_start_anew(folder):
    class Dies(Reader):
        def __call__(self, picture):
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().__call__(picture)

    words = {RED: ["STOP"], green(folder): ["GO"]}
    with pytest.raises(KeyboardInterrupt):
        make(folder, Dies(words))
    assert not (folder / "out.jsonl").exists()
    reader = Reader(words)
    assert "STOP" in make(folder, reader)[0]["text"]
    assert reader.calls == 1
    make(folder, reader, min_confidence=0.9)
    assert reader.calls == 3
    Image.new("RGB", (9, 9), RED).save(folder / "a.png")
    make(folder, reader, min_confidence=0.9)
    assert reader.calls == 4, "a replaced picture is read again"


def test_a_missing_picture_is_named(folder):
    (folder / "b.jpg").unlink()
    with pytest.raises(RecapError, match=r"question b .*b\.jpg"):
        make(folder, Reader({RED: []}))


def test_without_the_library_it_says_how_to_get_it(folder, monkeypatch, capfd):
    monkeypatch.setattr(ocr, "LIBRARY", "no_such_library_at_all")
    command = ["--questions", "q.jsonl", "--image-root", ".", "--out", "o", "--state-dir", "s"]
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as end:
        run_cli(script.main, script.parser(), command)
    assert end.value.code == 2
    assert "make ocr" in capfd.readouterr().err
