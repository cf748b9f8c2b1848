"""How true captions are: exact matches, words in place, and facts against chance."""

from typing import Any

from .scene import BACKGROUNDS, COLORS, SHAPES, SIGN_WORDS, Scene

_VOCABULARIES: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "background": tuple(BACKGROUNDS),
    "sign": SIGN_WORDS,
}


def score_captions(scenes: list[Scene], truths: list[str], captions: list[str]) -> dict[str, Any]:
    """Compare captions with true ones.

    Returns:
        ``exact_match``: share of equal captions. ``word_accuracy``: share of the
        true caption's positions that hold the same word, over all captions.
        ``<fact>_accuracy``: share of pictures whose caption names exactly the
        colours (shapes, background, sign word) shown. ``<fact>_chance``: the
        same for the captions moved on by one picture: what a caption that
        ignores its picture gets.
    """
    if not scenes:
        return {}
    moved = captions[1:] + captions[:1]
    result: dict[str, Any] = {
        "exact_match": _share(
            [caption == truth for caption, truth in zip(captions, truths, strict=True)]
        ),
        "word_accuracy": _word_accuracy(truths, captions),
        "distinct_captions": len(set(captions)),
        "shortest_caption_words": min(len(caption.split()) for caption in captions),
    }
    for fact in _VOCABULARIES:
        shown = [_facts(scene)[fact] for scene in scenes]
        for name, texts in (("accuracy", captions), ("chance", moved)):
            said = [_named(text, fact) for text in texts]
            result[f"{fact}_{name}"] = _share([a == b for a, b in zip(said, shown, strict=True)])
    return result


def _facts(scene: Scene) -> dict[str, list[str]]:
    """Return the words of each kind, in the order in which the caption names them."""
    return {
        "color": [thing.color for thing in scene.things],
        "shape": [thing.shape for thing in scene.things],
        "background": [scene.background],
        "sign": [scene.sign] if scene.sign else [],
    }


def _named(text: str, fact: str) -> list[str]:
    known = _VOCABULARIES[fact]
    return [word for word in text.replace(",", "").split() if word in known]


def _word_accuracy(truths: list[str], captions: list[str]) -> float:
    right = total = 0
    for truth, caption in zip(truths, captions, strict=True):
        expected, found = truth.split(), caption.split()
        total += len(expected)
        right += sum(a == b for a, b in zip(expected, found, strict=False))
    return round(right / total, 4)


def _share(values: list[bool]) -> float:
    return round(sum(values) / len(values), 4)
