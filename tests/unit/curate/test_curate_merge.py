from pathlib import Path

import pytest

from recap.curate.convert import convert_llava
from recap.curate.gallery import GalleryExtras, build_gallery
from recap.curate.merge import merge_arm
from recap.curate.policy import apply_policy
from recap.curate.questions import STAGE1_QUESTIONS
from recap.curate.records import caption_of, captioned_text, original_text
from recap.errors import GateError, RecapError
from recap.io import read_json, read_jsonl, write_json, write_jsonl


def record(identity, caption="a red square", image=None) -> dict:
    image = image or f"images/{identity}.jpg"
    return {"id": str(identity), "text": original_text(caption), "images": [image]}


def counts(path: Path, *chain: int, names=("text_length_filter", "image_shape_filter")) -> Path:
    steps = [
        {"operator": name, "records_in": a, "records_out": b, "rejected": a - b}
        for name, a, b in zip(names, chain, chain[1:], strict=False)
    ]
    write_json(path, {"operators": steps})
    return path


@pytest.fixture
def arm(tmp_path):
    """Two shards: 12 lines, 10 accepted, 7 selected, 6 after captioning."""
    write_json(
        tmp_path / "validate.json",
        {"lines": 12, "accepted": 10, "rejected": 2, "rejects": {"image-missing": 2}},
    )
    write_jsonl(tmp_path / "0.jsonl", [record(i) for i in (5, 3, 1)])
    write_jsonl(tmp_path / "1.jsonl", [record(i) for i in (2, 8, 4)])
    pre = [counts(tmp_path / "p0.json", 5, 5, 4), counts(tmp_path / "p1.json", 5, 4, 3)]
    words = ("words_num_filter",)
    post = [
        counts(tmp_path / "q0.json", 4, 3, names=words),
        counts(tmp_path / "q1.json", 3, 3, names=words),
    ]

    def run(**changes) -> dict:
        arguments = {
            "out": tmp_path / "merged.jsonl",
            "funnel": tmp_path / "funnel.json",
            "manifest": tmp_path / "manifest.json",
            "validate_report": tmp_path / "validate.json",
            "pre_counts": pre,
            "post_counts": post,
        } | changes
        shards = arguments.pop("shards", [tmp_path / "0.jsonl", tmp_path / "1.jsonl"])
        return merge_arm("blip2", shards, **arguments)

    run.root = tmp_path
    return run


def ids(path: Path) -> list[str]:
    return [row["id"] for row in read_jsonl(path)]


def test_the_funnel_adds_up_from_line_to_sample(arm):
    funnel = arm()
    assert ids(arm.root / "merged.jsonl") == ["5", "3", "1", "2", "8", "4"]
    rows = [
        (row["stage"], row["operator"], row["records_in"], row["records_out"], row["rejected"])
        for row in funnel["stages"]
    ]
    assert rows == [
        ("validate", None, 12, 10, 2),
        ("select", "text_length_filter", 10, 9, 1),
        ("select", "image_shape_filter", 9, 7, 2),
        ("reselect", "words_num_filter", 7, 6, 1),
    ]
    assert funnel["rejects_by_reason"] == {"image-missing": 2}
    assert read_json(arm.root / "funnel.json") == funnel
    manifest = read_json(arm.root / "manifest.json")
    assert manifest["counts"] == {"records_in": 12, "records_out": 6}


def test_matched_ids_follow_the_reference_in_its_order(arm):
    write_jsonl(arm.root / "ref.jsonl", [record(i) for i in (4, 1, 5)])
    funnel = arm(match_ids=arm.root / "ref.jsonl")
    assert ids(arm.root / "merged.jsonl") == ["4", "1", "5"]
    last = funnel["stages"][-1]
    assert (last["stage"], last["records_in"], last["records_out"], last["rejected"]) == (
        "match",
        6,
        3,
        3,
    )


def test_missing_reference_ids_fail_the_gate_by_name(arm):
    write_jsonl(arm.root / "ref.jsonl", [record(i) for i in (4, 77, 78)])
    with pytest.raises(GateError, match=r"lacks 2 of the 3 ids.*77, 78"):
        arm(match_ids=arm.root / "ref.jsonl")
    assert not (arm.root / "merged.jsonl").exists()


