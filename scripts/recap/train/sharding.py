"""Frozen decoder layers cut over the ranks, for models that one GPU cannot hold.

PyTorch's FSDP2 (Zhao et al. 2023) keeps a piece of each frozen weight on each rank and
gathers a layer when it is computed, forward and backward. Trained weights stay whole on
every rank and frozen ones have no gradient, so that updates and checkpoints are those of
whole models. Every pass is a meeting of all ranks: they must make equally many of them, and
decide alike whether to make the next one.
"""

import logging
from typing import Any

import torch
from torch import nn

from ..errors import RecapError
from ..mgm.modeling import MGMForCausalLM
from ..train_settings import StageSettings

logger = logging.getLogger(__name__)

_MIB = 1 << 20


def is_sharded(settings: StageSettings, ranks: int) -> bool:
    """Say whether the decoder is cut; a single rank has nobody to share it with."""
    return settings.shard_base and ranks > 1


def shard_decoder(model: MGMForCausalLM, device: torch.device, ranks: int) -> None:
    """Cut the frozen weights of the decoder layers over the ranks, and put the rest on a device.

    Layer by layer, so that no device ever has to hold the whole model. Embedding and head
    stay whole: they are used outside of the decoder, and small beside it.

    Args:
        model: trained parts set; changed in place.
        device: of this rank.
        ranks: number of them, all of which must call.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks,))
    decoder: Any = model.language_model.model
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    whole = _frozen_bytes(decoder.layers)
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # The common root, which holds nothing itself, lets a layer be gathered during the one before.
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
    _place_the_rest(model, device)
    # Else a pass without pictures has no backward pass through the decoder in stage 1, while
    # other ranks wait for its pieces. transformers' checkpointing does so too, as a side effect.
    model.get_input_embeddings().register_forward_hook(_require_gradient)
    held = _frozen_bytes(decoder.layers)
    logger.info(
        "this rank holds %.1f of %.1f MiB of frozen decoder layers", held / _MIB, whole / _MIB
    )


def exhausted(when: str, error: Exception) -> RecapError:
    """Return the error that ends a rank whose memory did not suffice for a common pass.

    Args:
        when: such as ``update 3``.
        error: what torch said.
    """
    return RecapError(
        f"{when}: the GPU's memory does not suffice ({error}). Ranks that share the base "
        "(shard_base) cannot repeat a pass in smaller ones, so the run ends here; lower "
        "micro_batch_size, raise gradient_checkpointing, lower max_length, or use more ranks"
    )


def _frozen_bytes(module: nn.Module) -> int:
    """Return the bytes of frozen parameters that this process holds."""
    frozen = (p for p in module.parameters() if not p.requires_grad)
    local = (p.to_local() if hasattr(p, "to_local") else p for p in frozen)
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def _place_the_rest(model: nn.Module, device: torch.device) -> None:
    """Move what FSDP does not manage; ``model.to`` would first want the whole model."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not hasattr(parameter, "to_local"):
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def _require_gradient(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
    if torch.is_grad_enabled():
        output.requires_grad_()
