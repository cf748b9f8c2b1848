"""The fast operators against Data-Juicer's own classes, on text nobody would write."""

import math
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recap.curate import native
from recap.curate.juicer import apply_thresholds, compute_statistics, load_filter, load_image
from recap.curate.measure import measure
from recap.curate.native import Batch, native_filter
from recap.curate.recipe import measurement
from recap.curate.records import captioned_text, original_text
from recap.curate.sizes import image_size
from recap.io import write_jsonl

WORDS = {"lang": "en", "tokenization": False}
TEXT_OPERATORS = [
    {"words_num_filter": WORDS},
    *({"word_repetition_filter": {**WORDS, "rep_len": n}} for n in (1, 2, 3, 10)),
    *({"character_repetition_filter": {"rep_len": n}} for n in (1, 2, 5, 10)),
    {"text_length_filter": {}},
]
# Separators and near-separators, characters whose lower case is longer or another,
# emoji of one and of several characters, letters among Data-Juicer's "special" ones.
ODD = " \n\t\r\x0b\x0c\x00\x1c\x85\u00a0\u2003\u2028\u3000\ufeff\u200b\u200dİIıſẞßΣςKÅǅﬀ"
ODD += "😀👍🏽❤️🇩🇪👨‍👩‍👧☃—–“”…·ーツシ上ıøɪ́a1-_.,'\"!&<>|"
PIECES = [
    "a",
    "A",
    "red",
    "Red",
    "RED",
    "cat",
    "-",
    "...",
    "42",
    "7kg",
    "😀",
    "👨‍👩‍👧",
    "İ",
    "ß",
    "上",
]

odd_text = st.text(st.one_of(st.sampled_from(ODD), st.characters()), max_size=60)
wordy_text = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(st.sampled_from(ODD), max_size=4)), max_size=30
).flatmap(
    lambda words: st.sampled_from([" ", "  ", "\n", "\t", "\r\n", "\u00a0", ""]).map(
        lambda separator: separator.join(words)
    )
)
repeating_text = st.tuples(st.text(st.sampled_from("ab 😀"), max_size=8), st.integers(0, 12)).map(
    lambda pair: pair[0] * pair[1]
)
texts = st.lists(
    st.one_of(
        odd_text,
        wordy_text,
        repeating_text,
        wordy_text.map(original_text),
        wordy_text.map(captioned_text),
    ),
    min_size=1,
    max_size=12,
)


def theirs(operator, batch: list[str]) -> list[dict]:
    samples = [{"text": text, "images": []} for text in batch]
    return compute_statistics(load_filter(operator), samples, [{} for _ in batch])


@settings(max_examples=400, deadline=None)
@given(texts)
def test_text_statistics_are_those_of_data_juicer(batch):
    shared = Batch(batch)
    for operator in TEXT_OPERATORS:
        mine = native_filter(operator).statistics(shared)
        expected = theirs(operator, batch)
        assert mine == expected, operator
        for ours, other in zip(mine, expected, strict=True):
            assert {k: type(v) for k, v in ours.items()} == {k: type(v) for k, v in other.items()}


numbers = st.one_of(st.integers(-2, 12), st.floats(-1, 12), st.sampled_from([math.inf, None]))
flags = st.fixed_dictionaries(
    {},
    optional={
        "min_closed_interval": st.booleans(),
        "max_closed_interval": st.booleans(),
        "reversed_range": st.booleans(),
    },
)
BOUNDED = [
    ("words_num_filter", "num_words", ("min_num", "max_num")),
    ("word_repetition_filter", "word_rep_ratio", ("min_ratio", "max_ratio")),
    ("character_repetition_filter", "char_rep_ratio", ("min_ratio", "max_ratio")),
    ("text_length_filter", "text_len", ("min_len", "max_len")),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(BOUNDED), flags, numbers, numbers, st.data())
def test_one_bound_decides_as_data_juicer_does(operator, options, low, high, data):
    name, statistic, (lowest, highest) = operator
    values = data.draw(st.lists(st.one_of(st.integers(0, 12), st.floats(0, 1)), max_size=20))
    stored = [{statistic: value} for value in [*values, low or 0, high or 0]]
    full = {name: {**options, lowest: low, highest: high}}
    assert native_filter(full).keeps(stored) == apply_thresholds(load_filter(full), stored)


@settings(max_examples=400, deadline=None)
@given(flags, st.lists(numbers, min_size=4, max_size=4), st.sampled_from(["any", "all"]), st.data())
def test_image_bounds_decide_as_data_juicer_does(options, limits, strategy, data):
    sizes = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=3)
    records = data.draw(st.lists(sizes, max_size=12))
    stored = [
        {"image_width": [w for w, _ in record], "image_height": [h for _, h in record]}
        for record in records
    ]
    names = ("min_width", "max_width", "min_height", "max_height")
    bounds = dict(zip(names, limits, strict=True))
    full = {"image_shape_filter": {**options, **bounds, "any_or_all": strategy}}
    assert native_filter(full).keeps(stored) == apply_thresholds(load_filter(full), stored)


