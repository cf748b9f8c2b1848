"""The order in which a shard's questions are asked."""

from collections.abc import Sequence

from .benchmarks.base import Question


def asking_order(questions: Sequence[Question]) -> list[Question]:
    """Return the questions by image, then by length, to encode once and pad little.

    Images follow each other by the length of their longest question, so that
    neighbours in a batch are of similar length; ties keep the file's order.
    Text-only questions form one group.
    """
    longest: dict[str | None, int] = {}
    first: dict[str | None, int] = {}
    for position, question in enumerate(questions):
        length = len(question.model_text)
        longest[question.image] = max(longest.get(question.image, 0), length)
        first.setdefault(question.image, position)
    ranked = sorted(
        enumerate(questions),
        key=lambda item: (
            longest[item[1].image],
            first[item[1].image],
            len(item[1].model_text),
            item[0],
        ),
    )
    return [question for _, question in ranked]
