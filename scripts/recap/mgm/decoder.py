"""The layers of Gemma, Llama and Mistral over a key-value cache of fixed size.

``transformers``' own forward pass grows a cache by concatenation, builds its mask
anew each step and pads prompts in front. Here each row has a place of its own in a
static cache, so that rows of different length need no padding in front, what rows
have in common is computed once, and a step can be captured as a CUDA graph.

Shapes: B rows, n new positions, S positions of the cache, C width, H heads of
queries, K heads of keys and values, D head width.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention

_FAMILIES = ("gemma", "llama", "mistral")

Enter = Callable[
    [Any, torch.Tensor, torch.Tensor, torch.Tensor],
    tuple[torch.Tensor, torch.Tensor, torch.Tensor],
]
Leave = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


def suits(language_model: Any) -> bool:
    """Tell whether a language model is made of the layers this module computes."""
    config = language_model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return bool(
        config.model_type in _FAMILIES
        and getattr(config, "sliding_window", None) is None
        and not getattr(config, "use_bidirectional_attention", False)
        and rope.get("rope_type", "default") in ("default", "linear", "llama3")
    )


def rotary_table(decoder: Any, length: int, like: torch.Tensor) -> torch.Tensor:
    """Return cosines and sines of positions 0 .. length - 1, (2, length, D), in a type."""
    places = torch.arange(length, device=like.device)[None]
    cos, sin = decoder.rotary_emb(like, places)
    return torch.cat([cos, sin])


def enter(
    layer: Any, hidden_BnC: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries (B, H, n, D), keys and values (B, K, n, D) of a layer.

    Args:
        layer: a decoder layer of ``transformers``, with or without adapters.
        hidden_BnC: what the layer is given.
        cos: (n, D) or (B, n, D), of the positions.
        sin: the same.
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden_BnC)
    shape = (*hidden_BnC.shape[:-1], -1, attention.head_dim)
    query, key, value = (
        projection(normed).view(shape).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
    return _rotate(query, cos, sin), _rotate(key, cos, sin), value


def leave(layer: Any, hidden_BnC: torch.Tensor, mixed_BHnD: torch.Tensor) -> torch.Tensor:
    """Return the layer's result (B, n, C) from what its attention gave."""
    mixed = mixed_BHnD.transpose(1, 2).flatten(2)
    hidden = hidden_BnC + layer.self_attn.o_proj(mixed)
    return cast("torch.Tensor", hidden + layer.mlp(layer.post_attention_layernorm(hidden)))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn pairs of numbers by their position (RoPE, arXiv:2104.09864), halves as pairs."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend_causally(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return attention (B, H, n, D) of n positions over themselves and those before."""
    return scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=True
    )


