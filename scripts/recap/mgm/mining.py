"""Patch-info mining: every CLIP token looks at its own block of ConvNeXt features.

For a token x_n and the candidates a_{n,m} of its block, the formula is
``softmax_m(Query(x_n) . Aux(a_{n,m}) / sqrt(D))`` applied to ``Val(a_{n,m})``,
where each projector is ``Linear(LayerNorm(.))``. Two identities make it cheap:

* ``q . (W a + b) = (W^T q) . a + q . b``: project the few queries instead of the
  many candidates;
* ``sum_m w_m (W a_m + b) = W (sum_m w_m a_m) + b``, as the weights sum to one:
  project values after the weighted sum.

Both candidate LayerNorms share their normalised input; their scale and shift
are absorbed in the same way. Work goes over rows of queries, and under autograd
each chunk is recomputed in the backward pass, so that the normalised feature
map (106 million elements an image at 768 pixels) never exists as a whole.
"""

import math
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..errors import RecapError

ROWS_PER_CHUNK = 4


def build_unit(in_features: int, out_features: int) -> nn.Sequential:
    """Return ``Sequential(LayerNorm, Linear)``, the shape of every mining projector."""
    return nn.Sequential(nn.LayerNorm(in_features), nn.Linear(in_features, out_features))


def mine_patch_info(
    tokens: torch.Tensor,
    aux: torch.Tensor,
    query: nn.Sequential,
    key: nn.Sequential,
    value: nn.Sequential,
    rows_per_chunk: int = ROWS_PER_CHUNK,
) -> torch.Tensor:
    """Return what the auxiliary map adds to each token.

    Args:
        tokens: CLIP features (B, N, D), N a square number P * P.
        aux: auxiliary map (B, C, H, W) with H = W a multiple of P.
        query: ``LayerNorm(D), Linear(D, D)``.
        key: ``LayerNorm(C), Linear(C, D)``.
        value: ``LayerNorm(C), Linear(C, D)``.
        rows_per_chunk: rows of the token grid worked on at a time.

    Returns:
        (B, N, D) in the type of ``tokens``; add it to ``tokens``.

    Raises:
        RecapError: if the map does not divide into blocks.
    """
    count = tokens.shape[1]
    grid = math.isqrt(count)
    side = aux.shape[-1] // grid if grid else 0
    if grid * grid != count or aux.shape[-2:] != (grid * side, grid * side) or side == 0:
        raise RecapError(
            f"{count} tokens do not tile an auxiliary map of {tuple(aux.shape[-2:])}: the token "
            "count must be a square number and the map a multiple of its root"
        )
    projected, offset = _absorb_queries(tokens, query, key)
    pooled = []
    eps = split_unit(key)[0].eps
    needs_grad = projected.requires_grad or aux.requires_grad
    recompute = torch.is_grad_enabled() and needs_grad
    for start in range(0, grid, rows_per_chunk):
        stop = min(start + rows_per_chunk, grid)
        arguments = (
            projected[:, start * grid : stop * grid],
            offset[:, start * grid : stop * grid],
            aux[:, :, start * side : stop * side],
            eps,
            side,
        )
        if recompute:
            chunk = checkpoint(_attend_chunk, *arguments, use_reentrant=False)
        else:
            chunk = _attend_chunk(*arguments)
        pooled.append(chunk)
    return _project_values(torch.cat(pooled, dim=1), value)


def _absorb_queries(
    tokens: torch.Tensor, query: nn.Sequential, key: nn.Sequential
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, N, C) queries in candidate space and their (B, N) constants."""
    kind = tokens.dtype
    norm, projection = split_unit(key)
    q = linear(layer_norm(tokens, query[0]), query[1]) / math.sqrt(tokens.shape[-1])
    in_map = q @ projection.weight.to(kind)
    # beta . (W^T q) + b . q, the part of the logit that does not see the candidate
    offset = in_map @ norm.bias.to(kind) + q @ projection.bias.to(kind)
    return in_map * norm.weight.to(kind), offset


def _attend_chunk(
    projected: torch.Tensor, offset: torch.Tensor, aux: torch.Tensor, eps: float, side: int
) -> torch.Tensor:
    """Return the weighted sum of normalised candidates, (B, n, C), for a few query rows."""
    batch, channels, height, width = aux.shape
    rows, columns = height // side, width // side
    blocks = aux.reshape(batch, channels, rows, side, columns, side)
    blocks = blocks.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, side * side, channels)
    candidates = functional.layer_norm(blocks, (channels,), eps=eps).to(projected.dtype)
    logits = (candidates @ projected.unsqueeze(-1)).squeeze(-1) + offset.unsqueeze(-1)
    weights = torch.nan_to_num(logits).softmax(dim=-1).to(candidates.dtype)
    return (weights.unsqueeze(-2) @ candidates).squeeze(-2)


def _project_values(pooled: torch.Tensor, value: nn.Sequential) -> torch.Tensor:
    norm, projection = split_unit(value)
    moved = pooled * norm.weight.to(pooled.dtype) + norm.bias.to(pooled.dtype)
    return linear(moved, projection)


def linear(x: torch.Tensor, layer: Any) -> torch.Tensor:
    """Apply a Linear in the type of ``x``: trained weights may be held in float32."""
    return functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def layer_norm(x: torch.Tensor, layer: Any) -> torch.Tensor:
    """Apply a LayerNorm in the type of ``x``."""
    weight, bias = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
    return functional.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps).to(x.dtype)


def split_unit(unit: nn.Sequential) -> tuple[nn.LayerNorm, nn.Linear]:
    """Return the two layers of a mining projector."""
    norm, projection = unit
    return cast(nn.LayerNorm, norm), cast(nn.Linear, projection)
