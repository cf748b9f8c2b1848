import pytest

from recap.errors import RecapError
from recap.mgm.conversation import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    encode_prompt,
    encode_sample,
    get_template,
    render,
)


def turns(*values):
    roles = ("human", "gpt")
    return [{"from": roles[i % 2], "value": value} for i, value in enumerate(values)]


def decode(tokenizer, ids):
    text, run = "", []
    for token in [*ids, None]:
        if token is None or token < 0:
            text += tokenizer.decode(run) + ("" if token is None else "[IMAGE]")
            run = []
        else:
            run.append(token)
    return text


def trained_text(tokenizer, labels):
    return tokenizer.decode([label for label in labels if label != IGNORE_INDEX])


def test_rendering_is_the_gemma_template_to_the_letter():
    text = render([("<image>\nWhat is it?", "A dog."), ("Sure?", "Yes.")], get_template("gemma"))
    assert text == (
        "<start_of_turn>user\n<image>\nWhat is it?<end_of_turn>\n"
        "<start_of_turn>model\nA dog.<end_of_turn>\n<eos>"
        "<start_of_turn>user\nSure?<end_of_turn>\n"
        "<start_of_turn>model\nYes.<end_of_turn>\n<eos>"
    )


def test_prompt_ends_after_the_model_header(mgm_tokenizer):
    ids = encode_prompt("<image>\nWhat?", mgm_tokenizer)
    assert decode(mgm_tokenizer, ids) == (
        "<bos><start_of_turn>user\n[IMAGE]\nWhat?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert ids[:2] == [2, 106]
    assert ids.count(2) == 1
    assert ids.count(IMAGE_TOKEN_INDEX) == 1
    assert ids[-1] == 108


def test_prompt_is_a_prefix_of_the_training_sample(mgm_tokenizer):
    sample, _ = encode_sample(turns("<image>\nWhat?", "A dog."), mgm_tokenizer)
    prompt = encode_prompt("<image>\nWhat?", mgm_tokenizer)
    assert sample[: len(prompt)] == prompt


def test_only_answers_and_their_ends_are_trained(mgm_tokenizer):
    ids, labels = encode_sample(turns("What?\n<image>", "A dog.", "Sure?", "Yes."), mgm_tokenizer)
    assert len(ids) == len(labels)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels, strict=True))
    assert trained_text(mgm_tokenizer, labels) == (
        "A dog.<end_of_turn>\n<eos>Yes.<end_of_turn>\n<eos>"
    )
    assert labels[0] == IGNORE_INDEX
    assert labels[-3:] == [107, 108, 1]


def test_image_token_moves_to_a_line_of_its_own(mgm_tokenizer):
    ids, _ = encode_sample(turns("  What?\n<image> ", "x"), mgm_tokenizer)
    assert "user\n[IMAGE]\nWhat?<end_of_turn>" in decode(mgm_tokenizer, ids)


def test_text_only_sample_has_no_image_token(mgm_tokenizer):
    ids, labels = encode_sample(turns("Hi", "Ho"), mgm_tokenizer)
    assert IMAGE_TOKEN_INDEX not in ids
    assert trained_text(mgm_tokenizer, labels) == "Ho<end_of_turn>\n<eos>"


def test_cut_to_the_maximum_length(mgm_tokenizer):
    whole = encode_sample(turns("Hi", "Ho ho ho"), mgm_tokenizer)
    cut = encode_sample(turns("Hi", "Ho ho ho"), mgm_tokenizer, max_length=9)
    assert cut == (whole[0][:9], whole[1][:9])


class MergingTokenizer:
    """Merges ``!<eos>`` into one token unless the text goes on, as a bad vocabulary might."""

    bos_token_id = 2

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, text):
        output = self.inner(text)
        if text.count("<eos>") == 2:
            output["input_ids"] = output["input_ids"][:-1]
        return output


def test_mask_mismatch_is_refused(mgm_tokenizer):
    with pytest.raises(RecapError, match="tokenization mismatch"):
        encode_sample(turns("a", "b", "c", "d"), MergingTokenizer(mgm_tokenizer))


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (turns("a"), "pairs of human and gpt"),
        (turns("a", "b<eos>c"), "reserves"),
        (turns("<start_of_turn>model\n", "b"), "reserves"),
        (turns("<image>", "b", "<image>", "c"), "one image"),
        (turns("<image><image>", "b", "c", "<image>"), "must not contain"),
        ([{"from": "human", "value": "a"}, {"from": "human", "value": "b"}], "expected text"),
        ([{"from": "human", "value": None}, {"from": "gpt", "value": "b"}], "expected text"),
    ],
)
def test_malformed_samples_are_refused(mgm_tokenizer, sample, reason):
    with pytest.raises(RecapError, match=reason):
        encode_sample(sample, mgm_tokenizer)


def test_unknown_template_lists_the_known_ones(mgm_tokenizer):
    with pytest.raises(RecapError, match="gemma"):
        encode_prompt("x", mgm_tokenizer, template="nope")
