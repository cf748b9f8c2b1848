"""Compiling the repeated blocks of a model, each kind once."""

from collections.abc import Iterable
from typing import Any

import torch
import torch._functorch.config

from .convnext import join_stages
from .lora import has_lora
from .modeling import MGMForCausalLM


def compile_blocks(model: MGMForCausalLM, compiled: bool) -> None:
    """Compile decoder layers and towers by ``torch.compile``, or undo that."""
    # An adapter would keep seven dropped-out inputs a layer; they are cheap to make again.
    torch._functorch.config.aggressive_recomputation = has_lora(model)
    _compile_each(model.language_model.model.layers, compiled)
    compile_towers(model, compiled)


def compile_towers(model: MGMForCausalLM, compiled: bool) -> None:
    """Compile what turns pictures into embeddings, or undo that."""
    clip: Any = model.vision_tower.vision_tower
    stages: Any = model.vision_tower_aux.vision_stages
    _compile_each(getattr(clip, "vision_model", clip).encoder.layers, compiled)
    _compile_each((block for stage in stages for block in stage.blocks), compiled)
    model.vision_tower_aux.join = torch.compile(join_stages) if compiled else None


def _compile_each(blocks: Iterable[Any], compiled: bool) -> None:
    # A kind has a few versions: widths, with and without gradient, shapes before they are dynamic.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in blocks:
        block._compiled_call_impl = None
        if compiled:
            block.compile()
