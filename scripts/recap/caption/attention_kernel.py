"""The Triton kernel of :mod:`.attention`; importing this needs Triton."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["end"])
def attend_one(  # type: ignore[no-untyped-def]
    query,
    stored,
    out,
    end,
    value_offset,
    row_stride,
    heads: tl.constexpr,
    width: tl.constexpr,
    block_width: tl.constexpr,
    block_keys: tl.constexpr,
) -> None:
    """Attend from one head of one row: a program each.

    Args:
        query: (B, H, D), contiguous.
        stored: keys, and ``value_offset`` further on the values, (B, L, H, D).
        out: (B, H, D), contiguous.
        end: positions that are filled.
        value_offset: elements from keys to values.
        row_stride: elements from row to row.
        heads: H.
        width: D.
        block_width: D rounded up to a power of two.
        block_keys: ``end`` rounded up to a power of two.
    """
    program = tl.program_id(0)
    row = program // heads
    head = program % heads
    d = tl.arange(0, block_width)
    n = tl.arange(0, block_keys)
    base = stored + row.to(tl.int64) * row_stride + head * width
    offsets = n[:, None] * heads * width + d[None, :]
    mask = (n[:, None] < end) & (d[None, :] < width)
    asked = tl.load(query + program * width + d, mask=d < width, other=0.0).to(tl.float32)
    keys = tl.load(base + offsets, mask=mask, other=0.0).to(tl.float32)
    values = tl.load(base + value_offset + offsets, mask=mask, other=0.0).to(tl.float32)
    scores = tl.sum(keys * asked[None, :], axis=1)
    scores = tl.where(n < end, scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, axis=0))
    weights = weights / tl.sum(weights, axis=0)
    mixed = tl.sum(weights[:, None] * values, axis=0)
    tl.store(out + program * width + d, mixed.to(out.dtype.element_ty), mask=d < width)
