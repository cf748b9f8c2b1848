"""Similarities of old and new captions, their threshold, and the policies that choose."""

import dataclasses
import json

import numpy as np
import pytest
from curate_models import WORDS, build_clip, build_itm
from PIL import Image

from recap.curate.merge import merge_arm
from recap.curate.policy import PolicyOptions, apply_policy
from recap.curate.records import original_text
from recap.curate.similarity import choose_threshold, read_similarity, score_similarity
from recap.curate.statistics import StatisticsTable, write_statistics
from recap.errors import GateError, RecapError
from recap.io import read_json, read_jsonl, write_json, write_jsonl
from recap.settings import SimilaritySettings


def settings(**values):
    return SimilaritySettings(model="clip", **values)


def records(tmp_path, count, images=None, shard="records.jsonl"):
    rows = [
        {
            "id": f"r{n:03d}",
            "text": original_text(f"a {WORDS[1 + n % 6]} {WORDS[1 + n // 6 % 6]}"),
            "images": [(images or {}).get(n, f"{n}.png")],
        }
        for n in range(count)
    ]
    write_jsonl(tmp_path / shard, rows)
    new = [{"id": row["id"], "caption": f"{WORDS[6 - n % 6]} sign\n"} for n, row in enumerate(rows)]
    write_jsonl(tmp_path / "captions.jsonl", new)
    return rows


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip"))


