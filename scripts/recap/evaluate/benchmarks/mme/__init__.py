"""MME: two yes-or-no questions a picture, in fourteen tasks.

Questions: LLaVA's ``llava_mme.jsonl``, with ids ``<task>/<picture>``.
Annotations: the folder ``Your_Results`` of MME's ``eval_tool``, a file a task.
The figures are those of its ``calculation.py``; questions are matched as in
LLaVA's ``convert_answer_to_mme.py``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...answers import Answer
from ...protocol import BenchmarkProtocol
from ..base import Scores
from ..lines import Row, YesNoBenchmark, coverage, pair_answers, score_row
from .figures import TASKS, mme_figures
from .keys import key_of, read_keys

_CHARACTERS_READ = 4


class Mme(YesNoBenchmark):
    """Yes or no, two questions a picture, with extra credit for both.

    ``accuracy`` is the share of a task's points that a question earns: half for
    its own answer, half if both answers about the picture are right. Its mean
    weighs tasks by their number of questions; MME's own sums are facts.
    """

    title = "MME"
    metric = "share_of_points"

    def row_fault(self, row: Mapping[str, Any]) -> str:
        """Return what is wrong with a question id, which must name task and picture."""
        task, _, picture = str(row["question_id"]).partition("/")
        if picture and task in TASKS:
            return ""
        return f"question_id must be <task>/<picture>, with a task of {', '.join(TASKS)}"

    def score(
        self,
        answers: Sequence[Answer],
        annotations: Path,
        protocol: BenchmarkProtocol,
        questions: Path | None = None,
    ) -> Scores:
        """Score by task, picture and question; see the base class.

        Raises:
            RecapError: if an answer has no key, two share one, or a picture has
                not exactly two answered questions.
        """
        keys = read_keys(annotations)
        paired = list(pair_answers(answers, keys, annotations, key_of))
        right = [read_answer(answer["text"]) == key for answer, key in paired]
        both: dict[tuple[str, str], bool] = {}
        for (answer, _), hit in zip(paired, right, strict=True):
            picture = key_of(answer)[:2]
            both[picture] = both.get(picture, True) and hit
        rows = [
            _score_row(answer, key, hit, both[key_of(answer)[:2]])
            for (answer, key), hit in zip(paired, right, strict=True)
        ]
        return Scores(rows, {**coverage(keys, rows), **mme_figures(rows)})


def read_answer(text: str) -> str:
    """Return ``yes`` or ``no`` if the first four characters hold it, else ``other``."""
    start = text.strip().lower()[:_CHARACTERS_READ]
    return next((word for word in ("yes", "no") if word in start), "other")


def _score_row(answer: Answer, key: str, right: bool, both: bool) -> Row:
    task, picture, question = key_of(answer)
    row = score_row(
        answer,
        image_id=f"{task}/{picture}",
        question=question,
        normalized=read_answer(answer["text"]),
        accuracy=(right + both) / 2,
        question_type=task,
        truth=key,
    )
    return row | {"right": right, "both_right": both}


BENCHMARK = Mme()
