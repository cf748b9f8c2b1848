"""Answers from shared prompts over a static cache, against the library's own forward pass."""

import dataclasses

import pytest
import torch

from recap.mgm import answering
from recap.mgm.answering import PlainEngine, Prompts, SharingEngine, choose_engine, split_prompt
from recap.mgm.checkpoint import build_model
from recap.mgm.decoder import CachedDecoder, suits
from recap.mgm.micro import write_micro_parts

TEMPLATES = ("gemma", "vicuna_v1", "mistral_instruct", "llama_3")
STOPS = (1, 7)
LONG = 20


@pytest.fixture(scope="module", params=TEMPLATES)
def model(request, tmp_path_factory):
    """Return a micro model of each family whose answers differ from prompt to prompt."""
    root = tmp_path_factory.mktemp("answering") / request.param
    parts = write_micro_parts(root, seed=2, layers=2, hidden_size=64, conversation=request.param)
    built = build_model(parts, dtype="float32", seed=2)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if weight.ndim > 1 and "language_model" in name and "embed" not in name:
                weight.mul_(6.0)
    return built.eval()


def prompts(model, counts=(3, 1, 2), lengths=(2, 9, 4, 1, 17, 6), before=5) -> Prompts:
    generator = torch.Generator().manual_seed(11)
    vocabulary = model.config.vocab_size

    def some(count):
        return torch.randint(10, vocabulary, (count,), generator=generator).tolist()

    size = model.config.image_size_aux
    pixels = torch.randint(0, 256, (len(counts), 3, size, size), generator=generator).byte()
    with torch.inference_mode():
        features = model.encode_images(pixels)
    owner = [index for index, count in enumerate(counts) for _ in range(count)]
    return Prompts(some(before), features, owner, [some(length) for length in lengths])


def text_only(model, lengths=(3, 12, 1)) -> Prompts:
    return Prompts([], None, [], prompts(model, lengths=lengths).after)


def answer(engine, asked: Prompts) -> list[list[int]]:
    return engine.finish(engine.begin(asked))


def one_by_one(engine, asked: Prompts) -> list[list[int]]:
    found = []
    for row, ids in enumerate(asked.after):
        shown = asked.pictures is not None
        picture = asked.pictures[[asked.owner[row]]] if shown else None
        found += answer(engine, Prompts(asked.before, picture, [0] if shown else [], [ids]))
    return found


def test_a_batch_answers_like_the_library_one_by_one(model):
    for asked in (prompts(model), text_only(model)):
        wanted = one_by_one(PlainEngine(model, STOPS, LONG), asked)
        assert answer(PlainEngine(model, STOPS, LONG), asked) == wanted
        sharing = SharingEngine(model, STOPS, LONG, rows=8)
        assert answer(sharing, asked) == wanted
        assert one_by_one(sharing, asked) == wanted
        assert len({tuple(row) for row in wanted}) > 1


def test_one_engine_answers_batch_after_batch(model):
    engine, plain = SharingEngine(model, STOPS, LONG, rows=8), PlainEngine(model, STOPS, LONG)
    several = [prompts(model), text_only(model), prompts(model, (1, 1), (40, 2)), prompts(model)]
    for asked in several:
        assert answer(engine, asked) == answer(plain, asked)


def test_parts_of_a_batch_change_nothing(model, monkeypatch):
    asked = prompts(model)
    whole = answer(SharingEngine(model, STOPS, LONG, rows=8), asked)
    monkeypatch.setattr(answering, "TOKENS_A_PASS", 20)
    assert answer(SharingEngine(model, STOPS, LONG, rows=8), asked) == whole


def test_answers_longer_than_the_cache_was_made_for(model, monkeypatch):
    monkeypatch.setattr(answering, "_FIRST_ROOM", 3)
    asked = prompts(model)
    found = answer(SharingEngine(model, (), LONG, rows=8), asked)
    assert found == answer(PlainEngine(model, (), LONG), asked)
    assert {len(row) for row in found} == {LONG}


def test_a_row_ends_at_its_first_stop(model):
    asked = prompts(model)
    free = answer(SharingEngine(model, (), LONG, rows=8), asked)
    stop = free[0][3]
    stopped = answer(SharingEngine(model, (stop,), LONG, rows=8), asked)
    for row, whole in zip(stopped, free, strict=True):
        assert row == (whole[: whole.index(stop) + 1] if stop in whole else whole)


def test_logits_of_each_pass_equal_the_library_s(model):
    """Also where the last layers leave out what nothing reads."""
    asked = prompts(model, (1,), (6,))
    decoder = CachedDecoder(model.language_model)
    embedding = model.get_input_embeddings()
    with torch.inference_mode():
        before = embedding(torch.tensor([asked.before]))
        shared = torch.cat([before, model.scale_features(asked.pictures)], dim=1)
        tokens = torch.tensor([asked.after[0]])
        caches = decoder.cache(1, shared.shape[1] + 8, shared)
        owner, length = torch.tensor([0]), torch.tensor([5])
        decoder.read_shared(shared, caches, owner)
        first = decoder.read_own(embedding(tokens[:, :5]), length, caches, shared.shape[1])
        second = decoder.step(tokens[:, 5], length + shared.shape[1], caches)
        whole = torch.cat([shared, embedding(tokens)], dim=1)
        logits = model.language_model(inputs_embeds=whole).logits[0]
    torch.testing.assert_close(first[0], logits[-2], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(second[0], logits[-1], rtol=1e-4, atol=2e-5)
    assert logits.abs().max() > 0.3


def test_other_language_models_are_answered_plainly(model, monkeypatch):
    assert isinstance(choose_engine(model, STOPS, 4, rows=2), SharingEngine)
    config = type(model.language_model.config)(**model.language_model.config.to_dict())
    monkeypatch.setattr(model.language_model, "config", config)
    config.model_type = "olmo"
    assert not suits(model.language_model)
    assert isinstance(choose_engine(model, STOPS, 4, rows=2), PlainEngine)


def test_a_prompt_is_split_at_its_picture():
    assert split_prompt([2, 5, -200, 6, 7]) == ([2, 5], [6, 7])
    assert split_prompt([2, 5]) == ([], [2, 5])


def test_a_group_with_its_own_beginning_shares_it_alone(model):
    asked = prompts(model)
    other = dataclasses.replace(asked, before=[*asked.before, 12])
    plain = PlainEngine(model, STOPS, LONG)
    assert answer(SharingEngine(model, STOPS, LONG, rows=8), other) == answer(plain, other)


@pytest.mark.slow
def test_compiled_parts_answer_alike(model):
    """Layers share one compiled form, whatever the length of the prompts."""
    engine = choose_engine(model, STOPS, LONG, rows=8, compiled=True)
    torch._dynamo.utils.counters.clear()
    for asked in (prompts(model), text_only(model), prompts(model, (1, 1), (40, 2))):
        assert answer(engine, asked) == answer(PlainEngine(model, STOPS, LONG), asked)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8
