"""Closed questions about a scene: multiple choice by letter, and yes or no."""

from itertools import product

import numpy as np

from .questions import CHOICES, INSTRUCTION, Question
from .scene import COLORS, SHAPES, Scene

LETTERS = "ABCD"
LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."
KINDS = tuple(product(COLORS, SHAPES))

Kind = tuple[str, str]


def pick_options(question: Question, scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return up to four options in random order; places are those of the scene's objects."""
    if question.kind == "place" and len(scene.things) > 1:
        pool = [thing.place for thing in scene.things]
    else:
        pool = list(CHOICES[question.kind])
    others = [choice for choice in pool if choice != question.answer]
    picked = rng.choice(others, size=min(3, len(others)), replace=False)
    options = [question.answer, *(str(choice) for choice in picked)]
    return [options[int(i)] for i in rng.permutation(len(options))]


def letter_prompt(question: str, options: list[str], hint: str = "") -> str:
    """Return MMBench's prompt: the hint if any, the question, a line an option, what to do."""
    lines = [hint] if hint else []
    lines.append(question[0].upper() + question[1:])
    lines += [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([*lines, LETTER_INSTRUCTION])


def kinds_of(scene: Scene) -> list[Kind]:
    """Return the objects of a scene as colour and shape."""
    return [(thing.color, thing.shape) for thing in scene.things]


def mixed_kinds(scene: Scene) -> list[Kind]:
    """Return what is absent but mixes up, or nearly equals, the objects that are there."""
    shown = kinds_of(scene)
    colors, shapes = {color for color, _ in shown}, {shape for _, shape in shown}
    pool = [kind for kind in KINDS if kind not in shown]
    mixed = [kind for kind in pool if kind[0] in colors and kind[1] in shapes]
    return mixed or [kind for kind in pool if kind[0] in colors or kind[1] in shapes]


def ask_kind(kind: Kind) -> str:
    """Return POPE's question for an object."""
    return f"Is there {'an' if kind[0][0] in 'aeiou' else 'a'} {' '.join(kind)} in the image?"


def yes_no_prompt(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return a yes/no prompt and its answer; half of the objects asked for are there."""
    present = bool(rng.random() < 0.5)
    if present:
        pool = kinds_of(scene)
    elif rng.random() < 0.5:
        pool = mixed_kinds(scene)
    else:
        pool = [kind for kind in KINDS if kind not in kinds_of(scene)]
    asked = ask_kind(pool[int(rng.integers(len(pool)))])
    return f"{asked}\n{INSTRUCTION}", "yes" if present else "no"
