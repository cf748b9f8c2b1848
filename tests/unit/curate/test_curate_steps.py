"""Mappers and deduplicators over shards: against hand-made groups and Data-Juicer's own run."""

import contextlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from recipe_runs import run_recipe

from recap.curate import imagehash
from recap.curate.duplicates import decide_duplicates
from recap.curate.hashes import hash_table
from recap.curate.joining import join_steps
from recap.curate.mapping import map_shard
from recap.curate.measure import measure_shard
from recap.curate.records import captioned_text, original_text
from recap.curate.statistics import read_statistics
from recap.curate.texts import replace_caption
from recap.errors import GateError, RecapError
from recap.io import read_json, read_jsonl, write_json, write_jsonl

CLEAN = {"recap_text": "clean"}
FOX = "the quick brown fox jumps over the lazy dog near the river"
# Group by caption: 0 = 3 = 6 exactly, 1 ~ 4 nearly, 2 and 5 alone.
CAPTIONS = [
    "A red car!",
    FOX,
    "two people walk along a sandy beach at sunset",
    "a red  car",
    f"{FOX} bank",
    "bowl of soup",
    "A RED CAR",
]


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


@pytest.fixture
def world(tmp_path):
    """Seven records; records 1 and 5 show the same picture, one grey level apart in a corner."""
    rows = []
    for index, caption in enumerate(CAPTIONS):
        image = picture(1 if index == 5 else index, (96, 96))
        if index == 5:
            image.putpixel((0, 0), tuple(value ^ 1 for value in image.getpixel((0, 0))))
        image.save(tmp_path / f"{index}.png")
        rows.append({"id": f"r{index}", "text": original_text(caption), "images": [f"{index}.png"]})
    return tmp_path, rows


def ids(rows) -> list[str]:
    return [row["id"] for row in rows]


EXACT = {"document_deduplicator": {"lowercase": True, "ignore_non_character": True, **CLEAN}}
NEAR = {"document_minhash_deduplicator": {"tokenization": "character", **CLEAN}}
PICTURE = {"image_deduplicator": {"method": "phash"}}


@pytest.mark.parametrize("shards", [1, 3, 7])
@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (EXACT, {"r3": "r0", "r6": "r0"}),
        (NEAR, {"r4": "r1", "r6": "r0"}),
        (PICTURE, {"r5": "r1"}),
        ({"image_deduplicator": {"consider_text": True, **CLEAN}}, {}),
    ],
)
def test_the_first_of_a_group_stays_whatever_the_shards(world, operator, expected, shards):
    folder, rows = world
    kept, drops = run_recipe(folder / "run", rows, folder, [operator], shards)
    assert {row["id"]: row["duplicate_of"] for row in drops} == expected
    assert ids(kept) == [row["id"] for row in rows if row["id"] not in expected]
    assert [row for row in rows if row["id"] not in expected] == kept
    assert all(row["value"] and row["duplicate_of"] in row["bound"] for row in drops)


def test_the_named_hash_is_the_one_both_records_have(world):
    folder, rows = world
    _, drops = run_recipe(folder / "run", rows, folder, [PICTURE])
    assert drops[0]["statistic"] == "imagehash"
    images = [np.array(Image.open(folder / f"{i}.png")) for i in (1, 5)]
    hashes = {imagehash.PHash().encode_image(image_array=image) for image in images}
    assert hashes == {drops[0]["value"]}


def test_near_duplicates_of_near_duplicates_are_one_group(tmp_path):
    """A chain: neighbours are near, its ends are not; the first alone stays."""
    words = [f"word{i:02d}" for i in range(50)]
    chain = [" ".join(words[i : i + 30]) for i in (20, 0, 10)]
    rows = [
        {"id": f"c{i}", "text": original_text(text), "images": []} for i, text in enumerate(chain)
    ]
    # Shared words: 20 of 40 for neighbours, 10 of 50 for the ends.
    bands = {"num_bands": 64, "num_rows_per_band": 4}
    operator = {"document_minhash_deduplicator": {"window_size": 1, **bands, **CLEAN}}
    kept, drops = run_recipe(tmp_path, rows, tmp_path, [operator])
    ends = run_recipe(tmp_path / "ends", rows[:2], tmp_path, [operator], 2)[0]
    assert len(ends) == 2
    assert ids(kept) == ["c0"]
    assert [row["duplicate_of"] for row in drops] == ["c0", "c0"]


def test_records_without_a_picture_repeat_nothing(tmp_path):
    rows = [{"id": f"n{i}", "text": original_text("same"), "images": []} for i in range(3)]
    kept, drops = run_recipe(tmp_path, rows, tmp_path, [PICTURE])
    assert (len(kept), drops) == (3, [])


