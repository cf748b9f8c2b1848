"""Questions about a scene, ten answers each, and what a text reader would see in it."""

from dataclasses import dataclass

import numpy as np

from .scene import BACKGROUNDS, COLORS, PLACES, SHAPES, SIGN_WORDS, Scene

ANNOTATORS = 10
INSTRUCTION = "Answer the question using a single word or phrase."
NUMBER_WORDS = ("zero", "one", "two", "three", "four")
_LOOK_ALIKES = {"O": "0", "I": "1", "S": "5", "B": "8", "E": "F", "G": "C", "Z": "2", "A": "4"}
CHOICES: dict[str, tuple[str, ...]] = {
    "sign": SIGN_WORDS,
    "color": tuple(COLORS),
    "shape": SHAPES,
    "count": ("1", "2", "3", "4"),
    "place": PLACES,
    "background": tuple(BACKGROUNDS),
}


@dataclass(frozen=True)
class Question:
    """A question with its one true answer; ``kind`` says which fact it asks for."""

    kind: str
    text: str
    answer: str


def possible_questions(scene: Scene) -> list[Question]:
    """Return every question the scene answers, each with a distinct text."""
    found = [
        Question("count", "how many objects are there?", str(len(scene.things))),
        Question("background", "what color is the background?", scene.background),
    ]
    if scene.sign:
        found += [
            Question("sign", "what does the sign say?", scene.sign),
            Question("sign", "what word is written on the sign?", scene.sign),
            Question("sign", "what is the text on the board?", scene.sign),
        ]
    for thing in scene.things:
        found += [
            Question("color", f"what color is the {thing.shape}?", thing.color),
            Question("shape", f"what shape is the {thing.color} object?", thing.shape),
            Question("place", f"where is the {thing.color} {thing.shape}?", thing.place),
        ]
    return found


def sample_questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """Draw ``count`` different questions; half of the weight goes to the sign, if any."""
    pool = possible_questions(scene)
    signs = sum(question.kind == "sign" for question in pool)
    weights = np.array([(1 / signs if q.kind == "sign" else 1 / (len(pool) - signs)) for q in pool])
    picked = rng.choice(len(pool), size=count, replace=False, p=weights / weights.sum())
    return [pool[int(i)] for i in picked]


def ten_answers(question: Question, rng: np.random.Generator) -> list[str]:
    """Return the answers of ten annotators: most agree, some write or see it otherwise.

    At least three give the true answer in a form that TextVQA's normalisation
    maps to it, nine or ten in most questions.
    """
    agreeing = int(rng.choice([10, 9, 8, 7, 6, 5, 4, 3], p=_AGREEMENT))
    answers = [_restate(question, rng) for _ in range(agreeing)]
    others = [choice for choice in CHOICES[question.kind] if choice != question.answer]
    for _ in range(ANNOTATORS - agreeing):
        if rng.random() < 0.3:
            answers.append(str(rng.choice(["unanswerable", "not sure", "no idea"])))
        else:
            answers.append(str(rng.choice(others)))
    return [answers[int(i)] for i in rng.permutation(ANNOTATORS)]


_AGREEMENT = (0.38, 0.22, 0.13, 0.09, 0.07, 0.05, 0.04, 0.02)


def _restate(question: Question, rng: np.random.Generator) -> str:
    """Return the true answer in a form that normalises to it."""
    draw = rng.random()
    if draw < 0.8:
        return question.answer
    if question.kind == "count":
        return NUMBER_WORDS[int(question.answer)]
    if draw < 0.9:
        return question.answer.upper() if question.kind == "sign" else question.answer.capitalize()
    return f"{question.answer}." if draw < 0.96 else f"the {question.answer}"


def read_tokens(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return what an OCR engine would report: the word, mistakes, and a few ghosts."""
    tokens: list[str] = []
    if scene.sign:
        word = scene.sign.upper()
        draw = rng.random()
        if draw < 0.78:
            tokens.append(word)
        elif draw < 0.86:
            tokens.append(_misread(word, rng))
        elif draw < 0.94:
            cut = int(rng.integers(1, len(word)))
            tokens += [word[:cut], word[cut:]]
        if rng.random() < 0.15:
            tokens.append(word.capitalize())
    ghosts = int(rng.choice([0, 1, 2], p=[0.55, 0.3, 0.15])) if tokens else 1
    tokens += [str(rng.choice(["o", "II", "A", "0", "L", "TM", "l.", "Co"])) for _ in range(ghosts)]
    return [tokens[int(i)] for i in rng.permutation(len(tokens))]


def _misread(word: str, rng: np.random.Generator) -> str:
    spots = [i for i, letter in enumerate(word) if letter in _LOOK_ALIKES]
    if not spots:
        return word[:-1]
    spot = spots[int(rng.integers(len(spots)))]
    return word[:spot] + _LOOK_ALIKES[word[spot]] + word[spot + 1 :]


def prompt(question: str, tokens: list[str] | None) -> str:
    """Return the TextVQA prompt: three lines with ``tokens``, two without (``None``).

    The question starts with a capital, unlike in the annotations. An empty token
    list keeps the trailing space of its line. Both are upstream's form.
    """
    lines = [question[0].upper() + question[1:], INSTRUCTION]
    if tokens is not None:
        lines.insert(1, f"Reference OCR token: {', '.join(tokens)}")
    return "\n".join(lines)
