"""Templates of Vicuna, Mistral and Llama 3 against LLaVA's own way to the mask.

The oracles follow ``preprocess_v1`` and ``preprocess_llama_2`` of LLaVA
1.2.2.post1 (Apache-2.0), corrections of one and two tokens included, and for
Llama 3 LLaVA-NeXT's turn by turn encoding, with answers and their end trained.
"""

import random

import pytest

from recap.errors import RecapError
from recap.mgm.conversation import (
    TEMPLATES,
    encode_prompt,
    encode_sample,
    end_token_id,
    get_template,
    pad_token_id,
    render,
    stop_token_ids,
)

FAMILIES = ("vicuna_v1", "mistral_instruct", "llama_3")
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
LLAMA_3 = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
TWO_ROUNDS = [("<image>\nWhat is it?", "A dog."), ("Sure?", "Yes.")]
RENDERED = {
    "vicuna_v1": (
        f"{VICUNA} USER: <image>\nWhat is it? ASSISTANT: A dog.</s>USER: Sure? ASSISTANT: Yes.</s>"
    ),
    "mistral_instruct": (
        "[INST] <image>\nWhat is it? [/INST] A dog. </s>[INST] Sure? [/INST] Yes. </s>"
    ),
    "llama_3": (
        f"<|start_header_id|>system<|end_header_id|>\n\n{LLAMA_3}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA dog.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
    ),
}
GENERATION = {
    "vicuna_v1": f"{VICUNA} USER: Hi ASSISTANT:",
    "mistral_instruct": "[INST] Hi [/INST]",
    "llama_3": (
        f"<|start_header_id|>system<|end_header_id|>\n\n{LLAMA_3}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    from recap.mgm.checkpoint import load_tokenizer
    from recap.mgm.micro_languages import write_micro_language

    found = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        write_micro_language(folder, family, ["dog", " dog"], hidden=32, layers=1)
        found[family] = load_tokenizer(folder)
    return found


def sample(rounds):
    return [
        {"from": role, "value": text}
        for question, answer in rounds
        for role, text in (("human", question), ("gpt", answer))
    ]


def image_ids(tokenizer, text):
    """LLaVA's ``tokenizer_image_token``."""
    chunks = [tokenizer(chunk).input_ids for chunk in text.split("<image>")]
    skip = int(bool(chunks[0]) and chunks[0][0] == tokenizer.bos_token_id)
    ids = chunks[0][:skip]
    for number, chunk in enumerate(chunks):
        ids += ([-200] if number else []) + chunk[skip:]
    return ids


def llava_labels(tokenizer, text, header, corrects):
    """The mask of LLaVA: a round's own BOS stands for the ``</s>`` it lost when split off."""
    ids = image_ids(tokenizer, text)
    labels, at = [-100, *ids[1:]], 1
    for number, part in enumerate(text.split("</s>")):
        if not part:
            break
        instruction, _ = part.split(header)
        whole = len(image_ids(tokenizer, part))
        ignored = len(image_ids(tokenizer, instruction + header)) - 2
        if number and corrects:
            whole, ignored = whole - 1, ignored - 1
        labels[at : at + ignored] = [-100] * ignored
        at += whole
    assert at == len(ids)
    return ids, labels


def vicuna_oracle(tokenizer, rounds):
    text = f"{VICUNA} " + "".join(f"USER: {q} ASSISTANT: {a}</s>" for q, a in rounds)
    return llava_labels(tokenizer, text, " ASSISTANT: ", not tokenizer.legacy)


def mistral_oracle(tokenizer, rounds):
    text = "".join(f"[INST] {q} [/INST] {a} </s>" for q, a in rounds)
    return llava_labels(tokenizer, text, "[/INST] ", corrects=False)


def llama_3_oracle(tokenizer, rounds):
    turns = [("system", LLAMA_3)]
    turns += [turn for q, a in rounds for turn in (("user", q), ("assistant", a))]
    ids = [tokenizer.bos_token_id]
    labels = [-100]
    for role, text in turns:
        header = image_ids(tokenizer, f"<|start_header_id|>{role}<|end_header_id|>\n\n")[1:]
        body = image_ids(tokenizer, f"{text.strip()}<|eot_id|>")[1:]
        ids += header + body
        labels += [-100] * len(header) + (body if role == "assistant" else [-100] * len(body))
    return ids, labels


ORACLES = {
    "vicuna_v1": vicuna_oracle,
    "mistral_instruct": mistral_oracle,
    "llama_3": llama_3_oracle,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_rendering_to_the_letter(family):
    assert render(TWO_ROUNDS, get_template(family)) == RENDERED[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_mask_is_the_oracle_s(family, tokenizers):
    tokenizer, draw = tokenizers[family], random.Random(family)
    words = ["dog", "What", "is", "it?", "a", "USER:", "2.5", "x\ny", "é", "{z}"]

    def text():
        return " ".join(draw.choices(words, k=draw.randint(1, 6)))

    for trial in range(40):
        rounds = [(text(), text()) for _ in range(draw.randint(1, 4))]
        if trial % 2:
            rounds[0] = (f"<image>\n{rounds[0][0]}", rounds[0][1])
        ids, labels = ORACLES[family](tokenizer, rounds)
        assert encode_sample(sample(rounds), tokenizer, family) == (ids, labels)
        limit = draw.randint(1, len(ids))
        cut = encode_sample(sample(rounds), tokenizer, family, max_length=limit)
        assert cut == (ids[:limit], labels[:limit])


def test_mask_of_a_vicuna_that_puts_a_space_behind_each_special_token(tokenizers):
    from recap.mgm.micro_languages import _llama_tokenizer

    legacy, modern = _llama_tokenizer(["USER"], legacy=True), tokenizers["vicuna_v1"]
    found = [encode_sample(sample(TWO_ROUNDS), t, "vicuna_v1") for t in (legacy, modern)]
    assert found[0] == vicuna_oracle(legacy, TWO_ROUNDS)
    behind = [t.convert_ids_to_tokens(ids[ids.index(2) + 1]) for t, (ids, _) in zip(
        (legacy, modern), found, strict=True)]  # fmt: skip
    assert behind == ["▁", "USER"]


@pytest.mark.parametrize(
    ("family", "trained"),
    [
        ("vicuna_v1", "A dog.</s> Yes.</s>"),
        ("mistral_instruct", "A dog. </s> Yes. </s>"),
        ("llama_3", "A dog.<|eot_id|>Yes.<|eot_id|>"),
    ],
)
def test_trained_are_the_answers_and_their_ends(family, trained, tokenizers):
    tokenizer = tokenizers[family]
    ids, labels = encode_sample(sample(TWO_ROUNDS), tokenizer, family)
    kept = [label for label in labels if label != -100]
    assert tokenizer.decode(kept) == trained
    assert kept.count(end_token_id(tokenizer, family)) == 2
    assert ids.count(tokenizer.bos_token_id) == 1
    assert (ids[0], ids.count(-200)) == (tokenizer.bos_token_id, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("question", ["Hi", "<image>\nHi"])
def test_prompt_ends_where_the_answer_begins(family, question, tokenizers):
    tokenizer = tokenizers[family]
    prompt = encode_prompt(question, tokenizer, family)
    ids, labels = encode_sample(sample([(question, "A dog.")]), tokenizer, family)
    assert ids[: len(prompt)] == prompt
    assert labels[: len(prompt)] == [-100] * len(prompt)
    assert labels[len(prompt) :] == ids[len(prompt) :]
    if question == "Hi":
        assert tokenizer.decode(prompt, skip_special_tokens=False).removeprefix(
            tokenizer.bos_token
        ).lstrip() == GENERATION[family]  # fmt: skip


def test_llama_3_keeps_an_answer_s_newlines_out_of_the_header(tokenizers):
    tokenizer, rounds = tokenizers["llama_3"], [("Hi\n", "\n\nA dog.\n"), (" b", "\n c")]
    ids, labels = encode_sample(sample(rounds), tokenizer, "llama_3")
    assert (ids, labels) == llama_3_oracle(tokenizer, rounds)
    prompt = encode_prompt("Hi\n", tokenizer, "llama_3")
    assert ids[: len(prompt)] == prompt


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_reserved_text_is_refused_on_either_side(family, tokenizers, mgm_tokenizer):
    tokenizer = tokenizers.get(family, mgm_tokenizer)
    for text in get_template(family).reserved:
        for rounds in ([(f"a {text} b", "c")], [("a", f"b{text}")]):
            with pytest.raises(RecapError, match="reserves"):
                encode_sample(sample(rounds), tokenizer, family)


def test_stop_end_and_padding_tokens(tokenizers, mgm_tokenizer):
    assert stop_token_ids(mgm_tokenizer, "gemma") == (1, 107)
    assert end_token_id(mgm_tokenizer, "gemma") == 1
    assert pad_token_id(mgm_tokenizer) == 0
    for family in ("vicuna_v1", "mistral_instruct"):
        assert stop_token_ids(tokenizers[family], family) == (2,)
        assert tokenizers[family].pad_token_id is None
        assert pad_token_id(tokenizers[family]) == tokenizers[family].unk_token_id == 0
    llama = tokenizers["llama_3"]
    stops = llama.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    assert stop_token_ids(llama, "llama_3") == tuple(stops)
    assert (llama.pad_token_id, llama.unk_token_id, pad_token_id(llama)) == (None, None, 0)


@pytest.mark.parametrize(("family", "other"), [("gemma", "llama_3"), ("llama_3", "vicuna_v1")])
def test_template_of_another_family_is_refused(family, other, tokenizers):
    for action in (
        lambda: encode_sample(sample([("a", "b")]), tokenizers[other], family),
        lambda: stop_token_ids(tokenizers[other], family),
    ):
        with pytest.raises(RecapError, match="choose the template"):
            action()


@pytest.mark.parametrize("family", FAMILIES)
def test_training_data_pass_the_audit_and_batches_mask_by_length(family, tokenizers, tmp_path):
    from recap.train.audit import encode_training_set
    from recap.train.collate import Collator
    from recap.train.data import Sample

    samples = [
        Sample("a", sample(TWO_ROUNDS), tmp_path / "a.png"),
        Sample("b", sample([("! Hi", "Ho !")]), None),  # Llama 3 pads with the id of "!"
    ]
    encoded, audit = encode_training_set(
        samples, tokenizers[family], family, max_length=2048, image_tokens=64
    )
    assert audit.mismatches == []
    rows = [{"input_ids": e.input_ids, "labels": e.labels, "image": None} for e in encoded]
    batch = Collator(pad_token_id(tokenizers[family]))(rows)
    assert batch["attention_mask"].sum(1).tolist() == [len(e.input_ids) for e in encoded]