def test_a_smaller_budget_is_a_subset_whatever_the_shards(arm):
    four = arm(max_records=4, seed=1)
    assert four["stages"][-1]["stage"] == "budget"
    large = ids(arm.root / "merged.jsonl")
    arm(max_records=2, seed=1)
    small = ids(arm.root / "merged.jsonl")
    assert (len(large), len(small)) == (4, 2)
    assert set(small) < set(large)
    assert large == [i for i in ("5", "3", "1", "2", "8", "4") if i in large]
    write_jsonl(arm.root / "all.jsonl", [record(i) for i in (8, 5, 4, 3, 2, 1)])
    arm(max_records=4, seed=1, shards=[arm.root / "all.jsonl"])
    assert set(ids(arm.root / "merged.jsonl")) == set(large)
    chosen = set()
    for seed in range(8):
        arm(max_records=2, seed=seed)
        chosen.add(tuple(ids(arm.root / "merged.jsonl")))
    assert len(chosen) > 2
    arm(max_records=100)
    assert len(ids(arm.root / "merged.jsonl")) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_counts": [0]}, "text_length_filter: 5 in, but 10 came before"),
        ({"post_counts": []}, "7 records should be left, but 6"),
        ({"shards": [0]}, "6 records should be left, but 3"),
        ({"validate_report": {"lines": 13}}, "validate: 13 in, but 10 out and 2 rejected"),
    ],
)
def test_lost_records_fail_the_gate(arm, changes, message):
    if "pre_counts" in changes:
        changes["pre_counts"] = [arm.root / "p0.json"]
    if "shards" in changes:
        changes["shards"] = [arm.root / "0.jsonl"]
    if "validate_report" in changes:
        report = read_json(arm.root / "validate.json") | changes["validate_report"]
        write_json(arm.root / "v.json", report)
        changes["validate_report"] = arm.root / "v.json"
    with pytest.raises(GateError, match=message):
        arm(**changes)


def test_shards_of_different_recipes_are_refused(arm):
    other = counts(arm.root / "x.json", 5, 4, 3, names=("image_shape_filter", "words_num_filter"))
    with pytest.raises(GateError, match="went through"):
        arm(pre_counts=[arm.root / "p0.json", other])


def test_an_id_in_two_shards_is_refused(arm):
    with pytest.raises(RecapError, match="'5' is already in"):
        arm(shards=[arm.root / "0.jsonl", arm.root / "1.jsonl", arm.root / "0.jsonl"])


def test_nothing_left_names_the_worst_operator(arm):
    (arm.root / "empty.jsonl").write_text("")
    names = ("text_length_filter", "image_shape_filter")
    with pytest.raises(RecapError, match="image_shape_filter dropped most: 9 of 9"):
        arm(
            shards=[arm.root / "empty.jsonl"],
            pre_counts=[counts(arm.root / "z.json", 10, 9, 0, names=names)],
            post_counts=[],
        )


def test_merging_twice_gives_the_same_bytes(arm):
    arm(max_records=3, seed=4)
    first = (arm.root / "merged.jsonl").read_bytes(), (arm.root / "funnel.json").read_bytes()
    arm(max_records=3, seed=4)
    assert first == (
        (arm.root / "merged.jsonl").read_bytes(),
        (arm.root / "funnel.json").read_bytes(),
    )


# Caption policy


