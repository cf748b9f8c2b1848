"""The caption grammar: what is true of a scene, said in several ways.

Colours, shapes and sizes differ within a scene, so captions repeat few words
beside the article and pass the repetition filters of the shipped recipes.
"""

import numpy as np

from .scene import Scene, Thing

STYLES = 6


def name_thing(thing: Thing) -> str:
    """Return ``large red circle``; a medium size goes unsaid."""
    size = "" if thing.size == "medium" else f"{thing.size} "
    return f"{size}{thing.color} {thing.shape}"


def canonical_caption(scene: Scene) -> str:
    """Return the caption in the one fixed style that the micro captioner learns."""
    sign = f" with a sign saying {scene.sign}" if scene.sign else ""
    return f"{_arrange(scene)}{sign} on a {scene.background} background"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a true caption in one of ``STYLES`` styles."""
    style = int(rng.integers(STYLES))
    ground = scene.background
    if style == 0:
        return canonical_caption(scene)
    if style == 1:
        return f"there is {_arrange(scene)}{_sign(scene, ' and a sign that reads {}')}"
    if style == 2:
        return f"a {ground} picture of {_arrange(scene)}{_sign(scene, ', the sign says {}')}"
    if style == 3:
        return f"{_arrange(scene)}{_sign(scene, ' next to a board with the word {}')}"
    if style == 4:
        head = f"a {scene.sign} sign and " if scene.sign else "a photo of "
        return f"{head}{_arrange(scene)} in front of a {ground} wall"
    return f"{ground} background with {_arrange(scene)}{_sign(scene, ', labelled {}')}"


def _sign(scene: Scene, pattern: str) -> str:
    return pattern.format(scene.sign) if scene.sign else ""


def _arrange(scene: Scene) -> str:
    names = [name_thing(thing) for thing in scene.things]
    if scene.arrangement == "single":
        place = scene.things[0].place
        where = f"on the {place}" if place in ("left", "right") else f"at the {place}"
        return f"{_article(names[0])} {'in the middle' if place == 'middle' else where}"
    if len(names) == 2:
        relation = "left of" if scene.arrangement == "row" else "above"
        return f"{_article(names[0])} {relation} {_article(names[1])}"
    first, second, third = (_article(name) for name in names)
    return f"{first}, {second} and {third} in a {scene.arrangement}"


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
