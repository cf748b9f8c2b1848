"""Attention of one query a row over a short key-value cache, the case of decoding.

The general kernels are made for many queries: on an H100 they take 116 us a layer
for 256 rows of 40 keys, this one 48. It reads every key and value once, in float32
arithmetic. Where Triton is missing, ``scaled_dot_product_attention`` is used.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from ..kernels import kernel_works

if TYPE_CHECKING:
    import torch

_LONGEST = 256  # keys a program holds in registers


def attend(query_BHD: "torch.Tensor", cache_BLHD: "torch.Tensor", end: int) -> "torch.Tensor":
    """Return the attention of scaled queries over the first ``end`` positions, (B, H, D).

    Args:
        query_BHD: already scaled, of any strides.
        cache_BLHD: keys and values, (2, B, L, H, D), contiguous.
        end: positions that are filled.
    """
    if query_BHD.is_cuda and end <= _LONGEST and _works():
        return _launch(query_BHD, cache_BLHD, end)
    return attend_plainly(query_BHD, cache_BLHD, end)


def attend_plainly(
    query_BHD: "torch.Tensor", cache_BLHD: "torch.Tensor", end: int
) -> "torch.Tensor":
    """Return the same as :func:`attend` by torch's own attention."""
    from torch.nn.functional import scaled_dot_product_attention

    keys, values = cache_BLHD[:, :, :end].transpose(2, 3)
    mixed = scaled_dot_product_attention(query_BHD[:, :, None], keys, values, scale=1.0)
    return mixed[:, :, 0]


def _launch(query: "torch.Tensor", stored: "torch.Tensor", end: int) -> "torch.Tensor":
    import torch

    from .attention_kernel import attend_one

    query = query.contiguous()
    rows, heads, width = query.shape
    out = torch.empty((rows, heads, width), dtype=query.dtype, device=query.device)
    launched: Any = attend_one[(rows * heads,)]
    launched(
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
def _works() -> bool:
    return kernel_works(_is_right, "decoding without its own attention kernel, about 5 % slower")


def _is_right() -> bool:
    import torch

    query = torch.randn(2, 2, 8, device="cuda", dtype=torch.bfloat16)
    stored = torch.randn(2, 2, 5, 2, 8, device="cuda", dtype=torch.bfloat16)
    found = _launch(query, stored, 4).float()
    return torch.allclose(found, attend_plainly(query, stored, 4).float(), atol=0.05)
