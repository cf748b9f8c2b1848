"""The ConvNeXt tower: stem and four stages, with timm's tensor names.

Only what MGM keeps of the OpenCLIP trunk is here. Dropping whole blocks at
random while training (``drop_path``) is off by default: upstream leaves it on
in its frozen tower by accident, and that behaviour can be asked for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import RecapError

# depths and widths of timm's ConvNeXt family
TIMM_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "convnext_xxlarge": ((3, 4, 30, 3), (384, 768, 1536, 3072)),
}
_EPS = 1e-6
_CHANNELS_AT_A_TIME = 256  # bounds the float32 temporaries of resizing


def resolve_size(name: str, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return ``{"name", "depths", "dims"}`` of a timm name, overrides applied.

    Raises:
        RecapError: for a name that is neither known nor fully overridden.
    """
    overrides = overrides or {}
    if name not in TIMM_SIZES and not {"depths", "dims"} <= set(overrides):
        raise RecapError(
            f"unknown ConvNeXt {name!r}; known: {sorted(TIMM_SIZES)}, or give depths and dims"
        )
    depths, dims = TIMM_SIZES.get(name, ((), ()))
    size = {
        "name": name,
        "depths": [int(value) for value in overrides.get("depths", depths)],
        "dims": [int(value) for value in overrides.get("dims", dims)],
    }
    if len(size["depths"]) != len(size["dims"]):
        raise RecapError(f"ConvNeXt {name!r}: depths and dims differ in length: {size}")
    return size


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a (B, C, H, W) map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each position."""
        moved = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(moved, self.normalized_shape, self.weight, self.bias, _EPS)
        return normed.permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Depthwise 7 x 7 convolution, LayerNorm, MLP, layer scale, residual."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))
        self.conv_dw = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.mlp = Mlp(width)
        self.drop_path = drop_path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to the same shape."""
        branch = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        branch = (branch * self.gamma).permute(0, 3, 1, 2)
        if self.drop_path > 0 and self.training:
            keep = 1 - self.drop_path
            kept = torch.rand((x.shape[0], 1, 1, 1), device=x.device, dtype=torch.float32) < keep
            branch = branch * (kept / keep).to(branch.dtype)
        return x + branch


class Stage(nn.Module):
    """An optional halving of the map, then blocks."""

    def __init__(self, before: int, width: int, rates: list[float]) -> None:
        super().__init__()
        self.downsample = (
            nn.Identity()
            if before == 0
            else nn.Sequential(ChannelNorm(before), nn.Conv2d(before, width, 2, stride=2))
        )
        self.blocks = nn.Sequential(*(Block(width, rate) for rate in rates))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C', H / 2, W / 2), or keep the size in the first stage."""
        return self.blocks(self.downsample(x))


class ConvNextTower(nn.Module):
    """Features of all stages at the resolution of the first, concatenated.

    Args:
        depths: blocks a stage.
        dims: channels a stage.
        drop_path: rate of the last block; it grows linearly from zero, active
            only where the tower is put in training mode.

    Attributes:
        join: :func:`concatenate_stages` in another form, such as a compiled one.
    """

    join: Callable[[list[torch.Tensor]], torch.Tensor] | None = None

    def __init__(self, depths: list[int], dims: list[int], drop_path: float = 0.0) -> None:
        super().__init__()
        total = sum(depths)
        rates = [drop_path * index / max(total - 1, 1) for index in range(total)]
        self.vision_stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), ChannelNorm(dims[0]))
        stages, start = [], 0
        for index, (depth, width) in enumerate(zip(depths, dims, strict=True)):
            before = dims[index - 1] if index else 0
            stages.append(Stage(before, width, rates[start : start + depth]))
            start += depth
        self.vision_stages = nn.Sequential(*stages)
        self.depths, self.dims = list(depths), list(dims)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the auxiliary map.

        Args:
            images: (B, 3, S, S), normalised, S a multiple of 32.

        Returns:
            (B, sum(dims), S / 4, S / 4) in the tower's type. Stages 1 to 3 are
            upsampled bilinearly (``align_corners=False``) in float32.
        """
        x = self.vision_stem(images.to(next(self.parameters()).dtype))
        outputs = []
        for stage in self.vision_stages:
            x = stage(x)
            outputs.append(x)
        return (self.join or concatenate_stages)(outputs)


def concatenate_stages(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Upsample maps (B, C_i, H_i, W_i) to the first one's size and join their channels."""
    first = outputs[0]
    batch, _, height, width = first.shape
    channels = sum(output.shape[1] for output in outputs)
    # Channels last: the mining reads all channels of a few positions at a time.
    joined = torch.empty(
        (batch, channels, height, width),
        dtype=first.dtype,
        device=first.device,
        memory_format=torch.channels_last,
    )
    start = 0
    for output in outputs:
        stop = start + output.shape[1]
        resize_into(joined[:, start:stop], output)
        start = stop
    return joined


def join_stages(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Do as :func:`concatenate_stages`, in a form made for ``torch.compile``.

    Not compiled, it holds the resized maps twice.
    """
    size = outputs[0].shape[-2:]
    resized = [
        functional.interpolate(output.float(), size=size, mode="bilinear", align_corners=False)
        for output in outputs[1:]
    ]
    joined = torch.cat([outputs[0], *(one.to(outputs[0].dtype) for one in resized)], dim=1)
    return joined.contiguous(memory_format=torch.channels_last)


def resize_into(out: torch.Tensor, x: torch.Tensor) -> None:
    """Write ``x`` (B, C, H, W) into ``out`` (B, C, h, w), resized.

    Bilinear with ``align_corners=False``, without antialiasing, computed in
    float32 and rounded once to the type of ``out``. CUDA's kernel does so by
    itself; elsewhere it is done for a group of channels at a time.
    """
    size = out.shape[-2:]
    if x.is_cuda:
        same = x.shape[-2:] == size
        out.copy_(
            x
            if same
            else functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        )
        return
    for start in range(0, x.shape[1], _CHANNELS_AT_A_TIME):
        part = x[:, start : start + _CHANNELS_AT_A_TIME]
        if part.shape[-2:] != size:
            part = functional.interpolate(
                part.float(), size=size, mode="bilinear", align_corners=False
            )
        out[:, start : start + _CHANNELS_AT_A_TIME] = part