def attend_cached(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return attention (B, H, n, D) over a cache.

    Heads that share keys are laid side by side as if they were further positions, so that no
    key is copied.

    Args:
        query: (B, H, n, D).
        keys: (B, K, S, D).
        values: (B, K, S, D).
        seen: bool (B or 1, n, S), what each position may look at.
        scale: of the products.
    """
    rows, heads, count, width = query.shape
    shared = heads // keys.shape[1]
    grouped = query.reshape(rows, keys.shape[1], shared * count, width)
    mask = seen.repeat(1, shared, 1).unsqueeze(1)
    mixed = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return mixed.reshape(rows, heads, count, width)


class CachedDecoder:
    """A causal language model as three passes over caches: shared part, own part, one step.

    Caches are given per layer as (2, R, K, S, D): keys and values of R rows.
    """

    def __init__(self, language_model: Any) -> None:
        """Use a model that :func:`suits`; its weights stay where they are."""
        self._decoder = language_model.model
        self._layers = list(language_model.model.layers)
        self._head = language_model.get_output_embeddings()
        self._tables: list[torch.Tensor] = []
        self.enter: Enter = enter
        self.leave: Leave = leave

    def compile(self) -> None:
        """Compile what surrounds the attention where many positions are read at once."""
        self.enter = torch.compile(enter, dynamic=True)
        self.leave = torch.compile(leave, dynamic=True)

    def cache(self, rows: int, length: int, like: torch.Tensor) -> list[torch.Tensor]:
        """Return an empty cache of every layer, in the type of ``like`` and on its device."""
        attention = self._layers[0].self_attn
        heads = attention.q_proj.out_features // attention.head_dim
        shape = (2, rows, heads // attention.num_key_value_groups, length, attention.head_dim)
        return [
            torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in self._layers
        ]  # zeros: what is never written must not turn a masked product into NaN

    def read_shared(
        self, embedded_IPC: torch.Tensor, caches: list[torch.Tensor], owner: torch.Tensor
    ) -> None:
        """Put what rows begin with into their caches.

        Args:
            embedded_IPC: I different beginnings.
            caches: of the rows, or a part of them: (2, R, K, S, D).
            owner: int64 (R), the beginning of each row.
        """
        length = embedded_IPC.shape[1]
        cos, sin = self._rotary(length, embedded_IPC)
        hidden = embedded_IPC
        for layer, cache in zip(self._layers, caches, strict=True):
            query, key, value = self.enter(layer, hidden, cos, sin)
            cache[0, :, :, :length] = key.index_select(0, owner)
            cache[1, :, :, :length] = value.index_select(0, owner)
            if layer is not self._layers[-1]:  # nothing reads the last one's result
                mixed = attend_causally(query, key, value, layer.self_attn.scaling)
                hidden = self.leave(layer, hidden, mixed)

    def read_own(
        self,
        embedded_BnC: torch.Tensor,
        lengths: torch.Tensor,
        caches: list[torch.Tensor],
        start: int,
    ) -> torch.Tensor:
        """Read the rest of each prompt and return the logits behind it, (B, vocabulary).

        Args:
            embedded_BnC: padded behind.
            lengths: int64 (B), real positions.
            caches: (2, B, K, S, D), filled up to ``start``.
            start: position of the first.
        """
        count = embedded_BnC.shape[1]
        end = start + count
        cos, sin = self._rotary(end, embedded_BnC)[:, start:]
        places = torch.arange(end, device=embedded_BnC.device)
        seen = (places <= places[start:, None]).unsqueeze(0)
        rows, last = torch.arange(len(lengths), device=lengths.device), lengths - 1
        hidden = embedded_BnC
        for layer, cache in zip(self._layers, caches, strict=True):
            query, key, value = self.enter(layer, hidden, cos, sin)
            cache[0, :, :, start:end], cache[1, :, :, start:end] = key, value
            keys, values = cache[:, :, :, :end]
            mixed = attend_cached(query, keys, values, seen, layer.self_attn.scaling)
            if layer is self._layers[-1]:  # only the last position goes on
                mixed, hidden = mixed[rows, :, last].unsqueeze(2), hidden[rows, last].unsqueeze(1)
            hidden = self.leave(layer, hidden, mixed)
        return self._logits(hidden)

    def step(
        self, tokens: torch.Tensor, places: torch.Tensor, caches: list[torch.Tensor]
    ) -> torch.Tensor:
        """Read one more token of each row and return the logits behind it, (R, vocabulary).

        Args:
            tokens: int64 (R).
            places: int64 (R), the position of each.
            caches: (2, R, K, S, D), filled before ``places``.
        """
        length = caches[0].shape[3]
        hidden = self._decoder.embed_tokens(tokens).unsqueeze(1)
        cos, sin = self._rotary(length, hidden)[:, places].unsqueeze(2)
        rows = torch.arange(len(tokens), device=tokens.device)
        seen = torch.arange(length, device=tokens.device) <= places[:, None, None]
        for layer, cache in zip(self._layers, caches, strict=True):
            query, key, value = enter(layer, hidden, cos, sin)
            cache[0][rows, :, places], cache[1][rows, :, places] = key[:, :, 0], value[:, :, 0]
            mixed = attend_cached(query, cache[0], cache[1], seen, layer.self_attn.scaling)
            hidden = leave(layer, hidden, mixed)
        return self._logits(hidden)

    def _rotary(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """Return cosines and sines of the first ``length`` positions, (2, length, D).

        Tables are never given up: a captured graph reads the one it was captured with.
        """
        if not self._tables or self._tables[-1].shape[1] < length:
            known = int(self._decoder.config.max_position_embeddings)
            self._tables.append(rotary_table(self._decoder, max(length, known), like))
        return self._tables[-1][:, :length]

    def _logits(self, hidden_B1C: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self._head(self._decoder.norm(hidden_B1C[:, -1])))
