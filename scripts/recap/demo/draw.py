"""Draws a scene as a picture and spoils it a little, the way cameras and the web do."""

import io
import math
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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

    Exposure, colour cast and a brightness gradient are in the colours; blur and
    grain come on top. All lengths scale with the shorter side, so that a small
    rendering looks like a large one made smaller. Returns an RGB image.
    """
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    light = rng.uniform(0.88, 1.08) * rng.uniform(0.97, 1.03, 3)
    image = _background(scene, rng, light, width, height)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        fill = _jitter(COLORS[thing.color], rng, 12, light)
        _draw_thing(draw, thing, rng, fill, (left + thing.x * side, top + thing.y * side), side)
    if scene.sign:
        center = (left + scene.sign_x * side, top + scene.sign_y * side)
        _draw_sign(draw, scene.sign, rng, light, center, side)
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
    color: tuple[int, int, int], rng: np.random.Generator, spread: int, light: np.ndarray
) -> tuple[int, int, int]:
    """Return the colour moved by up to ``spread`` a channel, seen under ``light`` (3 factors)."""
    moved = (np.array(color) + rng.integers(-spread, spread + 1, 3)) * light
    red, green, blue = (min(255, max(0, int(value))) for value in moved.tolist())
    return red, green, blue


def _background(
    scene: Scene, rng: np.random.Generator, light: np.ndarray, width: int, height: int
) -> Image.Image:
    """Return a plane of brightness that changes by up to 14 levels along each axis."""
    color = np.array(_jitter(BACKGROUNDS[scene.background], rng, 8, light))
    down, across = rng.uniform(-14, 14, 2)
    low, high = min(down, 0) + min(across, 0), max(down, 0) + max(across, 0)
    # Sums of bytes below must stay bytes: both terms are kept from zero upwards.
    base = np.clip(color + low, 0, 255 - (high - low) - 1)
    row = base + (np.linspace(0, across, width) - min(across, 0))[:, None]
    column = np.linspace(0, down, height) - min(down, 0)
    plane = row.astype(np.uint8).reshape(1, -1) + column.astype(np.uint8)[:, None]
    return Image.fromarray(plane.reshape(height, width, 3))


def _draw_thing(
    draw: ImageDraw.ImageDraw,
    thing: Thing,
    rng: np.random.Generator,
    fill: tuple[int, int, int],
    center: tuple[float, float],
    side: int,
) -> None:
    x, y = center
    radius = thing.radius * side * float(rng.uniform(0.94, 1.06))
    turn = float(rng.uniform(-0.12, 0.12))
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing.shape == "circle":
        draw.ellipse(box, fill=fill)
    elif thing.shape == "ring":
        draw.ellipse(box, outline=fill, width=max(1, round(radius * 0.38)))
    else:
        cos, sin = math.cos(turn) * radius, math.sin(turn) * radius
        corners = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in _outline(thing.shape)]
        draw.polygon(corners, fill=fill)


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


@lru_cache(maxsize=2048)
def lettering(text: str, size: int) -> Image.Image:
    """Return ``text`` as a mask, just as wide as the ink and centred on the line's middle."""
    left, top, right, bottom = _font(size).getbbox(text, anchor="lm")
    half = math.ceil(max(-top, bottom))
    mask = Image.new("L", (math.ceil(right - left), 2 * half), 0)
    ImageDraw.Draw(mask).text((-left, half), text, fill=255, font=_font(size), anchor="lm")
    return mask


def _draw_sign(
    draw: ImageDraw.ImageDraw,
    word: str,
    rng: np.random.Generator,
    light: np.ndarray,
    center: tuple[float, float],
    side: int,
) -> None:
    x, y = center
    half_width, half_height = SIGN_HALF_WIDTH * side, SIGN_HALF_HEIGHT * side
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    board = _jitter((250, 250, 250), rng, 5, light)
    ink = _jitter((20, 20, 30), rng, 12, light)
    draw.rectangle(box, fill=board, outline=ink, width=max(1, round(side * 0.008)))
    written = lettering(word.upper(), max(6, round(side * 0.15)))
    corner = (round(x - written.width / 2), round(y - written.height / 2))
    draw.bitmap(corner, written, fill=ink)


def _spoil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur by defocus or motion and add grain; each mildly, none always."""
    if rng.random() < 0.35:
        image = _blur(image, rng)
    if rng.random() < 0.6:
        x, y = rng.integers(0, _GRAIN_SPARE, 2).tolist()
        grain = _grain().crop((x, y, x + image.width, y + image.height))
        image = Image.blend(image, grain, float(rng.uniform(0.01, 0.05)))
    return image


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Average each pixel with its neighbours, in a window of up to 2 % of the side.

    A window of 2, 4 or 8 pixels is two, three or four means of a picture and its
    shifted self. One in four blurs is motion along one axis only.
    """
    side = min(image.size)
    window = max(2.0, float(rng.uniform(0.003, 0.02)) * side)
    passes = 1 + int(window >= 3.5) + int(window >= 6.5)
    motion = int(rng.integers(8))
    pixels = np.array(image)
    for axis in (0, 1):
        if motion == axis:
            continue
        for step in range(passes):
            far = pixels.swapaxes(0, axis)[1 << step :].swapaxes(0, axis)
            near = pixels.swapaxes(0, axis)[: -(1 << step)].swapaxes(0, axis)
            np.add(near & far, (near ^ far) >> 1, out=near)
    return Image.fromarray(pixels)


_GRAIN_SIDE, _GRAIN_SPARE = 1536, 512


@cache
def _grain() -> Image.Image:
    """Return a tile of grey noise with grains of three pixels, faintly coloured."""
    rng = np.random.default_rng(0)
    size = (_GRAIN_SIDE // 3, _GRAIN_SIDE // 3)
    noise = 0.85 * rng.uniform(0, 255, (*size, 1)) + 0.15 * rng.uniform(0, 255, (*size, 3))
    tile = Image.fromarray(noise.astype(np.uint8))
    return tile.resize((_GRAIN_SIDE, _GRAIN_SIDE), Image.Resampling.BILINEAR)
