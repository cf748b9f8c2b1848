"""Text in the language of the world, for tokenizers and the micro language model.

Whatever a text asks is answered by what it tells: the language model learns
the words, the grammar and how to find a fact, and has never seen a picture.
"""

from collections.abc import Iterator

import numpy as np

from ..curate.questions import STAGE1_QUESTIONS
from .captions import canonical_caption, caption
from .closed import LETTERS, letter_prompt, pick_options, yes_no_prompt
from .corrupt import corrupt
from .questions import (
    ANNOTATORS,
    INSTRUCTION,
    Question,
    possible_questions,
    prompt,
    read_tokens,
    sample_questions,
    ten_answers,
)
from .scene import SIGN_WORDS, Scene, sample_scene
from .settings import CorruptionRates
from .streams import Stream, generator

_CHOICE_SHARE, _YES_NO_SHARE = 0.15, 0.15
_MOST_ROUNDS = 8
_GENERAL = (
    "The quick brown fox jumps over the lazy dog. Yes or no? Answer with the option's letter "
    "from the given choices directly. A. B. C. D. unanswerable, not sure, no idea. "
    "Please describe this picture in one sentence, as precisely as you can."
)


def told(scene: Scene, rng: np.random.Generator) -> str:
    """Return all facts of a scene in one line; the background is said at least once."""
    if rng.random() < 0.5:
        return canonical_caption(scene)
    return f"{caption(scene, rng)}, the background is {scene.background}"


def scene_rounds(scene: Scene, rng: np.random.Generator, opening: str) -> list[tuple[str, str]]:
    """Return rounds of (user's turn, answer) about ``scene``.

    One text in four asks for a caption, the others for one to eight facts.
    ``opening`` is the first turn's first line.
    """
    if rng.random() < 0.25:
        ask = str(rng.choice(STAGE1_QUESTIONS))
        return [(f"{opening}\n{ask}", caption(scene, rng))]
    rounds: list[tuple[str, str]] = []
    most = min(_MOST_ROUNDS, len(possible_questions(scene)))
    for question in sample_questions(scene, rng, int(rng.integers(1, most + 1))):
        asked, answer = _ask(question, scene, rng)
        rounds.append((asked if rounds else f"{opening}\n{asked}", answer))
    return rounds


def _ask(question: Question, scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return the question openly, or as a choice, or a yes/no question instead of it."""
    form = rng.random()
    if form < _CHOICE_SHARE:
        options = pick_options(question, scene, rng)
        answer = LETTERS[options.index(question.answer)]
        return letter_prompt(question.text, options), answer
    if form < _CHOICE_SHARE + _YES_NO_SHARE:
        return yes_no_prompt(scene, rng)
    tokens = read_tokens(scene, rng) if rng.random() < 0.3 else None
    asked = prompt(question.text, tokens)
    if rng.random() < 0.5:
        asked = asked.removesuffix(f"\n{INSTRUCTION}")
    return asked, question.answer


def tokenizer_text(seed: int, count: int) -> Iterator[str]:
    """Yield ``count`` texts that show the words of captions, prompts and answers."""
    yield from [_GENERAL] * 2
    yield from STAGE1_QUESTIONS * 2
    # The words of the conversation template, and the signs in the case they are drawn in.
    yield from ["user\n", "model\n"] * 200
    yield from [word.upper() for word in SIGN_WORDS] * 2
    yield from SIGN_WORDS
    kinds = [*CorruptionRates.model_fields, "none"]
    for index in range(count):
        rng = generator(seed, Stream.MICRO_TOKENIZER, index)
        scene = sample_scene(rng)
        true_caption = caption(scene, rng)
        yield canonical_caption(scene)
        yield f" {corrupt(kinds[index % len(kinds)], true_caption, scene, rng)}"
        question = sample_questions(scene, rng, 1)[0]
        yield prompt(question.text, read_tokens(scene, rng))
        yield f"A picture shows {true_caption}.\n{INSTRUCTION}"
        yield from ten_answers(question, rng)[: ANNOTATORS // 5]
