"""Answer files: one JSON object a line, with LLaVA's keys in LLaVA's order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import sha256_bytes
from ..io import iter_jsonl

Answer = dict[str, Any]

# The alphabet of the shortuuid package; 57**22 is just above 2**128.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ID_LENGTH = 22
_REQUIRED = ("question_id", "prompt", "text", "answer_id", "model_id", "metadata")


def answer_id(*parts: str) -> str:
    """Return 22 characters that look like a shortuuid and depend only on ``parts``."""
    number = int(sha256_bytes("\x1f".join(parts).encode("utf-8"))[:32], 16)
    digits = []
    for _ in range(_ID_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def answer_key(answer: Answer) -> tuple[str, str]:
    """Return (question id, prompt), which identifies the question of an answer."""
    return str(answer["question_id"]), answer["prompt"]


def read_answers(path: Path) -> list[Answer]:
    """Read an answer file.

    Raises:
        RecapError: if a line is not an object, lacks a key, or has no text.
    """
    answers = []
    for number, row in enumerate(iter_jsonl(path), start=1):
        missing = [name for name in _REQUIRED if name not in row]
        if missing:
            raise RecapError(
                f"{path}, answer {number} ({row.get('question_id', 'no question_id')}): "
                f"lacks {', '.join(missing)}; expected the keys {', '.join(_REQUIRED)}"
            )
        if not isinstance(row["text"], str) or not isinstance(row["prompt"], str):
            raise RecapError(
                f"{path}, answer {number} ({row['question_id']}): prompt and text must be strings"
            )
        if not isinstance(row["metadata"], dict):
            raise RecapError(
                f"{path}, answer {number} ({row['question_id']}): metadata must be an object"
            )
        answers.append(row)
    return answers


def single_value(answers: Sequence[Answer], name: str, path: Path) -> Any:
    """Return the value that ``name`` has in all answers.

    Raises:
        RecapError: if there are several, for instance two models in one file.
    """
    values = sorted({str(answer[name]) for answer in answers})
    if len(values) != 1:
        raise RecapError(f"{path}: answers of several {name}s in one file: {', '.join(values)}")
    return answers[0][name]


def control_of(answers: Sequence[Answer], path: Path) -> str:
    """Return the control condition the answers were made under, ``none`` for the real images.

    Raises:
        RecapError: if conditions are mixed.
    """
    controls = sorted({str(answer["metadata"].get("control", "none")) for answer in answers})
    if len(controls) != 1:
        raise RecapError(f"{path}: answers of several controls in one file: {', '.join(controls)}")
    return controls[0]
