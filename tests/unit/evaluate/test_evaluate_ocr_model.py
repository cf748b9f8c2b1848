"""The packaged OCR model itself, fetched for the test, on pictures drawn here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[3]
FONT = f"{get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf"
INSTRUCTION = "Answer the question using a single word or phrase."
pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Install what ``envs/ocr.lock`` pins in a folder of its own, or skip."""
    folder = tmp_path_factory.mktemp("ocr")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", folder]
    command += ["--disable-pip-version-check", "-r", ROOT / "envs" / "ocr.lock"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        pytest.skip(f"the OCR model cannot be had here: {done.stderr.strip()[-200:]}")
    return folder


def draw(path, lines, angle=0):
    picture = Image.new("RGB", (640, 420), (222, 230, 238))
    pen = ImageDraw.Draw(picture)
    for number, (text, size, ink) in enumerate(lines):
        font = ImageFont.truetype(FONT, size)
        pen.text((60, 40 + 120 * number), text, font=font, fill=ink)
    picture.rotate(angle, fillcolor=(222, 230, 238)).save(path)


def test_drawn_words_are_read_in_order_and_none_where_there_are_none(library, tmp_path):
    lines = [
        ("STOP AHEAD", 48, "darkred"),
        ("Nike 642", 36, "black"),
        ("Open 24 hours", 22, "green"),
    ]
    draw(tmp_path / "sign.png", lines)
    draw(tmp_path / "tilted.png", lines, angle=8)
    draw(tmp_path / "blank.png", [])
    names = ("sign.png", "blank.png", "tilted.png")
    rows = [
        {"question_id": name, "image": name, "text": f"What is written?\n{INSTRUCTION}"}
        for name in names
    ]
    questions, out = tmp_path / "q.jsonl", tmp_path / "out.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, ROOT / "scripts/make_ocr_tokens.py", "--questions", questions]
    command += ["--image-root", tmp_path, "--out", out, "--state-dir", tmp_path / "state"]
    command += ["--manifest", tmp_path / "manifest.json"]
    environment = os.environ | {"PYTHONPATH": str(library)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = [json.loads(line)["text"].split("\n")[1] for line in out.read_text().splitlines()]
    words = "Reference OCR token: STOP, AHEAD, Nike, 642, Open, 24, hours"
    assert read == [words, "Reference OCR token: ", words]
    details = json.loads((tmp_path / "manifest.json").read_text())["details"]
    assert details["library"] == "rapidocr 3.10.0"
    assert len(details["models"]) == 3