def test_a_shard_and_a_corpus_may_be_empty(world):
    folder, rows = world
    gone = {"text_length_filter": {"min_len": 1000}}
    kept, drops = run_recipe(folder / "a", rows, folder, [gone, EXACT, NEAR, PICTURE])
    assert (kept, len(drops)) == ([], len(rows))
    some = {"words_num_filter": {"min_num": 9, **CLEAN}}
    kept, _ = run_recipe(folder / "b", rows, folder, [some, EXACT, PICTURE], 7)
    assert ids(kept) == ["r1", "r2", "r4"]


def test_only_ids_and_hashes_are_stored(world):
    folder, rows = world
    for operator, column in ((EXACT, "hash"), (NEAR, "minhash"), (PICTURE, "imagehash")):
        table = hash_table(rows, folder, operator)
        assert table.column_names == ["id", f"__dj__{column}"]
    assert {
        len(band) for bands in hash_table(rows, folder, NEAR)[1].to_pylist() for band in bands
    } == {8}


def test_groups_that_contradict_data_juicer_stop_the_step(world, monkeypatch):
    folder, rows = world
    table = folder / "h.parquet"
    pq.write_table(hash_table(rows, folder, EXACT), table)
    monkeypatch.setattr("recap.curate.duplicates._survivors", lambda *_: {0, 1})
    with pytest.raises(GateError, match="r3"):
        decide_duplicates([table], operator=EXACT, out=folder / "d", report=folder / "r")


def test_an_id_in_two_shards_stops_the_step(world):
    folder, rows = world
    table = folder / "h.parquet"
    pq.write_table(hash_table(rows, folder, EXACT), table)
    with pytest.raises(RecapError, match="share an id"):
        decide_duplicates([table, table], operator=EXACT, out=folder / "d", report=folder / "r")


def test_a_missing_picture_is_named(world):
    folder, rows = world
    (folder / "4.png").unlink()
    with pytest.raises(RecapError, match="r4"):
        hash_table(rows, folder, PICTURE)


@pytest.mark.parametrize(
    ("seed", "size", "golden"),
    [
        (1, (90, 70), "bce7095227e94f16 e3ffdbe3070c0803 0f133307ccfc3033 e3fffbe3070c0801"),
        (2, (300, 200), "a312b2d8f227ded8 0f072761f8190be7 3ccccfcff333f7cc 0f072761f8191be7"),
        (3, (64, 64), "bcf292f692583ca3 ffc30018e3e11b1f 0c0f33330f0333f3 ffc30018e3e11b1f"),
    ],
)
def test_perceptual_hashes_are_those_of_imagededup(seed, size, golden):
    """Golden hashes: computed by imagededup 0.3.3.post2 with PyWavelets 1.9.0."""
    image = np.array(picture(seed, size))
    kinds = (imagehash.PHash, imagehash.AHash, imagehash.DHash, imagehash.WHash)
    assert [kind().encode_image(image_array=image) for kind in kinds] == golden.split()


def test_near_hashes_by_simhash(world):
    pytest.importorskip("simhash", reason="simhash-pybind has to be compiled; not in the lock")
    folder, rows = world
    operator = {"document_simhash_deduplicator": {"window_size": 1, **CLEAN}}
    kept, drops = run_recipe(folder / "run", rows, folder, [operator])
    assert {row["id"]: row["duplicate_of"] for row in drops}["r3"] == "r0"
    assert len(kept) + len(drops) == len(rows)


# Mappers


HASHES = {"chars_to_remove": "#", **CLEAN}
TAGS = {"replace_content_mapper": {"pattern": r"<[^>]*>", "repl": ""}}


def mapped(folder, rows, operators):
    write_jsonl(folder / "in.jsonl", rows)
    summary = map_shard(
        folder / "in.jsonl",
        image_root=folder,
        operators=operators,
        out=folder / "out.jsonl",
        changes=folder / "changes.jsonl",
        counts=folder / "counts.json",
        perf=folder / "perf.json",
    )
    assert read_json(folder / "counts.json") == summary
    return read_jsonl(folder / "out.jsonl"), read_jsonl(folder / "changes.jsonl"), summary