def test_policies(tmp_path):
    rows = [record(1), record(2)]
    write_jsonl(tmp_path / "r.jsonl", rows)
    new = [{"id": "1", "caption": "a cat\n"}, {"id": "2", "caption": "a dog\n"}]
    write_jsonl(tmp_path / "c.jsonl", new)
    apply_policy(tmp_path / "r.jsonl", policy="keep", out=tmp_path / "k.jsonl")
    assert read_jsonl(tmp_path / "k.jsonl") == [
        row | {"caption_source": "original"} for row in rows
    ]
    arguments = {"policy": "replace", "out": tmp_path / "n.jsonl", "captions": tmp_path / "c.jsonl"}
    apply_policy(tmp_path / "r.jsonl", captioner="blip2", **arguments)
    first = read_jsonl(tmp_path / "n.jsonl")[0]
    assert first["text"] == "<__dj__image> a cat\n <|__dj__eoc|>"
    assert len(first["text"]) == len("a cat") + 29
    assert (first["images"], first["caption_source"]) == (["images/1.jpg"], "blip2")
    for wrong in (new[:1], new[::-1], [*new, new[0]], [{**new[0], "id": "3"}, new[1]]):
        write_jsonl(tmp_path / "c.jsonl", wrong)
        with pytest.raises(RecapError, match="differs from record"):
            apply_policy(tmp_path / "r.jsonl", captioner="blip2", **arguments)
    write_jsonl(tmp_path / "c.jsonl", [{**new[0], "caption": "an <image>"}, new[1]])
    with pytest.raises(RecapError, match=r"id '1'.*<image>"):
        apply_policy(tmp_path / "r.jsonl", captioner="blip2", **arguments)


# Conversion to the LLaVA format


def dataset(root: Path, rows: list[dict]) -> Path:
    (root / "images").mkdir(exist_ok=True)
    for row in rows:
        for image in row["images"]:
            (root / image).write_bytes(b"x")
    write_jsonl(root / "merged.jsonl", rows)
    return root / "merged.jsonl"


def convert(root: Path, **changes) -> list[dict]:
    convert_llava(
        root / "merged.jsonl",
        image_root=root,
        out=root / "train.json",
        manifest=root / "manifest.json",
        **changes,
    )
    return read_json(root / "train.json")


def original(identity, question="<image>\nWhat is this?", role="gpt") -> dict:
    turns = [{"from": "human", "value": question}, {"from": role, "value": "old"}]
    extra = [{"from": "human", "value": "more"}, {"from": "gpt", "value": "x"}]
    return {"id": identity, "conversations": turns + extra, "image": "elsewhere.jpg"}


def test_the_question_comes_back_verbatim_and_ids_keep_their_type(tmp_path):
    dataset(tmp_path, [record(7, "ein Hügel"), record("008")])
    odd = "Look:\n<image>"
    write_json(tmp_path / "o.json", [original("008"), original(7, odd, "assistant")])
    samples = convert(tmp_path, original=tmp_path / "o.json")
    assert samples[0] == {
        "id": 7,
        "conversations": [
            {"from": "human", "value": odd},
            {"from": "assistant", "value": "ein Hügel"},
        ],
        "image": "images/7.jpg",
    }
    assert list(samples[0]) == ["id", "conversations", "image"]
    assert samples[1]["id"] == "008"
    assert b"H\\u00fcgel" in (tmp_path / "train.json").read_bytes()
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["settings"] == {"question_source": "original"}
    assert manifest["details"]["records"] == 2


def test_an_id_missing_from_the_original_stops_the_conversion(tmp_path):
    dataset(tmp_path, [record(1), record(2)])
    write_json(tmp_path / "o.json", [original("1")])
    with pytest.raises(RecapError, match="id '2' is not in"):
        convert(tmp_path, original=tmp_path / "o.json")
    assert not (tmp_path / "train.json").exists()


def test_contradicting_originals_stop_only_where_used(tmp_path):
    dataset(tmp_path, [record(1)])
    pair = [original("1"), original("9"), original(9, "<image>\nOther?"), original("1")]
    write_json(tmp_path / "o.json", pair)
    assert len(convert(tmp_path, original=tmp_path / "o.json")) == 1
    dataset(tmp_path, [record(9)])
    with pytest.raises(RecapError, match="'9' twice"):
        convert(tmp_path, original=tmp_path / "o.json")


def test_questions_without_an_original_depend_on_the_id_alone(tmp_path):
    dataset(tmp_path, [record(i) for i in range(200)])
    samples = convert(tmp_path)
    allowed = {f"<image>\n{question}" for question in STAGE1_QUESTIONS}
    drawn = {sample["id"]: sample["conversations"][0]["value"] for sample in samples}
    assert set(drawn.values()) == allowed
    assert read_json(tmp_path / "manifest.json")["settings"] == {"question_source": "id_hash"}
    dataset(tmp_path, [record(i) for i in (150, 3)])
    for sample in convert(tmp_path):
        assert sample["conversations"][0]["value"] == drawn[sample["id"]]


