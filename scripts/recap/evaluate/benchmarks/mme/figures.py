"""MME's figures: accuracy and accuracy+ by task, summed to perception and cognition."""

from collections.abc import Sequence
from typing import Any

from ....errors import RecapError

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
TASKS = (*PERCEPTION, *COGNITION)


def mme_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of tasks and of both groups.

    Args:
        rows: one a question, with ``question_type`` (the task), ``image_id``,
            ``right``, ``both_right`` and ``normalized``; two a picture.

    Returns:
        ``by_question_type`` with the accuracy (of questions) and accuracy+ (of
        pictures, both answers right) of each task in points and their sum as
        ``score``, at most 200; ``perception_score`` (at most 2,000) and
        ``cognition_score`` (at most 800) add the scores of the tasks that were
        asked up; ``tasks_not_asked`` names the others.

    Raises:
        RecapError: if a picture has one answer alone.
    """
    tasks = {}
    for task in TASKS:
        asked = [row for row in rows if row["question_type"] == task]
        if asked:
            tasks[task] = _task(task, asked)
    return {
        "perception_score": _total(tasks, PERCEPTION),
        "cognition_score": _total(tasks, COGNITION),
        "tasks_not_asked": [task for task in TASKS if task not in tasks],
        "by_question_type": {
            task: {name: round(value, 2) for name, value in figures.items()}
            for task, figures in tasks.items()
        },
    }


def _task(task: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    pictures = {row["image_id"]: row["both_right"] for row in rows}
    if len(rows) != 2 * len(pictures):
        raise RecapError(
            f"MME, {task}: {len(rows)} answers about {len(pictures)} pictures; accuracy+ needs the "
            "answers to both questions of every picture"
        )
    accuracy = 100 * sum(row["right"] for row in rows) / len(rows)
    plus = 100 * sum(pictures.values()) / len(pictures)
    return {
        "n": len(rows),
        "accuracy": accuracy,
        "accuracy_plus": plus,
        "score": accuracy + plus,
        "neither_yes_nor_no": sum(row["normalized"] == "other" for row in rows),
    }


def _total(tasks: dict[str, dict[str, Any]], names: Sequence[str]) -> float:
    return round(sum(tasks[name]["score"] for name in names if name in tasks), 2)
