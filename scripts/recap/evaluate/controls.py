"""Control conditions: the same questions with pictures that cannot help."""

from dataclasses import replace

from .benchmarks.base import QuestionSet
from .protocol import Control

BLANK_IMAGE = "\x00blank"


def apply_control(questions: QuestionSet, control: Control) -> QuestionSet:
    """Return the questions with other images, text and order unchanged.

    ``blank-image`` shows the mean colour to every question. ``shuffled-image``
    gives each distinct image's questions the next distinct image, cyclically in
    order of first use, so that no question keeps its own unless there is only
    one. Depends on the whole question file, never on the shard.
    """
    if control == "none":
        return questions
    distinct = list(dict.fromkeys(q.image for q in questions.questions if q.image is not None))
    if control == "blank-image":
        swap = dict.fromkeys(distinct, BLANK_IMAGE)
    else:
        swap = dict(zip(distinct, distinct[1:] + distinct[:1], strict=True))
    changed = [
        question if question.image is None else replace(question, image=swap[question.image])
        for question in questions.questions
    ]
    return replace(questions, questions=changed)
