"""Is an adapter whole, sound and made for this base?"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig

from ..errors import GateError, RecapError
from ..io import read_json, write_evidence
from ..settings import LoraSettings
from .adapter_config import names_base, read_adapter_settings, read_quantization
from .adapters import find_file
from .check_tensors import SAVE_AGAIN, check_adapter_tensors, check_projector
from .checkpoint import describe_base, load_tokenizer
from .configuration import MGMConfig, config_from_parts
from .families import family_template, recorded_template
from .findings import Findings, describe_failures
from .loading import is_vision_name
from .lora import module_settings
from .names import HEAD_NAME, expected_shapes
from .parts import ModelParts
from .provenance import recorded_base
from .supported import find_unsupported
from .tensors import TensorSource, open_model_folder, open_tensor_file

logger = logging.getLogger(__name__)

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
    sources = open_model_folder(parts.language_model)
    base = {name: source.shape for name, source in sources.items()}
    config = config_from_parts(parts)
    shapes = expected_shapes(config)

    def read_settings() -> LoraSettings:
        return read_adapter_settings(adapter_dir)

    settings = findings.attempt("adapter_config.json", SAVE_AGAIN, read_settings)
    adapter = findings.attempt(
        "adapter_model",
        SAVE_AGAIN,
        lambda: open_tensor_file(find_file(adapter_dir, "adapter_model")),
    )
    result: dict[str, Any] = {"adapter_tensors": len(adapter or {})}
    if adapter is not None:
        result |= check_adapter_tensors(findings, adapter, base, settings, trained=trained)
    if settings is not None:
        result |= _check_settings(findings, settings, base)
    result |= check_projector(findings, adapter_dir, shapes, initial_projector)
    _check_base_files(findings, parts, config, sources, shapes)
    result |= _check_binding(findings, adapter_dir, parts)
    return {"failures": findings.failures, "warnings": findings.warnings, **result}


def _check_settings(
    findings: Findings, settings: LoraSettings, base: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    low, high = SCALE_RANGE
    modules = [name.removesuffix(".weight") for name in base if name.startswith("model.layers.")]
    scales = {module_settings(settings, module)[1] for module in modules}
    rule = "alpha / sqrt(rank)" if settings.use_rslora else "alpha / rank"
    for scale in sorted(scale for scale in scales if not low <= scale <= high):
        problem = f"scales updates by {rule} = {scale:g}, outside {low:g} to {high:g}"
        findings.fail("adapter_config.json", problem, "check rank and alpha against the run's")
    return {"rank": settings.rank, "alpha": settings.alpha, "kind": adapter_kind(settings)}


def adapter_kind(settings: LoraSettings) -> str:
    """Return LoRA, rsLoRA, DoRA or rsDoRA."""
    return f"{'rs' * settings.use_rslora}{'DoRA' if settings.use_dora else 'LoRA'}"


def _check_base_files(
    findings: Findings,
    parts: ModelParts,
    config: MGMConfig,
    sources: Mapping[str, TensorSource],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Check the language model's tensors against its configuration and tokenizer."""
    again = f"fetch or build {parts.language_model} again"
    if read_quantization(parts.language_model) is not None:
        fix = "pass the unquantised language model: an update cannot be added to quantised weights"
        findings.fail("language_model", "is quantised", fix)
        return
    wanted = {name: shape for name, shape in shapes.items() if not is_vision_name(name)}
    for name in sorted(set(wanted) - set(sources)):
        findings.fail(f"base tensor {name}", "is missing", again)
    for name in sorted(set(wanted) & set(sources)):
        if sources[name].shape != wanted[name]:
            problem = f"has shape {sources[name].shape}, its config.json asks for {wanted[name]}"
            findings.fail(f"base tensor {name}", problem, again)
    embedding = sources.get("model.embed_tokens.weight")
    tied = config.text_config.tie_word_embeddings
    head = sources.get(HEAD_NAME) if tied else None
    if head and embedding and not torch.equal(head.load(), embedding.load()):
        problem = "is tied to the embedding by config.json, but the file holds other values"
        fix = "remove it from the file, or set tie_word_embeddings to false"
        findings.fail(f"base tensor {HEAD_NAME}", problem, fix)
    tokenizer = findings.attempt("tokenizer", again, lambda: load_tokenizer(parts.language_model))
    if tokenizer is not None and len(tokenizer) > config.vocab_size:
        problem = f"has {len(tokenizer)} entries, the embedding {config.vocab_size} rows"
        findings.fail("tokenizer", problem, "pass the tokenizer of this language model")


def _check_binding(
    findings: Findings, adapter_dir: str | Path, parts: ModelParts
) -> dict[str, Any]:
    """Check that the adapter was trained on these parts and this tokenizer."""
    actual, recorded = describe_base(parts), recorded_base(adapter_dir)
    quantization = read_quantization(adapter_dir)
    named = names_base(adapter_dir, parts.language_model)
    if recorded is not None:
        for name in sorted(actual):
            if recorded.get(name) != actual[name]:
                problem = f"is {actual[name]}, but the adapter was trained on {recorded.get(name)}"
                findings.fail(name, problem, "pass the folder it was trained on")
    elif quantization is not None and not named:
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
    _check_usage(findings, adapter_dir, parts)
    return {"base": actual, "recorded_base": recorded, "quantization": quantization}


def _check_usage(findings: Findings, adapter_dir: str | Path, parts: ModelParts) -> None:
    """Check that pictures and conversations are shown as in training."""
    path = Path(adapter_dir) / "config.json"
    stored = read_json(path) if path.is_file() else {}
    for name in ("image_size_aux", "image_grid", "image_global"):
        given = getattr(parts, name)
        if stored.get(name, given) != given:
            problem = f"is {given}, but the adapter was trained with {stored[name]}"
            findings.fail(name, problem, "pass the base model's own")
    layers = CLIPVisionConfig.from_pretrained(parts.clip, local_files_only=True).num_hidden_layers
    for name, problem in find_unsupported(stored, layers).items():
        findings.fail(name, problem, "train with the implemented value, or use upstream's code")
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
