"""TextVQA's prompt: with OCR tokens, without them, and back to the question."""

import re
from collections.abc import Sequence

_OCR_LINE = "Reference OCR token:"
_ONE_LINE = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)

# First match wins; whole words, so that "country" is not a count.
_QUESTION_TYPES = {
    "brand": r"brands?|company|companies|manufacturers?",
    "color": r"colou?rs?",
    "number": r"numbers?|how many|counts?",
    "what": r"what",
    "where": r"where",
    "when": r"when",
    "who": r"who",
    "how": r"how",
}
_TYPE_PATTERNS = {
    name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for name, words in _QUESTION_TYPES.items()
}
QUESTION_TYPES = (*_QUESTION_TYPES, "other")


def has_ocr_line(prompt: str) -> bool:
    """Say whether the prompt offers OCR tokens, even an empty list of them."""
    return prompt.startswith("OCR tokens: ") or any(
        line.startswith(_OCR_LINE) for line in prompt.split("\n")
    )


def has_ocr_tokens(prompt: str) -> bool:
    """Say whether the prompt offers at least one OCR token."""
    if prompt.startswith("OCR tokens: "):
        return not prompt.startswith("OCR tokens: Question: ")
    return any(
        line.startswith(_OCR_LINE) and line.removeprefix(_OCR_LINE).strip()
        for line in prompt.split("\n")
    )


def drop_ocr(prompt: str) -> str:
    """Return the prompt without its line of OCR tokens; two-line prompts stay.

    Raises:
        ValueError: if the prompt is neither of two nor of three lines.
    """
    lines = prompt.split("\n")
    kept = [line for line in lines if not line.startswith(_OCR_LINE)]
    if len(kept) != 2 or len(lines) - len(kept) > 1:
        raise ValueError("expected a question, at most one line of OCR tokens, an instruction")
    return "\n".join(kept)


def add_ocr(prompt: str, tokens: Sequence[str]) -> str:
    """Return a prompt of two lines with a line of OCR tokens between them.

    No token leaves ``Reference OCR token: `` with its blank, as LLaVA's file has it.

    Raises:
        ValueError: if the prompt isn't a question and an instruction.
    """
    question, instruction = prompt.split("\n")
    return f"{question}\n{_OCR_LINE} {', '.join(tokens)}\n{instruction}"


def extract_question(prompt: str) -> str:
    """Return the question of a prompt, as LLaVA's scorer finds it.

    Raises:
        ValueError: if the prompt has none of the three known forms.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        match = _ONE_LINE.search(prompt)
        if match is None:
            raise ValueError("no text between 'Question: ' and ' Short answer:'")
        return match.group(1)
    if f"{_OCR_LINE} " in prompt and len(lines) == 3:
        return lines[1] if prompt.startswith(_OCR_LINE) else lines[0]
    if len(lines) == 2:
        return lines[0]
    raise ValueError(f"{len(lines)} lines; expected two, or three with '{_OCR_LINE} '")


def question_type(question: str) -> str:
    """Return the first of nine types whose key word the question contains."""
    for name, pattern in _TYPE_PATTERNS.items():
        if pattern.search(question):
            return name
    return "other"
