"""Checks of an adapter's own tensors: the low-rank updates, projector and mining."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..hashing import digest_tensors
from ..train_settings import LoraSettings
from .adapters import find_file, read_projector
from .findings import Findings
from .lora import expected_adapter_shapes
from .names import projector_names
from .tensors import TensorSource, dtype_name, is_finite

SAVE_AGAIN = "save the adapter again from its run, or train again"
SAME_RUN = "take this file and adapter_config.json from the same run"
GATHER = (
    "an empty tensor is what a sharded save leaves behind: save again with the full weights "
    "gathered (ZeRO-3: stage3_gather_16bit_weights_on_model_save)"
)
# adds the same to the logits of all candidates of a query, which softmax takes away again
_NO_GRADIENT = "vlm_uni_aux_projector.1.bias"


def check_adapter_tensors(
    findings: Findings,
    adapter: Mapping[str, TensorSource],
    base: Mapping[str, tuple[int, ...]],
    settings: LoraSettings | None,
    *,
    trained: bool,
) -> dict[str, Any]:
    """Check names, shapes, finite values, and that something was trained.

    Args:
        findings: where failures go.
        adapter: the file's tensors.
        base: shapes of the language model's tensors.
        settings: the adapter's; None if they cannot be read.
        trained: whether an adapter that changes nothing is a failure.
    """
    wanted = expected_adapter_shapes(base, settings or _guess_settings(adapter))
    for name in sorted(set(wanted) - set(adapter)):
        findings.fail(name, "is missing", SAVE_AGAIN)
    for name in sorted(set(adapter) - set(wanted)):
        fix = "pass the base it was trained on, and adapter_config.json of the same run"
        findings.fail(name, "does not belong to this base model and kind of adapter", fix)
    moved = []
    for name in sorted(set(wanted) & set(adapter)):
        tensor = adapter[name].load()
        _check_shape(findings, name, adapter[name], wanted[name])
        if problem := _value_problem(tensor):
            findings.fail(name, problem, SAVE_AGAIN)
        if name.endswith("lora_B.weight") and tensor.numel():
            moved.append(bool(tensor.any()))
    if trained and moved and not any(moved):
        fix = "take the adapter of stage 2; stage 1 trains projector and mining alone"
        findings.fail("every lora_B", "is zero: the adapter changes nothing, untrained", fix)
    return {"expected_tensors": len(wanted), "lora_b_nonzero": sum(moved)}


def _value_problem(tensor: torch.Tensor) -> str | None:
    if not tensor.is_floating_point():
        return f"is of type {dtype_name(tensor.dtype)}, but weights are floating-point numbers"
    return None if is_finite(tensor) else "holds NaN or infinite values"


def _check_shape(
    findings: Findings, name: str, source: TensorSource, wanted: tuple[int, ...]
) -> None:
    if source.shape != wanted:
        problem = f"has shape {source.shape}, rank and base model ask for {wanted}"
        findings.fail(name, problem, SAME_RUN if source.nbytes else GATHER)


def _guess_settings(adapter: Mapping[str, TensorSource]) -> LoraSettings:
    ranks = [s.shape[0] for n, s in adapter.items() if n.endswith("lora_A.weight") and s.shape]
    dora = any("lora_magnitude_vector" in name for name in adapter)
    return LoraSettings(rank=max([1, *ranks[:1]]), use_dora=dora)


def check_projector(
    findings: Findings,
    adapter_dir: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    initial_projector: str | Path | None,
) -> dict[str, Any]:
    """Check the 16 tensors of projector and mining.

    Args:
        findings: where failures go.
        adapter_dir: the adapter's folder.
        shapes: of a full checkpoint.
        initial_projector: what stage 2 started from; each tensor must differ.
    """

    def read() -> dict[str, torch.Tensor]:
        return read_projector(find_file(adapter_dir, "non_lora_trainables"))

    tensors = findings.attempt("non_lora_trainables", SAVE_AGAIN, read)
    if tensors is None:
        return {"projector_tensors": 0}
    for name in projector_names():
        label, wanted = f"projector tensor {name}", shapes[f"model.{name}"]
        if name not in tensors:
            findings.fail(label, "is missing", SAVE_AGAIN)
        elif tuple(tensors[name].shape) != wanted:
            problem = f"has shape {tuple(tensors[name].shape)}, these parts ask for {wanted}"
            fix = "pass the parts it was trained on" if tensors[name].numel() else GATHER
            findings.fail(label, problem, fix)
        elif wrong := _value_problem(tensors[name]):
            findings.fail(label, wrong, SAVE_AGAIN)
    for name in sorted(set(tensors) - set(projector_names())):
        findings.fail(f"projector tensor {name}", "is unknown", "pass a projector of MGM")
    found = {"projector_tensors": len(tensors), "projector_sha256": digest_tensors(tensors)}
    if initial_projector is None:
        findings.warnings.append(
            "projector and mining were not compared with their start; pass --initial-projector"
        )
        return found
    return found | _check_change(findings, tensors, initial_projector)


def _check_change(
    findings: Findings, tensors: Mapping[str, torch.Tensor], initial_projector: str | Path
) -> dict[str, Any]:
    fix = "pass the file stage 2 started from"
    initial = findings.attempt(
        "--initial-projector", fix, lambda: read_projector(initial_projector)
    )
    if initial is None:
        return {}
    for name in sorted(set(tensors) & set(initial)):
        ours, theirs = tensors[name], initial[name]
        if not (ours.is_floating_point() and theirs.is_floating_point()):
            continue
        # a file in 16 bits that was trained by nobody differs from its start by rounding alone
        kind = max(ours.dtype, theirs.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        if ours.shape != theirs.shape or not torch.equal(ours.to(kind), theirs.to(kind)):
            continue
        if _may_stand_still(name, ours.to(kind)):
            findings.warnings.append(f"projector tensor {name} still equals {initial_projector}")
            continue
        problem = f"still equals {initial_projector}: nothing trained it"
        findings.fail(f"projector tensor {name}", problem, "train stage 2 with it unfrozen")
    return {"initial_projector_sha256": digest_tensors(initial)}


def _may_stand_still(name: str, tensor: torch.Tensor) -> bool:
    """Say whether training may leave a tensor as it was.

    The gradient of one bias is zero; and a vector kept in 16 bits, such as the
    ones of a LayerNorm, can move by less than a rounding step.
    """
    return name == _NO_GRADIENT or (tensor.ndim == 1 and tensor.dtype != torch.float32)
