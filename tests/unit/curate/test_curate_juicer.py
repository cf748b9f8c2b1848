"""Against Data-Juicer itself, and against the definitions of its statistics."""

import math
import os
import random
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import emoji
import pytest
from PIL import Image

from recap.curate.convert import convert_llava
from recap.curate.juicer import load_filter
from recap.curate.measure import measure_shard
from recap.curate.recipe import measurements, name_of, resolve_recipe, thresholds
from recap.curate.records import captioned_text, original_text
from recap.curate.select import select_shard
from recap.curate.statistics import read_statistics
from recap.curate.validate import validate_corpus
from recap.errors import RecapError
from recap.io import read_json, read_jsonl, write_json, write_jsonl
from recap.settings import ValidateSettings

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "config" / "recipes"
WORDS = {"lang": "en", "tokenization": False}
STATISTICS = [
    {"words_num_filter": {**WORDS, "min_num": 6, "max_num": 60}},
    {"word_repetition_filter": {**WORDS, "rep_len": 1, "max_ratio": 0.3}},
    {"word_repetition_filter": {**WORDS, "rep_len": 3, "max_ratio": 0.2}},
    {"character_repetition_filter": {"rep_len": 5, "max_ratio": 0.15}},
    {"text_length_filter": {"min_len": 20, "max_len": 300}},
    {
        "image_shape_filter": {
            "min_width": 30,
            "max_width": 90,
            "min_height": 30,
            "any_or_all": "any",
        }
    },
]
CAPTIONS = [
    "the first part of the guide shows how it is done",
    "floral banner with border - vector, grat stock 2",
    "a & b, a & b, a & b: 7kg of A/B!",
    "red",
    "cat cat cat cat cat dog cat",
    "one two three one two three one two three",
    "über die Brücke — 世界 ☃ 😀 😀 ok",
    "tab\tand\nnewline  double",
    "x" * 320,
    "42 - 17 & 3",
    "aaaaaaaaaaaa bbbbbbbbbbb cccccccc dddddd eeee",
    " ".join("".join(random.Random(i).choices("abcdefghij", k=9)) for i in range(36)),
    "sixty small boats rest beside an old harbour",
]
SIZES = [(48, 36), (36, 36), (36, 49), (20, 40), (100, 40), (90, 30), (30, 90)]
SIZES += [(33, 77), (64, 64), (91, 50), (60, 60), (50, 50), (29, 60)]


def independent(text: str) -> dict[str, float]:
    """The operators' definitions, written down from their specification."""
    special = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789 \t\n\r\x0b\x0c—")
    special |= set(emoji.EMOJI_DATA)
    words = []
    for part in text.replace("\n", " ").replace("\t", " ").split(" "):
        word = part
        while word and word[0] in special:
            word = word[1:]
        while word and word[-1] in special:
            word = word[:-1]
        words += [word] if word else []

    def word_ratio(n: int) -> float:
        grams = [tuple(w.lower() for w in words[i : i + n]) for i in range(len(words) - n + 1)]
        repeated = sum(count for count in Counter(grams).values() if count > 1)
        return repeated / len(grams) if grams else 0.0

    characters = Counter(text[i : i + 5] for i in range(len(text) - 4))
    ranked = sorted(characters.values(), reverse=True)
    top = min(math.isqrt(len(ranked)), sum(count > 1 for count in ranked))
    return {
        "num_words": len(words),
        "word_rep_ratio[rep_len=1]": word_ratio(1),
        "word_rep_ratio[rep_len=3]": word_ratio(3),
        "char_rep_ratio[rep_len=5]": sum(ranked[:top]) / sum(ranked),
        "text_len": len(text),
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "images").mkdir()
    rows = []
    for index, (caption, size) in enumerate(zip(CAPTIONS * 2, SIZES * 2, strict=True)):
        name = f"images/{index}.{'jpg' if index % 2 else 'png'}"
        Image.new(("RGB", "L")[index % 3 == 0], size, 99).save(folder / name)
        text = original_text(caption) if index < len(CAPTIONS) else captioned_text(caption + "\n")
        rows.append({"id": f"{index:03d}", "text": text, "images": [name]})
    write_jsonl(folder / "shard.jsonl", rows)
    return folder


