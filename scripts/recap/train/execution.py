"""How passes are made: what is compiled, and what is computed twice to save memory.

None of it changes the updates, rounding and dropout masks apart.
"""

from dataclasses import asdict, dataclass
from typing import Any

from ..mgm.compilation import compile_blocks
from ..mgm.modeling import MGMForCausalLM


@dataclass(frozen=True)
class Execution:
    """One way of making the passes.

    Attributes:
        micro_batch: rows a forward pass on one rank.
        checkpointed: share of the decoder layers, from the first on, whose inputs alone are
            kept for the backward pass, which computes the rest again.
        compiled: whether decoder layers and towers are compiled by ``torch.compile``.
    """

    micro_batch: int
    checkpointed: float
    compiled: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return asdict(self)


def set_execution(model: MGMForCausalLM, execution: Execution) -> None:
    """Make the model work in one way, whichever way it worked before."""
    checkpoint_layers(model, execution.checkpointed)
    compile_blocks(model, execution.compiled)


def checkpoint_layers(model: MGMForCausalLM, share: float) -> None:
    """Recompute the first layers of the decoder in the backward pass.

    Args:
        model: changed in place.
        share: of the layers, 0 to 1.
    """
    language: Any = model.language_model
    new = hasattr(language, "activation_checkpointing_enable")
    enable = "activation_checkpointing_enable" if new else "gradient_checkpointing_enable"
    getattr(language, enable)({"use_reentrant": False})
    layers = language.model.layers
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < round(share * len(layers))