def draw(tmp_path, count):
    rng = np.random.default_rng(7)
    for n in range(count):
        pixels = rng.integers(0, 255, (40, 30 + n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")


def score(tmp_path, clip, **values):
    out = tmp_path / "similarity.parquet"
    score_similarity(
        tmp_path / "records.jsonl",
        captions=tmp_path / "captions.jsonl",
        image_root=tmp_path,
        model=clip,
        settings=settings(**values),
        out=out,
        perf=tmp_path / "perf.json",
    )
    return out


def test_cosines_equal_those_of_the_model_called_one_by_one(tmp_path, clip):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    rows = records(tmp_path, 5, images={3: "1.png"})
    draw(tmp_path, 5)
    table = read_similarity(score(tmp_path, clip))
    perf = read_json(tmp_path / "perf.json")
    assert perf["images"] == 4, "an image that two records share is encoded once"
    model = CLIPModel.from_pretrained(clip, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(clip)
    processor = AutoImageProcessor.from_pretrained(clip, backend="pil")
    new = read_jsonl(tmp_path / "captions.jsonl")
    for n, row in enumerate(rows):
        picture = Image.open(tmp_path / row["images"][0])
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"].double()
        old = row["text"].split("\n")[1].removesuffix(" <|__dj__eoc|>")
        for column, text in (("similarity_original", old), ("similarity_new", new[n]["caption"])):
            ids = tokenizer([text.strip()], return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                output = model(input_ids=ids, pixel_values=pixels)
            expected = float(output.image_embeds[0] @ output.text_embeds[0])
            assert table.columns[column][n] == pytest.approx(expected, abs=2e-5)


def test_the_batch_size_changes_nothing_and_a_rerun_no_byte(tmp_path, clip):
    records(tmp_path, 7)
    draw(tmp_path, 7)
    first = score(tmp_path, clip, batch_size=64)
    content, table = first.read_bytes(), read_similarity(first)
    assert score(tmp_path, clip, batch_size=64).read_bytes() == content
    alone = read_similarity(score(tmp_path, clip, batch_size=1))
    for name, column in table.columns.items():
        assert column == pytest.approx(alone.columns[name], abs=1.1e-5)


@pytest.fixture(scope="module")
def itm(tmp_path_factory):
    return build_itm(tmp_path_factory.mktemp("itm"))


def test_matching_probabilities_equal_those_of_the_model_called_one_by_one(tmp_path, itm):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForImageTextRetrieval

    rows = records(tmp_path, 5, images={3: "1.png"})
    rows[4]["text"] = original_text("red " * 40)  # beyond the window of 12 tokens
    write_jsonl(tmp_path / "records.jsonl", rows)
    draw(tmp_path, 5)
    model = Blip2ForImageTextRetrieval.from_pretrained(itm, dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(itm)
    processor = AutoImageProcessor.from_pretrained(itm, backend="pil")
    new = [entry["caption"].strip() for entry in read_jsonl(tmp_path / "captions.jsonl")]
    expected = []
    for n, row in enumerate(rows):
        picture = Image.open(tmp_path / row["images"][0])
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"].double()
        for text in (row["text"].split("\n")[1].removesuffix(" <|__dj__eoc|>"), new[n]):
            tokens = tokenizer([text], truncation=True, max_length=12, return_tensors="pt")
            with torch.inference_mode():
                logits = model(
                    pixel_values=pixels,
                    input_ids=tokens["input_ids"],
                    attention_mask=tokens["attention_mask"],
                    use_image_text_matching_head=True,
                ).logits_per_image
            expected.append(float(logits.softmax(-1)[0, 1]))
    assert max(expected) - min(expected) > 0.05
    for size in (1, 3, 64):
        table = read_similarity(score(tmp_path, itm, kind="itm", batch_size=size))
        pairs = zip(
            table.columns["similarity_original"], table.columns["similarity_new"], strict=True
        )
        assert [value for pair in pairs for value in pair] == pytest.approx(expected, abs=2e-5)
    assert read_json(tmp_path / "perf.json")["images"] == 4


def test_each_kind_of_similarity_refuses_the_others_model(tmp_path, clip, itm):
    records(tmp_path, 1)
    draw(tmp_path, 1)
    with pytest.raises(RecapError, match="CLIPModel, which has no matching head"):
        score(tmp_path, clip, kind="itm")
    with pytest.raises(RecapError, match="not a loadable CLIPModel"):
        score(tmp_path, itm)
    with pytest.raises(ValueError, match="a probability, so it must be within 0 and 1"):
        settings(kind="itm", threshold=-0.1, threshold_kind="absolute")


def test_captions_longer_than_the_window_are_cut(tmp_path, clip):
    rows = records(tmp_path, 1)
    rows[0]["text"] = original_text("red " * 200)
    write_jsonl(tmp_path / "records.jsonl", rows)
    draw(tmp_path, 1)
    assert -1 <= read_similarity(score(tmp_path, clip)).columns["similarity_original"][0] <= 1


def test_a_vision_tower_alone_is_refused(tmp_path, clip):
    import shutil

    from transformers import CLIPVisionModel

    folder = tmp_path / "tower"
    shutil.copytree(clip, folder)
    CLIPVisionModel.from_pretrained(clip).save_pretrained(folder)
    records(tmp_path, 1)
    draw(tmp_path, 1)
    with pytest.raises(RecapError, match=r"CLIP"):
        score(tmp_path, folder)


def test_missing_images_and_foreign_captions_are_named(tmp_path, clip):
    records(tmp_path, 2)
    with pytest.raises(RecapError, match="id 'r000': cannot decode"):
        score(tmp_path, clip)
    write_jsonl(tmp_path / "captions.jsonl", [{"id": "r001", "caption": "x"}])
    with pytest.raises(RecapError, match="differs from record 1"):
        score(tmp_path, clip)


def test_mgm_takes_its_tower_from_a_whole_clip_model(tmp_path, clip):
    import torch
    from transformers import CLIPModel

    from recap.mgm.checkpoint import open_towers
    from recap.mgm.configuration import config_from_parts
    from recap.mgm.micro import write_micro_parts
    from recap.mgm.names import CLIP_PREFIX

    parts = dataclasses.replace(write_micro_parts(tmp_path), clip=clip)
    config = config_from_parts(parts)
    assert (config.vision_config.hidden_size, config.vision_config.image_size) == (32, 28)
    tower = CLIPModel.from_pretrained(clip).vision_model.state_dict()
    found = {k: v for k, v in open_towers(parts).items() if k.startswith(CLIP_PREFIX)}
    named = {f"{CLIP_PREFIX}{name}": tensor for name, tensor in tower.items()}
    assert set(found) == {name for name in named if not name.endswith("position_ids")}
    assert all(torch.equal(source.load(), named[name]) for name, source in found.items())


def table(path, old, new, ids=None):
    ids = ids or [f"r{n:03d}" for n in range(len(old))]
    write_statistics(
        path, StatisticsTable(ids, {"similarity_original": old, "similarity_new": new}, {})
    )
    return path


def test_threshold_is_the_cosine_itself_or_a_quantile_over_all_shards(tmp_path):
    shards = [
        table(tmp_path / "0.parquet", [0.1, 0.4], [0.0, 0.0]),
        table(tmp_path / "1.parquet", [0.3, 0.2, 0.9], [0.0, 0.0, 0.0]),
    ]
    out = tmp_path / "t.json"
    found = choose_threshold(shards, settings(threshold=0.5), out)
    assert (found["threshold"], found["below"], found["records"]) == (0.3, 2, 5)
    assert read_json(out) == found
    found = choose_threshold(shards, settings(threshold=0.35, threshold_kind="absolute"), out)
    assert (found["threshold"], found["below"]) == (0.35, 3)
    found = choose_threshold(shards, settings(threshold=0.25), out)
    assert found["threshold"] == pytest.approx(0.2)
    empty = table(tmp_path / "2.parquet", [], [])
    with pytest.raises(RecapError, match="no quantile"):
        choose_threshold([empty], settings(), out)


def choose(tmp_path, policy, **options):
    apply_policy(
        tmp_path / "records.jsonl",
        policy=policy,
        out=tmp_path / "text.jsonl",
        captions=None if policy == "keep" else tmp_path / "captions.jsonl",
        captioner=None if policy == "keep" else "blip2",
        decisions=tmp_path / "decisions.jsonl",
        options=PolicyOptions(**options),
    )
    return read_jsonl(tmp_path / "text.jsonl"), read_jsonl(tmp_path / "decisions.jsonl")


def test_only_originals_strictly_below_the_threshold_are_replaced(tmp_path):
    rows = records(tmp_path, 3)
    path = table(tmp_path / "s.parquet", [0.1, 0.2, 0.3], [0.9, 0.8, 0.7])
    write_json(tmp_path / "t.json", {"threshold": 0.2})
    options = {"similarity": path, "threshold": tmp_path / "t.json"}
    text, decisions = choose(tmp_path, "replace_low_similarity", **options)
    assert [row["caption_source"] for row in text] == ["blip2", "original", "original"]
    assert text[1] == {**rows[1], "caption_source": "original"}
    assert decisions[0] == {
        "id": "r000",
        "similarity_original": 0.1,
        "similarity_new": 0.9,
        "threshold": 0.2,
        "replaced": True,
        "chosen": "blip2",
        "cut": False,
    }
    assert [row["chosen"] for row in decisions] == ["blip2", "original", "original"]
    table(path, [0.1, 0.2, 0.3], [0.9, 0.8, 0.7], ids=["r000", "r002", "r001"])
    with pytest.raises(RecapError, match="holds other ids"):
        choose(tmp_path, "replace_low_similarity", **options)
    with pytest.raises(RecapError, match="needs --similarity"):
        choose(tmp_path, "replace_low_similarity")


def test_mix_is_a_choice_by_id_that_grows_with_the_share(tmp_path):
    records(tmp_path, 400)
    new = {}
    for share in (0.0, 0.25, 0.5, 1.0):
        text, decisions = choose(tmp_path, "mix", mix_share=share, seed=1)
        new[share] = {row["id"] for row in text if row["caption_source"] == "blip2"}
        assert new[share] == {row["id"] for row in decisions if row["replaced"]}
    assert new[0.0] < new[0.25] < new[0.5] < new[1.0]
    assert abs(len(new[0.5]) - 200) < 40
    rows = read_jsonl(tmp_path / "records.jsonl")
    captions = read_jsonl(tmp_path / "captions.jsonl")
    write_jsonl(tmp_path / "records.jsonl", rows[50:90])
    write_jsonl(tmp_path / "captions.jsonl", captions[50:90])
    text, _ = choose(tmp_path, "mix", mix_share=0.5, seed=1)
    cut = {row["id"] for row in text if row["caption_source"] == "blip2"}
    assert cut == {row["id"] for row in rows[50:90]} & new[0.5], "the shard must not matter"
    with pytest.raises(RecapError, match="needs a --mix-share"):
        choose(tmp_path, "mix")


def test_keep_and_replace_decide_without_similarities(tmp_path):
    records(tmp_path, 2)
    assert {row["chosen"] for row in choose(tmp_path, "keep")[1]} == {"original"}
    text, decisions = choose(tmp_path, "replace")
    assert all(row["replaced"] and row["threshold"] is None for row in decisions)
    assert {row["caption_source"] for row in text} == {"blip2"}


def draw_arm(tmp_path, size):
    write_json(tmp_path / "v.json", {"lines": 20, "accepted": 20, "rejected": 0, "rejects": {}})
    write_jsonl(tmp_path / "other.jsonl", read_jsonl(tmp_path / "records.jsonl")[:size])
    merge_arm(
        "draw",
        [tmp_path / "records.jsonl"],
        out=tmp_path / "merged.jsonl",
        funnel=tmp_path / "funnel.json",
        manifest=tmp_path / "m.json",
        validate_report=tmp_path / "v.json",
        pre_counts=[],
        post_counts=[],
        max_records_of=tmp_path / "other.jsonl",
        seed=3,
    )
    return [row["id"] for row in read_jsonl(tmp_path / "merged.jsonl")]


def test_a_random_draw_has_exactly_the_other_arms_size(tmp_path):
    rows = records(tmp_path, 20)
    seven = draw_arm(tmp_path, 7)
    assert len(seven) == 7 and seven != [row["id"] for row in rows[:7]]
    assert set(seven) < set(draw_arm(tmp_path, 12))
    assert json.loads((tmp_path / "m.json").read_text())["inputs"]["max_records_of"]
    write_jsonl(tmp_path / "records.jsonl", rows[:20])
    other = [{**row, "id": f"x{n}"} for n, row in enumerate([*rows, *rows])]
    write_jsonl(tmp_path / "other.jsonl", other)
    with pytest.raises(GateError, match="has 20 records to draw 40 from"):
        merge_arm(
            "draw",
            [tmp_path / "records.jsonl"],
            out=tmp_path / "merged.jsonl",
            funnel=tmp_path / "funnel.json",
            manifest=tmp_path / "m.json",
            validate_report=tmp_path / "v.json",
            pre_counts=[],
            post_counts=[],
            max_records_of=tmp_path / "other.jsonl",
        )
