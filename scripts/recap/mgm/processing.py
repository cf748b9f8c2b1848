"""From a picture to the tensor both towers see.

The steps and their arithmetic are those of the CLIP image processor of
transformers with the PIL backend: bicubic resize on 8-bit pixels, centre crop,
``uint8 * (1 / 255)`` rounded to float32, then mean and standard deviation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from ..errors import RecapError
from ..io import read_json

if TYPE_CHECKING:
    from .parts import ModelParts

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_WORKING_PIXELS = 1 << 28


@dataclass(frozen=True)
class ImagePreprocessor:
    """Prepares pictures for the auxiliary tower; the CLIP view is derived from its result.

    Attributes:
        image_size_aux: edge of the result in pixels.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    image_size_aux: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @classmethod
    def from_parts(cls, parts: "ModelParts") -> "ImagePreprocessor":
        """Read mean and standard deviation from the CLIP folder.

        Raises:
            RecapError: if the file lacks them, or the ConvNeXt folder states others.
        """
        path = parts.clip / "preprocessor_config.json"
        values = read_json(path)
        try:
            mean, std = _triple(values["image_mean"]), _triple(values["image_std"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecapError(f"{path}: image_mean and image_std need three numbers each") from error
        _check_convnext_agrees(parts.convnext / "open_clip_config.json", mean, std)
        return cls(parts.image_size_aux, mean, std)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> "ImagePreprocessor":
        """Read the settings that a full checkpoint carries."""
        source = Path(path) / "preprocessor_config.json"
        values = read_json(source)
        try:
            size = int(values["crop_size"]["height"])
            return cls(size, _triple(values["image_mean"]), _triple(values["image_std"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RecapError(f"{source} is not an image preprocessor: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """Return the settings in the form of a CLIP ``preprocessor_config.json``."""
        size = self.image_size_aux
        return {
            "crop_size": {"height": size, "width": size},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.mean),
            "image_processor_type": "CLIPImageProcessor",
            "image_std": list(self.std),
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": size},
        }

    def as_settings(self) -> dict[str, Any]:
        """Return the three attributes, lists instead of tuples."""
        return {
            "image_size_aux": self.image_size_aux,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "ImagePreprocessor":
        """Return the inverse of :meth:`as_settings`."""
        mean, std = _triple(settings["mean"]), _triple(settings["std"])
        return cls(int(settings["image_size_aux"]), mean, std)

    def __call__(
        self, image: Image.Image, aspect: Literal["square", "pad"] = "pad"
    ) -> torch.Tensor:
        """Prepare one picture: :meth:`normalise` of its :meth:`pixels`."""
        return self.normalise(self.pixels(image, aspect))

    def pixels(self, image: Image.Image, aspect: Literal["square", "pad"] = "pad") -> torch.Tensor:
        """Return a picture's pixels as they are normalised.

        Args:
            image: any PIL image; converted to RGB.
            aspect: ``square`` crops the centre, ``pad`` first pads to a square
                of the mean colour, so that the whole picture stays visible.

        Returns:
            uint8 tensor (3, S, S).

        Raises:
            RecapError: for an unknown ``aspect`` or a picture so elongated that
                its resized form would not fit in memory.
        """
        if aspect not in ("square", "pad"):
            raise RecapError(f"image aspect must be 'square' or 'pad', not {aspect!r}")
        picture = image.convert("RGB")
        if aspect == "pad":
            picture = pad_to_square(picture, self.mean)
        pixels = np.asarray(self._resize_and_crop(picture))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return ``(pixel / 255 - mean) / std``, looked up in a table of its 256 values.

        Args:
            pixels: uint8 (..., 3, S, S), on any device.

        Returns:
            float32 of the same shape, the same numbers on every device.
        """
        table = self._table().to(pixels.device)
        channel = torch.arange(0, 768, 256, dtype=torch.int32, device=pixels.device)
        return table[pixels.int() + channel.view(3, 1, 1)]

    def _table(self) -> torch.Tensor:
        """Return the normalised values of 0 to 255 for each channel, (768,) float32."""
        scaled = (np.arange(256, dtype=np.uint8) * (1 / 255)).astype(np.float32)[:, None]
        normed = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(normed.T).reshape(-1))

    def _resize_and_crop(self, picture: Image.Image) -> Image.Image:
        size = self.image_size_aux
        short, long = sorted(picture.size)
        new_long = int(size * long / short)
        _require_workable(picture, size * new_long)
        wide = picture.width >= picture.height
        shape = (new_long, size) if wide else (size, new_long)
        if shape != picture.size:
            picture = picture.resize(shape, Image.Resampling.BICUBIC)
        left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
        return picture.crop((left, top, left + size, top + size))


def pad_to_square(picture: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    """Centre an RGB picture on a square of its longer edge in the mean colour.

    The colour is ``int(mean * 255)`` and offsets are divided by two downwards,
    as in upstream's ``expand2square``.
    """
    width, height = picture.size
    if width == height:
        return picture
    edge = max(width, height)
    _require_workable(picture, edge * edge)
    color = (int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255))
    canvas = Image.new("RGB", (edge, edge), color)
    canvas.paste(picture, ((edge - width) // 2, (edge - height) // 2))
    return canvas


def _require_workable(picture: Image.Image, pixels: int) -> None:
    if pixels > MAX_WORKING_PIXELS:
        raise RecapError(
            f"a picture of {picture.width} x {picture.height} pixels is too elongated or large: it "
            f"would need {pixels} pixels in between, at most {MAX_WORKING_PIXELS} are allowed; "
            "leave it out"
        )


def _triple(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _check_convnext_agrees(
    path: Path, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    stated = read_json(path).get("preprocess_cfg", {})
    for name, ours in (("mean", mean), ("std", std)):
        theirs = stated.get(name)
        if theirs is not None and not np.allclose(theirs, ours, rtol=0, atol=1e-6):
            raise RecapError(
                f"{path}: preprocess_cfg.{name} is {theirs}, but the CLIP folder says "
                f"{list(ours)}; both towers see one picture, so they must agree"
            )
