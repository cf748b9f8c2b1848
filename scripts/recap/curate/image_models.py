"""Models that give numbers for images, or for images with texts, in real batches.

One loop serves them all (:func:`score_images`): every distinct file is decoded
once, by workers ahead of the models, whatever the number of models.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RecapError
from .ahead import Source, prepared
from .pixels import Pixels

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

logger = logging.getLogger(__name__)

# One list of texts an image.
Texts = Sequence[Sequence[str]]


class Scorer(Protocol):
    """What :func:`score_images` asks of a model."""

    device: "torch.device"

    def prepare(self, image: "Image") -> Any:
        """Return what the model needs of a decoded RGB image; runs in a worker."""

    def score(self, images: list[Any], texts: Texts) -> list[list[float]]:
        """Return the numbers of each prepared image, one a text where it has texts."""


class VisionModel:
    """A transformers model with its pixels, loaded once, on its device.

    Attributes:
        device: where the model is.
        model: the transformers model, in evaluation mode.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: str = "float32",
        device: str = "auto",
        model_class: Any = None,
    ) -> None:
        """Load a local folder.

        Args:
            folder: model folder with weights and image processor.
            dtype: floating-point type of the model; pixels are normalised in float32.
            device: ``auto``, ``cpu`` or ``cuda``.
            model_class: class of the model; that of its ``config.json`` if none.

        Raises:
            RecapError: if the folder cannot be loaded or lacks tensors, which
                would be random.
        """
        import torch
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self._pixels = Pixels(folder)
        self.model = _load(folder, dtype, model_class)
        self.model.eval().to(self.device)

    def prepare(self, image: "Image") -> "NDArray[Any]":
        """Return a decoded image as :meth:`Pixels.shrink` leaves it."""
        return self._pixels.shrink(image)

    def pixels(self, images: "list[NDArray[Any]]") -> "torch.Tensor":
        """Return a batch's pixels (B, 3, H, W) in the model's type, on its device."""
        return self._pixels.finish(images, self.device).to(self.model.dtype)


class TextVisionModel(VisionModel):
    """A model that reads texts as well, with its tokenizer; texts are cut at its window."""

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: str = "float32",
        batch_size: int = 64,
        device: str = "auto",
        model_class: Any = None,
    ) -> None:
        """Load a local folder, see :class:`VisionModel`.

        Args:
            folder: model folder with weights, tokenizer and image processor.
            dtype: floating-point type of the model.
            batch_size: texts, or pairs of image and text, a forward pass.
            device: ``auto``, ``cpu`` or ``cuda``.
            model_class: class of the model; that of its ``config.json`` if none.

        Raises:
            RecapError: if the folder cannot be loaded, is not whole or has no tokenizer.
        """
        from transformers import AutoTokenizer

        super().__init__(folder, dtype=dtype, device=device, model_class=model_class)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise RecapError(f"{folder} has no loadable tokenizer: {error}") from error
        self._batch_size = batch_size


class Classifier(VisionModel):
    """An image classifier of two labels: the probability of the second."""

    def score(self, images: "list[NDArray[Any]]", texts: Texts) -> list[list[float]]:
        """Return one probability an image; texts are not looked at."""
        import torch

        with torch.inference_mode():
            logits = self.model(pixel_values=self.pixels(images)).logits
        return [[value] for value in logits.float().softmax(dim=-1)[:, 1].tolist()]


def score_images(
    sources: Sequence[Source],
    scorers: Sequence[Scorer],
    texts: Sequence[Texts],
    *,
    batch_size: int,
) -> list[list[list[float]]]:
    """Score every image with every model, decoding it once.

    A batch that does not fit the GPU is halved until it does, and later
    batches keep that size.

    Args:
        sources: distinct image files.
        scorers: the models.
        texts: for each model, the texts to score with each image (S lists).
        batch_size: images a forward pass.

    Returns:
        For each model and image the numbers of :meth:`Scorer.score`.

    Raises:
        RecapError: if an image cannot be decoded, with its record's id.
    """
    found: list[list[list[float]]] = [[] for _ in scorers]
    fits = batch_size

    def prepare(image: "Image") -> list[Any]:
        return [scorer.prepare(image) for scorer in scorers]

    def run(batch: list[list[Any]], start: int) -> None:
        nonlocal fits
        place = 0
        while place < len(batch):
            part = batch[place : place + fits]
            at = start + place
            for index, scorer in enumerate(scorers):
                images = [item[index] for item in part]
                numbers, fitting = _halving(scorer, images, texts[index][at : at + len(part)])
                found[index] += numbers
                fits = min(fits, fitting) if fitting < len(part) else fits
            place += len(part)

    processes = any(scorer.device.type == "cuda" for scorer in scorers)
    stream = prepared(sources, prepare, processes=processes)
    start = 0
    # The models have a thread of their own, so that the next batch is taken in beside them.
    with ThreadPoolExecutor(1) as models:
        running: Future[None] | None = None
        while batch := list(islice(stream, batch_size)):
            if running:
                running.result()
            running = models.submit(run, batch, start)
            start += len(batch)
        if running:
            running.result()
    return found


def _halving(scorer: Scorer, images: list[Any], texts: Texts) -> tuple[list[list[float]], int]:
    """Return the numbers of a batch and the batch size that fitted the GPU."""
    import torch

    try:
        return scorer.score(images, texts), len(images)
    except torch.cuda.OutOfMemoryError as error:
        if len(images) == 1:
            raise RecapError(
                "a single image does not fit the GPU beside the models; use one with more "
                "memory, or a smaller `dtype`"
            ) from error
    torch.cuda.empty_cache()
    half = len(images) // 2
    logger.warning("a batch of %d does not fit the GPU; going on with %d", len(images), half)
    first, fits = _halving(scorer, images[:half], texts[:half])
    second, fits_too = _halving(scorer, images[half:], texts[half:])
    return first + second, min(fits, fits_too)


def _load(folder: str | Path, dtype: str, model_class: Any) -> Any:
    """Return a model of the class its configuration names, whole."""
    import torch
    import transformers

    try:
        if model_class is None:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            model_class = getattr(transformers, (config.architectures or ["none"])[0])
        model, info = model_class.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        name = getattr(model_class, "__name__", "model")
        raise RecapError(f"{folder} is not a loadable {name} folder: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise RecapError(
            f"{folder} is no whole {model_class.__name__}: it lacks {len(missing)} tensors, for "
            f"instance {missing[0]}"
        )
    return model
