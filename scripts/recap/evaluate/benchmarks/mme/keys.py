"""The right answers of MME, from the files a task that its ``eval_tool`` comes with."""

from pathlib import Path, PurePosixPath

from ....errors import RecapError
from ...answers import Answer
from .figures import TASKS

Key = tuple[str, str, str]
"""(task, picture without its suffix, question without its instructions)."""

_INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Please answer yes or no.",
)
_COLUMNS = (3, 4)


def key_of(answer: Answer) -> Key:
    """Return what identifies the question of an answer."""
    name = PurePosixPath(str(answer["question_id"]))
    return name.parts[0], name.stem, bare_question(answer["prompt"])


def bare_question(text: str) -> str:
    """Return a question without MME's and LLaVA's instructions, single-spaced.

    LLaVA's converter tries one and two spaces before MME's instruction, since
    the release has both.
    """
    for instruction in _INSTRUCTIONS:
        text = text.replace(instruction, " ")
    return " ".join(text.split())


def read_keys(folder: Path) -> dict[Key, str]:
    """Return ``yes`` or ``no`` by question, of every task file in a folder.

    A line is ``picture<tab>question<tab>Yes|No``; a fourth column is an answer
    that somebody filled in, and is not read.

    Raises:
        RecapError: if there is no task file, at the first malformed line, or
            for a picture that has not two questions.
    """
    found: dict[Key, str] = {}
    files = [folder / f"{task}.txt" for task in TASKS if (folder / f"{task}.txt").is_file()]
    if not files:
        raise RecapError(f"{folder} holds none of the task files {', '.join(TASKS)} (.txt)")
    for path in files:
        found |= _read_task(path)
    return found


def _read_task(path: Path) -> dict[Key, str]:
    found: dict[Key, str] = {}
    pictures: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        where = f"{path}, line {number} ({cells[0]})"
        if len(cells) not in _COLUMNS:
            raise RecapError(
                f"{where}: {len(cells)} columns; expected picture, question, answer, parted by tabs"
            )
        answer = cells[2].strip().lower()
        if answer not in ("yes", "no"):
            raise RecapError(f"{where}: the answer must be Yes or No, not {cells[2]!r}")
        key = (path.stem, PurePosixPath(cells[0]).stem, bare_question(cells[1]))
        if key in found:
            raise RecapError(f"{where}: the question is there twice")
        found[key] = answer
        pictures[key[1]] = pictures.get(key[1], 0) + 1
    odd = [name for name, count in pictures.items() if count != 2]
    if odd:
        raise RecapError(f"{path}: pictures without exactly two questions: {', '.join(odd[:5])}")
    return found
