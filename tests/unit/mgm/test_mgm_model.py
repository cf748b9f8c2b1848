from dataclasses import replace

import mgm_oracles as oracle
import numpy as np
import pytest
import torch

from recap.errors import RecapError
from recap.mgm.conversation import IGNORE_INDEX, encode_prompt, encode_sample
from recap.mgm.loss import POSITIONS_PER_CHUNK, supervised_loss
from recap.mgm.modeling import PROJECTOR_MODULES
from recap.mgm.splicing import splice

TOKENS = 64  # image tokens of the micro CLIP


def images(count, seed=0):
    return torch.randn(count, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def collate(rows, side="right", pad=0):
    longest = max(map(len, rows))
    filled = [
        row + [pad] * (longest - len(row))
        if side == "right"
        else [pad] * (longest - len(row)) + row
        for row in rows
    ]
    return torch.tensor(filled)


def prompts(tokenizer, *texts):
    rows = [encode_prompt(text, tokenizer) for text in texts]
    ids = collate(rows)
    return ids, torch.tensor([[i < len(row) for i in range(ids.shape[1])] for row in rows]).long()


def samples(tokenizer, *pairs):
    encoded = [
        encode_sample([{"from": "human", "value": q}, {"from": "gpt", "value": a}], tokenizer)
        for q, a in pairs
    ]
    ids = collate([row for row, _ in encoded])
    mask = collate([[1] * len(row) for row, _ in encoded])
    return ids, mask, collate([row for _, row in encoded], pad=IGNORE_INDEX)


def test_image_features_are_scaled_like_token_embeddings(mgm_model):
    """Gemma multiplies the whole sequence by sqrt(hidden), pictures included."""
    embedding = mgm_model.get_input_embeddings()
    ids = torch.tensor([[5, 9, 300]])
    factor = embedding(ids) / embedding.weight[ids]
    torch.testing.assert_close(factor, torch.full_like(factor, 128**0.5))
    features = torch.randn(1, 3, 128)
    torch.testing.assert_close(mgm_model.scale_features(features), features * 128**0.5)
    batch = mgm_model.prepare_inputs(
        torch.tensor([[2, -200, 5]]), torch.ones(1, 3), image_features=features
    )
    torch.testing.assert_close(batch.embeddings[:, 1:4], features * 128**0.5)


def test_the_decoder_itself_does_not_scale(mgm_model):
    """Were it to scale embeddings again, our scaling would count twice."""
    ids = torch.tensor([[2, 5, 9]])
    decoder = mgm_model.language_model.model
    by_ids = decoder(input_ids=ids).last_hidden_state
    by_embeddings = decoder(inputs_embeds=decoder.embed_tokens(ids)).last_hidden_state
    torch.testing.assert_close(by_ids, by_embeddings)


def test_gelu_is_the_tanh_form_and_recorded(mgm_model):
    act = mgm_model.language_model.model.layers[0].mlp.act_fn
    x = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(act(x), torch.nn.functional.gelu(x, approximate="tanh"))
    assert mgm_model.config.text_config.hidden_act == "gelu_pytorch_tanh"


def test_encoding_is_the_float64_formula(mgm_model):
    """Towers, mining, the residual on the raw CLIP feature, projector."""
    pictures = images(2, seed=oracle.fresh_seed())
    with torch.no_grad():
        found = mgm_model.encode_images(pictures)
    assert found.shape == (2, TOKENS, 128)
    oracle.close(found, oracle.encoded(mgm_model, oracle.double(pictures)))
    with pytest.raises(RecapError, match="pictures must be"):
        mgm_model.encode_images(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("side", ["right", "left"])
def test_splicing_by_hand(side):
    hidden = 4
    ids = torch.tensor([[2, -200, 7, 8], [2, 5, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, -100, -100]])
    tokens = torch.arange(32.0).reshape(2, 4, hidden)
    pictures = 100 + torch.arange(12.0).reshape(1, 3, hidden)
    done = splice(ids, mask, tokens, pictures, labels, max_length=5, padding_side=side)
    first = torch.cat([tokens[0, :1], pictures[0], tokens[0, 2:3]])  # cut after expansion
    assert torch.equal(done.embeddings[0], first)
    assert done.labels[0].tolist() == [-100, -100, -100, -100, 7]
    blank = torch.zeros(3, hidden)
    second = [tokens[1, :2], blank] if side == "right" else [blank, tokens[1, :2]]
    assert torch.equal(done.embeddings[1], torch.cat(second))
    if side == "right":
        assert done.attention_mask.tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
        assert done.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 0, 0]]
        assert done.labels[1].tolist() == [-100, 5, -100, -100, -100]
    else:
        assert done.attention_mask.tolist() == [[1] * 5, [0, 0, 0, 1, 1]]
        assert done.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]
        assert done.labels[1].tolist() == [-100, -100, -100, -100, 5]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("limit", [1000, 75, 9])
