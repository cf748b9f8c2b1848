"""The two models of the parity gate, built one after the other."""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from .adapters import adapter_model_config
from .checkpoint import build_configured, load_adapter, load_checkpoint
from .modeling import MGMForCausalLM
from .parts import ModelParts


@dataclass(frozen=True)
class Sides:
    """The two models that a gate compares, each built when it is needed.

    Attributes:
        merged_dir: the merged checkpoint.
        adapter_dir: the adapter it was made from.
        parts: the base it was made from.
        merged_dtype: type the weights were rounded to.
        deployed: type the checkpoint is used in.
        device: where to compute.
    """

    merged_dir: Path
    adapter_dir: Path
    parts: ModelParts
    merged_dtype: torch.dtype
    deployed: torch.dtype
    device: str

    def merged(self) -> MGMForCausalLM:
        """Return the checkpoint in float32."""
        return load_checkpoint(self.merged_dir, dtype="float32", device=self.device)[0]

    def unmerged(self) -> MGMForCausalLM:
        """Return base plus adapter in float32, everything but the merged maps rounded."""
        config = adapter_model_config(self.adapter_dir, self.parts)
        model = build_configured(config, self.parts, dtype="float32", seed=0)
        return attach_exact(model, self.adapter_dir, self.merged_dtype).to(self.device)  # type: ignore[arg-type]


@torch.no_grad()
def attach_exact(
    model: MGMForCausalLM, adapter_dir: str | Path, dtype: torch.dtype
) -> MGMForCausalLM:
    """Attach the adapter to a float32 model; round all but the wrapped maps to ``dtype``."""
    load_adapter(model, adapter_dir)
    for name, parameter in model.named_parameters():
        if "lora_" not in name and "base_layer" not in name:
            parameter.data = parameter.data.to(dtype).float()
        else:
            parameter.data = parameter.data.float()
    return model


def release_memory() -> None:
    """Give back what the last model used before the next one is built."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