@pytest.mark.parametrize("name", list(native._PARAMETERS))
def test_defaults_are_data_juicers(name):
    mine, other = native_filter({name: {}}), load_filter({name: {}})
    given_names = {"rep_len": "n", "any_or_all": "any"}
    for key, value in mine.params.items():
        if key == "tokenization":
            assert other.model_key is None
            continue
        found = getattr(other, given_names.get(key, key))
        assert found == (value == "any" if key == "any_or_all" else value), key


@pytest.mark.parametrize(
    "operator",
    [
        {"language_id_score_filter": {"lang": "en"}},
        {"words_num_filter": {"tokenization": True}},
        {"words_num_filter": {"tokenization": 0}},
        {"words_num_filter": {"min_nums": 3}},
        {"words_num_filter": {"min_num": "3"}},
        {"words_num_filter": {"text_key": "other"}},
        {"word_repetition_filter": {"rep_len": 0}},
        {"word_repetition_filter": {"rep_len": True}},
        {"character_repetition_filter": {"rep_len": 2.0}},
        {"image_shape_filter": {"any_or_all": "some"}},
        {"text_length_filter": {"reversed_range": 1}},
        {"text_length_filter": {"batch_size": 10}},
    ],
)
def test_what_is_not_covered_is_left_to_data_juicer(operator):
    assert native_filter(operator) is None


def test_another_version_of_data_juicer_is_asked_itself(monkeypatch):
    assert native_filter({"text_length_filter": {}}) is not None
    monkeypatch.setattr(native, "version", lambda _: "1.6.2")
    native.covered.cache_clear()
    try:
        assert native_filter({"text_length_filter": {}}) is None
    finally:
        native.covered.cache_clear()


def test_the_character_table_is_data_juicers():
    from data_juicer.ops.common import SPECIAL_CHARACTERS

    assert set(native._special_characters()) == {c for c in SPECIAL_CHARACTERS if len(c) == 1}


def test_pixels_are_decoded_once_and_both_kinds_of_operator_read_them(tmp_path, monkeypatch):
    """Both widths come from one decode: the native operator's and Data-Juicer's own."""
    from recap.curate import measure as module

    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    rows = [{"id": str(i), "text": "x", "images": ["a.png"]} for i in range(3)]
    decoded = []

    def counting(path):
        decoded.append(path)
        return load_image(path)

    monkeypatch.setattr(module, "load_image", counting)
    monkeypatch.setattr(module, "_SIZE_ONLY", ())  # as if the ratio needed pixels
    operators = [{"image_shape_filter": {}}, {"image_aspect_ratio_filter": {}}]
    columns = measure(rows, tmp_path, [measurement(operator) for operator in operators]).columns
    assert columns["image_width"] == [[30]] * 3
    assert columns["aspect_ratios"] == [[1.5]] * 3
    assert len(decoded) == 3


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation: int) -> str:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'


