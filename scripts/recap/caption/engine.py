"""Batched, deterministic captioning by BLIP-2 and its kin."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..curate.pixels import Pixels
from ..errors import RecapError
from ..settings import CaptionSettings
from .memory import resolve_batch_size
from .sampling import candidate_uniforms

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

logger = logging.getLogger(__name__)

_VISION_PART = 128  # images in the vision tower at a time; more are no faster on an H100


@dataclass(frozen=True)
class _Batch:
    """Shrunk images on the device, and what names them."""

    pixels: "torch.Tensor"
    keys: Sequence[str]


class _Started:
    """Tokens (rows, T) on their way to the host."""

    def __init__(self, tokens: "torch.Tensor") -> None:
        import torch

        # A copy: the decoder writes the next batch into the same memory.
        self._host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=tokens.is_cuda)
        self._host.copy_(tokens, non_blocking=True)
        self._copied = None
        if tokens.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def tokens(self) -> list[list[int]]:
        """Return the tokens as soon as they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        rows: list[list[int]] = self._host.tolist()
        return rows


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
        pixels: Pixels | None = None,
    ) -> None:
        """Load a model from a local folder.

        Args:
            model: a BLIP-2 or InstructBLIP folder with tokenizer and image processor.
            settings: prompt, decoding, dtype and batch size.
            device: ``auto``, ``cpu`` or ``cuda``.
            pixels: the folder's, if it was loaded before.

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
        self.pixels = pixels or Pixels(model)
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
        return self.caption_shrunk([self.pixels.shrink(image) for image in images], keys)

    def caption_shrunk(
        self, shrunk: "Sequence[NDArray[Any]]", keys: Sequence[str]
    ) -> list[list[str]]:
        """Return the same as :meth:`caption` of results of ``pixels.shrink``."""
        import numpy as np
        import torch

        size = self.images_per_batch
        starts = range(0, len(shrunk), size)
        batches = ([torch.from_numpy(np.stack(shrunk[at : at + size]))] for at in starts)
        return [found for batch in self.caption_batches(batches, keys) for found in batch]

    def caption_batches(
        self, batches: "Iterable[list[torch.Tensor]]", keys: Sequence[str]
    ) -> Iterator[list[list[str]]]:
        """Yield the candidates of each batch's images, in order.

        The next batch is already being computed while one is decoded to text.

        Args:
            batches: shrunk images in chunks, from :func:`.pixels.pixel_batches`,
                of ``images_per_batch`` images but for the last.
            keys: as in :meth:`caption`, of all images.
        """
        stream, done = iter(batches), 0
        before: list[_Started] = []
        batch = self._upload(next(stream, None), keys)
        while batch is not None:
            done += len(batch.keys)
            prefix = self._embed(batch)
            # The GPU has the vision tower to run while the last batch becomes text here.
            if before:
                yield self._finish(before)
            failure = None
            try:
                following = self._upload(next(stream, None), keys[done:])
            except RecapError as error:  # what is finished is not lost with what cannot be read
                following, failure = None, error
            before = self._decode(batch, prefix)
            batch = following
            if failure:
                yield self._finish(before)
                raise failure
        if before:
            yield self._finish(before)

    def _upload(self, chunks: "list[torch.Tensor] | None", keys: Sequence[str]) -> "_Batch | None":
        import torch

        if chunks is None:
            return None
        pixels = torch.cat([chunk.to(self._device, non_blocking=True) for chunk in chunks])
        return _Batch(pixels, keys[: len(pixels)])

    def _embed(self, batch: "_Batch") -> "torch.Tensor | None":
        """Return the prefixes of a full batch, (B, P, C), or nothing if it must be cut."""
        import torch

        if len(batch.keys) > self.images_per_batch:
            return None
        try:
            with torch.inference_mode():
                values = self.pixels.values(self._filled(batch.pixels)).to(self._dtype)
                # In parts, for their activations are what a batch needs most memory for.
                parts = values.split(_VISION_PART)
                return torch.cat([self._model.prefix(part) for part in parts])
        except torch.cuda.OutOfMemoryError:
            self._halve()
            return None

    def _filled(self, pixels: "torch.Tensor") -> "torch.Tensor":
        import torch

        missing = self.images_per_batch - len(pixels)
        if self._settings.dtype == "float32" or not missing:
            return pixels
        return torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])

    def _decode(self, batch: "_Batch", prefix: "torch.Tensor | None") -> "list[_Started]":
        """Return a batch's captions as tokens; in halves from now on, if it does not fit."""
        import torch

        if prefix is not None:
            try:
                return [self._tokens(batch, prefix)]
            except torch.cuda.OutOfMemoryError:
                self._halve()
        size = self.images_per_batch
        parts = [
            _Batch(batch.pixels[at : at + size], batch.keys[at : at + size])
            for at in range(0, len(batch.keys), size)
        ]
        return [started for part in parts for started in self._decode(part, self._embed(part))]

    def _halve(self) -> None:
        """Halve the batches to come.

        Raises:
            RecapError: if there is nothing to halve.
        """
        import torch

        size = self.images_per_batch
        if size == 1:
            raise RecapError(
                "one image does not fit the GPU; free its memory, take a smaller captioner, or "
                "lower caption.num_beams, caption.candidates or caption.max_new_tokens"
            )
        torch.cuda.empty_cache()
        self.images_per_batch = size // 2
        logger.warning(
            "%d images do not fit the GPU at once; going on with %d, which may change a caption: "
            "lower caption.batch_size or caption.memory_gib to keep runs repeatable",
            size,
            self.images_per_batch,
        )

    def _tokens(self, batch: "_Batch", prefix: "torch.Tensor") -> "_Started":
        import torch

        each, uniform = self._settings.candidates, None
        with torch.inference_mode():
            if each > 1:
                missing = len(prefix) - len(batch.keys)
                drawn = candidate_uniforms(
                    [*batch.keys, *[batch.keys[-1]] * missing],
                    candidates=each,
                    steps=self._settings.max_new_tokens,
                    seed=self._settings.seed,
                )
                uniform = torch.from_numpy(drawn).to(self._device)
                prefix = prefix.repeat_interleave(each, dim=0)
            tokens = self._decoder.decode(prefix, uniform)[: len(batch.keys) * each]
        return _Started(tokens)

    def _finish(self, started: "list[_Started]") -> list[list[str]]:
        """Return the candidates of each image of a batch."""
        each = self._settings.candidates
        found: list[list[str]] = []
        for part in started:
            texts = self._model.tokenizer.batch_decode(part.tokens(), skip_special_tokens=True)
            found += [texts[at : at + each] for at in range(0, len(texts), each)]
        return found


def images_per_batch(model: str | Path, settings: CaptionSettings) -> int:
    """Return the images whose candidates make a batch."""
    return resolve_batch_size(model, settings) // settings.candidates
