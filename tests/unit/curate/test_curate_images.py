"""Pictures that validation accepts are pictures that every later reader can read."""

import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from recap.curate.ahead import Source, decode
from recap.curate.images import check_image
from recap.curate.sizes import image_size
from recap.curate.validate import validate_corpus
from recap.errors import RecapError
from recap.io import write_jsonl
from recap.settings import MOST_IMAGE_PIXELS, ValidateSettings

SCRIPTS = Path(__file__).parents[3] / "scripts"
LIMIT = 1_000_000
ORIENTATION_6 = struct.pack("<HHLHH", 0x112, 3, 1, 6, 0)


def exif(*entries: bytes) -> bytes:
    head = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + struct.pack("<L", 0)


def raw_profile() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n  8\nzzzz")
    return info


BROKEN = {
    "garbage.png": {"exif": b"garbage!!"},
    "garbage.webp": {"exif": b"garbage!!"},
    "profile.png": {"pnginfo": raw_profile()},
    "width.jpg": {"exif": exif(ORIENTATION_6, struct.pack("<HHL4s", 0x100, 2, 4, b"abc\0"))},
    "height.jpg": {"exif": exif(ORIENTATION_6, struct.pack("<HHLf", 0x101, 11, 1, 1.5))},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_later_readers_refuse_is_rejected(tmp_path, name):
    Image.new("RGB", (60, 40)).save(tmp_path / name, **BROKEN[name])
    with pytest.raises(RecapError, match=r"cannot decode .*--forcerun validate_corpus"):
        decode(Source(tmp_path / name, "1"))
    problem = check_image(tmp_path, name, LIMIT)
    assert problem is not None and problem.reason == "image-corrupt"
    assert "without its metadata" in problem.fix


def test_a_sound_rotation_is_accepted(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif(ORIENTATION_6))
    assert check_image(tmp_path, "a.jpg", LIMIT) is None
    assert decode(Source(tmp_path / "a.jpg", "1")).size == (40, 60)
    assert image_size(str(tmp_path / "a.jpg")).size == (40, 60)


def test_the_pixel_limit_ends_where_pillow_refuses():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MOST_IMAGE_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    assert ValidateSettings(max_image_pixels=MOST_IMAGE_PIXELS)
    with pytest.raises(ValueError, match="less than or equal"):
        ValidateSettings(max_image_pixels=MOST_IMAGE_PIXELS + 1)


def test_raising_the_limit_is_advised_only_where_it_helps(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    problem = check_image(tmp_path, "a.png", 100)
    assert problem is not None and "raise max_image_pixels" in problem.fix
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    problem = check_image(tmp_path, "huge.png", MOST_IMAGE_PIXELS)
    assert problem is not None and problem.reason == "image-too-large"
    assert problem.fix == "shrink the file"


def test_workers_end_with_a_killed_validation(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    code = (
        "import sys, time; from recap.curate.images import ImageChecker\n"
        "checker = ImageChecker(sys.argv[1], 10**6, 1)\n"
        "assert checker.check(['a.png']) == [None]\n"
        "print(*checker._pool._processes, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
    )
    assert parent.stdout is not None
    status = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    assert status.exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while status.exists() and ") Z " not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(("name", "told"), [("a.png", False), ("gone.png", True)])
def test_the_log_says_what_to_force_after_mending_a_picture(tmp_path, caplog, name, told):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    text = "<__dj__image>\na cat <|__dj__eoc|>"
    rows = [{"id": str(i), "text": text, "images": [n]} for i, n in enumerate(("a.png", name))]
    write_jsonl(tmp_path / "raw.jsonl", rows)
    validate_corpus(
        tmp_path / "raw.jsonl",
        expected_records=2,
        settings=ValidateSettings(max_reject_share=0.5),
        threads=1,
        out=tmp_path / "out.jsonl",
        rejects=tmp_path / "rejects.jsonl",
        report=tmp_path / "report.json",
    )
    assert ("--forcerun validate_corpus" in caplog.text) is told
