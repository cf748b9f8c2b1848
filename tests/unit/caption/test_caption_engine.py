"""The engine against ``generate``, and what it promises about batches and candidates."""

import numpy as np
import pytest
import torch
from caption_models import END, build
from PIL import Image

from recap.caption.decoding import StepDecoder, choose_decoder
from recap.caption.engine import Captioner
from recap.caption.opt import OptDecoder
from recap.caption.sampling import DecodingRule, candidate_uniforms
from recap.errors import RecapError
from recap.settings import CaptionSettings

KINDS = {
    "opt": ("blip-2", "opt", None),
    "opt with prompt": ("blip-2", "opt", "w1 w2"),
    "flan-t5": ("blip-2", "t5", None),
    "instruct vicuna": ("instructblip", "llama", "w1 w2 w3"),
    "instruct flan-t5": ("instructblip", "t5", "w1 w2 w3"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def get(family, text):
        if (family, text) not in made:
            made[family, text] = build(tmp_path_factory.mktemp("model"), family, text)
        return made[family, text]

    return get


def pictures(count):
    rng = np.random.default_rng(5)
    found = []
    for index in range(count):
        pixels = np.zeros((18 + index % 4, 22, 3), dtype=np.uint8)
        pixels[:, : 2 + 3 * (index % 7)] = rng.integers(0, 255, 3)
        found.append(Image.fromarray(pixels))
    return found


def captioner(model, **changes):
    given = {"dtype": "float32", "max_new_tokens": 7, "batch_size": 4, **changes}
    return Captioner(model, CaptionSettings(**given), device="cpu")


def plain_generate(model, images, prompt, **options):
    """The documented call of ``transformers``, one image at a time."""
    import transformers

    kind = transformers.AutoConfig.from_pretrained(model)
    name = {"blip-2": "Blip2", "instructblip": "InstructBlip"}[kind.model_type]
    loaded = getattr(transformers, f"{name}ForConditionalGeneration").from_pretrained(model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    text = kind.text_config
    words = tokenizer(prompt)["input_ids"] if prompt else []
    if not prompt and not text.is_encoder_decoder:
        words = [text.bos_token_id]
    ids = torch.tensor([[3] * kind.num_query_tokens + words])
    extra = {}
    if name == "InstructBlip":
        extra["qformer_input_ids"] = torch.tensor([words])
        extra["qformer_attention_mask"] = torch.ones(1, len(words), dtype=torch.long)
    captions = []
    for image in images:
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            out = loaded.generate(
                pixel_values=pixels,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=7,
                eos_token_id=END,
                pad_token_id=0,
                **extra,
                **options,
            )[0]
        if out[: ids.shape[1]].tolist() == ids[0].tolist():
            out = out[ids.shape[1] :]
        captions.append(tokenizer.decode(out, skip_special_tokens=True))
    return captions


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_family_captions_as_the_plain_call(models, kind, beams):
    family, text, prompt = KINDS[kind]
    images = pictures(5)
    engine = captioner(models(family, text), prompt=prompt, num_beams=beams)
    found = engine.caption(images, [str(i) for i in range(5)])
    wanted = plain_generate(models(family, text), images, prompt, num_beams=beams)
    assert [row[0] for row in found] == wanted
    assert len(set(wanted)) > 1


def test_opt_takes_the_fast_path_and_others_do_not(models):
    rule = DecodingRule(5, (END,), 0)
    for text, kind in (("opt", OptDecoder), ("t5", StepDecoder)):
        language = captioner(models("blip-2", text))._model.language_model
        assert type(choose_decoder(language, rule, num_beams=1)) is kind


def test_ends_and_padding_of_the_fast_path(models):
    """Rows stop at their own end token; all having ended, no more steps are made."""
    language = captioner(models("blip-2", "opt"))._model.language_model
    prefix = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(1))
    free = OptDecoder(language, DecodingRule(9, (10**6,), 0), graphs=False)
    with torch.inference_mode():
        tokens = free.decode(prefix, None).clone()
    assert tokens.shape == (3, 9)
    ends = tuple({int(tokens[0, 2]), int(tokens[1, 4]), int(tokens[2, 0])})
    with torch.inference_mode():
        stopped = OptDecoder(language, DecodingRule(9, ends, 63), graphs=False).decode(prefix, None)
    places = [min(i for i in range(9) if int(row[i]) in ends) for row in tokens]
    assert stopped.shape[1] == max(places) + 1
    for row, free_row, place in zip(stopped, tokens, places, strict=True):
        assert row[: place + 1].tolist() == free_row[: place + 1].tolist()
        assert set(row[place + 1 :].tolist()) <= {63}


def test_the_stacked_weights_leave_generate_as_it_was(models):
    model = models("blip-2", "opt")
    language = captioner(model)._model.language_model
    attention = language.model.decoder.layers[0].self_attn
    before = attention.k_proj.weight.clone()
    OptDecoder(language, DecodingRule(3, (END,), 0), graphs=False)
    assert torch.equal(before, attention.k_proj.weight)


@pytest.mark.parametrize("text", ["opt", "t5"])
def test_candidates_depend_on_nothing_but_image_and_seed(models, text):
    images = pictures(9)
    keys = [f"image{i}" for i in range(9)]
    model = models("blip-2", text)
    together = captioner(model, candidates=3, batch_size=27).caption(images, keys)
    alone = captioner(model, candidates=3, batch_size=3).caption(images, keys)
    order = [4, 0, 8, 2, 6, 1, 3, 7, 5]
    shuffled = captioner(model, candidates=3, batch_size=7).caption(
        [images[i] for i in order], [keys[i] for i in order]
    )
    assert together == alone == [shuffled[order.index(i)] for i in range(9)]
    assert all(len(row) == 3 for row in together)
    greedy = captioner(model).caption(images, keys)
    assert [row[0] for row in together] == [row[0] for row in greedy]
    assert any(row[0] != row[1] for row in together)
    other = captioner(model, candidates=3, batch_size=27, seed=7).caption(images, keys)
    assert [row[1:] for row in other] != [row[1:] for row in together]


def test_sampled_tokens_have_the_probabilities_of_the_softmax():
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0, 2.5]])
    rule = DecodingRule(1, (0,), 0, temperature=2.0, top_k=3)
    uniform = torch.linspace(0, 1, 100_001)[:-1]
    tokens = rule.choose(logits.expand(len(uniform), -1), uniform)
    kept = {1: 3.0, 4: 2.5, 2: 2.0}
    total = sum(np.exp(value / 2) for value in kept.values())
    for token, value in kept.items():
        share = float((tokens == token).float().mean())
        assert share == pytest.approx(np.exp(value / 2) / total, abs=2e-5)
    assert rule.choose(logits, torch.zeros(1)).item() == 1
    assert rule.choose(logits, None).item() == 1


