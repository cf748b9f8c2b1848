"""Control conditions: the same questions with pictures that cannot help."""

from dataclasses import replace

from ..errors import RecapError
from ..hashing import stable_fraction
from .benchmarks.base import QuestionSet
from .protocol import Control

BLANK_IMAGE = "\x00blank"


def apply_control(questions: QuestionSet, control: Control) -> QuestionSet:
    """Return the questions with other images, text and order unchanged.

    ``blank_image`` shows the mean colour to every question. ``shuffled_images``
    puts the distinct images in an order drawn from their names and gives each
    one's questions the next, cyclically: no question keeps its own picture.
    Depends on the whole question file, never on the shard or its order.

    Raises:
        RecapError: if pictures are to be shuffled, but there is only one.
    """
    if control == "none":
        return questions
    distinct = list(dict.fromkeys(q.image for q in questions.questions if q.image is not None))
    if control == "blank_image":
        swap = dict.fromkeys(distinct, BLANK_IMAGE)
    elif len(distinct) == 1:
        raise RecapError("all questions share one image; the control shuffled_images needs two")
    else:
        drawn = sorted(distinct, key=lambda name: (stable_fraction("derangement", name), name))
        swap = dict(zip(drawn, drawn[1:] + drawn[:1], strict=True))
    changed = [
        question if question.image is None else replace(question, image=swap[question.image])
        for question in questions.questions
    ]
    return replace(questions, questions=changed)