def test_the_decoder_s_input_is_the_float64_formula(mgm_model, side, limit):
    """Whole sequence scaled, pictures woven in batch order, cut, padded, counted."""
    random = np.random.default_rng()
    generator = torch.Generator().manual_seed(oracle.fresh_seed())
    rows, labels, pictures = [], [], 0
    for index in range(5):
        ids = random.integers(4, 300, int(random.integers(3, 20))).tolist()
        targets = [token if random.random() < 0.5 else IGNORE_INDEX for token in ids]
        if index != 2:
            place = int(random.integers(len(ids)))
            ids[place], targets[place] = -200, IGNORE_INDEX
            pictures += 1
        rows.append(ids)
        labels.append(targets)
    features = torch.randn(pictures, TOKENS, 128, generator=generator)
    mask = collate([[1] * len(row) for row in rows])
    mgm_model.config.tokenizer_model_max_length = limit
    with torch.no_grad():
        found = mgm_model.prepare_inputs(
            collate(rows), mask, collate(labels, pad=IGNORE_INDEX), image_features=features,
            padding_side=side,
        )  # fmt: skip
    table = oracle.double(mgm_model.get_input_embeddings().weight)
    scale = np.sqrt(table.shape[1])
    wanted = oracle.spliced(rows, labels, table, oracle.double(features), scale, limit, side)
    oracle.close(found.embeddings, wanted[0])
    for ours, theirs in zip(
        (found.attention_mask, found.position_ids, found.labels), wanted[1:], strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_splicing_accepts_left_padded_input():
    tokens = torch.randn(2, 4, 3)
    flipped = tokens[:, [2, 3, 0, 1]]
    ids, left = torch.tensor([[2, 5, 0, 0]] * 2), torch.tensor([[0, 0, 2, 5]] * 2)
    options = {"max_length": 9, "padding_side": "right"}
    one = splice(ids, (ids > 0).long(), tokens, None, None, **options)
    two = splice(left, (left > 0).long(), flipped, None, None, **options)
    assert torch.equal(one.embeddings, two.embeddings)
    assert torch.equal(one.position_ids, two.position_ids)


def test_pictures_and_image_tokens_must_agree(mgm_model):
    ids = torch.tensor([[2, -200, 5]])
    with pytest.raises(RecapError, match="1 image tokens but 0 pictures"):
        mgm_model(ids, torch.ones_like(ids))
    with pytest.raises(RecapError, match="1 image tokens but 2 pictures"):
        mgm_model(ids, torch.ones_like(ids), images_aux=images(2))


def test_loss_equals_cross_entropy_over_all_positions(mgm_model, mgm_tokenizer):
    ids, mask, labels = samples(
        mgm_tokenizer, ("<image>\nWhat?", "A dog."), ("Hello", "a longer answer of words")
    )
    batch = mgm_model.prepare_inputs(ids, mask, labels, images(1))
    logits = mgm_model(ids, mask, images_aux=images(1)).logits
    assert logits.shape[:2] == batch.labels.shape
    logits = logits.detach().double().numpy()[:, :-1]
    targets = batch.labels[:, 1:].numpy()
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = targets != IGNORE_INDEX
    wanted = -np.take_along_axis(logs, np.where(chosen, targets, 0)[..., None], -1)[..., 0]
    found = mgm_model(ids, mask, labels, images(1))
    assert found.logits is None
    np.testing.assert_allclose(found.loss.item(), wanted[chosen].mean(), rtol=1e-5)
    given = mgm_model(ids, mask, labels, images(1), num_items_in_batch=1000).loss.item()
    np.testing.assert_allclose(given, wanted[chosen].sum() / 1000, rtol=1e-5)


def test_loss_in_chunks_has_the_same_value_and_gradient():
    torch.manual_seed(0)
    length = 2 * POSITIONS_PER_CHUNK + 40
    head = torch.nn.Linear(8, 50, bias=False)
    labels = torch.randint(0, 50, (1, length))
    hidden = torch.randn(1, length, 8, requires_grad=True)
    loss = supervised_loss(hidden, labels, head)
    wanted = torch.nn.functional.cross_entropy(head(hidden[0, :-1]), labels[0, 1:])
    torch.testing.assert_close(loss, wanted)
    ours = torch.autograd.grad(loss, [hidden, head.weight])
    theirs = torch.autograd.grad(wanted, [hidden, head.weight])
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_sample_without_supervision_gives_zero_not_nan(mgm_model, mgm_tokenizer):
    ids, mask, labels = samples(mgm_tokenizer, ("<image>\nWhat?", "A dog."))
    mgm_model.set_trainable("pretrain")
    mgm_model.train()
    loss = mgm_model(ids, mask, torch.full_like(labels, IGNORE_INDEX), images(1)).loss
    assert loss.item() == 0
    loss.backward()


def test_text_only_batches_keep_every_trained_weight_in_the_graph(mgm_model, mgm_tokenizer):
    ids, mask, labels = samples(mgm_tokenizer, ("Hello", "Ho"))
    mgm_model.set_trainable("pretrain")
    mgm_model.train()
    mgm_model(ids, mask, labels).loss.backward()
    trained = [p for p in mgm_model.parameters() if p.requires_grad]
    assert len(trained) == 16
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_stages_train_what_they_should(mgm_model):
    from recap.mgm.lora import add_lora
    from recap.train_settings import LoraSettings

    def trained():
        return {name for name, p in mgm_model.named_parameters() if p.requires_grad}

    mgm_model.set_trainable("pretrain")
    vision = trained()
    assert len(vision) == 16
    assert all(name.split(".")[0] in PROJECTOR_MODULES for name in vision)
    add_lora(mgm_model, LoraSettings(), seed=0)
    assert trained() - vision == {n for n, _ in mgm_model.named_parameters() if "lora_" in n}
    assert len(trained() - vision) == 2 * 7 * 2
    assert not any("vision_tower" in name and "lora" in name for name in trained())
    mgm_model.train()
    assert not mgm_model.vision_tower.training
    assert not mgm_model.vision_tower_aux.training
    with pytest.raises(RecapError, match="unknown training stage"):
        mgm_model.set_trainable("stage3")


def test_trained_weights_are_float32_and_gradients_flow_in_bfloat16(mgm_parts, mgm_tokenizer):
    from recap.mgm.checkpoint import build_model
    from recap.mgm.lora import add_lora
    from recap.train_settings import LoraSettings

    model = build_model(mgm_parts, dtype="bfloat16", seed=1)
    add_lora(model, LoraSettings(dropout=0.0), seed=0).train()
    ids, mask, labels = samples(mgm_tokenizer, ("<image>\nWhat?", "A dog."))
    model(ids, mask, labels, images(1)).loss.backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.dtype == torch.bfloat16
            continue
        assert parameter.dtype == torch.float32, name
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()
        if "lora_A" not in name and "vlm_uni_aux_projector.1.bias" not in name:
            assert parameter.grad.any(), name


def test_answers_do_not_depend_on_the_batch(mgm_model, mgm_tokenizer):
    texts = ["<image>\nWhat is it?", "Hello", "<image>\na much longer question, is it not?", "b"]
    ids, mask = prompts(mgm_tokenizer, *texts)
    pictures = images(2)
    together = mgm_model.generate_answers(
        ids, mask, images_aux=pictures, max_new_tokens=12, eos_token_ids=(1, 107)
    )
    used = 0
    for index, text in enumerate(texts):
        alone = pictures[used : used + 1] if "<image>" in text else None
        used += alone is not None
        row, ones = prompts(mgm_tokenizer, text)
        single = mgm_model.generate_answers(
            row, ones, images_aux=alone, max_new_tokens=12, eos_token_ids=(1, 107)
        )
        assert single[0] == together[index]
    assert len({tuple(answer) for answer in together}) > 1


def test_greedy_equals_the_argmax_of_full_passes(mgm_model, mgm_tokenizer):
    ids, mask = prompts(mgm_tokenizer, "<image>\nWhat is it?")
    features = mgm_model.encode_images(images(1))
    answer = mgm_model.generate_answers(
        ids, mask, image_features=features, max_new_tokens=8, eos_token_ids=(1, 107)
    )[0]
    for token in answer:
        logits = mgm_model(ids, torch.ones_like(ids), image_features=features).logits
        assert logits[0, -1].argmax().item() == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_decoding_ends_at_any_end_token(mgm_model, mgm_tokenizer):
    ids, mask = prompts(mgm_tokenizer, "<image>\nWhat is it?", "Hello")
    free = mgm_model.generate_answers(
        ids, mask, images_aux=images(1), max_new_tokens=12, eos_token_ids=(1, 107)
    )
    end = free[0][-1]
    stopped = mgm_model.generate_answers(
        ids, mask, images_aux=images(1), max_new_tokens=12, eos_token_ids=(end,)
    )
    assert stopped[0] == free[0][: free[0].index(end) + 1]
    whole = free[1] if end not in free[1] else free[1][: free[1].index(end) + 1]
    assert stopped[1] == whole


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_checkpointing_changes_no_gradient(mgm_model, mgm_tokenizer):
    ids, mask, labels = samples(mgm_tokenizer, ("<image>\nWhat?", "A dog."))
    mgm_model.set_trainable("pretrain")
    mgm_model.train()

    def gradient():
        mgm_model.zero_grad()
        mgm_model(ids, mask, labels, images(1)).loss.backward()
        return mgm_model.mm_projector[0].weight.grad.clone()

    before = gradient()
    mgm_model.gradient_checkpointing_enable({"use_reentrant": False})
    assert mgm_model.is_gradient_checkpointing
    torch.testing.assert_close(gradient(), before)


def test_a_fresh_projector_depends_on_the_seed_alone(mgm_parts):
    from recap.mgm.checkpoint import build_model, projector_state

    torch.manual_seed(99)
    one = projector_state(build_model(mgm_parts, dtype="float32", seed=5))
    torch.manual_seed(98)
    two = projector_state(build_model(mgm_parts, dtype="bfloat16", seed=5))
    other = projector_state(build_model(mgm_parts, dtype="float32", seed=6))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["mm_projector.0.weight"], other["mm_projector.0.weight"])


def test_sizes_that_do_not_fit_are_refused(mgm_parts):
    from recap.mgm.configuration import config_from_parts

    with pytest.raises(RecapError, match="image_size_aux 100"):
        config_from_parts(replace(mgm_parts, image_size_aux=100))
    with pytest.raises(RecapError, match="does not exist"):
        config_from_parts(replace(mgm_parts, clip=mgm_parts.clip / "nowhere"))
