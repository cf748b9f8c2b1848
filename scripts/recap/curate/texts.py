"""What an operator sees of a record's text: all of it, or the bare caption.

Data-Juicer's text operators see the special tokens, which count as two words
and 28 characters. A *faithful* recipe leaves that so; in a *clean* one they
see the caption alone. The choice is a parameter of each operator that reads
text, so that statistics of one kind are never taken for the other.
"""

from typing import Any

from .records import END_OF_CHUNK, IMAGE_TOKEN, caption_of

TEXT_FLAG = "recap_text"
FAITHFUL, CLEAN = "faithful", "clean"

# They find the pictures of a chunk by its image tokens and read only what is
# left without them, so both kinds of recipe give them the whole text.
_OWN_TOKENS = ("phrase_grounding_recall_filter",)

Operator = dict[str, dict[str, Any]]


def flagged(operator: Operator, text: str) -> Operator:
    """Return an operator that says what text it sees; a faithful one stays as it is."""
    name, params = next(iter(operator.items()))
    if text == FAITHFUL or not _reads_text(name, params):
        return operator
    return {name: {**params, TEXT_FLAG: text}}


def sees_caption(operator: Operator) -> bool:
    """Tell whether an operator sees the bare caption."""
    return next(iter(operator.values())).get(TEXT_FLAG) == CLEAN


def view(operator: Operator, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return samples with the text that an operator sees; the originals stay as they are."""
    if not sees_caption(operator):
        return samples
    return [{**sample, "text": caption_of(sample["text"])} for sample in samples]


def replace_caption(text: str, caption: str) -> str:
    """Return a one-image chunk with another caption and everything around it unchanged."""
    old = caption_of(text)
    head = text.find(IMAGE_TOKEN)
    start = text.find(old, head + len(IMAGE_TOKEN)) if old and head >= 0 else -1
    if start < 0 and old:
        start = text.find(old)
    if start < 0:
        # Nothing stands between the tokens: the layout of the seed corpus.
        return f"{IMAGE_TOKEN}\n{caption} {END_OF_CHUNK}"
    return text[:start] + caption + text[start + len(old) :]


def _reads_text(name: str, params: dict[str, Any]) -> bool:
    if name == "image_deduplicator":
        return bool(params.get("consider_text"))
    return not name.startswith("image_") and name not in _OWN_TOKENS
