"""Conversations as token ids, and the mask of trained tokens.

Rendering and masking follow upstream's ``preprocess_*`` functions, with two
differences. A sample that upstream would silently ignore raises an error. And
no correction of one or two tokens is guessed: a round is tokenised behind the
token that precedes it, so that the mask ends where the answer ends whatever the
tokenizer makes of a word at the start of a text.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import RecapError
from .templates import TEMPLATES, Template, get_template

__all__ = [
    "IGNORE_INDEX",
    "IMAGE_TOKEN",
    "IMAGE_TOKEN_INDEX",
    "TEMPLATES",
    "Template",
    "encode_prompt",
    "encode_sample",
    "end_token_id",
    "get_template",
    "pad_token_id",
    "render",
    "stop_token_ids",
    "tokenize_with_image",
]

IMAGE_TOKEN = "<image>"  # noqa: S105
IMAGE_TOKEN_INDEX = -200
IGNORE_INDEX = -100


def end_token_id(tokenizer: Any, template: str) -> int:
    """Return the id of the token that ends a round and each trained span.

    Raises:
        RecapError: if the tokenizer does not know it as one token.
    """
    return _token_id(tokenizer, get_template(template).separator)


def stop_token_ids(tokenizer: Any, template: str) -> tuple[int, ...]:
    """Return the ids that end a generated answer.

    Raises:
        RecapError: if the tokenizer does not know one of them as one token.
    """
    return tuple(_token_id(tokenizer, text) for text in get_template(template).stop)


def pad_token_id(tokenizer: Any) -> int:
    """Return an id to fill batches with: that of padding, else of unknown text, else 0.

    Llama 2 and Mistral are padded with ``<unk>`` upstream; Llama 3 has neither.
    Masks never depend on the id: they come from lengths.
    """
    known = (tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((int(token) for token in known if token is not None), 0)


def _token_id(tokenizer: Any, text: str) -> int:
    ids = list(tokenizer(text).input_ids)
    if ids and ids[0] == tokenizer.bos_token_id:
        ids = ids[1:]
    if len(ids) != 1:
        raise RecapError(
            f"the tokenizer cuts {text!r} into {len(ids)} tokens, but the conversation template "
            "needs it as one; choose the template (--conversation) of this language model"
        )
    return int(ids[0])


def tokenize_with_image(text: str, tokenizer: Any) -> list[int]:
    """Tokenise ``text`` piece by piece around ``<image>``.

    Each piece is tokenised on its own, as upstream does; the BOS of the first
    piece is kept, that of the others dropped, and each ``<image>`` becomes -200.
    """
    pieces = [list(tokenizer(piece).input_ids) for piece in text.split(IMAGE_TOKEN)]
    bos = tokenizer.bos_token_id
    ids: list[int] = []
    for index, piece in enumerate(pieces):
        has_bos = bool(piece) and bos is not None and piece[0] == bos
        if index:
            ids.append(IMAGE_TOKEN_INDEX)
        ids.extend(piece[1:] if index and has_bos else piece)
    return ids


def render(turns: Sequence[tuple[str, str]], template: Template) -> str:
    """Return the text of ``(question, answer)`` rounds."""
    rounds = (_prompt(question, template) + _answer(answer, template) for question, answer in turns)
    return template.system + "".join(rounds)


def _prompt(question: str, form: Template) -> str:
    return form.fill(form.turn, question) + form.header


def _answer(answer: str, form: Template) -> str:
    return form.fill(form.answer, answer) + form.separator


def encode_prompt(text: str, tokenizer: Any, template: str = "gemma") -> list[int]:
    r"""Return the token ids that ask the model to answer ``text``.

    Args:
        text: the user's turn, ``<image>\n...`` if there is an image.
        tokenizer: a tokenizer that adds BOS itself.
        template: name of the conversation template.

    Returns:
        Token ids with -200 in the place of the image.
    """
    form = get_template(template)
    return tokenize_with_image(form.system + _prompt(text, form), tokenizer)


def encode_sample(
    conversations: list[dict[str, Any]],
    tokenizer: Any,
    template: str = "gemma",
    max_length: int = 2048,
) -> tuple[list[int], list[int]]:
    """Return token ids and labels of one training sample.

    Trained are each answer and what ends it (Gemma: ``<end_of_turn>``, newline
    and ``<eos>``); everything else, BOS included, carries -100.

    Args:
        conversations: LLaVA turns, ``{"from": "human" | "gpt", "value": str}``.
        tokenizer: a tokenizer that adds BOS itself.
        template: name of the conversation template.
        max_length: ids are cut to this length, before the image is expanded.

    Returns:
        Two lists of equal length: ids with at most one -200, and labels.

    Raises:
        RecapError: if the turns are malformed, hold reserved text, or if the
            mask walked over the rounds does not end where the ids end.
    """
    form = get_template(template)
    turns = _pair_turns(conversations, form)
    input_ids = tokenize_with_image(render(turns, form), tokenizer)
    labels = _mask_targets(turns, input_ids, tokenizer, form)
    return input_ids[:max_length], labels[:max_length]


def _mask_targets(
    turns: Sequence[tuple[str, str]], ids: list[int], tokenizer: Any, form: Template
) -> list[int]:
    end = _token_id(tokenizer, form.separator)
    labels = [IGNORE_INDEX] * len(ids)
    position = has_bos = int(bool(ids) and ids[0] == tokenizer.bos_token_id)
    for index, (question, answer) in enumerate(turns):
        before = form.separator if index else form.system
        known = has_bos + bool(index)  # BOS and the separator before are counted already
        prompt = before + _prompt(question, form)
        ignored = len(tokenize_with_image(prompt, tokenizer)) - known
        whole = len(tokenize_with_image(prompt + _answer(answer, form), tokenizer)) - known
        trained = slice(position + ignored, position + whole)
        labels[trained] = ids[trained]
        position += whole
        if ids[position - 1 : position] != [end]:
            raise _mismatch(f"round {index + 1} does not end in {form.separator!r}")
    if position != len(ids):
        raise _mismatch(f"the rounds have {position} tokens, the whole text {len(ids)}")
    return labels


def _mismatch(reason: str) -> RecapError:
    return RecapError(
        f"tokenization mismatch: {reason}; the tokenizer merges across a turn's border, so the "
        "loss mask would be wrong"
    )


def _pair_turns(conversations: list[dict[str, Any]], form: Template) -> list[tuple[str, str]]:
    turns = [(str(turn.get("from")), turn.get("value")) for turn in conversations]
    if turns and turns[0][0] == "gpt":
        turns = turns[1:]
    if not turns or len(turns) % 2:
        raise RecapError(f"a sample needs pairs of human and gpt turns, found {len(turns)} turns")
    for index, (role, value) in enumerate(turns):
        expected = ("human", "gpt")[index % 2]
        if role != expected or not isinstance(value, str):
            raise RecapError(f"turn {index}: expected text from {expected!r}, found {role!r}")
        _refuse_reserved(index, value, form)
    pairs = [
        (_normalize_question(str(turns[i][1])), str(turns[i + 1][1]))
        for i in range(0, len(turns), 2)
    ]
    images = sum(question.count(IMAGE_TOKEN) for question, _ in pairs)
    if images > 1:
        raise RecapError(f"a sample may show one image, but {images} turns hold {IMAGE_TOKEN}")
    if any(IMAGE_TOKEN in answer for _, answer in pairs):
        raise RecapError(f"an answer must not contain {IMAGE_TOKEN}")
    return pairs


def _refuse_reserved(index: int, value: str, form: Template) -> None:
    found = sorted(text for text in form.reserved if text in value)
    if found:
        raise RecapError(f"turn {index} contains {found}, which the template reserves")


def _normalize_question(value: str) -> str:
    """Put the image token on a line of its own in front, as upstream does."""
    if IMAGE_TOKEN not in value:
        return value
    return f"{IMAGE_TOKEN}\n{value.replace(IMAGE_TOKEN, '').strip()}".strip()
