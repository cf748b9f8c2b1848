import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from recap.curate import images
from recap.curate.images import check_image
from recap.curate.lines import iter_raw_lines
from recap.curate.validate import validate_corpus
from recap.errors import GateError, RecapError
from recap.io import read_json, read_jsonl
from recap.settings import ValidateSettings

LIMIT = 1_000_000


def png_chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png_header(width: int, height: int) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size)


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "images").mkdir(parents=True)
    place = folder / "images"
    for name in ("ok.jpg", "ok2.jpg"):
        Image.effect_noise((80, 60), 50).convert("RGB").save(place / name)
    whole = (place / "ok.jpg").read_bytes()
    (place / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (place / "empty.jpg").write_bytes(b"")
    (place / "text.jpg").write_bytes(b"not an image at all")
    header = png_header(30_000, 30_000)
    (place / "bare_bomb.png").write_bytes(header)
    (place / "bomb.png").write_bytes(header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)))
    (place / "headless.png").write_bytes(png_header(30, 30))
    (place / "folder.jpg").mkdir()
    (tmp_path / "secret.jpg").write_bytes(whole)
    (place / "escape.jpg").symlink_to(tmp_path / "secret.jpg")
    (place / "inside.jpg").symlink_to(place / "ok.jpg")
    return folder


def line(identity="1", caption="a red square", image="images/ok.jpg", **changes) -> bytes:
    text = f"<__dj__image>\n{caption} <|__dj__eoc|>"
    record = {"id": identity, "text": text, "images": [image], **changes}
    record = {key: value for key, value in record.items() if value is not ...}
    return json.dumps(record, ensure_ascii=False).encode()


CASES = {
    "malformed-json": [line()[:-5], b"{", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}"],
    "not-an-object": [b"[1]", b"7", b"null"],
    "not-utf8": [line().replace(b"red", b"r\xe9d")],
    "bad-unicode": [line().replace(b"red", b"\\ud800")],
    "line-too-long": [line(caption="x" * LIMIT)],
    "missing-id": [line(id=...), line(id=None)],
    "bad-id": [
        line(id=True),
        line(id=1.5),
        line(id=" "),
        line(id=["1"]),
        line(id="a\nb"),
        line(id="1" * 257),
    ],
    "missing-text": [line(text=...), line(text=None)],
    "bad-text": [line(text=3), line(text=["a"])],
    "no-image-token": [line(text="a cat <|__dj__eoc|>")],
    "many-image-tokens": [line(caption="a <__dj__image> cat")],
    "empty-caption": [line(caption=""), line(caption=" \\n")],
    "caption-too-long": [line(caption="word " * 5000)],
    "stray-token": [
        line(caption="one <|__dj__eoc|> two"),
        line(caption="see <image> here"),
        line(text="before <__dj__image> after <|__dj__eoc|>"),
    ],
    "missing-images": [line(images=...), line(images=None)],
    "bad-images": [line(images="images/ok.jpg"), line(images=[1])],
    "no-image": [line(images=[])],
    "many-images": [line(images=["images/ok.jpg", "images/ok.jpg"])],
    "unsafe-path": [
        line(image="/etc/passwd"),
        line(image="../secret.jpg"),
        line(image="images/../../secret.jpg"),
        line(image=""),
        line(image="a\0b"),
    ],
    "image-outside-root": [line(image="images/escape.jpg")],
    "image-missing": [line(image="images/none.jpg"), line(image="x" * 255)],
    "image-unreadable": [line(image="x" * 5000)],
    "image-not-a-file": [line(image="images/folder.jpg"), line(image="images")],
    "image-empty": [line(image="images/empty.jpg")],
    "image-format": [line(image="images/text.jpg")],
    "image-truncated": [line(image="images/truncated.jpg"), line(image="images/headless.png")],
    "image-too-large": [line(image="images/bomb.png"), line(image="images/bare_bomb.png")],
    "duplicate-id": [line(identity="first", image="images/ok2.jpg"), line(id="first")],
}
CASES["empty-caption"][1] = line(text="<__dj__image>\n \n<|__dj__eoc|>")


