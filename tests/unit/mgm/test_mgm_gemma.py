"""Gemma itself against float64 formulas, and its masks against upstream's way to them."""

import random

import mgm_oracles as oracle
import numpy as np
import pytest
import torch
from mgm_adapters import KINDS

from recap.errors import RecapError
from recap.mgm.conversation import encode_sample
from recap.mgm.lora import add_lora

HEADER = "<start_of_turn>model\n"


@pytest.fixture
def model(mgm_model):
    """The micro model with norms that are not zero, so that 1 + weight shows."""
    torch.manual_seed(oracle.fresh_seed())
    for name, parameter in mgm_model.language_model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 0, 0.3)
        elif "embed" not in name:
            parameter.data.mul_(0.3)  # calmer: float32 sums stay within 1e-5 of the formula
    return mgm_model


def scaled_embeddings(model, ids):
    table = oracle.double(model.get_input_embeddings().weight)
    return table[ids] * np.sqrt(table.shape[1])


def test_the_decoder_is_the_float64_formula(model):
    ids = np.random.default_rng().integers(0, 358, 40)
    with torch.no_grad():
        found = model.language_model(input_ids=torch.from_numpy(ids)[None]).logits[0]
    oracle.close(found, oracle.gemma_logits(model.language_model, scaled_embeddings(model, ids)))


def test_the_exact_gelu_would_be_another_model(model):
    """transformers 4.38 reads ``hidden_act: gelu`` as the exact one."""
    embeddings = scaled_embeddings(model, np.arange(4, 40))
    tanh = oracle.gemma_logits(model.language_model, embeddings)
    exact = oracle.gemma_logits(model.language_model, embeddings, activation=oracle.gelu)
    assert np.abs(tanh - exact).max() > 1e-4 * np.abs(tanh).max()


def test_a_picture_s_answer_is_the_float64_formula(model):
    """From pixels and ids to logits: towers, mining, projector, splicing, scaling, decoder."""
    ids, table = [2, 106, -200, 60, 70, 107], oracle.double(model.get_input_embeddings().weight)
    pictures = torch.randn(1, 3, 128, 128)
    features = oracle.encoded(model, oracle.double(pictures))
    scale = np.sqrt(table.shape[1])
    woven, *_ = oracle.spliced([ids], [ids], table, features, scale, 1000, "right")
    tokens = torch.tensor([ids])
    with torch.no_grad():
        found = model(tokens, torch.ones_like(tokens), images_aux=pictures).logits[0]
    oracle.close(found, oracle.gemma_logits(model.language_model, woven[0]))


def test_an_adapter_adds_twice_b_a(model):
    add_lora(model, KINDS["LoRA"], seed=0)
    sums = {}
    for name, module in model.language_model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = (getattr(module, f"lora_{k}")["default"].weight for k in "AB")
            torch.nn.init.normal_(b, 0, 0.05)
            sums[name] = oracle.double(module.base_layer.weight)
            sums[name] = sums[name] + 32 / 16 * oracle.double(b) @ oracle.double(a)
    ids = np.random.default_rng().integers(0, 358, 20)
    with torch.no_grad():
        found = model.eval().language_model(input_ids=torch.from_numpy(ids)[None]).logits[0]
        for name, total in sums.items():
            parent, _, child = name.rpartition(".")
            plain = torch.nn.Linear(*total.shape[::-1], bias=False).double()
            plain.weight.data = torch.from_numpy(total)
            setattr(model.language_model.get_submodule(parent), child, plain)
    oracle.close(found, oracle.gemma_logits(model.language_model, scaled_embeddings(model, ids)))


# masks


def image_ids(tokenizer, text):
    """LLaVA's ``tokenizer_image_token``."""
    chunks = [tokenizer(chunk).input_ids for chunk in text.split("<image>")]
    ids = chunks[0][:1]
    for number, chunk in enumerate(chunks):
        ids += ([-200] if number else []) + chunk[1:]
    return ids


def gemma_oracle(tokenizer, rounds):
    """Upstream's ``preprocess_gemma``: rounds end in ``<eos>``, all up to the header is ignored."""
    text = "".join(
        f"<start_of_turn>user\n{question}<end_of_turn>\n{HEADER}{answer}<end_of_turn>\n<eos>"
        for question, answer in rounds
    )
    ids = image_ids(tokenizer, text)
    labels, at = [-100] * len(ids), 1
    for part in text.split("<eos>"):
        if not part:
            break
        instruction, _ = part.split(HEADER)
        whole = len(image_ids(tokenizer, part)) - 1 + 1  # its own BOS out, the <eos> it lost in
        ignored = len(image_ids(tokenizer, instruction + HEADER)) - 1
        labels[at + ignored : at + whole] = ids[at + ignored : at + whole]
        at += whole
    assert at == len(ids)
    return ids, labels


def sample(rounds):
    return [
        {"from": role, "value": text}
        for question, answer in rounds
        for role, text in (("human", question), ("gpt", answer))
    ]


def test_masks_of_random_rounds_are_upstream_s(mgm_tokenizer):
    draw = random.Random(oracle.fresh_seed())
    words = ["dog", "What", "is", "it?", "a", "model", "2.5", "x\ny", "é", "{z}", "  ", "user\n"]

    def text():
        return " ".join(draw.choices(words, k=draw.randint(1, 6)))

    for trial in range(60):
        rounds = [(text(), text()) for _ in range(draw.randint(1, 4))]
        if trial % 2:
            rounds[0] = (f"<image>\n{rounds[0][0].strip()}".strip(), rounds[0][1])
        ids, labels = gemma_oracle(mgm_tokenizer, rounds)
        assert encode_sample(sample(rounds), mgm_tokenizer) == (ids, labels)
        assert ids.count(2) == 1
        limit = draw.randint(1, len(ids))
        cut = encode_sample(sample(rounds), mgm_tokenizer, max_length=limit)
        assert cut == (ids[:limit], labels[:limit])


@pytest.mark.parametrize("text", ["<bos>", "<pad>", "<eos>", "<start_of_turn>", "<end_of_turn>"])
def test_special_tokens_in_a_turn_are_refused(mgm_tokenizer, text):
    for rounds in ([(f"a {text} b", "c")], [("a", f"b{text}")]):
        with pytest.raises(RecapError, match="reserves"):
            encode_sample(sample(rounds), mgm_tokenizer)
