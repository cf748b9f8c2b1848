"""Is an adapter whole, sound and made for this base?"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import GateError, RecapError
from ..hashing import digest_tensors
from ..io import read_json, write_evidence
from ..settings import LoraSettings
from .adapters import LORA_RANGE, find_file, read_adapter_settings, read_projector
from .checkpoint import describe_base
from .configuration import config_from_parts
from .lora import expected_adapter_shapes
from .names import expected_shapes, projector_names
from .parts import ModelParts
from .tensors import TensorSource, open_model_folder, open_tensor_file

logger = logging.getLogger(__name__)


def check_adapter(
    adapter_dir: str | Path,
    parts: ModelParts,
    *,
    initial_projector: str | Path | None = None,
    report: str | Path | None = None,
) -> dict[str, Any]:
    """Check an adapter and write what was found.

    Args:
        adapter_dir: folder that :func:`save_adapter` or upstream wrote.
        parts: the base it is meant for.
        initial_projector: what stage 2 started from; the result must differ.
        report: JSON file to write.

    Returns:
        The report: ``failures``, ``warnings`` and figures.

    Raises:
        RecapError: if the base itself cannot be read.
        GateError: naming every failure.
    """
    result = inspect_adapter(adapter_dir, parts, initial_projector=initial_projector)
    if report is not None:
        write_evidence(report, result, passed=not result["failures"])
    for warning in result["warnings"]:
        logger.warning("%s", warning)
    if result["failures"]:
        listed = "\n".join(f"  - {failure}" for failure in result["failures"])
        raise GateError(f"{adapter_dir} is not a usable adapter for this base:\n{listed}")
    logger.info("%s: %d adapter tensors, sound", adapter_dir, result["adapter_tensors"])
    return result


def inspect_adapter(
    adapter_dir: str | Path,
    parts: ModelParts,
    *,
    initial_projector: str | Path | None = None,
    trained: bool = True,
) -> dict[str, Any]:
    """Return the report of :func:`check_adapter` without judging it.

    Args:
        adapter_dir: the adapter's folder.
        parts: the base it is meant for.
        initial_projector: what stage 2 started from.
        trained: whether an adapter that changes nothing is a failure.
    """
    result: dict[str, Any] = {"failures": [], "warnings": [], "adapter_tensors": 0}
    failures: list[str] = result["failures"]
    sources = open_model_folder(parts.language_model)
    base = {name: source.shape for name, source in sources.items()}
    settings = _collect(failures, lambda: read_adapter_settings(adapter_dir))
    adapter = _collect(failures, lambda: open_tensor_file(find_file(adapter_dir, "adapter_model")))
    if adapter is not None:
        result["adapter_tensors"] = len(adapter)
        rank = settings.rank if settings else None
        result |= _check_tensors(failures, adapter, base, rank, trained=trained)
    if settings is not None:
        result |= _check_settings(failures, settings)
    result |= _check_projector(failures, adapter_dir, parts, initial_projector)
    result |= _check_base(result, adapter_dir, parts)
    return result


def _collect(failures: list[str], action: Callable[[], Any]) -> Any:
    """Run ``action``; turn a refusal into an entry of ``failures``."""
    try:
        return action()
    except RecapError as error:
        failures.append(str(error))
        return None


def _check_settings(failures: list[str], settings: LoraSettings) -> dict[str, Any]:
    scale = settings.alpha / settings.rank
    if not LORA_RANGE[0] <= scale <= LORA_RANGE[1]:
        failures.append(
            f"alpha / rank is {settings.alpha} / {settings.rank} = {scale:g}, outside "
            f"{LORA_RANGE[0]:g} to {LORA_RANGE[1]:g}; check adapter_config.json"
        )
    return {"rank": settings.rank, "alpha": settings.alpha}


def _check_tensors(
    failures: list[str],
    adapter: Mapping[str, TensorSource],
    base: Mapping[str, tuple[int, ...]],
    rank: int | None,
    *,
    trained: bool,
) -> dict[str, Any]:
    wanted = expected_adapter_shapes(base, rank or _guess_rank(adapter))
    for name in sorted(set(wanted) - set(adapter)):
        failures.append(f"{name} is missing")
    for name in sorted(set(adapter) - set(wanted)):
        failures.append(f"{name} does not belong to this base model")
    moved = 0
    for name in sorted(set(wanted) & set(adapter)):
        source = adapter[name]
        if source.shape != wanted[name]:
            failures.append(
                f"{name} has shape {source.shape}, rank and base model ask for {wanted[name]}"
                + ("; an empty tensor is what a sharded save leaves behind" * (not source.nbytes))
            )
            continue
        tensor = source.load()
        if not torch.isfinite(tensor).all():
            failures.append(f"{name} holds NaN or infinite values")
        elif name.endswith("lora_B.weight") and bool(tensor.any()):
            moved += 1
    if trained and moved == 0:
        failures.append("every lora_B is zero: the adapter changes nothing, it was not trained")
    return {"expected_tensors": len(wanted), "lora_b_nonzero": moved}


def _guess_rank(adapter: Mapping[str, TensorSource]) -> int:
    ranks = [
        s.shape[0] for name, s in adapter.items() if name.endswith("lora_A.weight") and s.shape
    ]
    return ranks[0] if ranks else 1


def _check_projector(
    failures: list[str],
    adapter_dir: str | Path,
    parts: ModelParts,
    initial_projector: str | Path | None,
) -> dict[str, Any]:
    tensors = _collect(
        failures, lambda: read_projector(find_file(adapter_dir, "non_lora_trainables"))
    )
    if tensors is None:
        return {"projector_tensors": 0}
    shapes = expected_shapes(config_from_parts(parts))
    for name in projector_names():
        if name not in tensors:
            failures.append(f"projector tensor {name} is missing")
        elif tuple(tensors[name].shape) != shapes[f"model.{name}"]:
            failures.append(
                f"projector tensor {name} has shape {tuple(tensors[name].shape)}, these parts "
                f"ask for {shapes[f'model.{name}']}"
            )
        elif not torch.isfinite(tensors[name]).all():
            failures.append(f"projector tensor {name} holds NaN or infinite values")
    for name in sorted(set(tensors) - set(projector_names())):
        failures.append(f"projector tensor {name} is unknown")
    found: dict[str, Any] = {
        "projector_tensors": len(tensors),
        "projector_sha256": digest_tensors(tensors),
    }
    if initial_projector is not None:
        initial = _collect(failures, lambda: read_projector(initial_projector))
        if initial is not None:
            found["initial_projector_sha256"] = digest_tensors(initial)
            if found["initial_projector_sha256"] == found["projector_sha256"]:
                failures.append(f"the projector still equals {initial_projector}: nothing trained")
    return found


def _check_base(
    result: dict[str, Any], adapter_dir: str | Path, parts: ModelParts
) -> dict[str, Any]:
    actual = describe_base(parts)
    recorded = recorded_base(adapter_dir)
    if recorded is None:
        result["warnings"].append(
            f"{adapter_dir} does not say which base it was trained on; shapes fit, but another "
            "model of the same size would pass too"
        )
    else:
        result["failures"] += base_differences(recorded, actual)
    result["failures"] += image_differences(adapter_dir, parts)
    return {"base": actual, "recorded_base": recorded}


def recorded_base(adapter_dir: str | Path) -> dict[str, str] | None:
    """Return the fingerprints an adapter's ``config.json`` carries, or None."""
    path = Path(adapter_dir) / "config.json"
    if not path.is_file():
        return None
    base = (read_json(path).get("recap") or {}).get("base")
    return base if isinstance(base, dict) and base else None


def image_differences(adapter_dir: str | Path, parts: ModelParts) -> list[str]:
    """Say what an adapter was shown of a picture in training, where the parts say otherwise."""
    path = Path(adapter_dir) / "config.json"
    stored = read_json(path) if path.is_file() else {}
    return [
        f"trained with {name} {stored[name]}, but {getattr(parts, name)} is given; pass the "
        "base model's own"
        for name in ("image_size_aux", "image_grid", "image_global")
        if stored.get(name, getattr(parts, name)) != getattr(parts, name)
    ]


def base_differences(recorded: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """Say for each part whether an adapter was trained on another one."""
    return [
        f"trained on {name} {recorded.get(name)}, but the given {name} is {actual[name]}; pass "
        "the folder it was trained on"
        for name in sorted(actual)
        if recorded.get(name) != actual[name]
    ]
