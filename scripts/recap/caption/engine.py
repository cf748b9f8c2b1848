"""Batched, deterministic captioning by BLIP-2 and its kin."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RecapError
from ..settings import CaptionSettings
from .memory import resolve_batch_size
from .pixels import Preprocessor
from .sampling import candidate_uniforms

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

logger = logging.getLogger(__name__)

_VISION_PART = 128  # images in the vision tower at a time; more are no faster on an H100


@dataclass(frozen=True)
class _Started:
    """A batch on the device: tokens (rows, T), still being computed."""

    tokens: "torch.Tensor"
    images: int


class Captioner:
    """A captioner with everything fixed that a caption depends on.

    Every image gets the same token sequence before its caption (image tokens,
    then the prompt), so a batch needs no padding. Below float32 a caption depends
    on how many others share its batch, so short batches are filled up with their
    last image and always have the same size; what the others are does not matter.
    Decoding is greedy or by beams; candidates after the first are sampled, each
    image from a stream of its own.
    """

    def __init__(
        self,
        model: str | Path,
        settings: CaptionSettings,
        *,
        device: str = "auto",
        preprocessor: Preprocessor | None = None,
    ) -> None:
        """Load a model from a local folder.

        Args:
            model: a BLIP-2 or InstructBLIP folder with tokenizer and image processor.
            settings: prompt, decoding, dtype and batch size.
            device: ``auto``, ``cpu`` or ``cuda``.
            preprocessor: the folder's, if it was loaded before.

        Raises:
            RecapError: if the folder is no such model.
        """
        import torch

        from .decoding import choose_decoder
        from .families import VisionLanguageModel

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._settings = settings
        self._device = torch.device(device)
        self.preprocessor = preprocessor or Preprocessor(model)
        self.images_per_batch = images_per_batch(model, settings)
        self._model = VisionLanguageModel(model, settings, self._device)
        self._decoder = choose_decoder(
            self._model.language_model, self._model.rule(settings), num_beams=settings.num_beams
        )
        self._dtype: torch.dtype = getattr(torch, settings.dtype)
        logger.info(
            "captioner %s on %s, %s, %d images a batch",
            model,
            device,
            settings.dtype,
            self.images_per_batch,
        )

    def caption(self, images: "Sequence[Image]", keys: Sequence[str]) -> list[list[str]]:
        r"""Return each image's candidates, as decoded: not trimmed.

        A BLIP-2-OPT caption ends in ``\n``, its end token.

        Args:
            images: RGB images of any size and number.
            keys: what names each image, such as the SHA-256 of its bytes; sampled
                candidates are drawn by it.
        """
        import numpy as np
        import torch

        pixels = [self.preprocessor.pixels(image) for image in images]
        size = self.images_per_batch
        starts = range(0, len(pixels), size)
        batches = ([torch.from_numpy(np.stack(pixels[at : at + size]))] for at in starts)
        return [found for batch in self.caption_batches(batches, keys) for found in batch]

    def caption_batches(
        self, batches: "Iterable[list[torch.Tensor]]", keys: Sequence[str]
    ) -> Iterator[list[list[str]]]:
        """Yield the candidates of each batch's images, in order.

        The next batch is already being computed while one is decoded to text.

        Args:
            batches: uint8 (B, 3, H, W) in chunks, from :func:`.pixels.pixel_batches`,
                of ``images_per_batch`` images but for the last.
            keys: as in :meth:`caption`, of all images.
        """
        import torch

        before: list[_Started] = []
        done = 0
        stream = iter(batches)
        while True:
            try:
                chunks = next(stream, None)
            except RecapError:  # what is finished is not lost with what cannot be read
                if before:
                    yield self._finish(before)
                raise
            if chunks is None:
                break
            pixels = torch.cat([chunk.to(self._device, non_blocking=True) for chunk in chunks])
            started = self._start(pixels, keys[done : done + len(pixels)])
            done += len(pixels)
            if before:
                yield self._finish(before)
            before = started
        if before:
            yield self._finish(before)

    def _start(self, pixels: "torch.Tensor", keys: Sequence[str]) -> list[_Started]:
        """Put a batch on the device; in halves from now on, if it does not fit."""
        import torch

        size = self.images_per_batch
        parts = [(pixels[at : at + size], keys[at : at + size]) for at in range(0, len(keys), size)]
        try:
            return [self._start_part(*part) for part in parts]
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
        torch.cuda.empty_cache()
        self.images_per_batch = size // 2
        logger.warning(
            "%d images do not fit the GPU at once; going on with %d, which may change a caption: "
            "lower caption.batch_size or caption.memory_gib to keep runs repeatable",
            size,
            self.images_per_batch,
        )
        return self._start(pixels, keys)

    def _start_part(self, pixels: "torch.Tensor", keys: Sequence[str]) -> _Started:
        import torch

        count, settings = len(pixels), self._settings
        if settings.dtype != "float32" and count < self.images_per_batch:
            fill = pixels[-1:].expand(self.images_per_batch - count, -1, -1, -1)
            pixels = torch.cat([pixels, fill])
            keys = [*keys, *[keys[-1]] * len(fill)]
        with torch.inference_mode():
            values = self.preprocessor.normalize(pixels, self._dtype)
            # In parts, for their activations are what a batch needs most memory for.
            prefix = torch.cat([self._model.prefix(part) for part in values.split(_VISION_PART)])
            uniform = None
            if settings.candidates > 1:
                prefix = prefix.repeat_interleave(settings.candidates, dim=0)
                uniform = torch.from_numpy(
                    candidate_uniforms(
                        keys,
                        candidates=settings.candidates,
                        steps=settings.max_new_tokens,
                        seed=settings.seed,
                    )
                ).to(self._device)
            tokens = self._decoder.decode(prefix, uniform)
        # A copy: the decoder writes the next batch into the same memory.
        return _Started(tokens.clone(), count)

    def _finish(self, started: list[_Started]) -> list[list[str]]:
        """Return the candidates of each image of a batch."""
        found: list[list[str]] = []
        each = self._settings.candidates
        for part in started:
            texts = self._model.tokenizer.batch_decode(
                part.tokens[: part.images * each].tolist(), skip_special_tokens=True
            )
            found += [texts[at : at + each] for at in range(0, len(texts), each)]
        return found


def images_per_batch(model: str | Path, settings: CaptionSettings) -> int:
    """Return the images whose candidates make a batch."""
    return resolve_batch_size(model, settings) // settings.candidates