def run(
    root: Path,
    lines: list[bytes],
    expected: int | None = None,
    threads=1,
    image_root=None,
    **settings,
):
    (root / "raw.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    out = root.parent / "out"
    validate_corpus(
        root / "raw.jsonl",
        expected_records=len(lines) if expected is None else expected,
        settings=ValidateSettings(**{"max_line_bytes": LIMIT, "max_reject_share": 1.0, **settings}),
        threads=threads,
        out=out / "validated.jsonl",
        rejects=out / "rejects.jsonl",
        report=out / "validate.json",
        index=out / "validated.index.json",
        image_root=image_root,
    )
    return (
        read_jsonl(out / "validated.jsonl"),
        read_jsonl(out / "rejects.jsonl"),
        read_json(out / "validate.json"),
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_every_bad_line_has_its_reason(root, threads):
    lines, reasons = [line(identity="first")], [None]
    for reason, bad in CASES.items():
        lines += bad
        reasons += [reason] * len(bad)
    lines += [line(identity="last", image="images/inside.jpg")]
    good, rejects, report = run(root, lines, threads=threads)
    found = {row["line"]: row["reason"] for row in rejects}
    wanted = {number: reason for number, reason in enumerate(reasons, start=1) if reason}
    assert found == wanted
    assert [record["id"] for record in good] == ["first", "last"]
    index = read_json(root.parent / "out" / "validated.index.json")
    size = (root.parent / "out" / "validated.jsonl").stat().st_size
    assert (index["records"], index["bytes"], index["offsets"]) == (2, size, [0])
    assert report["lines"] == len(lines) == report["accepted"] + report["rejected"]
    assert report["rejects"] == {reason: len(bad) for reason, bad in sorted(CASES.items())}
    assert all(row["fix"] and 0 < len(row["detail"]) < 400 for row in rejects)


def test_the_id_is_reported_where_it_could_be_read(root):
    lines = [line(), line(identity="x", image="images/none.jpg"), line(identity="y", text=None)]
    _, rejects, _ = run(root, lines)
    assert [(row["line"], row["id"]) for row in rejects] == [(2, "x"), (3, "y")]


def test_integer_ids_become_strings_and_leading_zeros_stay(root):
    lines = [line(id=7), line(id="007"), line(id="7")]
    good, rejects, _ = run(root, lines)
    assert [record["id"] for record in good] == ["7", "007"]
    assert rejects[0]["reason"] == "duplicate-id"


def test_a_rejected_record_does_not_take_its_id(root):
    good, rejects, _ = run(root, [line(image="images/none.jpg"), line()])
    assert [row["reason"] for row in rejects] == ["image-missing"]
    assert len(good) == 1


def test_records_are_kept_as_they_are(root):
    text = line(caption="naïve 中文 ☃", extra={"a": 1})
    good, _, report = run(root, [text])
    assert list(good[0]) == ["id", "text", "images"]
    assert good[0]["text"] == "<__dj__image>\nnaïve 中文 ☃ <|__dj__eoc|>"
    assert report["ignored_keys"] == {"extra": 1}


def test_captioned_layout_and_bom_and_crlf_are_fine(root):
    layout = line(text="<__dj__image> a cat\n <|__dj__eoc|>")
    good, rejects, _ = run(root, [b"\xef\xbb\xbf" + layout + b"\r", b"  \r", b""], expected=1)
    assert (len(good), rejects) == (1, [])


def test_line_numbers_are_physical(root):
    _, rejects, report = run(root, [b"", line(), b"   ", b"{"], expected=2)
    assert rejects[0]["line"] == 4
    assert report["lines"] == 2


def test_a_wrong_count_names_the_right_one(root):
    with pytest.raises(RecapError, match=r"2 non-blank lines, but 3.*put 2 into.*corpora\.tsv"):
        run(root, [line(), line(identity="2")], expected=3)


def test_too_many_rejects_fail_the_gate_with_reasons(root):
    lines = [line(), b"{", b"{", line(identity="2", text=None)]
    with pytest.raises(GateError, match=r"3 of 4 lines.*malformed-json 2, missing-text 1"):
        run(root, lines, max_reject_share=0.7)
    assert len(run(root, lines, max_reject_share=0.75)[0]) == 1


def test_images_may_live_elsewhere(root):
    elsewhere = root.parent / "elsewhere"
    root.rename(elsewhere)
    root.mkdir()
    with pytest.raises(RecapError, match="no record left"):
        run(root, [line()])
    assert len(run(root, [line()], image_root=elsewhere)[0]) == 1


def test_nothing_left_is_an_error(root):
    with pytest.raises(RecapError, match="no record left"):
        run(root, [b"{"])


def test_pixel_limit_counts_before_decoding(root):
    with_limit = check_image(root.resolve(), "images/ok.jpg", 80 * 60)
    assert with_limit is None
    problem = check_image(root.resolve(), "images/ok.jpg", 80 * 60 - 1)
    assert problem is not None
    assert problem.reason == "image-too-large"


def die_on_text(root: Path, relative: str, max_pixels: int):
    if relative == "images/text.jpg":
        os.kill(os.getpid(), 9)
    return check_image(root, relative, max_pixels)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_decoder_that_dies_costs_one_record(root, monkeypatch, threads):
    monkeypatch.setattr(images, "check_image", die_on_text)
    names = ["ok.jpg", "text.jpg", "empty.jpg", "ok2.jpg"]
    lines = [line(identity=name, image=f"images/{name}") for name in names]
    good, rejects, _ = run(root, lines, threads=threads)
    assert [record["id"] for record in good] == ["ok.jpg", "ok2.jpg"]
    assert [(row["id"], row["reason"]) for row in rejects] == [
        ("text.jpg", "image-corrupt"),
        ("empty.jpg", "image-empty"),
    ]


def test_truncation_is_seen_even_when_pil_was_told_to_look_away(root):
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        problem = check_image(root.resolve(), "images/truncated.jpg", LIMIT)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    assert problem is not None
    assert problem.reason == "image-truncated"


def test_a_huge_line_is_skipped_without_being_held(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 5000 + b"\n" + b"y\n" + b"z" * 5000)
    assert list(iter_raw_lines(path, 100)) == [(1, None), (2, b"y\n"), (3, None)]


def test_a_line_of_exactly_the_limit_passes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 100 + b"\n" + b"x" * 101 + b"\n")
    assert list(iter_raw_lines(path, 100)) == [(1, b"x" * 100 + b"\n"), (2, None)]