def measure(corpus: Path, out: Path, operators=None, shard="shard.jsonl"):
    return measure_shard(
        corpus / shard,
        image_root=corpus,
        operators=measurements(STATISTICS if operators is None else operators),
        out=out / "stats.parquet",
        perf=out / "perf.json",
    )


def select(corpus: Path, out: Path, operators, shard="shard.jsonl"):
    return select_shard(
        corpus / shard,
        stats=out / "stats.parquet",
        operators=thresholds(operators),
        kept=out / "kept.jsonl",
        drops=out / "drops.jsonl",
        counts=out / "counts.json",
    )


def test_statistics_follow_their_definitions(corpus, tmp_path):
    measure(corpus, tmp_path)
    table = read_statistics(tmp_path / "stats.parquet")
    rows = read_jsonl(corpus / "shard.jsonl")
    assert table.ids == [row["id"] for row in rows]
    for index, row in enumerate(rows):
        for column, expected in independent(row["text"]).items():
            assert table.columns[column][index] == expected, (row["text"], column)
        size = SIZES[index % len(SIZES)]
        assert (table.columns["image_width"][index], table.columns["image_height"][index]) == (
            [size[0]],
            [size[1]],
        )


def test_statistics_worked_out_by_hand(corpus, tmp_path):
    measure(corpus, tmp_path)
    columns = read_statistics(tmp_path / "stats.parquet").columns
    # "a b a b a b kg of A/B": nine words and two tokens, six of eleven repeated
    assert columns["num_words"][2] == 11
    assert columns["word_rep_ratio[rep_len=1]"][2] == 6 / 11
    # "red": only the tokens' shared 5-grams repeat, twice each, in 31 - 4 of them
    assert columns["text_len"][3] == 31
    assert columns["char_rep_ratio[rep_len=5]"][3] == 4 / 27
    # the captioned layout is one character longer
    assert columns["text_len"][16] == 32
    assert columns["num_words"][9] == 2


def test_thresholds_drop_the_first_offence_and_nothing_is_lost(corpus, tmp_path):
    measure(corpus, tmp_path)
    summary = select(corpus, tmp_path, STATISTICS)
    rows = read_jsonl(corpus / "shard.jsonl")
    kept, drops = read_jsonl(tmp_path / "kept.jsonl"), read_jsonl(tmp_path / "drops.jsonl")
    wanted_kept, wanted_drops = [], {}
    for index, row in enumerate(rows):
        found = independent(row["text"])
        width, height = SIZES[index % len(SIZES)]
        offences = [
            (not 6 <= found["num_words"] <= 60, "words_num_filter"),
            (found["word_rep_ratio[rep_len=1]"] > 0.3, "word_repetition_filter"),
            (found["word_rep_ratio[rep_len=3]"] > 0.2, "word_repetition_filter"),
            (found["char_rep_ratio[rep_len=5]"] > 0.15, "character_repetition_filter"),
            (not 20 <= found["text_len"] <= 300, "text_length_filter"),
            (not (30 <= width <= 90 and height >= 30), "image_shape_filter"),
        ]
        first = next((name for broken, name in offences if broken), None)
        if first:
            wanted_drops[row["id"]] = first
        else:
            wanted_kept.append(row)
    assert kept == wanted_kept
    assert kept
    assert {drop["id"]: drop["operator"] for drop in drops} == wanted_drops
    assert len(set(wanted_drops.values())) == 5
    assert summary["records_in"] == 26 == summary["records_out"] + summary["rejected"]
    assert [step["operator"] for step in summary["operators"]] == [name_of(o) for o in STATISTICS]
    alive = 26
    for step in summary["operators"]:
        assert step["records_in"] == alive == step["records_out"] + step["rejected"]
        alive = step["records_out"]


def test_a_drop_says_which_bound_it_broke(corpus, tmp_path):
    measure(corpus, tmp_path)
    select(corpus, tmp_path, STATISTICS[:1] + STATISTICS[5:])
    drops = {drop["id"]: drop for drop in read_jsonl(tmp_path / "drops.jsonl")}
    words, wide, narrow = drops["003"], drops["004"], drops["012"]
    assert (words["statistic"], words["value"], words["bound"]) == ("num_words", 3, "min_num=6")
    assert (wide["statistic"], wide["value"], wide["bound"]) == ("image_width", 100, "max_width=90")
    assert (narrow["value"], narrow["bound"]) == (29, "min_width=30")


