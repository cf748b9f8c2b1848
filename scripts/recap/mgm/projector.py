"""The two-layer projector from vision features to the language model's width."""

import torch
from torch import nn
from torch.nn import functional

from .mining import linear


def build_projector(in_features: int, out_features: int) -> nn.Sequential:
    """Return ``mlp2x_gelu``: Linear, exact GELU, Linear, with upstream's tensor names."""
    return nn.Sequential(
        nn.Linear(in_features, out_features), nn.GELU(), nn.Linear(out_features, out_features)
    )


def project(features: torch.Tensor, projector: nn.Sequential) -> torch.Tensor:
    """Map (B, N, in) to (B, N, out) in the type of ``features``."""
    return linear(functional.gelu(linear(features, projector[0])), projector[2])
