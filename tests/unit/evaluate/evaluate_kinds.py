"""A small benchmark of every kind, whose pictures each have one property, and a model that looks.

Picture ``i`` shows color ``i % 4``; the right answer to every question follows
from the number of the picture that is shown, and from the question's text.
"""

import base64
import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recap.evaluate.benchmarks.base import Question
from recap.evaluate.controls import BLANK_IMAGE
from recap.evaluate.protocol import BenchmarkProtocol
from recap.hashing import sha256_bytes

COLORS = ("red", "blue", "green", "black")
LETTERS = "ABCD"
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
TURN = 1_000_000


@dataclass(frozen=True)
class Kind:
    """Files of a small benchmark; ``look`` says what a model that sees answers."""

    questions: Path
    annotations: Path
    protocol: BenchmarkProtocol
    answer: Callable[[Question, int], str]
    number_of: Callable[[str], int]
    blind: str

    def look(self, question: Question) -> str:
        if question.image == BLANK_IMAGE:
            return self.blind
        return self.answer(question, self.number_of(question.image))


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_json(path, value):
    path.write_text(json.dumps(value))
    return path


def _stem(name):
    return int(Path(name).stem.split("_")[-1])


def _color(question, number):
    return COLORS[number % 4]


def _yes_no(question, number):
    color = next(name for name in COLORS if f" {name}?" in question.prompt)
    return "Yes" if COLORS[number % 4] == color else "No"


def _letter(question, number):
    options = dict(
        line.split(". ")[::-1] for line in question.prompt.split("\n") if line[1:3] == ". "
    )
    return options[COLORS[number % 4]]


def textvqa(folder, count):
    rows = [
        {
            "question_id": f"p_{i}",
            "image": f"p_{i}.jpg",
            "text": f"What color is it?\nReference OCR token: {i}\n{SHORT}",
        }
        for i in range(count)
    ]
    entries = [
        {"image_id": f"p_{i}", "question": "What color is it?", "answers": [COLORS[i % 4]] * 10}
        for i in range(count)
    ]
    questions = write_lines(folder / "q.jsonl", rows)
    annotations = write_json(folder / "a.json", {"data": entries})
    protocol = BenchmarkProtocol(kind="textvqa", ocr=True)
    return Kind(questions, annotations, protocol, _color, _stem, "red")


def gqa(folder, count):
    rows = [
        {"question_id": f"0{i}", "image": f"n{i}.jpg", "text": f"What color is it?\n{SHORT}"}
        for i in range(count)
    ]
    entries = {
        f"0{i}": {
            "question": "What color is it?",
            "imageId": f"n{i}",
            "answer": COLORS[i % 4],
            "types": {"structural": "query"},
        }
        for i in range(count)
    }
    questions = write_lines(folder / "q.jsonl", rows)
    annotations = write_json(folder / "a.json", entries)
    protocol = BenchmarkProtocol(kind="gqa")
    return Kind(
        questions, annotations, protocol, _color, lambda name: int(Path(name).stem[1:]), "red"
    )


def vqav2(folder, count):
    rows = [
        {
            "question_id": 1000 + i,
            "image": f"COCO_{i}.jpg",
            "text": f"What color is it?\n{SHORT}",
        }
        for i in range(count)
    ]
    entries = [
        {
            "question_id": 1000 + i,
            "image_id": i,
            "answer_type": "other",
            "answers": [{"answer": COLORS[i % 4], "answer_id": n} for n in range(10)],
        }
        for i in range(count)
    ]
    questions = write_lines(folder / "q.jsonl", rows)
    annotations = write_json(folder / "a.json", {"annotations": entries})
    return Kind(questions, annotations, BenchmarkProtocol(kind="vqav2"), _color, _stem, "red")


def pope(folder, count):
    names = ("adversarial", "popular", "random")
    rows = [
        {
            "question_id": i,
            "image": f"p_{i}.jpg",
            "text": f"Is the thing {COLORS[i % 3]}?\n{SHORT}",
            "category": names[i % 3],
        }
        for i in range(count)
    ]
    for place, name in enumerate(names):
        labels = [
            {"label": "yes" if i % 4 == i % 3 else "no"} for i in range(place, count, len(names))
        ]
        write_lines(folder / f"coco_pope_{name}.json", labels)
    questions = write_lines(folder / "q.jsonl", rows)
    return Kind(questions, folder, BenchmarkProtocol(kind="pope"), _yes_no, _stem, "No")


def mme(folder, count):
    rows, lines = [], {"existence": [], "code_reasoning": []}
    for i in range(count):
        task = tuple(lines)[i % 2]
        for color in (COLORS[i % 4], COLORS[(i + 1) % 4]):
            name = f"{task}/{i}.jpg"
            text = f"Is the thing {color}?\n{SHORT}"
            rows.append({"question_id": name, "image": name, "text": text})
            truth = "Yes" if color == COLORS[i % 4] else "No"
            lines[task].append(f"{i}.jpg\tIs the thing {color}?  Please answer yes or no.\t{truth}")
    for task, content in lines.items():
        (folder / f"{task}.txt").write_text("\n".join(content) + "\n")
    questions = write_lines(folder / "q.jsonl", rows)
    return Kind(questions, folder, BenchmarkProtocol(kind="mme"), _yes_no, _stem, "Yes")


def _options(turn):
    return [COLORS[(place - turn) % 4] for place in range(4)]


def seedbench(folder, count):
    rows, entries = [], []
    for i in range(count):
        options = _options(i // 4)
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
        text = "\n".join(["What color is it?", *lines, LETTER])
        image = f"SEED-Bench-image/p_{i}"
        rows.append({"question_id": f"{i}", "image": image, "text": text, "category": "x"})
        entries.append(
            {
                "question_id": f"{i}",
                "question_type_id": 1 + i % 2,
                "answer": LETTERS[options.index(COLORS[i % 4])],
                "data_id": f"p_{i}",
                "data_type": ("image", "video")[i % 2],
            }
        )
    document = {"questions": entries, "question_type": {"Scene": 1, "Action": 2}}
    questions = write_lines(folder / "q.jsonl", rows)
    annotations = write_json(folder / "a.json", document)
    return Kind(questions, annotations, BenchmarkProtocol(kind="seedbench"), _letter, _stem, "A")


def picture_bytes(number):
    return b"picture %04d " % number * 20


def mmbench(folder, count):
    rows = []
    for turn in range(2):
        for i in range(count):
            options = _options(turn + i // 4)
            rows.append(
                {
                    "index": i + turn * TURN,
                    "question": "What color is it?",
                    **dict(zip(LETTERS, options, strict=True)),
                    "answer": LETTERS[options.index(COLORS[i % 4])],
                    "category": "color",
                    "image": base64.b64encode(picture_bytes(i)).decode() if turn == 0 else i,
                    "split": "dev",
                }
            )
    path = folder / "t.tsv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    numbers = {sha256_bytes(picture_bytes(i)): i for i in range(count)}
    protocol = BenchmarkProtocol(kind="mmbench", max_new_tokens=1024)
    return Kind(path, path, protocol, _letter, numbers.__getitem__, "A")


KINDS = {maker.__name__: maker for maker in (textvqa, mmbench, pope, gqa, vqav2, mme, seedbench)}
