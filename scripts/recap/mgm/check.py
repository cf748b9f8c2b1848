"""Is an adapter whole, sound and made for this base?"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import GateError, RecapError
from ..io import write_evidence
from ..train_settings import LoraSettings
from .adapter_config import (
    adapter_kind,
    names_base,
    read_adapter_settings,
    read_base_name,
    read_quantization,
)
from .adapters import TAKE_FROZEN, TOWERS_TRAINED, find_file, trained_towers
from .bases import base_sources, describe_base
from .check_base import ValueCheck, check_base_files
from .check_tensors import SAVE_AGAIN, check_adapter_tensors, check_projector
from .compare_config import adapter_differences
from .configuration import MGMConfig, config_from_parts
from .families import family_template, recorded_template
from .findings import Findings, describe_failures
from .lora import is_target, module_settings
from .names import expected_shapes
from .parts import ModelParts
from .provenance import MANIFEST, SECTION_FILE, recorded_base, recorded_table, verify_tensors
from .reading import read_mapping
from .supported import find_unsupported
from .tensors import TensorSource, open_tensor_file

logger = logging.getLogger(__name__)

_DOCUMENTS = ("adapter_config.json", "config.json", SECTION_FILE, MANIFEST)
SCALE_RANGE = (1 / 64, 64)  # outside, the file is hardly what was meant


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
        initial_projector: what stage 2 started from; each tensor must differ.
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
        raise GateError(
            f"{adapter_dir} is not a usable adapter for this base:\n"
            f"{describe_failures(result['failures'])}",
            result["failures"],
        )
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

    Raises:
        RecapError: if there is no such folder, or the base cannot be read.
    """
    if not Path(adapter_dir).is_dir():
        raise RecapError(f"{adapter_dir} is not a folder; pass the folder that holds the adapter")
    findings = Findings()
    sources = base_sources(parts)
    base = {name: source.shape for name, source in sources.items()}
    config = config_from_parts(parts)
    shapes = expected_shapes(config)

    def read_settings() -> LoraSettings:
        return read_adapter_settings(adapter_dir)

    if _check_documents(findings, adapter_dir):
        return {"failures": findings.failures, "warnings": findings.warnings}
    settings = findings.attempt("adapter_config.json", SAVE_AGAIN, read_settings)
    adapter = _open_adapter(findings, adapter_dir)
    result: dict[str, Any] = {"adapter_tensors": len(adapter or {})}
    if adapter is not None:
        result |= check_adapter_tensors(findings, adapter, base, settings, trained=trained)
    if settings is not None:
        result |= _check_settings(findings, settings, base)
    result |= check_projector(findings, adapter_dir, shapes, initial_projector)
    check_base_files(findings, parts, config, sources, shapes)
    result |= _check_binding(findings, adapter_dir, parts, config)
    return {"failures": findings.failures, "warnings": findings.warnings, **result}


def _check_documents(findings: Findings, adapter_dir: str | Path) -> bool:
    """Say whether a JSON file of the adapter's is broken: the rest cannot be judged then."""
    paths = [Path(adapter_dir) / name for name in _DOCUMENTS]
    for path in filter(Path.is_file, paths):
        findings.attempt(path.name, SAVE_AGAIN, partial(read_mapping, path))
    return bool(findings.failures)


def _open_adapter(findings: Findings, adapter_dir: str | Path) -> dict[str, TensorSource] | None:
    """Open the adapter's file, and hold it against its manifest, if it has one."""

    def open_it() -> dict[str, TensorSource]:
        return open_tensor_file(find_file(adapter_dir, "adapter_model"))

    sources: dict[str, TensorSource] | None
    sources = findings.attempt("adapter_model", SAVE_AGAIN, open_it)
    if sources is not None:
        path = find_file(adapter_dir, "adapter_model")
        table = recorded_table(path)
        if table is not None:
            fix = "restore file and manifest of one save"
            findings.attempt("adapter_model", fix, lambda: verify_tensors(path, sources, table))
    return sources


