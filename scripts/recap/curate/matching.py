"""Image-text matching: the probability that a text describes an image.

The heads of BLIP (Li et al. 2022, arXiv:2201.12086) and BLIP-2 (Li et al. 2023,
arXiv:2301.12597): the text is read together with the image, so every pair is
a forward pass of the text side. The image side runs once an image.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from .image_models import Texts, TextVisionModel

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_ARCHITECTURES = ("BlipForImageTextRetrieval", "Blip2ForImageTextRetrieval")


class MatchScorer(TextVisionModel):
    """A BLIP or BLIP-2 model with its matching head; texts are cut at its window."""

    def __init__(self, model: str | Path, **how: Any) -> None:
        """Load model, tokenizer and the PIL image processor from a local folder.

        Args:
            model: folder of a ``BlipForImageTextRetrieval`` or ``Blip2ForImageTextRetrieval``.
            how: type, batch size and device, see :class:`TextVisionModel`; the softmax is
                taken in float32.

        Raises:
            RecapError: if the folder holds another or no whole model.
        """
        super().__init__(model, **how)
        name = type(self.model).__name__
        if name not in _ARCHITECTURES:
            raise RecapError(
                f"{model} is a {name}, which has no matching head; name a folder of "
                f"{' or '.join(_ARCHITECTURES)}"
            )
        config = self.model.config
        self._two = name == _ARCHITECTURES[1]
        text = config.qformer_config if self._two else config.text_config
        self._window = text.max_position_embeddings

    def score(self, images: "list[NDArray[Any]]", texts: Texts) -> list[list[float]]:
        """Return the probability that each of its texts matches an image, within 0 and 1."""
        import torch

        pairs = [(place, text) for place, wanted in enumerate(texts) for text in wanted]
        found: list[list[float]] = [[] for _ in images]
        if not pairs:
            return found
        with torch.inference_mode():
            seen = self.model.vision_model(pixel_values=self.pixels(images)).last_hidden_state
            for start in range(0, len(pairs), self._batch_size):
                batch = pairs[start : start + self._batch_size]
                places = torch.tensor([place for place, _ in batch], device=self.device)
                logits = self._match(seen[places], [text for _, text in batch])
                values = logits.float().softmax(dim=-1)[:, 1].tolist()
                for (place, _), value in zip(batch, values, strict=True):
                    found[place].append(value)
        return found

    def _match(self, seen: "torch.Tensor", texts: list[str]) -> "torch.Tensor":
        """Return the logits (N, 2) of pairs: no match, match.

        Args:
            seen: states of the image side, (N, P, D), one image a text.
            texts: the N texts.
        """
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._window, return_tensors="pt"
        ).to(self.device)
        match = self._match_queries if self._two else self._match_words
        return match(seen, tokens["input_ids"], tokens["attention_mask"])

    def _match_words(
        self, seen: "torch.Tensor", ids: "torch.Tensor", mask: "torch.Tensor"
    ) -> "torch.Tensor":
        """BLIP: the head reads the text encoder's first token."""
        states = self.model.text_encoder(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=mask.new_ones(seen.shape[:-1]),
        ).last_hidden_state
        logits: torch.Tensor = self.model.itm_head(states[:, 0])
        return logits

    def _match_queries(
        self, seen: "torch.Tensor", ids: "torch.Tensor", mask: "torch.Tensor"
    ) -> "torch.Tensor":
        """BLIP-2: the head reads every query of the Q-Former; their logits are averaged."""
        import torch

        # Below float32 transformers may keep the Q-Former in float32.
        dtype = self.model.qformer.dtype
        queries = self.model.query_tokens.expand(len(ids), -1, -1).to(dtype)
        states = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries).to(dtype),
            query_length=queries.shape[1],
            attention_mask=torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1),
            encoder_hidden_states=seen.to(dtype),
            encoder_attention_mask=mask.new_ones(seen.shape[:-1]),
        ).last_hidden_state[:, : queries.shape[1]]
        head = self.model.itm_head
        logits: torch.Tensor = head(states.to(head.weight.dtype)).mean(dim=1)
        return logits