def test_digests_change_with_what_they_cover(tmp_path):
    def digests(rows) -> dict:
        dataset(tmp_path, rows)
        convert(tmp_path)
        return read_json(tmp_path / "manifest.json")["details"]

    base = digests([record(1), record(2)])
    recaptioned = digests([record(1, "new"), record(2)])
    swapped = digests([record(2), record(1)])
    same = ("ids_sha256", "questions_sha256", "images_sha256")
    assert all(base[key] == recaptioned[key] for key in same)
    assert base["captions_sha256"] != recaptioned["captions_sha256"]
    assert base["ids_sha256"] != swapped["ids_sha256"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**record(1), "images": ["images/a.jpg", "images/b.jpg"]}], "2 distinct images"),
        ([{**record(1), "text": captioned_text("\n")}], "empty caption"),
    ],
)
def test_what_cannot_be_converted_stops_with_the_id(tmp_path, rows, message):
    dataset(tmp_path, rows)
    with pytest.raises(RecapError, match=f"'1'.*{message}"):
        convert(tmp_path)


def test_a_missing_image_stops_the_conversion(tmp_path):
    write_jsonl(tmp_path / "merged.jsonl", [record(1)])
    with pytest.raises(RecapError, match=r"id '1'.*does not exist"):
        convert(tmp_path)


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("<__dj__image>\na cat <|__dj__eoc|>", "a cat"),
        ("<__dj__image> a cat\n <|__dj__eoc|>", "a cat"),
        ("  a cat\n<__dj__image> <|__dj__eoc|>\n", "a cat"),
        ("<__dj__image> a cat", "a cat"),
        ("<__dj__image>\nx <|__dj__eoc|> y <|__dj__eoc|>", "x <|__dj__eoc|> y"),
        ("<__dj__image>\na <__dj__image> b <|__dj__eoc|>", "a <__dj__image> b"),
    ],
)
def test_cleaning_a_text(text, caption):
    assert caption_of(text) == caption


def test_gallery(tmp_path):
    rows = [record(i, f"old {i}") for i in range(10)]
    write_jsonl(tmp_path / "0.jsonl", rows[:6])
    write_jsonl(tmp_path / "1.jsonl", rows[6:])
    captions = [{"id": row["id"], "caption": f"new {row['id']}\n"} for row in rows]
    write_jsonl(tmp_path / "c.jsonl", captions)
    write_jsonl(tmp_path / "kept.jsonl", rows[::2])

    write_json(tmp_path / "held_out.json", {"ids": ["3", "8"]})

    def build(size=5, seed=1, given="c.jsonl", extras=None):
        return build_gallery(
            [tmp_path / "0.jsonl", tmp_path / "1.jsonl"],
            captions=[tmp_path / given],
            kept=tmp_path / "kept.jsonl",
            size=size,
            seed=seed,
            out=tmp_path / "g.jsonl",
            extras=extras,
        )

    gallery = build()
    assert len(gallery) == 5
    assert [int(row["id"]) for row in gallery] == sorted(int(row["id"]) for row in gallery)
    for row in gallery:
        assert row == {
            "id": row["id"],
            "image": f"images/{row['id']}.jpg",
            "original_text": f"old {row['id']}",
            "new_text": f"new {row['id']}",
            "kept": int(row["id"]) % 2 == 0,
            "replaced": False,
        }
    assert len(build(size=99)) == 10
    shown = build(size=99, extras=GalleryExtras(held_out=tmp_path / "held_out.json"))
    assert {row["id"] for row in shown} == set(map(str, range(10))) - {"3", "8"}
    assert build(seed=2) != gallery
    write_jsonl(tmp_path / "few.jsonl", captions[:3])
    with pytest.raises(RecapError, match="no caption for id"):
        build(size=10, given="few.jsonl")
