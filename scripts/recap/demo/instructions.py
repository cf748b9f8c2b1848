"""Instruction data of stage 2 in LLaVA form: short answers about pictures of its own."""

from typing import Any

import numpy as np

from .captions import caption
from .corpus import draw_picture
from .questions import Question, prompt, read_tokens, sample_questions
from .scene import sample_scene
from .settings import WorldSettings
from .streams import Stream, generator
from .tree import Tree

_TWO_TURNS = 0.2


def build_instructions(settings: WorldSettings, tree: Tree) -> list[dict[str, Any]]:
    """Return the samples; image paths are relative to the world's folder."""
    return [_sample(settings, tree, index) for index in range(settings.sft_samples)]


def _sample(settings: WorldSettings, tree: Tree, index: int) -> dict[str, Any]:
    # A generator apart from the picture's, so that neither shifts the other.
    rng = generator(settings.seed, Stream.INSTRUCTION_TEXT, index)
    name = f"sft_{index:08d}"
    if rng.random() < settings.sft_text_only_share:
        return {"id": name, "conversations": _text_only(rng)}
    low, high = settings.image_min_side, settings.image_max_side
    scene, jpeg, _ = draw_picture(settings.seed, Stream.INSTRUCTION, index, low, high)
    image = f"sft_images/{index // 1000:05d}/{name}.jpg"
    tree.add(image, jpeg)
    questions = sample_questions(scene, rng, 2 if rng.random() < _TWO_TURNS else 1)
    tokens = read_tokens(scene, rng) if rng.random() < settings.sft_ocr_share else None
    first = f"<image>\n{prompt(questions[0].text, tokens)}"
    turns = _turns(first, questions[0])
    for question in questions[1:]:
        turns += _turns(prompt(question.text, None), question)
    return {"id": name, "conversations": turns, "image": image}


def _text_only(rng: np.random.Generator) -> list[dict[str, str]]:
    """Return a question about a picture that is only told of."""
    scene = sample_scene(rng)
    question = sample_questions(scene, rng, 1)[0]
    # Not every caption names the background.
    told = f"{caption(scene, rng)}, the background is {scene.background}"
    return _turns(f"A picture shows {told}.\n{prompt(question.text, None)}", question)


def _turns(human: str, question: Question) -> list[dict[str, str]]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": question.answer}]
