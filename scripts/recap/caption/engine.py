"""Batched, deterministic BLIP-2 captioning."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..settings import CaptionSettings

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class Captioner:
    """A BLIP-2 model with everything fixed that a caption depends on.

    Every image gets the same token sequence before its caption (image tokens,
    then the prompt), so a batch needs no padding and a caption does not depend
    on what shares its batch. Decoding is greedy or by beams, never sampled;
    settings in the model's own generation file are not used.
    """

    def __init__(
        self, model: str | Path, settings: CaptionSettings, *, device: str = "auto"
    ) -> None:
        """Load model, tokenizer and the PIL image processor from a local folder.

        Raises:
            RecapError: if the folder is not a BLIP-2 model, or its image token
                does not fit the vocabulary.
        """
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForConditionalGeneration
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._settings = settings
        self._device = torch.device(device)
        try:
            self._model: Any = Blip2ForConditionalGeneration.from_pretrained(
                model, dtype=getattr(torch, settings.dtype), local_files_only=True
            )
            self._tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
            # Chosen explicitly: pixels must not depend on torchvision being there.
            self._processor = AutoImageProcessor.from_pretrained(
                model, backend="pil", local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise RecapError(f"{model} is not a loadable BLIP-2 folder: {error}") from error
        self._model.eval().to(self._device)
        self._start = self._start_tokens(str(model))
        self._generation = self._generation_config()
        logger.info("captioner %s on %s, %s", model, device, settings.dtype)

    def caption(self, images: "list[Image]") -> list[str]:
        r"""Return one caption an image, as decoded: not trimmed.

        A BLIP-2-OPT caption ends in ``\n``, its end token. Below float32 a
        caption depends on how many images share its batch, so a short batch is
        filled up with its last image and always has the size of the settings.
        When that does not fit the GPU it is halved until it does, with a warning.

        Args:
            images: RGB images of any size, at most a batch.
        """
        if not images:
            return []
        fill = 0 if self._settings.dtype == "float32" else self._settings.batch_size - len(images)
        return self._halving(images + images[-1:] * fill)[: len(images)]

    def _halving(self, images: "list[Image]") -> list[str]:
        import torch

        try:
            return self._generate(images)
        except torch.cuda.OutOfMemoryError:
            if len(images) == 1:
                raise
            torch.cuda.empty_cache()
            half = len(images) // 2
            logger.warning(
                "a batch of %d does not fit the GPU; halving it, which may change a caption: "
                "lower caption.batch_size to keep runs repeatable",
                len(images),
            )
            return self._halving(images[:half]) + self._halving(images[half:])

    def _generate(self, images: "list[Image]") -> list[str]:
        import torch

        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        ids = torch.tensor([self._start], device=self._device).repeat(len(images), 1)
        with torch.inference_mode():
            output = self._model.generate(
                pixel_values=pixels.to(self._device, self._model.dtype),
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._generation,
            )
        if self._model.config.use_decoder_only_language_model and self._echoes(output):
            output = output[:, len(self._start) :]
        captions: list[str] = self._tokenizer.batch_decode(output, skip_special_tokens=True)
        return captions

    def _echoes(self, output: Any) -> bool:
        """Tell whether the model repeats its input before the caption; versions differ."""
        length = len(self._start)
        return output.shape[1] >= length and output[0, :length].tolist() == self._start

    def _start_tokens(self, model: str) -> list[int]:
        config = self._model.config
        image_token = config.image_token_index
        rows = self._model.get_input_embeddings().num_embeddings
        if image_token is None:  # checkpoints from before the token had an id
            image_token = self._tokenizer.get_vocab().get("<image>")
        if image_token is None and len(self._tokenizer) < rows:
            image_token = len(self._tokenizer)  # a padding row, which no text uses
        if image_token is None or not 0 <= image_token < rows:
            raise RecapError(
                f"{model}: image token {image_token} is outside the vocabulary of {rows}; set "
                "`image_token_index` in config.json and add `<image>` to the tokenizer"
            )
        config.image_token_index = image_token
        if self._settings.prompt is None:
            begin = config.text_config.bos_token_id
            text = [] if begin is None else [begin]
        else:
            text = self._tokenizer(self._settings.prompt)["input_ids"]
        return [image_token] * config.num_query_tokens + list(text)

    def _generation_config(self) -> Any:
        from transformers import GenerationConfig

        text = self._model.config.text_config
        end = text.eos_token_id
        pad = self._tokenizer.pad_token_id
        return GenerationConfig(
            do_sample=False,
            num_beams=self._settings.num_beams,
            max_new_tokens=self._settings.max_new_tokens,
            bos_token_id=text.bos_token_id,
            decoder_start_token_id=getattr(text, "decoder_start_token_id", None),
            eos_token_id=self._tokenizer.eos_token_id if end is None else end,
            pad_token_id=text.pad_token_id if pad is None else pad,
        )