def test_mappers_rewrite_captions_in_order_and_every_change_is_on_record(tmp_path):
    captions = ["see https://a.b/c now", "a #bold# text", "plain"]
    rows = [
        {"id": f"m{i}", "text": original_text(c), "images": [f"{i}.png"], "extra": i}
        for i, c in enumerate(captions)
    ]
    operators = [{"clean_links_mapper": CLEAN}, {"remove_specific_chars_mapper": HASHES}]
    out, changes, summary = mapped(tmp_path, rows, operators)
    expected = ["see  now", "a bold text", "plain"]
    assert out == [
        {**row, "text": original_text(text)} for row, text in zip(rows, expected, strict=True)
    ]
    assert [(c["id"], c["operator"]) for c in changes] == [
        ("m0", "clean_links_mapper"),
        ("m1", "remove_specific_chars_mapper"),
    ]
    assert changes[1]["before"] == rows[1]["text"]
    assert [step["changed"] for step in summary["operators"]] == [1, 1]
    assert (summary["records_in"], summary["records_out"], summary["rejected"]) == (3, 3, 0)


def test_a_faithful_mapper_may_not_damage_the_tokens(tmp_path):
    rows = [{"id": "m0", "text": original_text("<b>bold</b>"), "images": []}]
    with pytest.raises(RecapError, match=r"<__dj__image> of id 'm0'.*recap: text=clean"):
        mapped(tmp_path, rows, [TAGS])
    out, _, _ = mapped(tmp_path, rows, [{"clean_links_mapper": {}}])
    assert out == rows


def test_a_mapper_that_changes_the_number_of_records_is_stopped(tmp_path, monkeypatch):
    from data_juicer.ops.mapper.clean_links_mapper import CleanLinksMapper

    def twice(self, samples):
        return {key: values * 2 for key, values in samples.items()}

    rows = [{"id": "m0", "text": original_text("a"), "images": []}]
    monkeypatch.setattr(CleanLinksMapper, "process_batched", twice)
    with pytest.raises(RecapError, match="1 records in, 2 out"):
        mapped(tmp_path, rows, [{"clean_links_mapper": CLEAN}])


def test_a_mapper_that_fails_names_the_record(tmp_path, monkeypatch):
    from data_juicer.ops.mapper.clean_links_mapper import CleanLinksMapper

    def picky(self, samples):
        if any("bad" in text for text in samples["text"]):
            raise ValueError("cannot")
        return samples

    rows = [
        {"id": f"m{i}", "text": original_text(c), "images": []} for i, c in enumerate(["a", "bad"])
    ]
    monkeypatch.setattr(CleanLinksMapper, "process_batched", picky)
    with pytest.raises(RecapError, match=r"m1.*cannot"):
        mapped(tmp_path, rows, [{"clean_links_mapper": CLEAN}])


@pytest.mark.parametrize("layout", [original_text, captioned_text, lambda caption: caption])
@pytest.mark.parametrize("caption", ["a cat", "image", "dj", "a cat on a cat"])
def test_a_replaced_caption_leaves_the_rest_alone(layout, caption):
    assert replace_caption(layout(caption), "new") == layout("new")


def test_an_empty_caption_gets_the_usual_layout():
    assert replace_caption(original_text(""), "new") == original_text("new")


# The flag in statistics


