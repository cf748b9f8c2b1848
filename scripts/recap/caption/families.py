"""Captioners by family: BLIP-2 and InstructBLIP, with OPT, Flan-T5 or Vicuna.

A family loads a folder and embeds what comes before a caption: the image's query
tokens, then the prompt. Every image has the same number of either, so a batch
needs no padding.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from .sampling import DecodingRule

if TYPE_CHECKING:
    import torch

    from ..settings import CaptionSettings

_CLASSES = {
    "blip-2": "Blip2ForConditionalGeneration",
    "instructblip": "InstructBlipForConditionalGeneration",
}


class VisionLanguageModel:
    """A loaded captioner without its decoding."""

    def __init__(
        self, model: str | Path, settings: "CaptionSettings", device: "torch.device"
    ) -> None:
        """Load model and tokenizers from a local folder.

        All of the model gets the settings' type: ``transformers`` would keep the
        Q-Former in float32, at a fifth of the speed.

        Raises:
            RecapError: if the folder is no such model, or the prompt does not suit it.
        """
        import torch
        import transformers
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        dtype = getattr(torch, settings.dtype)
        try:
            kind = transformers.AutoConfig.from_pretrained(model, local_files_only=True).model_type
            if kind not in _CLASSES:
                raise RecapError(f"{model} is a {kind!r} model, none of {', '.join(_CLASSES)}")
            self._model: Any = getattr(transformers, _CLASSES[kind]).from_pretrained(
                model, dtype=dtype, local_files_only=True
            )
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                model, local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise RecapError(f"{model} is not a loadable captioner folder: {error}") from error
        self._model.eval().to(device=device, dtype=dtype)
        self.language_model: Any = self._model.language_model
        self._prompt = torch.tensor([self._prompt_tokens(settings.prompt)], device=device)
        self._instruction = self._instruction_tokens(model, kind, settings.prompt, device)

    def prefix(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Return what precedes the captions of images, (B, P, C), of pixels (B, 3, H, W)."""
        import torch

        options = {}
        if self._instruction is not None:
            options["qformer_input_ids"] = self._instruction.expand(len(pixels), -1)
        features = self._model.get_image_features(pixel_values=pixels, **options)
        queries: torch.Tensor = features.pooler_output
        if not self._prompt.shape[1]:
            return queries
        words = self.language_model.get_input_embeddings()(self._prompt)
        return torch.cat([queries, words.expand(len(pixels), -1, -1).to(queries.dtype)], dim=1)

    def rule(self, settings: "CaptionSettings") -> DecodingRule:
        """Return how captions are decoded; the model's own generation file has no say."""
        text = self._model.config.text_config
        end = self.tokenizer.eos_token_id if text.eos_token_id is None else text.eos_token_id
        pad = self.tokenizer.pad_token_id
        return DecodingRule(
            max_new_tokens=settings.max_new_tokens,
            end=tuple(end) if isinstance(end, list) else (end,),
            pad=text.pad_token_id if pad is None else pad,
            temperature=settings.temperature,
            top_k=settings.top_k,
        )

    def _prompt_tokens(self, prompt: str | None) -> list[int]:
        if prompt is not None:
            return list(self.tokenizer(prompt)["input_ids"])
        config = self._model.config
        if config.text_config.is_encoder_decoder or config.text_config.bos_token_id is None:
            return []
        return [config.text_config.bos_token_id]

    @staticmethod
    def _instruction_tokens(
        model: str | Path, kind: str, prompt: str | None, device: "torch.device"
    ) -> "torch.Tensor | None":
        """Return what InstructBLIP's Q-Former reads, int64 (1, N); BLIP-2's reads nothing."""
        import torch
        from transformers import AutoTokenizer

        if kind != "instructblip":
            return None
        if prompt is None:
            raise RecapError(
                f"{model} follows instructions: set caption.prompt, for instance to "
                "'Write a short description for the image.'"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                Path(model) / "qformer_tokenizer", local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise RecapError(f"{model} lacks its folder qformer_tokenizer: {error}") from error
        return torch.tensor([tokenizer(prompt)["input_ids"]], device=device)
