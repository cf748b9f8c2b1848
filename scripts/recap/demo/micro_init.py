"""A good start for a small image encoder that has little time to learn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WHITEN = 512  # pictures from which patch embeddings start
_POSITION_SCALE = 0.3
_PATCH_SCALE = 0.3
_FLOOR = 1e-3  # variance below which a direction counts as noise


def start_vision(
    patches: "torch.nn.Conv2d", positions: "torch.Tensor", pixel_values: "torch.Tensor"
) -> None:
    """Set patch and position embeddings of an image encoder in place.

    Patches start whitened: their principal directions, each scaled to the same
    variance, so that edges weigh as much as brightness. Positions start as
    sines and cosines of row and column, so that neighbours are alike.

    Args:
        patches: the patch embedding, whose kernel is its stride.
        positions: (1, 1 + G * G, W), the position embedding; a class token comes first.
        pixel_values: (N, 3, S, S), normalised pictures to take the directions from.
    """
    import torch

    grid = pixel_values.shape[-1] // patches.kernel_size[0]
    with torch.no_grad():
        weight, bias = _whitening(pixel_values, int(patches.kernel_size[0]), patches.out_channels)
        patches.weight.copy_(weight)
        if patches.bias is not None:
            patches.bias.copy_(bias)
        positions[0, 1:].copy_(_positions(grid, patches.out_channels) * _POSITION_SCALE)


def _whitening(
    pixel_values: "torch.Tensor", patch: int, width: int
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return the weight (width, 3, patch, patch) and bias (width,) of a whitening convolution."""
    import torch

    pieces = pixel_values.unfold(2, patch, patch).unfold(3, patch, patch)
    flat = pieces.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * patch * patch).double()
    mean = flat.mean(0)
    variance, directions = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    count = min(width, len(variance))
    rows = torch.zeros(width, len(mean), dtype=torch.float64)
    scale = torch.sqrt(variance.flip(0)[:count].clamp(min=0) + _FLOOR)
    rows[:count] = directions.flip(1)[:, :count].T / scale[:, None] * _PATCH_SCALE
    return rows.reshape(width, 3, patch, patch).float(), -(rows @ mean).float()


def _positions(grid: int, width: int) -> "torch.Tensor":
    """Return (grid * grid, width): sines and cosines of the row, then of the column."""
    import torch

    quarter = width // 4
    rates = 100.0 ** -(torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * rates
    waves = torch.zeros(grid, width // 2)
    waves[:, : 2 * quarter] = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    both = torch.zeros(grid * grid, width)
    both[:, : 2 * (width // 2)] = torch.cat([rows, columns], dim=-1).reshape(grid * grid, -1)
    return both
