"""Samples that share a row see nothing of each other."""

import pytest
import torch
from transformers import masking_utils

from recap.mgm.conversation import encode_sample, pad_token_id
from recap.mgm.splicing import mask_packed
from recap.train.collate import Collator

TEXTS = [
    ("<image>\nWhat is it?", "A dog."),
    ("Hello there", "a longer answer of words"),
    ("Hi", "!"),
    ("<image>\nA question of several words?", "yes"),
]


def encoded(tokenizer, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for question, answer in TEXTS:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        ids, labels = encode_sample(turns, tokenizer)
        picture = torch.randn(3, 128, 128, generator=draw) if "<image>" in question else None
        samples.append({"input_ids": ids, "labels": labels, "image": picture})
    return samples


def trained(model):
    model.set_trainable("pretrain")
    model.train()
    return [p for p in model.parameters() if p.requires_grad]


def loss_and_gradients(model, batch):
    loss = model(**batch, num_items_in_batch=10).loss
    return loss, torch.autograd.grad(loss, trained(model), allow_unused=True)


@pytest.mark.parametrize("rows", [[[0, 1], [2, 3]], [[0, 1, 2, 3]], [[1, 2], [0], [3]]])
def test_packed_rows_have_the_loss_and_gradient_of_single_ones(mgm_model, mgm_tokenizer, rows):
    samples = encoded(mgm_tokenizer)
    collate = Collator(pad_token_id(mgm_tokenizer), mgm_model.config.image_tokens, 4096)
    trained(mgm_model)
    plain = loss_and_gradients(mgm_model, collate(samples))
    packed = collate([[samples[index] for index in row] for row in rows])
    assert packed["layout"].packed
    assert len(packed["layout"].source) == len(rows)
    found = loss_and_gradients(mgm_model, packed)
    torch.testing.assert_close(found[0], plain[0], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found[1], plain[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_mask_of_packed_rows_is_transformers_own_and_asks_the_device_nothing(
    mgm_model, mgm_tokenizer, monkeypatch
):
    samples = encoded(mgm_tokenizer)
    batch = Collator(0, mgm_model.config.image_tokens, 4096)(
        [[samples[1], samples[3]], [samples[0]]]
    )
    places, decoder = batch["layout"].position_ids, mgm_model.language_model.config
    wanted = masking_utils.create_causal_mask(
        config=decoder, inputs_embeds=torch.zeros(*places.shape, 1), attention_mask=None,
        past_key_values=None, position_ids=places,
    )  # fmt: skip
    assert torch.equal(mask_packed(places), wanted)
    expected = mgm_model(**batch).loss
    monkeypatch.delattr(masking_utils, "find_packed_sequence_indices")
    torch.testing.assert_close(mgm_model(**batch).loss, expected)


def test_a_left_padding_tokenizer_does_not_join_packed_samples(
    mgm_model, mgm_tokenizer, monkeypatch
):
    samples = encoded(mgm_tokenizer)
    batch = Collator(0, mgm_model.config.image_tokens)([[samples[1], samples[3]], [samples[0]]])
    expected = mgm_model(**batch).loss
    monkeypatch.setattr(mgm_model.config, "tokenizer_padding_side", "left")
    torch.testing.assert_close(mgm_model(**batch).loss, expected)


def test_positions_and_labels_start_anew_in_a_packed_row(mgm_model, mgm_tokenizer):
    samples = encoded(mgm_tokenizer)
    samples[2] = replace_labels(samples[2])
    layout = Collator(0, mgm_model.config.image_tokens)([[samples[1], samples[2]]])["layout"]
    lengths = [len(samples[1]["input_ids"]), len(samples[2]["input_ids"])]
    assert layout.position_ids[0].tolist() == [*range(lengths[0]), *range(lengths[1])]
    # the first token of the second sample is never predicted by the last of the first
    assert layout.labels[0, lengths[0]] == -100
    supervised = sum(label != -100 for sample in samples[1:3] for label in sample["labels"][1:])
    assert len(layout.targets) == len(layout.supervised) == supervised


def replace_labels(sample):
    return {**sample, "labels": [sample["input_ids"][0], *sample["labels"][1:]]}


def test_a_sample_s_loss_does_not_depend_on_its_neighbour(mgm_model, mgm_tokenizer):
    samples = encoded(mgm_tokenizer)
    silent = {**samples[1], "labels": [-100] * len(samples[1]["labels"])}
    other = {**silent, "input_ids": [7] * len(silent["input_ids"])}
    collate = Collator(0, mgm_model.config.image_tokens)
    losses = [
        mgm_model(**collate([[before, samples[3]]]), num_items_in_batch=1).loss.item()
        for before in (silent, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    alone = mgm_model(**collate([samples[3]]), num_items_in_batch=1).loss.item()
    assert losses[0] == pytest.approx(alone, rel=1e-5)


def test_a_layout_is_what_the_model_would_make_itself(mgm_model, mgm_tokenizer):
    batch = Collator(0, mgm_model.config.image_tokens, 4096)(encoded(mgm_tokenizer))
    with_layout = mgm_model(**batch).loss
    del batch["layout"]
    assert torch.equal(mgm_model(**batch).loss, with_layout)


@pytest.mark.parametrize("packed", [False, True])
def test_padding_to_a_multiple_changes_no_loss_and_no_gradient(mgm_model, mgm_tokenizer, packed):
    rows = encoded(mgm_tokenizer)
    rows = [[rows[1], rows[3]], [rows[0]]] if packed else rows
    trained(mgm_model)
    found = []
    for multiple in (1, 16):
        collate = Collator(0, mgm_model.config.image_tokens, 4096, multiple)
        batch = collate(rows)
        found.append((batch["layout"].source.shape[1], *loss_and_gradients(mgm_model, batch)))
    (width, loss, gradients), (wider, same_loss, same_gradients) = found
    assert wider % 16 == 0
    assert width < wider < width + 16
    torch.testing.assert_close(same_loss, loss, rtol=1e-6, atol=0)
    for ours, theirs in zip(same_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
