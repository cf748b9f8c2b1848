"""The human turn of a caption sample: restored per id, or drawn by id."""

from collections.abc import Container
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import stable_fraction
from ..io import iter_json_array

# The questions of LLaVA's stage 1, as the seed corpus uses them.
STAGE1_QUESTIONS = (
    "Write a terse but informative summary of the picture.",
    "Describe the image concisely.",
    "Render a clear and concise summary of the photo.",
    "Share a concise interpretation of the image provided.",
    "Present a compact description of the photo's key features.",
    "Give a brief description of the image.",
    "What is this?",
    "Summarize the visual content of the image.",
    "What is in the photo?",
    "Provide a brief description of the given image.",
    "Give a short and clear explanation of the subsequent image.",
)

FROM_ORIGINAL = "original"
BY_ID = "id_hash"


class Question:
    """First turn and answering role of one sample."""

    __slots__ = ("identity", "role", "turn")

    def __init__(self, identity: Any, turn: dict[str, Any], role: str) -> None:
        self.identity = identity
        self.turn = turn
        self.role = role


class OriginalQuestions:
    """Questions of an original LLaVA file, by ``str(id)``.

    The file may hold many times the samples of a training set, so it is streamed
    and no answer is kept.

    Args:
        path: the LLaVA JSON.
        wanted: the ids that will be asked for; no other is kept.
    """

    def __init__(self, path: str | Path, wanted: Container[str]) -> None:
        self._path = path
        self._questions: dict[str, Question | None] = {}
        self._ambiguous: set[str] = set()
        for number, sample in enumerate(iter_json_array(path), start=1):
            if not isinstance(sample, dict) or "id" not in sample:
                raise RecapError(f"{path}, sample {number}: not an object with an `id`")
            key = str(sample["id"])
            if key not in wanted:
                continue
            question = _question(sample)
            known = self._questions.setdefault(key, question)
            if _turn(known) != _turn(question):
                self._ambiguous.add(key)

    def of(self, identity: str) -> Question:
        """Return the question of an id; its own id object is kept.

        Raises:
            RecapError: if the id is missing, has two different questions, or
                its sample has fewer than two turns.
        """
        if identity not in self._questions:
            raise RecapError(
                f"id {identity!r} is not in {self._path}; pass the original LLaVA file of this "
                "corpus, or leave --original out to draw questions by id"
            )
        if identity in self._ambiguous:
            raise RecapError(f"{self._path} has id {identity!r} twice with different questions")
        question = self._questions[identity]
        if question is None:
            raise RecapError(f"{self._path}, id {identity!r}: needs a question and an answer turn")
        return question


class DrawnQuestions:
    """One of the stage-1 questions per id, by a hash of the id alone."""

    def of(self, identity: str) -> Question:
        """Return the question of an id."""
        place = int(stable_fraction("question", identity) * len(STAGE1_QUESTIONS))
        turn = {"from": "human", "value": f"<image>\n{STAGE1_QUESTIONS[place]}"}
        return Question(identity, turn, "gpt")


def _question(sample: dict[str, Any]) -> Question | None:
    """Return a sample's question, or ``None`` where its turns are not question and answer."""
    turns = sample.get("conversations")
    turns = turns[:2] if isinstance(turns, list) else []
    if len(turns) < 2 or not all(
        isinstance(turn, dict) and "from" in turn and "value" in turn for turn in turns
    ):
        return None
    return Question(sample["id"], turns[0], turns[1]["from"])


def _turn(question: Question | None) -> dict[str, Any] | None:
    return None if question is None else question.turn