def picture(mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((50, 20)).convert(mode)


def png_with(chunk: bytes, kind: bytes, folder: Path, *, late: bool) -> Path:
    """Return a PNG with one more chunk, before its pixels or after them."""
    picture().save(folder / "plain.png")
    raw = (folder / "plain.png").read_bytes()
    place = raw.index(b"IEND" if late else b"IDAT") - 4
    body = struct.pack(">I", len(chunk)) + kind + chunk
    body += struct.pack(">I", zlib.crc32(kind + chunk))
    (folder / "changed.png").write_bytes(raw[:place] + body + raw[place:])
    return folder / "changed.png"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "case",
    [
        "JPEG exif", "JPEG xmp", "PNG exif", "PNG late exif", "PNG xmp", "PNG raw profile",
        "WEBP exif", "WEBP xmp", "TIFF raw", "TIFF tiff_lzw", "TIFF tiff_deflate", "GIF xmp",
    ],
)  # fmt: skip
def test_sizes_follow_every_orientation(tmp_path, case, orientation):
    kind, _, how = case.partition(" ")
    path = tmp_path / f"a.{kind.lower()}"
    note = xmp(orientation)
    if how == "late exif":
        path = png_with(exif(orientation).tobytes()[6:], b"eXIf", tmp_path, late=True)
    elif case == "PNG xmp":
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + note.encode()
        path = png_with(text, b"iTXt", tmp_path, late=False)
    elif how == "raw profile":
        body = exif(orientation).tobytes().hex()
        text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n1\n{body}".encode())
        path = png_with(text, b"zTXt", tmp_path, late=False)
    elif kind == "TIFF":
        picture().save(path, "TIFF", compression=how, tiffinfo={0x0112: orientation})
    elif how == "xmp":
        picture().save(path, kind, xmp=note.encode())
    else:
        picture().save(path, kind, exif=exif(orientation))
    decoded = load_image(str(path))
    assert image_size(str(path)).size == decoded.size
    if case != "GIF xmp":  # Pillow stores none there
        assert decoded.size == ((20, 50) if orientation >= 5 else (50, 20)), case


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *[("JPEG", mode) for mode in ("L", "RGB", "CMYK")],
        *[("PNG", mode) for mode in ("1", "L", "P", "RGB", "RGBA", "I;16")],
        *[("WEBP", mode) for mode in ("L", "RGB", "RGBA")],
        *[("GIF", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
        *[("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
        *[("TIFF", mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK")],
        *[("PPM", mode) for mode in ("1", "L", "RGB")],
    ],
)
def test_sizes_of_plain_images_of_every_format_and_mode(tmp_path, kind, mode):
    path = tmp_path / "a"
    picture("I" if mode == "I;16" else mode).convert(mode).save(path, kind)
    assert image_size(str(path)).size == load_image(str(path)).size == (50, 20)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_sizes_of_animations(tmp_path, kind):
    frames = [picture(), Image.new("RGB", (50, 20), "red"), Image.new("RGB", (50, 20), "blue")]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:], duration=40)
    assert image_size(str(tmp_path / "a")).size == load_image(str(tmp_path / "a")).size


def test_a_gif_whose_first_frame_overflows_its_screen(tmp_path):
    picture().save(tmp_path / "a.gif")
    raw = bytearray((tmp_path / "a.gif").read_bytes())
    raw[6:10] = struct.pack("<HH", 30, 10)  # the screen, smaller than the frame
    (tmp_path / "a.gif").write_bytes(raw)
    assert image_size(str(tmp_path / "a.gif")).size == load_image(str(tmp_path / "a.gif")).size


def test_a_bitmap_stored_from_top_to_bottom(tmp_path):
    picture().save(tmp_path / "a.bmp")
    raw = bytearray((tmp_path / "a.bmp").read_bytes())
    raw[22:26] = struct.pack("<i", -20)
    (tmp_path / "a.bmp").write_bytes(raw)
    assert image_size(str(tmp_path / "a.bmp")).size == load_image(str(tmp_path / "a.bmp")).size


def test_a_header_is_enough(tmp_path):
    """Nothing after a JPEG's header is read: the file may end there."""
    picture().save(tmp_path / "a.jpg", exif=exif(6))
    raw = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(raw[: raw.index(b"\xff\xda") + 20])
    assert image_size(str(tmp_path / "a.jpg")).size == (20, 50)
    with pytest.raises(OSError, match="truncated"):
        load_image(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    "values",
    [
        [], [1, 2], [1.5, math.nan], [[1, 2], [], [3]], [[], []], [[0.5], [1.0]], [1, 2.5],
        [[1], [2.5]], [None, 1], [[1], None], [True, False], ["a"], [[[1]], [[2]]], [(1,), (2,)],
        [2**63 - 1, -(2**63)], [[[]]],
    ],
)  # fmt: skip
def test_columns_are_stored_as_arrow_would(values):
    import pyarrow as pa

    from recap.curate.statistics import _column

    found, expected = _column(values), pa.array(values)
    assert found.type == expected.type
    assert str(found.to_pylist()) == str(expected.to_pylist())


def test_measuring_and_selecting_import_neither_data_juicer_nor_pandas(tmp_path):
    """Each takes longer to import than a small shard takes to measure."""
    program = """
import sys
from pathlib import Path
from recap.curate.measure import measure_shard
from recap.curate.model_operators import model_verdicts
from recap.curate.select import select_shard
folder = Path(sys.argv[1])
operators = [{"text_length_filter": {}}, {"image_shape_filter": {}}, {"words_num_filter": {}}]
measure_shard(folder / "r.jsonl", image_root=folder, operators=operators,
              out=folder / "s.parquet", perf=folder / "p.json")
select_shard(folder / "r.jsonl", stats=folder / "s.parquet", operators=operators,
             kept=folder / "k.jsonl", drops=folder / "d.jsonl", counts=folder / "c.json")
assert model_verdicts({"image_nsfw_filter": {}}, [{"image_nsfw_score": [0.6]}]) == [False]
heavy = {"data_juicer", "pandas", "torch", "datasets", "pydantic"} & set(sys.modules)
assert not heavy, heavy
"""
    picture().save(tmp_path / "a.jpg")
    write_jsonl(tmp_path / "r.jsonl", [{"id": "1", "text": "x", "images": ["a.jpg"]}])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "scripts")}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True)
