"""Several adapters of one base in memory, one of them in use at a time."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import RecapError
from .adapter_config import read_adapter_settings
from .adapters import find_file, load_projector
from .checkpoint import load_adapter
from .lora import adapter_state, fill_adapter
from .modeling import MGMForCausalLM
from .names import projector_names
from .provenance import open_trained_file


class AdapterVariants:
    """Adapters, with their projectors, that take turns in one model.

    The model's own tensors stay where they are and are written over, so that what
    holds their addresses, such as a captured CUDA graph, serves every variant.
    """

    def __init__(self, model: MGMForCausalLM, folders: Sequence[Path], dtype: torch.dtype) -> None:
        """Attach the first adapter and read the others.

        Args:
            model: a base without an adapter, on the CPU.
            folders: of the adapters, at least one.
            dtype: what adapters and projectors are converted to.

        Raises:
            RecapError: if a file is broken or does not fit, or if adapters differ in their
                settings.
        """
        _require_alike(folders)
        self._model, self._dtype = model, dtype
        load_adapter(model, folders[0])
        self._kept = [self._copy()]
        for folder in folders[1:]:
            path = find_file(folder, "adapter_model")
            sources = open_trained_file(path)
            try:
                fill_adapter(model, {name: source.load() for name, source in sources.items()})
            except RecapError as error:
                raise RecapError(f"{path}: {error}") from error
            load_projector(model, find_file(folder, "non_lora_trainables"))
            self._kept.append(self._copy())
        self._used = len(self._kept) - 1
        self.use(0)

    def __len__(self) -> int:
        """Return the number of adapters."""
        return len(self._kept)

    @torch.no_grad()
    def use(self, index: int) -> None:
        """Let the model answer with one of the adapters."""
        if index == self._used:
            return
        live = self._live()
        for name, tensor in self._kept[index].items():
            live[name].copy_(tensor, non_blocking=True)
        self._used = index

    def to(self, device: torch.device | str) -> None:
        """Move model and copies to a device."""
        self._model.to(device)  # type: ignore[arg-type]
        self._kept = [
            {name: tensor.to(device) for name, tensor in kept.items()} for kept in self._kept
        ]

    def _live(self) -> dict[str, torch.Tensor]:
        own = dict(self._model.named_parameters())
        return adapter_state(self._model) | {name: own[name] for name in projector_names()}

    @torch.no_grad()
    def _copy(self) -> dict[str, torch.Tensor]:
        for tensor in self._live().values():
            tensor.data = tensor.data.to(self._dtype)
        return {name: tensor.detach().clone() for name, tensor in self._live().items()}


def _require_alike(folders: Sequence[Path]) -> None:
    first = read_adapter_settings(folders[0])
    for folder in folders[1:]:
        if read_adapter_settings(folder) != first:
            raise RecapError(
                f"the adapters of {folder} and {folders[0]} differ in rank or kind; evaluate "
                "them one after the other"
            )