def test_a_clean_recipe_measures_the_caption_alone(tmp_path):
    rows = [{"id": "a", "text": original_text("one two three four"), "images": []}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    tables = {}
    for name, flag in (("clean", CLEAN), ("faithful", {})):
        measure_shard(
            tmp_path / "in.jsonl",
            image_root=tmp_path,
            operators=[{"words_num_filter": flag}, {"text_length_filter": flag}],
            out=tmp_path / f"{name}.parquet",
            perf=tmp_path / "perf.json",
        )
        tables[name] = read_statistics(tmp_path / f"{name}.parquet")
    assert tables["clean"].columns == {
        "num_words[recap_text=clean]": [4],
        "text_len[recap_text=clean]": [18],
    }
    assert tables["faithful"].columns == {"num_words": [6], "text_len": [46]}
    with pytest.raises(RecapError, match="was not measured"):
        tables["faithful"].columns_of({"words_num_filter": CLEAN})


# Joining


def test_steps_that_do_not_follow_each_other_are_not_joined(tmp_path):
    write_jsonl(tmp_path / "kept.jsonl", [{"id": "a", "text": "x", "images": []}])
    counts = []
    for number, (before, after) in enumerate([(3, 2), (1, 1)]):
        step = {"records_in": before, "records_out": after, "rejected": before - after}
        counts.append(tmp_path / f"{number}.json")
        write_json(counts[-1], {**step, "operators": [{"operator": "x", **step}]})
    files = {key: tmp_path / key for key in ("kept", "drops", "counts")}
    with pytest.raises(GateError, match="1 records in, but the step before it left 2"):
        join_steps(tmp_path / "kept.jsonl", step_counts=counts, step_drops=[], **files)
    with pytest.raises(GateError, match="3 in, 1 kept, 0 dropped"):
        join_steps(tmp_path / "kept.jsonl", step_counts=counts[:1], step_drops=[], **files)


def test_joined_counts_list_every_operator(world):
    folder, rows = world
    operators = [
        {"words_num_filter": {"min_num": 4, **CLEAN}},
        {"clean_links_mapper": CLEAN},
        EXACT,
    ]
    kept, drops = run_recipe(folder / "run", rows, folder, operators, 1)
    counts = json.loads((folder / "run" / "counts" / "00000.json").read_text())
    assert [step["operator"] for step in counts["operators"]] == [
        "words_num_filter",
        "clean_links_mapper",
        "document_deduplicator",
    ]
    assert ids(kept) == ["r1", "r2", "r4"]
    assert [row["operator"] for row in drops] == ["words_num_filter"] * 4
    assert (counts["records_in"], counts["records_out"]) == (7, 3)


# The entry scripts


def test_the_scripts_of_a_recipe_in_steps(world):
    """Every script once, on one shard: mapper, deduplicator, joined, gathered, drawn."""
    import decide_duplicates as decide_script
    import drop_duplicates as drop_script
    import gather_funnel
    import hash_shard
    import join_steps as join_script
    import map_shard as map_script

    folder, rows = world
    write_jsonl(folder / "in.jsonl", rows)
    mappers = [{"remove_specific_chars_mapper": {"chars_to_remove": "!", **CLEAN}}]
    (folder / "exact.json").write_text(json.dumps([EXACT]))
    stages = [
        {"stage": "validate", "operator": None, "records_in": 7, "records_out": 7, "rejected": 0},
        {
            "stage": "select",
            "operator": "document_deduplicator",
            "records_in": 7,
            "records_out": 5,
            "rejected": 2,
        },
    ]
    write_json(folder / "funnel.json", {"arm": "x", "stages": stages, "rejects_by_reason": {}})
    write_jsonl(folder / "rejects.jsonl", [])
    calls = [
        (
            map_script,
            [
                "--records",
                "in.jsonl",
                "--image-root",
                ".",
                "--operators",
                json.dumps(mappers),
                "--out",
                "m.jsonl",
                "--changes",
                "c.jsonl",
                "--counts",
                "m.json",
                "--perf",
                "p",
            ],
        ),
        (
            hash_shard,
            [
                "--records",
                "m.jsonl",
                "--image-root",
                ".",
                "--operators",
                "exact.json",
                "--threads",
                "2",
                "--out",
                "h.parquet",
                "--perf",
                "p.json",
            ],
        ),
        (
            decide_script,
            [
                "--hashes",
                "h.parquet",
                "--operators",
                "exact.json",
                "--out",
                "d.parquet",
                "--report",
                "d.json",
            ],
        ),
        (
            drop_script,
            [
                "--records",
                "m.jsonl",
                "--duplicates",
                "d.parquet",
                "--operators",
                "exact.json",
                "--out",
                "k.jsonl",
                "--drops",
                "k.drops.jsonl",
                "--counts",
                "k.json",
            ],
        ),
        (
            join_script,
            [
                "--records",
                "k.jsonl",
                "--step-counts",
                "m.json",
                "k.json",
                "--step-drops",
                "k.drops.jsonl",
                "--out",
                "all.jsonl",
                "--drops",
                "all.drops.jsonl",
                "--counts",
                "all.json",
            ],
        ),
        (
            gather_funnel,
            [
                "--funnel",
                "funnel.json",
                "--rejects",
                "rejects.jsonl",
                "--pre-drops",
                "all.drops.jsonl",
                "--shards",
                "all.jsonl",
                "--merged",
                "all.jsonl",
                "--out",
                "f.parquet",
                "--svg",
                "f.svg",
                "--png",
                "f.png",
            ],
        ),
    ]
    with contextlib.chdir(folder):
        for script, arguments in calls:
            script.main(script.parser().parse_args(arguments))
    report = read_json(folder / "d.json")
    assert (report["records"], report["candidates"], report["duplicates"]) == (7, 3, 2)
    assert ids(read_jsonl(folder / "all.jsonl")) == ["r0", "r1", "r2", "r4", "r5"]
    lost = pq.read_table(folder / "f.parquet").to_pylist()
    assert [(row["id"], row["duplicate_of"]) for row in lost] == [("r3", "r0"), ("r6", "r0")]
    assert (folder / "f.svg").stat().st_size > 0 < (folder / "f.png").stat().st_size