def test_other_thresholds_need_no_other_statistics(corpus, tmp_path):
    measure(corpus, tmp_path)
    before = (tmp_path / "stats.parquet").read_bytes()
    tight = [{"text_length_filter": {"max_len": 60}}, {"words_num_filter": {"min_num": 9, **WORDS}}]
    assert select(corpus, tmp_path, tight)["rejected"] > 0
    assert measurements(tight) == measurements([STATISTICS[4], STATISTICS[0]])
    measure(corpus, tmp_path)
    assert (tmp_path / "stats.parquet").read_bytes() == before


def test_select_refuses_what_was_not_measured(corpus, tmp_path):
    measure(corpus, tmp_path)
    with pytest.raises(RecapError, match="was not measured"):
        select(corpus, tmp_path, [{"word_repetition_filter": {**WORDS, "rep_len": 2}}])
    write_jsonl(corpus / "fewer.jsonl", read_jsonl(corpus / "shard.jsonl")[1:])
    with pytest.raises(RecapError, match="does not hold the ids"):
        select(corpus, tmp_path, STATISTICS, shard="fewer.jsonl")


def test_an_empty_shard_passes_through(corpus, tmp_path):
    (corpus / "empty.jsonl").write_text("")
    measure(corpus, tmp_path, shard="empty.jsonl")
    summary = select(corpus, tmp_path, STATISTICS, shard="empty.jsonl")
    assert (summary["records_in"], summary["records_out"]) == (0, 0)
    assert len(summary["operators"]) == len(STATISTICS)


def test_one_bad_record_is_named(corpus, tmp_path):
    rows = read_jsonl(corpus / "shard.jsonl")
    rows[4]["images"] = ["images/none.png"]
    write_jsonl(corpus / "bad.jsonl", rows)
    with pytest.raises(RecapError, match=r"id '004'.*images/none\.png"):
        measure(corpus, tmp_path, shard="bad.jsonl")
    rows[4] |= {"text": None, "images": ["images/4.png"]}
    write_jsonl(corpus / "bad.jsonl", rows)
    with pytest.raises(RecapError, match="words_num_filter failed on id '004'"):
        measure(corpus, tmp_path, shard="bad.jsonl")


