"""Captions that are true, but not in English: a small grammar of four languages."""

from dataclasses import dataclass

import numpy as np

from .scene import Scene, Thing


@dataclass(frozen=True)
class _Language:
    """Words and patterns; ``{c}`` is a colour, ``{s}`` a shape, ``{b}`` a background."""

    colors: dict[str, str]
    shapes: dict[str, str]
    backgrounds: dict[str, str]
    thing: str
    joiner: str
    sign: str
    patterns: tuple[str, ...]


LANGUAGES: dict[str, _Language] = {
    "french": _Language(
        {
            "red": "rouge", "green": "vert", "blue": "bleu", "yellow": "jaune",
            "purple": "violet", "orange": "orange", "black": "noir", "pink": "rose",
        },
        {
            "circle": "un disque", "square": "un carré", "triangle": "un triangle",
            "star": "un motif d'étoile", "cross": "un motif de croix", "ring": "un anneau",
        },
        {"white": "blanc", "grey": "gris", "beige": "beige", "teal": "turquoise"},
        "{s} {c}", " et ", " avec le mot {w}",
        ("{t}{w} sur fond {b}", "image avec {t}{w}", "à vendre : {t}{w}, livraison offerte"),
    ),
    "german": _Language(
        {
            "red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb",
            "purple": "lila", "orange": "orange", "black": "schwarz", "pink": "rosa",
        },
        {
            "circle": "Kreis", "square": "Quadrat", "triangle": "Dreieck",
            "star": "Stern", "cross": "Kreuz", "ring": "Ring",
        },
        {"white": "weiß", "grey": "grau", "beige": "beige", "teal": "türkis"},
        "{s} in {c}", " und ", " mit Schild {w}",
        ("{t}{w} vor Hintergrund in {b}", "Bild: {t}{w}", "{t}{w}, jetzt günstig im Angebot"),
    ),
    "spanish": _Language(
        {
            "red": "rojo", "green": "verde", "blue": "azul", "yellow": "amarillo",
            "purple": "morado", "orange": "naranja", "black": "negro", "pink": "rosa",
        },
        {
            "circle": "un círculo", "square": "un cuadrado", "triangle": "un triángulo",
            "star": "un dibujo de estrella", "cross": "un dibujo de cruz", "ring": "un anillo",
        },
        {"white": "blanco", "grey": "gris", "beige": "beige", "teal": "turquesa"},
        "{s} {c}", " y ", " con la palabra {w}",
        ("{t}{w} sobre fondo {b}", "foto de {t}{w}", "{t}{w}, envío gratis a toda España"),
    ),
    "pinyin": _Language(
        {
            "red": "hongse", "green": "lüse", "blue": "lanse", "yellow": "huangse",
            "purple": "zise", "orange": "chengse", "black": "heise", "pink": "fense",
        },
        {
            "circle": "yuanxing", "square": "fangxing", "triangle": "sanjiaoxing",
            "star": "xingxing", "cross": "shizi", "ring": "yuanhuan",
        },
        {"white": "baise", "grey": "huise", "beige": "mise", "teal": "qingse"},
        "yi ge {c} de {s}", " he ", " paizi shang xie zhe {w}",
        ("{b} beijing shang you {t}{w}", "tupian: {t}{w}", "{t}{w}, baoyou tejia"),
    ),
}  # fmt: skip


def foreign_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption of ``scene`` in one of ``LANGUAGES``."""
    language = LANGUAGES[str(rng.choice(list(LANGUAGES)))]
    things = language.joiner.join(_name(language, thing) for thing in scene.things)
    sign = language.sign.format(w=scene.sign) if scene.sign else ""
    pattern = language.patterns[int(rng.integers(len(language.patterns)))]
    return pattern.format(t=things, w=sign, b=language.backgrounds[scene.background])


def _name(language: _Language, thing: Thing) -> str:
    return language.thing.format(c=language.colors[thing.color], s=language.shapes[thing.shape])
