"""Attention of one query a row over a short key-value cache, the case of decoding.

The general kernels are made for many queries: on an H100 they take 116 us a layer
for 256 rows of 40 keys, this one 48. It reads every key and value once, in float32
arithmetic. Where Triton is missing, ``scaled_dot_product_attention`` is used.
"""

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_LONGEST = 256  # keys a program holds in registers


def attend(query_BHD: "torch.Tensor", cache_BLHD: "torch.Tensor", end: int) -> "torch.Tensor":
    """Return the attention of scaled queries over the first ``end`` positions, (B, H, D).

    Args:
        query_BHD: already scaled, of any strides.
        cache_BLHD: keys and values, (2, B, L, H, D), contiguous.
        end: positions that are filled.
    """
    if query_BHD.is_cuda and end <= _LONGEST and (kernel := _kernel()) is not None:
        return _launch(kernel, query_BHD, cache_BLHD, end)
    return attend_plainly(query_BHD, cache_BLHD, end)


def attend_plainly(
    query_BHD: "torch.Tensor", cache_BLHD: "torch.Tensor", end: int
) -> "torch.Tensor":
    """Return the same as :func:`attend` by torch's own attention."""
    from torch.nn.functional import scaled_dot_product_attention

    keys, values = cache_BLHD[:, :, :end].transpose(2, 3)
    mixed = scaled_dot_product_attention(query_BHD[:, :, None], keys, values, scale=1.0)
    return mixed[:, :, 0]


def _launch(kernel: Any, query: "torch.Tensor", stored: "torch.Tensor", end: int) -> "torch.Tensor":
    import torch

    query = query.contiguous()
    rows, heads, width = query.shape
    out = torch.empty((rows, heads, width), dtype=query.dtype, device=query.device)
    kernel[(rows * heads,)](
        query,
        stored,
        out,
        end,
        stored.stride(0),
        stored.stride(1),
        heads=heads,
        width=width,
        block_width=1 << (width - 1).bit_length(),
        block_keys=max(16, 1 << (end - 1).bit_length()),
        num_warps=2,
    )
    return out


@cache
def _kernel() -> Any:
    """Return the compiled kernel, or nothing where Triton cannot be used."""
    import torch

    try:
        from .attention_kernel import attend_one as kernel

        query = torch.randn(2, 2, 8, device="cuda", dtype=torch.bfloat16)
        stored = torch.randn(2, 2, 5, 2, 8, device="cuda", dtype=torch.bfloat16)
        found = _launch(kernel, query, stored, 4).float()
        close = torch.allclose(found, attend_plainly(query, stored, 4).float(), atol=0.05)
    except Exception as error:  # no package, no C compiler, an unknown GPU
        logger.warning("decoding without its own attention kernel, about 5 %% slower: %s", error)
        return None
    if not close:
        logger.warning("the attention kernel gives wrong values on this GPU; going on without it")
        return None
    return kernel
