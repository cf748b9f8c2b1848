"""The Triton kernels of :mod:`.fused_mining`; importing this needs Triton.

A program per query reads its block of the map twice and keeps nothing of the block's size:
first the moments of each candidate a_m and its products, then the sum of what is left of the
candidates once their mean is taken away. With mean u_m and r_m = 1 / sqrt(variance + eps), a
normalised candidate is n_m = (a_m - u_m) r_m, hence

    x . n_m = r_m (x . a_m - u_m sum(x)),

so that no n_m is ever made. Moments are taken of a_m less its first channel, which keeps
float32 from cancelling where the mean is large.

Shapes: B pictures, N queries each, C channels, M candidates a query, rounded up to a power of two.
"""

import triton
import triton.language as tl


@triton.jit
def _find_block(  # type: ignore[no-untyped-def]
    aux, image_stride, row_stride, column_stride, program, grid, side: tl.constexpr, m
):
    """Return where the first channel of each candidate of a query lies, (M)."""
    image = (program // (grid * grid)).to(tl.int64)
    token = program % (grid * grid)
    row = (token // grid) * side + m // side
    column = (token % grid) * side + m % side
    return aux + image * image_stride + row * row_stride + column * column_stride


@triton.jit
def _read_block(  # type: ignore[no-untyped-def]
    places, real, channel_stride, one, two, channels, eps,
    block_candidates: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    """Return of each candidate its mean, r_m, and the products of n_m with two vectors (C)."""
    c = tl.arange(0, block_channels)
    first = tl.load(places, mask=real, other=0.0).to(tl.float32)
    sums = tl.zeros((block_candidates,), tl.float32)
    squares = tl.zeros((block_candidates,), tl.float32)
    ones = tl.zeros((block_candidates,), tl.float32)
    twos = tl.zeros((block_candidates,), tl.float32)
    one_sum = 0.0
    two_sum = 0.0
    for start in range(0, channels, block_channels):
        inside = start + c < channels
        both = real[:, None] & inside[None, :]
        tile = tl.load(places[:, None] + (start + c)[None, :] * channel_stride, mask=both, other=0)
        moved = tl.where(both, tile.to(tl.float32) - first[:, None], 0.0)
        x = tl.load(one + start + c, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(two + start + c, mask=inside, other=0.0).to(tl.float32)
        sums += tl.sum(moved, axis=1)
        squares += tl.sum(moved * moved, axis=1)
        ones += tl.sum(moved * x[None, :], axis=1)
        twos += tl.sum(moved * y[None, :], axis=1)
        one_sum += tl.sum(x, axis=0)
        two_sum += tl.sum(y, axis=0)
    mean = sums / channels
    scale = tl.rsqrt(tl.maximum(squares / channels - mean * mean, 0.0) + eps)
    return first + mean, scale, scale * (ones - mean * one_sum), scale * (twos - mean * two_sum)


@triton.jit
def _weigh(logits, real, huge):  # type: ignore[no-untyped-def]
    """Return the softmax over candidates, and which logits have a gradient.

    NaN counts as zero, and what is beyond the type's range as its end, as upstream's
    ``nan_to_num`` makes it.
    """
    finite = (logits == logits) & (tl.abs(logits) <= huge)
    logits = tl.where(logits == logits, logits, 0.0)
    logits = tl.minimum(tl.maximum(logits, -huge), huge)
    logits = tl.where(real, logits, -float("inf"))
    weights = tl.exp(logits - tl.max(logits, axis=0))
    return weights / tl.sum(weights, axis=0), finite & real


@triton.jit
def _mix_block(  # type: ignore[no-untyped-def]
    places, real, channel_stride, mean, shares, out, channels, block_channels: tl.constexpr
):
    """Write the sum of the candidates less their means, by shares, (C)."""
    c = tl.arange(0, block_channels)
    for start in range(0, channels, block_channels):
        inside = start + c < channels
        both = real[:, None] & inside[None, :]
        tile = tl.load(places[:, None] + (start + c)[None, :] * channel_stride, mask=both, other=0)
        mixed = tl.sum(shares[:, None] * (tile.to(tl.float32) - mean[:, None]), axis=0)
        tl.store(out + start + c, mixed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def mine_forward(  # type: ignore[no-untyped-def]
    projected, offset, pooled,
    aux, image_stride, channel_stride, row_stride, column_stride, grid, channels, eps, huge,
    side: tl.constexpr, block_candidates: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    """Write the weighted sum of a query's normalised candidates.

    Args:
        projected: (B, N, C), contiguous.
        offset: (B, N), contiguous.
        pooled: (B, N, C), contiguous; written.
        aux: (B, C, H, W), and its strides.
        image_stride: of the first dimension.
        channel_stride: best 1.
        row_stride: of the third.
        column_stride: of the last.
        grid: the root of N.
        channels: C.
        eps: of the LayerNorm.
        huge: largest logit that counts as finite.
        side: the root of the number of candidates.
        block_candidates: M.
        block_channels: channels read at a time.
    """
    program = tl.program_id(0)
    own = program.to(tl.int64) * channels
    m = tl.arange(0, block_candidates)
    real = m < side * side
    places = _find_block(aux, image_stride, row_stride, column_stride, program, grid, side, m)
    asked = projected + own
    mean, scale, logits, _ = _read_block(
        places, real, channel_stride, asked, asked, channels, eps, block_candidates, block_channels
    )
    added = tl.load(offset + program).to(tl.float32)
    weights, _ = _weigh(logits + added, real, huge)
    shares = weights * scale
    _mix_block(places, real, channel_stride, mean, shares, pooled + own, channels, block_channels)


@triton.jit
def mine_backward(  # type: ignore[no-untyped-def]
    projected, offset, gradient, of_projected, of_offset,
    aux, image_stride, channel_stride, row_stride, column_stride, grid, channels, eps, huge,
    side: tl.constexpr, block_candidates: tl.constexpr, block_channels: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a query and of its constant; weights are computed anew.

    Args:
        projected: as above, as all that is not named here.
        offset: as above.
        gradient: (B, N, C), contiguous, of the result.
        of_projected: (B, N, C), contiguous; written.
        of_offset: (B, N), contiguous; written.
        aux: as above.
        image_stride: as above.
        channel_stride: as above.
        row_stride: as above.
        column_stride: as above.
        grid: as above.
        channels: as above.
        eps: as above.
        huge: as above.
        side: as above.
        block_candidates: as above.
        block_channels: as above.
    """
    program = tl.program_id(0)
    own = program.to(tl.int64) * channels
    m = tl.arange(0, block_candidates)
    real = m < side * side
    places = _find_block(aux, image_stride, row_stride, column_stride, program, grid, side, m)
    asked, pulled = projected + own, gradient + own
    mean, scale, logits, of_weights = _read_block(
        places, real, channel_stride, asked, pulled, channels, eps, block_candidates, block_channels
    )
    added = tl.load(offset + program).to(tl.float32)
    weights, finite = _weigh(logits + added, real, huge)
    of_logits = weights * (of_weights - tl.sum(weights * of_weights, axis=0))
    of_logits = tl.where(finite, of_logits, 0.0)
    total = tl.sum(of_logits, axis=0)
    tl.store(of_offset + program, total.to(of_offset.dtype.element_ty))
    out, shares = of_projected + own, of_logits * scale
    _mix_block(places, real, channel_stride, mean, shares, out, channels, block_channels)
