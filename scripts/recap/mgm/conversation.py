"""Conversation templates, prompts and the mask of trained tokens.

Rendering and masking follow upstream MGM's ``preprocess_gemma`` token for
token, except that a sample upstream would silently ignore raises an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecapError

IMAGE_TOKEN = "<image>"  # noqa: S105
IMAGE_TOKEN_INDEX = -200
IGNORE_INDEX = -100


@dataclass(frozen=True)
class Template:
    """How one family of language models writes a conversation.

    Attributes:
        turn: format of a user turn, with ``{text}``; ends where the model's header begins.
        header: what precedes an answer; everything up to it is ignored by the loss.
        answer_end: what follows an answer and is trained.
        separator: end of a round, trained too; rounds are split here.
        system: text in front of the first turn.
    """

    turn: str
    header: str
    answer_end: str
    separator: str
    system: str = ""


TEMPLATES: dict[str, Template] = {
    "gemma": Template(
        turn="<start_of_turn>user\n{text}<end_of_turn>\n",
        header="<start_of_turn>model\n",
        answer_end="<end_of_turn>\n",
        separator="<eos>",
    ),
}


def get_template(name: str) -> Template:
    """Return a template by name.

    Raises:
        RecapError: for an unknown name.
    """
    if name not in TEMPLATES:
        raise RecapError(f"unknown conversation template {name!r}; known: {sorted(TEMPLATES)}")
    return TEMPLATES[name]


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
    rounds = [
        template.turn.format(text=question)
        + template.header
        + answer
        + template.answer_end
        + template.separator
        for question, answer in turns
    ]
    return template.system + "".join(rounds)


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
    prompt = form.system + form.turn.format(text=text) + form.header
    return tokenize_with_image(prompt, tokenizer)


def encode_sample(
    conversations: list[dict[str, Any]],
    tokenizer: Any,
    template: str = "gemma",
    max_length: int = 2048,
) -> tuple[list[int], list[int]]:
    """Return token ids and labels of one training sample.

    Trained are each answer with its ``<end_of_turn>``, newline and ``<eos>``;
    everything else, BOS included, carries -100.

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
    labels = _mask_targets(render(turns, form), input_ids, tokenizer, form)
    return input_ids[:max_length], labels[:max_length]


def _mask_targets(text: str, ids: list[int], tokenizer: Any, form: Template) -> list[int]:
    labels = list(ids)
    has_bos = bool(ids) and ids[0] == tokenizer.bos_token_id
    position = 1 if has_bos else 0
    labels[:position] = [IGNORE_INDEX] * position
    for part in text.split(form.separator):
        if not part:
            break
        pieces = part.split(form.header)
        if len(pieces) != 2:
            raise RecapError(
                f"a round holds {len(pieces) - 1} model headers instead of one: {part[:200]!r}"
            )
        round_length = len(tokenize_with_image(part + form.separator, tokenizer)) - has_bos
        ignored = len(tokenize_with_image(pieces[0] + form.header, tokenizer)) - has_bos
        labels[position : position + ignored] = [IGNORE_INDEX] * ignored
        position += round_length
    if position != len(ids):
        raise RecapError(
            f"tokenization mismatch: the rounds have {position} tokens, the whole text {len(ids)}; "
            "the tokenizer merges across a turn's border, so the loss mask would be wrong"
        )
    return labels


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
    reserved = {form.separator, *re.findall(r"<[a-z_]+>", form.turn + form.header)}
    reserved |= set(re.findall(r"<[a-z_]+>", form.answer_end))
    found = sorted(text for text in reserved if text and text in value)
    if found:
        raise RecapError(f"turn {index} contains {found}, which the template reserves")


def _normalize_question(value: str) -> str:
    """Put the image token on a line of its own in front, as upstream does."""
    if IMAGE_TOKEN not in value:
        return value
    return f"{IMAGE_TOKEN}\n{value.replace(IMAGE_TOKEN, '').strip()}".strip()
