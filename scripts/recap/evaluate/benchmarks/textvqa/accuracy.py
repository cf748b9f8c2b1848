"""TextVQA's soft accuracy: ten annotators, each left out once."""

from collections import Counter
from collections.abc import Sequence

from .normalize import normalize_answer

ANNOTATORS = 10


def reference_scores(references: Sequence[str]) -> dict[str, float]:
    """Return what each distinct normalised reference answer scores.

    An answer scores the mean over annotators of min(1, m / 3), m being how many
    of the *other nine* gave it. Given by c of ten, it scores 0.3, 0.6, 0.9 for
    c = 1, 2, 3 and 1 from four on; this is not min(1, c / 3).

    Raises:
        ValueError: if there are not exactly ten references.
    """
    if len(references) != ANNOTATORS:
        raise ValueError(f"{len(references)} reference answers; expected {ANNOTATORS}")
    counts = Counter(normalize_answer(reference) for reference in references)
    return {answer: _left_out_mean(count) for answer, count in counts.items()}


def _left_out_mean(count: int) -> float:
    # Thirds of annotators, so that one division gives 0.3 and not 0.30000000000000004.
    own = count * min(3, count - 1)
    others = (ANNOTATORS - count) * min(3, count)
    return (own + others) / (3 * ANNOTATORS)


def soft_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Return the accuracy of a prediction, 0 to 1; see :func:`reference_scores`."""
    return reference_scores(references).get(normalize_answer(prediction), 0.0)


def reference_words(references: Sequence[str]) -> int:
    """Return the number of words of the normalised answer that most annotators gave.

    Of answers given equally often the first counts.
    """
    counts = Counter(normalize_answer(answer) for answer in references)
    return len(counts.most_common(1)[0][0].split())


def most_given(references: Sequence[str]) -> str:
    """Return the annotators' three most frequent answers with their counts."""
    counts = Counter(normalize_answer(answer) for answer in references)
    return ", ".join(f"{answer} ({count})" for answer, count in counts.most_common(3))
