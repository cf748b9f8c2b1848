"""The length cap of captions, and the choice among candidates."""

import numpy as np
import pytest
from curate_models import build_clip
from PIL import Image

from recap.curate.captions import choose_captions, cut_caption
from recap.curate.policy import PolicyOptions, apply_policy
from recap.curate.records import original_text
from recap.errors import RecapError
from recap.io import read_json, read_jsonl, write_jsonl
from recap.settings import SimilaritySettings


@pytest.mark.parametrize(
    ("caption", "words", "expected"),
    [
        ("a cat on a mat", 0, "a cat on a mat"),
        ("a cat on a mat\n", 5, "a cat on a mat\n"),
        ("a cat on a mat\n", 3, "a cat on\n"),
        ("A cat. It sits on a mat.", 4, "A cat."),
        ("A cat. It sits. It sleeps.", 5, "A cat. It sits."),
        ("A cat. It sits. It sleeps.", 6, "A cat. It sits. It sleeps."),
        ('He said "stop!" and then left', 4, 'He said "stop!"'),
        ("(a cat?) [two dogs run] far", 5, "(a cat?)"),
        ("costs 3.5 dollars a piece now", 3, "costs 3.5 dollars"),
        ("  two   spaces\tand  tabs here ", 3, "  two   spaces\tand "),
        ("the the the then", 2, "the the"),
        ("", 3, ""),
    ],
)
def test_a_caption_is_cut_at_a_sentence_end_else_at_a_word(caption, words, expected):
    assert cut_caption(caption, words) == expected
    assert not words or len(expected.split()) <= words


def test_only_new_captions_are_cut_and_decisions_say_which(tmp_path):
    long = "one two three four five"
    rows = [{"id": f"r{n}", "text": original_text(long), "images": [f"{n}.png"]} for n in range(40)]
    write_jsonl(tmp_path / "records.jsonl", rows)
    captions = [f"{long}\n", "one two\n"]
    new = [{"id": row["id"], "caption": captions[n % 2]} for n, row in enumerate(rows)]
    write_jsonl(tmp_path / "captions.jsonl", new)

    def apply(policy, **options):
        apply_policy(
            tmp_path / "records.jsonl",
            policy=policy,
            out=tmp_path / "text.jsonl",
            captions=None if policy == "keep" else tmp_path / "captions.jsonl",
            captioner=None if policy == "keep" else "blip2",
            decisions=tmp_path / "decisions.jsonl",
            options=PolicyOptions(**options),
        )
        texts = [row["text"] for row in read_jsonl(tmp_path / "text.jsonl")]
        return texts, [row["cut"] for row in read_jsonl(tmp_path / "decisions.jsonl")]

    texts, cut = apply("replace", max_words=3)
    assert texts[:2] == [
        "<__dj__image> one two three\n <|__dj__eoc|>",
        "<__dj__image> one two\n <|__dj__eoc|>",
    ]
    assert cut == [True, False] * 20
    assert apply("replace")[1] == apply("keep", max_words=3)[1] == [False] * 40
    texts, cut = apply("mix", max_words=3, mix_share=0.5, seed=1)
    originals = [text == original_text(long) for text in texts]
    assert 5 < sum(originals) < 35
    assert cut == [n % 2 == 0 and not kept for n, kept in enumerate(originals)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp("clip"))


CANDIDATES = [
    ["a red dog\n", "blue sign\n", "square circle\n"],
    ["blue sign", "a red dog", "square circle"],
    ["a dog", "a dog", " a dog\n"],
    ["sign"],
    ["square circle", "blue sign", "a red dog"],
]


@pytest.fixture
def shard(tmp_path):
    rng = np.random.default_rng(7)
    for n in range(4):
        pixels = rng.integers(0, 255, (40, 30 + n, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    rows = [
        {"id": f"r{n}", "text": original_text("a"), "images": [f"{n % 4}.png"]} for n in range(5)
    ]
    write_jsonl(tmp_path / "records.jsonl", rows)
    write_candidates(tmp_path, CANDIDATES)
    return tmp_path


def write_candidates(folder, candidates):
    write_jsonl(
        folder / "captions.jsonl",
        (
            {"id": f"r{n}", "caption": texts[0], "candidates": texts}
            for n, texts in enumerate(candidates)
        ),
    )


def choose(shard, clip, **values):
    choose_captions(
        shard / "records.jsonl",
        captions=shard / "captions.jsonl",
        image_root=shard,
        model=clip,
        settings=SimilaritySettings(model="clip", **values),
        out=shard / "chosen.jsonl",
        perf=shard / "perf.json",
    )
    return read_jsonl(shard / "chosen.jsonl")


def test_the_best_candidate_by_the_models_own_cosine_is_kept(shard, clip):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(clip, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(clip)
    processor = AutoImageProcessor.from_pretrained(clip, backend="pil")
    chosen = choose(shard, clip, batch_size=2)
    assert [row["id"] for row in chosen] == [f"r{n}" for n in range(5)]
    for n, (row, texts) in enumerate(zip(chosen, CANDIDATES, strict=True)):
        picture = Image.open(shard / f"{n % 4}.png")
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"].double()
        cosines = []
        for text in texts:
            with torch.inference_mode():
                out = model(**tokenizer([text.strip()], return_tensors="pt"), pixel_values=pixels)
            cosines.append(float(out.image_embeds[0] @ out.text_embeds[0]))
        assert row["similarities"] == pytest.approx(cosines, abs=2e-5)
        assert cosines[row["candidate"]] == pytest.approx(max(cosines), abs=2e-5)
        assert row["caption"] == texts[row["candidate"]], "kept as the captioner gave it"
    assert chosen[2]["candidate"] == 0, "of equal candidates the first"
    assert chosen[0]["caption"].strip() == chosen[4]["caption"], "the same image, other order"
    perf = read_json(shard / "perf.json")
    assert (perf["items"], perf["candidates"]) == (5, 13)
    assert perf["not_the_first"] == sum(row["candidate"] > 0 for row in chosen) > 0


def test_the_choice_depends_on_no_batch(shard, clip):
    assert choose(shard, clip, batch_size=1) == choose(shard, clip, batch_size=64)


def test_the_chosen_file_is_one_of_captions(shard, clip):
    choose(shard, clip)
    apply_policy(
        shard / "records.jsonl",
        policy="replace",
        out=shard / "text.jsonl",
        captions=shard / "chosen.jsonl",
        captioner="blip2",
    )
    texts = [row["text"] for row in read_jsonl(shard / "text.jsonl")]
    assert texts[3] == "<__dj__image> sign <|__dj__eoc|>"


def test_captions_without_candidates_and_foreign_ones_are_refused(shard, clip):
    for bad in ([], "a dog", ["a dog", 3], None):
        write_jsonl(
            shard / "captions.jsonl",
            [{"id": f"r{n}", "caption": "a", "candidates": bad} for n in range(5)],
        )
        with pytest.raises(RecapError, match="id 'r0'"):
            choose(shard, clip)
    write_candidates(shard, CANDIDATES[:4])
    with pytest.raises(RecapError, match="differs from record 5"):
        choose(shard, clip)


def test_an_empty_shard_has_no_choice(shard, clip):
    for name in ("records.jsonl", "captions.jsonl"):
        (shard / name).write_text("")
    assert choose(shard, clip) == []
