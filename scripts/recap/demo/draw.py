"""Draws a scene as a picture and spoils it a little, the way cameras and the web do."""

import io
import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .scene import BACKGROUNDS, COLORS, Scene, Thing

MAX_JPEG_BYTES = 15_000
# Of the sign's board, as shares of the central square's side.
SIGN_HALF_WIDTH, SIGN_HALF_HEIGHT = 0.26, 0.1


def sample_size(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Return width and height in pixels; both within the bounds, nearly square."""
    width = int(rng.integers(low, high + 1))
    height = int(np.clip(width * rng.uniform(0.88, 1.14), low, high))
    return width, height


def render(scene: Scene, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw ``scene`` inside the central square, with photographic nuisance.

    All lengths scale with the shorter side, so that a small rendering looks
    like a large one made smaller. Returns an RGB image.
    """
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    image = _background(scene, rng, width, height)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(draw, thing, rng, (left + thing.x * side, top + thing.y * side), side)
    if scene.sign:
        center = (left + scene.sign_x * side, top + scene.sign_y * side)
        _draw_sign(draw, scene.sign, rng, center, side)
    return _spoil(image, rng)


def encode_jpeg(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Encode at a random quality of 60 to 90, lowered until the file is under 15 kB."""
    quality = int(rng.integers(60, 91))
    while True:
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() < MAX_JPEG_BYTES or quality <= 20:
            return buffer.getvalue()
        quality -= 15


def _jitter(
    color: tuple[int, int, int], rng: np.random.Generator, spread: int
) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(color) + rng.integers(-spread, spread + 1, 3), 0, 255)
    return int(red), int(green), int(blue)


def _background(scene: Scene, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    color = np.array(_jitter(BACKGROUNDS[scene.background], rng, 8), dtype=np.float32)
    slope = rng.uniform(-14, 14, 2)  # brightness change across the picture, vertical, horizontal
    corners = np.array([[0, slope[1]], [slope[0], slope.sum()]], dtype=np.float32)
    small = np.clip(color + corners[:, :, None], 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


def _draw_thing(
    draw: ImageDraw.ImageDraw,
    thing: Thing,
    rng: np.random.Generator,
    center: tuple[float, float],
    side: int,
) -> None:
    x, y = center
    radius = thing.radius * side * float(rng.uniform(0.94, 1.06))
    fill = _jitter(COLORS[thing.color], rng, 12)
    turn = float(rng.uniform(-0.12, 0.12))
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing.shape == "circle":
        draw.ellipse(box, fill=fill)
    elif thing.shape == "ring":
        draw.ellipse(box, outline=fill, width=max(1, round(radius * 0.38)))
    else:
        outline = np.array(_outline(thing.shape), dtype=np.float64) * radius
        cos, sin = math.cos(turn), math.sin(turn)
        turned = outline @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
        draw.polygon([(float(px), float(py)) for px, py in turned], fill=fill)


@cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Return the corners of a shape of radius one around the origin."""
    if shape == "square":
        return ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88))
    if shape == "triangle":
        return ((0.0, -1.0), (1.0, 0.85), (-1.0, 0.85))
    if shape == "star":
        radii = (1.1, 0.45)
        angles = [(k, math.pi * k / 5 - math.pi / 2) for k in range(10)]
        return tuple((radii[k % 2] * math.cos(a), radii[k % 2] * math.sin(a)) for k, a in angles)
    arm = 0.34
    return (
        (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
        (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
    )  # fmt: skip


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_sign(
    draw: ImageDraw.ImageDraw,
    word: str,
    rng: np.random.Generator,
    center: tuple[float, float],
    side: int,
) -> None:
    x, y = center
    half_width, half_height = SIGN_HALF_WIDTH * side, SIGN_HALF_HEIGHT * side
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    board = _jitter((250, 250, 250), rng, 5)
    ink = _jitter((20, 20, 30), rng, 12)
    draw.rectangle(box, fill=board, outline=ink, width=max(1, round(side * 0.008)))
    draw.text((x, y), word.upper(), fill=ink, font=_font(max(6, round(side * 0.15))), anchor="mm")


def _spoil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, add grain and shift brightness; each mildly, none always."""
    width, height = image.size
    if rng.random() < 0.35:
        radius = float(rng.uniform(0.001, 0.006)) * min(width, height)
        image = image.filter(ImageFilter.GaussianBlur(radius))
    if rng.random() < 0.6:
        grain_size = (max(2, width // 3), max(2, height // 3))
        count = grain_size[0] * grain_size[1]
        grain = np.frombuffer(rng.bytes(count), dtype=np.uint8).reshape(grain_size[::-1])
        layer = Image.fromarray(grain).resize((width, height), Image.Resampling.BILINEAR)
        strength = float(rng.uniform(0.01, 0.05))
        image = Image.blend(image, Image.merge("RGB", (layer, layer, layer)), strength)
    gain = float(rng.uniform(0.88, 1.08))
    table = np.clip(np.arange(256) * gain, 0, 255).astype(np.uint8)
    return image.point(table.tolist() * 3)
