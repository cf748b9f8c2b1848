"""Gates between answers and scores: real, present, and not all the same."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import GateError, RecapError
from .answers import Answer, answer_key, control_of
from .benchmarks.base import Benchmark

_ENOUGH_QUESTIONS = 1000
_FEWEST_DISTINCT = 5
_TOP = 5


def refuse_simulated(answers: Sequence[Answer], path: Path) -> None:
    """Refuse answers whose metadata says that no model gave them.

    Raises:
        GateError: at the first such answer.
    """
    for number, answer in enumerate(answers, start=1):
        note = _simulation_note(answer["metadata"])
        if note is not None:
            raise GateError(
                f"{path}, answer {number} ({answer['question_id']}): metadata says {note}; "
                "simulated answers are not scored"
            )


def _simulation_note(metadata: Any) -> str | None:
    if isinstance(metadata, dict):
        for key, value in metadata.items():
            if "simulat" in str(key).lower() and value not in (False, None, 0, "", "false"):
                return f"{key}: {value!r}"
            note = _simulation_note(value)
            if note is not None:
                return note
    elif isinstance(metadata, list):
        for value in metadata:
            note = _simulation_note(value)
            if note is not None:
                return note
    elif isinstance(metadata, str) and "simulat" in metadata.lower():
        return repr(metadata)
    return None


def diversity(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return how many distinct answers there are and the five most common."""
    counts = Counter(answer["text"] for answer in answers)
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    return {
        "distinct_answers": len(counts),
        "diversity_score": round(len(counts) / len(answers), 6),
        "empty_answers": counts[""],
        "top_answers": dict(top),
    }


def degeneracy(answers: Sequence[Answer], benchmark: Benchmark) -> dict[str, Any]:
    """Say whether the answers are too uniform to come from a model that looks.

    Returns:
        ``degenerate`` and the ``degenerate_rule`` it was judged by.
    """
    distinct = len({answer["text"] for answer in answers})
    if benchmark.closed_answers:
        limit, why = 1, "closed answers"
    elif len(answers) >= _ENOUGH_QUESTIONS:
        limit, why = _FEWEST_DISTINCT, f"{_ENOUGH_QUESTIONS} questions or more"
    else:
        limit = max(1, len(answers) * _FEWEST_DISTINCT // _ENOUGH_QUESTIONS)
        why = f"fewer than {_ENOUGH_QUESTIONS} questions"
    rule = f"at most {limit} distinct among {len(answers)} answers ({why})"
    return {"degenerate": distinct <= limit, "degenerate_rule": rule}


def refuse_degenerate(answers: Sequence[Answer], verdict: dict[str, Any], path: Path) -> None:
    """Refuse a large answer file that was judged degenerate; small ones only carry the mark.

    Raises:
        GateError: with the rule and the answers' counts.
    """
    if verdict["degenerate"] and len(answers) >= _ENOUGH_QUESTIONS:
        facts = diversity(answers)
        histogram = ", ".join(f"{text} {count}" for text, count in facts["top_answers"].items())
        raise GateError(
            f"{path}: {facts['distinct_answers']} distinct answers to {len(answers)} questions "
            f"({histogram}); degenerate by the rule: {verdict['degenerate_rule']}. Such answers "
            "do not come from a model that reads the question and the picture"
        )


def compare_with_control(
    answers: Sequence[Answer], control: Sequence[Answer], path: Path
) -> dict[str, Any]:
    """Count the answers that a control condition leaves as they are.

    Args:
        answers: answers to the real pictures.
        control: answers of the same model under one control condition.
        path: the control's file, for messages.

    Returns:
        ``same_answers``, ``same_share``, and ``image_ignored``: whether not one
        answer depends on the picture.

    Raises:
        GateError: if the picture changes nothing in 1,000 answers or more.
        RecapError: if the file is no control's, or answers other questions.
    """
    condition = control_of(control, path) if control else "none"
    if condition == "none":
        raise RecapError(f"{path} does not hold answers of a control condition")
    given = {answer_key(answer): answer["text"] for answer in control}
    if set(given) != {answer_key(answer) for answer in answers}:
        raise RecapError(f"{path} answers other questions than the file it is compared with")
    same = sum(given[answer_key(answer)] == answer["text"] for answer in answers)
    if same == len(answers) >= _ENOUGH_QUESTIONS:
        raise GateError(
            f"{path}: all {same} answers are the same under {condition}; the model does not use "
            "the picture, so its score says nothing about captions"
        )
    return {
        "same_answers": same,
        "same_share": round(same / len(answers), 6),
        "image_ignored": same == len(answers),
    }