def _check_settings(
    findings: Findings, settings: LoraSettings, base: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    low, high = SCALE_RANGE
    rule = "alpha / sqrt(rank)" if settings.use_rslora else "alpha / rank"
    modules = {name: shape for name, shape in base.items() if is_target(name)}
    found = {name: module_settings(settings, name.removesuffix(".weight")) for name in modules}
    for scale in sorted({scale for _, scale in found.values() if not low <= scale <= high}):
        problem = f"scales updates by {rule} = {scale:g}, outside {low:g} to {high:g}"
        findings.fail("adapter_config.json", problem, "check rank and alpha against the run's")
    wide = [name for name, shape in modules.items() if found[name][0] > min(shape)]
    if wide:
        shape, rank = modules[wide[0]], found[wide[0]][0]
        problem = (
            f"has rank {rank} on {wide[0]} {shape}: no update of it has more than {min(shape)}"
        )
        if len(wide) == len(modules):
            findings.fail("adapter_config.json", problem, "check the rank against the run's")
        else:
            findings.warnings.append(f"adapter_config.json {problem} ({len(wide)} such weights)")
    return {"rank": settings.rank, "alpha": settings.alpha, "kind": adapter_kind(settings)}


def _check_binding(
    findings: Findings, adapter_dir: str | Path, parts: ModelParts, config: MGMConfig
) -> dict[str, Any]:
    """Check that the adapter was trained on these parts and this tokenizer."""
    values = ValueCheck(findings, parts)
    actual, recorded = describe_base(parts, values), recorded_base(adapter_dir)
    quantization = read_quantization(adapter_dir)
    named, fits = read_base_name(adapter_dir), names_base(adapter_dir, parts.language_model)
    if recorded is not None:
        for name in sorted(actual):
            if recorded.get(name) != actual[name]:
                problem = f"is {actual[name]}, but the adapter was trained on {recorded.get(name)}"
                findings.fail(name, problem, "pass the folder it was trained on")
    elif quantization is not None and not fits:
        findings.fail(
            "base",
            "is unknown: the adapter was trained on quantised weights and does not say of what",
            "set base_model_name_or_path in adapter_config.json to the unquantised base",
        )
    else:
        findings.warnings.append(
            f"{adapter_dir} does not carry the fingerprint of its base; shapes fit, but another "
            "model of the same size would pass too"
        )
        if named is not None and not fits:
            findings.warnings.append(
                f"{adapter_dir} was trained on {named}, as adapter_config.json says, and is held "
                f"against {parts.language_model}; make sure that they are the same model"
            )
    _check_usage(findings, adapter_dir, parts, config)
    return {"base": actual, "recorded_base": recorded, "quantization": quantization}


def _check_usage(
    findings: Findings, adapter_dir: str | Path, parts: ModelParts, config: MGMConfig
) -> None:
    """Check that pictures and conversations are shown, and answers computed, as in training."""
    path = Path(adapter_dir) / "config.json"
    stored = read_mapping(path) if path.is_file() else {}
    wrong = set()
    for name in ("image_size_aux", "image_grid", "image_global"):
        given = getattr(parts, name)
        if stored.get(name, given) != given:
            problem = f"is {given}, but the adapter was trained with {stored[name]}"
            findings.fail(name, problem, "pass the base model's own")
            wrong |= {name, "preprocessor"}  # states the size once more
    layers = int(config.vision_config.num_hidden_layers)
    for name, problem in find_unsupported(stored, layers).items():
        findings.fail(name, problem, "train with the implemented value, or use upstream's code")
    for name in trained_towers(adapter_dir):
        findings.fail(name, TOWERS_TRAINED, TAKE_FROZEN)
    again = "restore the adapter's config.json from its run"
    differences = findings.attempt(
        "config.json", again, lambda: adapter_differences(adapter_dir, config, wrong)
    )
    for entry in differences or ():
        problem = f"is {entry['expected']}, but the adapter was trained with {entry['found']}"
        findings.fail(entry["name"], problem, "pass the base it was trained on, as it was then")
    _check_template(findings, adapter_dir, parts)


def _check_template(findings: Findings, adapter_dir: str | Path, parts: ModelParts) -> None:
    recorded, given = recorded_template(adapter_dir), parts.conversation
    if recorded is not None:
        if recorded != given:
            problem = f"is {given}, but the adapter was trained with {recorded}"
            fix = f"leave --conversation out, or pass --conversation {recorded}"
            findings.fail("conversation", problem, fix)
        return
    try:
        usual = family_template(parts.language_model)
    except RecapError:
        return  # a family without a template of its own
    if usual != given:
        findings.warnings.append(
            f"{adapter_dir} does not say which conversation template it was trained with; "
            f"{given} is not the one of this language model's family, {usual}"
        )
