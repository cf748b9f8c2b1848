"""The order in which a shard's questions are asked."""

from collections.abc import Iterator, Sequence
from itertools import groupby

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


def next_batch(ordered: Sequence[Question], start: int, size: int) -> list[Question]:
    """Return the questions to ask next: whole pictures, or questions without one.

    A picture's questions are kept together, so that it is read once for all of them;
    only where they are more than a batch holds are they cut.

    Args:
        ordered: as :func:`asking_order` returns them.
        start: the first that is still to be asked.
        size: questions a batch, at most.
    """
    batch: list[Question] = []
    for group in _groups(ordered, start):
        mixed = bool(batch) and (batch[0].image is None) != (group[0].image is None)
        if mixed or len(batch) + len(group) > size:
            return batch or group[:size]
        batch += group
    return batch


def _groups(ordered: Sequence[Question], start: int) -> Iterator[list[Question]]:
    remaining = (ordered[place] for place in range(start, len(ordered)))
    for _, members in groupby(remaining, key=lambda question: question.image):
        yield list(members)