def test_watermarks_by_a_local_model(corpus, tmp_path):
    """Probabilities equal the classifier's own; equality with the bound drops."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        num_labels=2,
        initializer_range=2.0,
    )
    model = ViTForImageClassification(config).eval()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    model.save_pretrained(tmp_path / "watermark")
    processor.save_pretrained(tmp_path / "watermark")
    params = {"hf_watermark_model": str(tmp_path / "watermark"), "any_or_all": "any"}
    operator = {"image_watermark_filter": params}
    rows = read_jsonl(corpus / "shard.jsonl")
    for row in rows:  # one image each, all different
        pixels = random.Random(row["id"]).randbytes(16 * 16 * 3)
        row["images"] = [f"images/w{row['id']}.png"]
        Image.frombytes("RGB", (16, 16), pixels).save(corpus / row["images"][0])
    write_jsonl(corpus / "water.jsonl", rows)
    measure(corpus, tmp_path, [operator, STATISTICS[5]], shard="water.jsonl")
    columns = read_statistics(tmp_path / "stats.parquet").columns
    found = [value[0] for value in columns["image_watermark_prob"]]
    images = [Image.open(corpus / row["images"][0]).convert("RGB") for row in rows]
    with torch.no_grad():
        logits = model(**processor(images=images, return_tensors="pt")).logits
    assert found == pytest.approx(logits.softmax(-1)[:, 1].tolist(), abs=1e-5)
    assert max(found) - min(found) > 0.1
    bound = sorted(found)[13]
    for closed, left in ((False, 13), (True, 14)):
        params |= {"prob_threshold": bound, "max_closed_interval": closed}
        summary = select(corpus, tmp_path, [operator], shard="water.jsonl")
        assert summary["records_out"] == left
    drop = read_jsonl(tmp_path / "drops.jsonl")[0]
    assert drop["statistic"] == "image_watermark_prob"
    assert f"prob_threshold={bound}" in drop["bound"]


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ({"text_length_filter": {"max_lenght": 3}}, "no parameter max_lenght"),
        ({"image_shape_filter": {"any_or_all": "some"}}, "refuses"),
        ({"no_such_filter": {}}, "no filter named"),
        ({"clean_html_mapper": {}}, "no filter named"),
    ],
)
def test_what_data_juicer_would_ignore_is_refused(operator, message):
    with pytest.raises(RecapError, match=message):
        load_filter(operator)


def test_nothing_is_installed_while_running():
    from data_juicer.utils.lazy_loader import LazyLoader

    load_filter({"text_length_filter": {}})
    with pytest.raises(RecapError, match="wants to install"):
        LazyLoader.check_packages(["surely_not_installed_anywhere"])


def test_cleaning_agrees_with_data_juicers_own_converter(tmp_path, monkeypatch):
    """Its ``dj_to_llava`` on texts of every shape, questions restored per id."""
    monkeypatch.setitem(sys.modules, "fire", ModuleType("fire"))  # only its command line
    converter = import_module(
        "tools.fmt_conversion.multimodal.data_juicer_format_to_target_format.dj_to_llava"
    )
    captions = ["a cat", " two  spaces ", "ends\n", "\n\nbegins", "mid\ndle", "ü ☃", "x <a> y"]
    texts = [layout(c) for layout in (original_text, captioned_text) for c in captions]
    texts += ["tail <__dj__image>", "<__dj__image>\nx <|__dj__eoc|> y <|__dj__eoc|>"]
    rows = [{"id": str(i), "text": text, "images": ["a.jpg"]} for i, text in enumerate(texts)]
    write_jsonl(tmp_path / "merged.jsonl", rows)
    (tmp_path / "a.jpg").write_bytes(b"x")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "old"}]
    write_json(tmp_path / "o.json", [{"id": row["id"], "conversations": turns} for row in rows])
    converter.main(
        str(tmp_path / "merged.jsonl"),
        str(tmp_path / "theirs.json"),
        image_special_token="<__dj__image>",
        restore_questions=True,
        original_llava_ds_path=str(tmp_path / "o.json"),
    )
    convert_llava(
        tmp_path / "merged.jsonl",
        image_root=tmp_path,
        original=tmp_path / "o.json",
        out=tmp_path / "ours.json",
        manifest=tmp_path / "manifest.json",
    )
    assert read_json(tmp_path / "ours.json") == read_json(tmp_path / "theirs.json")


@pytest.fixture(scope="session")
def seed1k() -> Path:
    shared = os.environ.get("RECAP_SHARED")
    if not shared:
        pytest.skip("RECAP_SHARED names no folder with the 1,000 real records")
    return Path(shared) / "data" / "seed1k"


def test_real_records_keep_their_golden_counts(seed1k, tmp_path):
    validate_corpus(
        seed1k / "mgm_pretrain_seed1k.jsonl",
        expected_records=1000,
        settings=ValidateSettings(max_reject_share=0),
        threads=2,
        out=tmp_path / "validated.jsonl",
        rejects=tmp_path / "rejects.jsonl",
        report=tmp_path / "validate.json",
    )
    enhanced = resolve_recipe(RECIPES / "blip2_30k.yaml").after
    chain = [
        (resolve_recipe(RECIPES / "basic.yaml").before, [997, 997, 889, 888]),
        (
            [operator for operator in enhanced if name_of(operator) != "image_watermark_filter"],
            [839, 819, 815, 815, 815],
        ),
    ]
    records = tmp_path / "validated.jsonl"
    for place, (operators, golden) in enumerate(chain):
        out = tmp_path / str(place)
        measure_shard(
            records,
            image_root=seed1k,
            operators=measurements(operators),
            out=out / "stats.parquet",
            perf=out / "perf.json",
        )
        summary = select_shard(
            records,
            stats=out / "stats.parquet",
            operators=thresholds(operators),
            kept=out / "kept.jsonl",
            drops=out / "drops.jsonl",
            counts=out / "counts.json",
        )
        assert [step["records_out"] for step in summary["operators"]] == golden
        records = out / "kept.jsonl"


def test_real_records_convert_to_their_own_file(seed1k, tmp_path):
    convert_llava(
        seed1k / "mgm_pretrain_seed1k.jsonl",
        image_root=seed1k,
        original=seed1k / "llava_seed1k.json",
        out=tmp_path / "train.json",
        manifest=tmp_path / "manifest.json",
    )
    ours, theirs = read_json(tmp_path / "train.json"), read_json(seed1k / "llava_seed1k.json")
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    assert equal == len(theirs) == 1000
