"""Answering with a real MGM checkpoint. Torch and the model load when it is built."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RecapError
from ..settings import EvaluateSettings
from .protocol import BenchmarkProtocol

if TYPE_CHECKING:
    import torch
    from PIL import Image

logger = logging.getLogger(__name__)

_PAD_ID = 0
_IMAGE_PREFIX = "<image>\n"


class OutOfMemoryError(Exception):
    """The batch did not fit on the device; a smaller one may."""


class Answerer(Protocol):
    """What the runner needs from a model. Pixels and features are opaque to it."""

    def prepare(self, image: "Image.Image") -> Any:
        """Turn a picture into pixels; called from worker threads."""

    def encode(self, pixels: Sequence[Any]) -> list[Any]:
        """Return one feature per image; raises :class:`OutOfMemoryError`."""

    def answer(self, texts: Sequence[str], features: Sequence[Any]) -> list[str]:
        """Answer texts, each with a feature or ``None``; raises :class:`OutOfMemoryError`."""

    def facts(self) -> dict[str, Any]:
        """Return what the performance record should say of the model."""


class MgmAnswerer:
    """A checkpoint folder as an :class:`Answerer`: greedy, batched, EOS-aware."""

    def __init__(
        self, checkpoint: Path, protocol: BenchmarkProtocol, settings: EvaluateSettings
    ) -> None:
        """Load the model onto the GPU if there is one, else onto the CPU."""
        import torch

        from ..mgm.checkpoint import load_checkpoint
        from ..mgm.conversation import stop_token_ids
        from ..mgm.processing import ImagePreprocessor

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._tokenizer = load_checkpoint(
            checkpoint, dtype=settings.dtype, device=str(self._device)
        )
        self._model.eval()
        self._preprocess = ImagePreprocessor.from_checkpoint(checkpoint)
        self._protocol = protocol
        self._dtype = settings.dtype
        self._template: str = self._model.config.conversation
        self._stops = stop_token_ids(self._tokenizer, self._template)
        self._unfinished = 0
        self._new_tokens = 0
        trained = getattr(self._model.config, "image_aspect_ratio", None)
        if trained != protocol.image_aspect_ratio:
            logger.warning(
                "the checkpoint was made with image_aspect_ratio %s; the protocol asks for %s",
                trained,
                protocol.image_aspect_ratio,
            )

    def prepare(self, image: "Image.Image") -> "torch.Tensor":
        """Return normalised pixels, float32 (3, S, S)."""
        return self._preprocess(image, self._protocol.image_aspect_ratio)

    def encode(self, pixels: "Sequence[torch.Tensor]") -> "list[torch.Tensor]":
        """Return features (N, hidden) of each image, on the device."""
        import torch

        images = torch.stack(list(pixels)).to(self._device)
        try:
            with torch.inference_mode():
                return list(self._model.encode_images(images).unbind(0))
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError from error

    def answer(self, texts: Sequence[str], features: "Sequence[torch.Tensor | None]") -> list[str]:
        """Return the decoded answers, special tokens skipped, trimmed."""
        import torch

        ids = [
            self._encode_text(text, feature is not None)
            for text, feature in zip(texts, features, strict=True)
        ]
        self._require_room(texts, ids, features)
        input_ids, attention_mask = pad_left(ids)
        shown = [feature for feature in features if feature is not None]
        try:
            with torch.inference_mode():
                generated = self._model.generate_answers(
                    input_ids.to(self._device),
                    attention_mask.to(self._device),
                    image_features=torch.stack(shown) if shown else None,
                    max_new_tokens=self._protocol.max_new_tokens,
                    eos_token_ids=self._stops,
                )
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError from error
        return [self._decode(tokens) for tokens in generated]

    def facts(self) -> dict[str, Any]:
        """Return device, type, template and how long the answers were, in tokens."""
        return {
            "device": str(self._device),
            "dtype": self._dtype,
            "template": self._template,
            "new_tokens": self._new_tokens,
            "answers_cut_at_max_new_tokens": self._unfinished,
        }

    def _encode_text(self, text: str, has_image: bool) -> list[int]:
        from ..mgm.conversation import encode_prompt

        if _IMAGE_PREFIX.strip() in text:
            raise RecapError(f"the question {text[:80]!r} holds the image placeholder; remove it")
        prompt = _IMAGE_PREFIX + text if has_image else text
        return encode_prompt(prompt, self._tokenizer, template=self._template)

    def _require_room(
        self,
        texts: Sequence[str],
        ids: Sequence[Sequence[int]],
        features: "Sequence[torch.Tensor | None]",
    ) -> None:
        """Refuse prompts the model would cut at the end, losing the instruction."""
        limit = getattr(self._model.config, "tokenizer_model_max_length", None)
        for text, tokens, feature in zip(texts, ids, features, strict=True):
            length = len(tokens) + (0 if feature is None else len(feature) - 1)
            if limit is not None and length > limit:
                raise RecapError(
                    f"the prompt {text[:80]!r} has {length} tokens with its image, but the "
                    f"checkpoint's tokenizer_model_max_length is {limit}; raise it in config.json"
                )

    def _decode(self, tokens: list[int]) -> str:
        self._new_tokens += len(tokens)
        self._unfinished += len(tokens) >= self._protocol.max_new_tokens
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


def pad_left(sequences: Sequence[Sequence[int]]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return ids and mask, int64 (B, L), with the padding in front.

    The ends line up, so the next token of every row is at the same position.
    """
    import torch

    longest = max(len(sequence) for sequence in sequences)
    input_ids = torch.full((len(sequences), longest), _PAD_ID, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence)
        input_ids[row, start:] = torch.tensor(sequence, dtype=torch.int64)
        attention_mask[row, start:] = 1
    return input_ids, attention_mask
