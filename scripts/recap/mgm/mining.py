"""Patch-info mining: every CLIP token looks at its own block of ConvNeXt features.

For a token x_n and the candidates a_{n,m} of its block, the formula is
``softmax_m(Query(x_n) . Aux(a_{n,m}) / sqrt(D))`` applied to ``Val(a_{n,m})``,
where each projector is ``Linear(LayerNorm(.))``. Two identities make it cheap:

* ``q . (W a + b) = (W^T q) . a + q . b``: project the few queries instead of the
  many candidates;
* ``sum_m w_m (W a_m + b) = W (sum_m w_m a_m) + b``, as the weights sum to one:
  project values after the weighted sum.

Both candidate LayerNorms share their normalised input; their scale and shift
are absorbed in the same way. On a GPU one kernel then does it all (:mod:`.fused_mining`), where
Triton can be used.
Elsewhere work goes over a few rows of queries at a time, and under autograd each
chunk is recomputed in the backward pass. Either way the normalised candidates (106
million elements an image at 768 pixels) never exist as a whole, nor does anything of
``M x D`` elements a query.
"""

import math
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ..errors import RecapError
from .fused_mining import attend_fused, fuses

# candidate elements worked on at a time: six rows of queries of a 768-pixel picture, a quarter of
# its map
MAX_CHUNK_ELEMENTS = 1 << 25


def build_unit(in_features: int, out_features: int) -> nn.Sequential:
    """Return ``Sequential(LayerNorm, Linear)``, the shape of every mining projector."""
    return nn.Sequential(nn.LayerNorm(in_features), nn.Linear(in_features, out_features))


def mine_patch_info(
    tokens: torch.Tensor,
    aux: torch.Tensor,
    query: nn.Sequential,
    key: nn.Sequential,
    value: nn.Sequential,
    max_chunk_elements: int = MAX_CHUNK_ELEMENTS,
) -> torch.Tensor:
    """Return what the auxiliary map adds to each token.

    Args:
        tokens: CLIP features (B, N, D), N a square number P * P.
        aux: auxiliary map (B, C, H, W) with H = W a multiple of P.
        query: ``LayerNorm(D), Linear(D, D)``.
        key: ``LayerNorm(C), Linear(C, D)``.
        value: ``LayerNorm(C), Linear(C, D)``.
        max_chunk_elements: elements of candidates worked on at a time; at least
            one row of the token grid of one picture is. A GPU's kernel needs no chunks.

    Returns:
        (B, N, D) in the type of ``tokens``; add it to ``tokens``.

    Raises:
        RecapError: if the map does not divide into blocks.
    """
    side = _block_side(tokens, aux)
    projected, offset = _absorb_queries(tokens, query, key)
    eps = split_unit(key)[0].eps
    if fuses(aux):
        pooled = attend_fused(projected, offset, aux, eps, side)
    else:
        pooled = _attend(projected, offset, aux, eps, side, max_chunk_elements)
    return _project_values(pooled, value)


def _block_side(tokens: torch.Tensor, aux: torch.Tensor) -> int:
    """Return how many positions of the map a side each token's block has."""
    count = tokens.shape[1]
    grid = math.isqrt(count)
    side = aux.shape[-1] // grid if grid else 0
    if grid * grid != count or aux.shape[-2:] != (grid * side, grid * side) or side == 0:
        raise RecapError(
            f"{count} tokens do not tile an auxiliary map of {tuple(aux.shape[-2:])}: the token "
            "count must be a square number and the map a multiple of its root"
        )
    return side


def _attend(
    projected: torch.Tensor,
    offset: torch.Tensor,
    aux: torch.Tensor,
    eps: float,
    side: int,
    limit: int,
) -> torch.Tensor:
    """Return the weighted sums (B, N, C), ``limit`` candidate elements at a time."""
    batch, grid = aux.shape[0], aux.shape[-1] // side
    images, rows = _chunk_shape(batch, grid, aux[0, :, :side].numel(), limit)
    pooled = []
    for first in range(0, batch, images):
        some = slice(first, first + images)
        chunks = []
        for start in range(0, grid, rows):
            stop = min(start + rows, grid)
            arguments = (
                projected[some, start * grid : stop * grid],
                offset[some, start * grid : stop * grid],
                aux[some, :, start * side : stop * side],
                eps,
                side,
            )
            chunks.append(_Recomputed.apply(*arguments))
        pooled.append(torch.cat(chunks, dim=1))
    return torch.cat(pooled)


def _chunk_shape(batch: int, grid: int, row_elements: int, limit: int) -> tuple[int, int]:
    """Return how many pictures and how many rows of tokens make a chunk."""
    images = min(batch, limit // (grid * row_elements))
    if images:
        return images, grid
    return 1, max(limit // row_elements, 1)


class _Recomputed(torch.autograd.Function):
    """:func:`attend_chunk`, keeping its inputs alone; the backward pass runs it again."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> torch.Tensor:
        """Run the chunk without a graph."""
        ctx.save_for_backward(*arguments[:3])
        ctx.settings = arguments[3:]
        return attend_chunk(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Build the chunk's graph, use it and forget it."""
        needed = ctx.needs_input_grad[:3]
        pairs = zip(ctx.saved_tensors, needed, strict=True)
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in pairs]
        with torch.enable_grad():
            pooled = attend_chunk(*inputs, *ctx.settings)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(pooled, wanted, gradient))
        return (*(next(found) if need else None for need in needed), None, None)


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


def attend_chunk(
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