def test_uniform_numbers_are_uniform_and_an_image_s_own():
    keys = [f"k{i}" for i in range(400)]
    rows = candidate_uniforms(keys, candidates=3, steps=20, seed=1).reshape(400, 3, 20)
    assert (rows[:, 0] == 0).all()
    drawn = rows[:, 1:].reshape(-1)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / drawn.size) ** 0.5
    again = candidate_uniforms(keys[::-1], candidates=3, steps=20, seed=1).reshape(400, 3, 20)
    assert np.array_equal(again[::-1], rows)
    assert len(np.unique(drawn)) > 0.99 * drawn.size


def test_below_float32_neighbours_do_not_matter(models):
    """Batches are filled to one size, so that a product's rounding is always the same."""
    images = pictures(8)
    model = models("blip-2", "opt")
    keys = [str(i) for i in range(8)]
    engine = captioner(model, dtype="bfloat16", batch_size=4)
    first = engine.caption(images, keys)
    order = [7, 2, 5, 0, 3, 6, 1, 4]
    mixed = engine.caption([images[i] for i in order], [keys[i] for i in order])
    alone = [engine.caption([image], [key])[0] for image, key in zip(images, keys, strict=True)]
    assert first == [mixed[order.index(i)] for i in range(8)] == alone


def test_a_batch_that_does_not_fit_is_halved_for_good(models, caplog):
    engine = captioner(models("blip-2", "opt"), batch_size=8)
    wanted = engine.caption(pictures(13), [str(i) for i in range(13)])
    decode, sizes = engine._decoder.decode, []

    def small(prefix, uniform):
        sizes.append(len(prefix))
        if len(prefix) > 3:
            raise torch.cuda.OutOfMemoryError
        return decode(prefix, uniform)

    engine._decoder.decode = small
    assert engine.caption(pictures(13), [str(i) for i in range(13)]) == wanted
    assert engine.images_per_batch == 2
    assert sizes[:3] == [8, 4, 2] and max(sizes[2:]) == 2
    assert "do not fit the GPU" in caplog.text


def test_what_does_not_fit_alone_is_an_error(models):
    engine = captioner(models("blip-2", "opt"), batch_size=1)

    def never(prefix, uniform):
        raise torch.cuda.OutOfMemoryError

    engine._decoder.decode = never
    with pytest.raises(RecapError, match="one image does not fit"):
        engine.caption(pictures(1), ["a"])


def test_instructions_need_a_prompt(models):
    with pytest.raises(RecapError, match="follows instructions"):
        captioner(models("instructblip", "t5"))


def test_another_kind_of_model_is_refused(tmp_path):
    from transformers import BertConfig
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    BertConfig().save_pretrained(tmp_path)
    BlipImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(RecapError, match="'bert' model"):
        captioner(tmp_path)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="num_beams"):
        CaptionSettings(candidates=2, num_beams=2)
    with pytest.raises(ValueError, match="batch_size"):
        CaptionSettings(candidates=5, batch_size=4)
