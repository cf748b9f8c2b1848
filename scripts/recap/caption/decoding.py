"""Decoding with any language model of ``transformers``: step by step, or by beams."""

from typing import TYPE_CHECKING, Any, Protocol

from .opt import OptDecoder, suits
from .sampling import DecodingRule

if TYPE_CHECKING:
    import torch


class Decoder(Protocol):
    """Turns what precedes a caption into the caption's tokens."""

    def decode(
        self, prefix_BPC: "torch.Tensor", uniform_BT: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """Return new tokens, int64 (B, at most T), of embeddings (B, P, C)."""
        ...


def choose_decoder(language_model: Any, rule: DecodingRule, *, num_beams: int) -> Decoder:
    """Return the fastest decoder for a language model."""
    if num_beams > 1:
        return BeamDecoder(language_model, rule, num_beams)
    if suits(language_model):
        return OptDecoder(language_model, rule, graphs=language_model.device.type == "cuda")
    return StepDecoder(language_model, rule)


class StepDecoder:
    """Greedy and sampled decoding by the model's own forward pass and growing cache.

    For decoder-only models such as Vicuna and encoder-decoder ones such as Flan-T5.
    """

    def __init__(self, language_model: Any, rule: DecodingRule) -> None:
        self._model, self._rule = language_model, rule
        self._encoder = language_model.config.is_encoder_decoder

    def decode(
        self, prefix_BPC: "torch.Tensor", uniform_BT: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """Return new tokens, int64 (B, at most T), filled up after each end."""
        import torch

        rule, device = self._rule, prefix_BPC.device
        ends = torch.tensor(rule.end, device=device)
        finished = torch.zeros(len(prefix_BPC), dtype=torch.bool, device=device)
        output, inputs = self._start(prefix_BPC)
        tokens: list[torch.Tensor] = []
        while True:
            uniform = None if uniform_BT is None else uniform_BT[:, len(tokens)]
            chosen = rule.choose(output.logits[:, -1], uniform)
            tokens.append(torch.where(finished, rule.pad, chosen))
            finished |= (tokens[-1][:, None] == ends).any(-1)
            if len(tokens) == rule.max_new_tokens or bool(finished.all()):
                return torch.stack(tokens, dim=1)
            inputs["past_key_values"] = output.past_key_values
            name = "decoder_input_ids" if self._encoder else "input_ids"
            output = self._model(**inputs, **{name: tokens[-1][:, None]}, use_cache=True)

    def _start(self, prefix: "torch.Tensor") -> tuple[Any, dict[str, Any]]:
        """Return the first step's output, and what every later step needs besides."""
        import torch

        if not self._encoder:
            return self._model(inputs_embeds=prefix, use_cache=True, logits_to_keep=1), {}
        encoded = self._model.get_encoder()(inputs_embeds=prefix)
        inputs: dict[str, Any] = {"encoder_outputs": encoded}
        start = torch.full(
            (len(prefix), 1), self._model.config.decoder_start_token_id, device=prefix.device
        )
        return self._model(**inputs, decoder_input_ids=start, use_cache=True), inputs


class BeamDecoder:
    """Beam search by ``generate``."""

    def __init__(self, language_model: Any, rule: DecodingRule, num_beams: int) -> None:
        from transformers import GenerationConfig

        self._model = language_model
        self._config = GenerationConfig(
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=rule.max_new_tokens,
            eos_token_id=list(rule.end),
            pad_token_id=rule.pad,
            decoder_start_token_id=getattr(language_model.config, "decoder_start_token_id", None),
        )

    def decode(
        self, prefix_BPC: "torch.Tensor", uniform_BT: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """Return new tokens, int64 (B, at most T); beams are never sampled."""
        import torch

        tokens: torch.Tensor = self._model.generate(
            inputs_embeds=prefix_BPC,
            attention_mask=torch.ones(prefix_BPC.shape[:2], device=prefix_BPC.device),
            generation_config=self._config,
        )
        return tokens[:, 1:] if self._model.config.is_encoder_decoder else tokens
