"""Mining in one kernel a direction, for maps that no gradient is asked of."""

from functools import cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..kernels import kernel_works

_CHANNELS_AT_A_TIME = 64
_WARPS = 2


def fuses(aux: torch.Tensor) -> bool:
    """Return whether :func:`attend_fused` serves for a map."""
    return aux.is_cuda and not aux.requires_grad and _works()


@cache
def _works() -> bool:
    return kernel_works(lambda: gives_right_values("cuda"), "mining in chunks, which is slower")


def gives_right_values(device: str) -> bool:
    """Try the kernels on a small input; no random state is touched, as training is under way."""
    from .mining import attend_chunk

    def wave(*shape: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return torch.arange(count, device=device, dtype=torch.float32).mul(0.7).sin().view(shape)

    with torch.inference_mode(False), torch.enable_grad():
        leaves = wave(1, 4, 24).requires_grad_(), wave(1, 4).requires_grad_()
        aux, pull = wave(1, 24, 6, 6), wave(1, 4, 24)
        found, wanted = (
            (result, *torch.autograd.grad(result, leaves, pull))
            for result in (attend(*leaves, aux, 1e-5, 3) for attend in (attend_fused, attend_chunk))
        )
    pairs = zip(found, wanted, strict=True)
    return all(torch.allclose(own, other, atol=0.05) for own, other in pairs)


def attend_fused(
    projected: torch.Tensor, offset: torch.Tensor, aux: torch.Tensor, eps: float, side: int
) -> torch.Tensor:
    """Return the weighted sums of normalised candidates for all queries, (B, N, C).

    As :func:`.mining.attend_chunk` of the whole map, but that everything between the inputs
    and the result is float32. Nothing of the map's size is made, in the backward pass neither.

    Args:
        projected: (B, N, C), queries in candidate space.
        offset: (B, N), what each adds to its logits.
        aux: (B, C, H, W), best in channels-last order.
        eps: of the candidates' LayerNorm.
        side: positions of the map a side that a query sees.
    """
    result: torch.Tensor = _Fused.apply(projected, offset, aux, eps, side)
    return result


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: torch.Tensor,
        offset: torch.Tensor,
        aux: torch.Tensor,
        eps: float,
        side: int,
    ) -> torch.Tensor:
        from .mining_kernel import mine_forward

        projected, offset = projected.contiguous(), offset.contiguous()
        ctx.save_for_backward(projected, offset, aux)
        ctx.eps, ctx.side = eps, side
        pooled = torch.empty_like(projected)
        _launch(mine_forward, (projected, offset, pooled), aux, eps, side)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from .mining_kernel import mine_backward

        projected, offset, aux = ctx.saved_tensors
        found = torch.empty_like(projected), torch.empty_like(offset)
        tensors = (projected, offset, gradient.contiguous(), *found)
        _launch(mine_backward, tensors, aux, ctx.eps, ctx.side)
        return (*found, None, None, None)


def _launch(kernel: Any, tensors: Any, aux: torch.Tensor, eps: float, side: int) -> None:
    batch, channels, height, _ = aux.shape
    grid = height // side
    kernel[(batch * grid * grid,)](
        *tensors,
        aux,
        *aux.stride(),
        grid,
        channels,
        eps,
        torch.finfo(aux.dtype).max,
        side=side,
        block_candidates=1 << (side * side - 1).bit_length(),
        block_channels=_CHANNELS_AT_A_TIME,
        num_warps=_WARPS,
    )
