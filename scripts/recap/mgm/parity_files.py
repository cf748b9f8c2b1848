"""What the parity gate can say of a merged checkpoint without running it."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from .adapter_config import adapter_kind, read_quantization
from .checkpoint_files import open_checkpoint
from .compare_config import adapter_differences, config_differences
from .configuration import MGMConfig, config_from_disk, config_from_parts
from .merger import AdapterMerger
from .parity_models import Sides
from .parity_report import preprocessor_differences
from .prompts import ParityPrompt
from .reference import compare_weights
from .tensors import dtype_name, open_model_folder
from .tokenizer_files import load_tokenizer, require_own_tokenizer


def compare_files(sides: Sides, wanted: MGMConfig, prompts: list[ParityPrompt]) -> dict[str, Any]:
    """Compare configuration, preprocessor, tokenizer and every tensor.

    Args:
        sides: the checkpoint, its adapter and its base.
        wanted: the base's configuration with what the adapter was trained with.
        prompts: whose texts both tokenizers must encode alike.

    Returns:
        The report's first part. ``unloadable`` says why the checkpoint cannot answer,
        None if it can.

    Raises:
        RecapError: if base or adapter are broken, or the checkpoint's weights cannot be read.
    """
    merger = AdapterMerger(sides.adapter_dir, sides.parts, sides.merged_dtype)
    tied = bool(wanted.text_config.tie_word_embeddings)
    wrong = compare_weights(merger, open_model_folder(sides.merged_dir), tied=tied)
    settings, unloadable = _compare_settings(sides, wanted)
    tokenizer = _tokenizer_problem(sides, prompts, wanted.vocab_size)
    return {
        "dtype": dtype_name(sides.merged_dtype),
        "deployed_dtype": dtype_name(sides.deployed),
        "kind": adapter_kind(merger.settings),
        "quantization": read_quantization(sides.adapter_dir),
        "tokenizer_equal": tokenizer is None,
        "tokenizer_problem": tokenizer,
        "wrong_settings": settings,
        "wrong_tensors": wrong,
        "unloadable": unloadable or tokenizer,
        "first_diverging_module": wrong[0]["module"] if wrong else None,
        "most_changed_module": None,
        "prompts": [],
    }


def _compare_settings(sides: Sides, wanted: MGMConfig) -> tuple[list[dict[str, Any]], str | None]:
    """Return the settings that differ, and why the checkpoint cannot be loaded, if so."""
    base = config_from_parts(sides.parts)
    wrong = [
        entry | {"name": f"the adapter's {entry['name']}"}
        for entry in adapter_differences(sides.adapter_dir, base)
    ]
    wrong += preprocessor_differences(sides.merged_dir, sides.parts)
    if not (Path(sides.merged_dir) / "config.json").is_file():
        raise RecapError(f"{sides.merged_dir} holds no config.json; pass a merged checkpoint")
    try:
        found = config_from_disk(sides.merged_dir)
    except RecapError as error:
        entry = {"name": "config.json", "found": f"unusable ({error})", "expected": "the base's"}
        return [*wrong, entry], str(error)
    wrong = config_differences(found, wanted) + wrong
    try:
        open_checkpoint(sides.merged_dir, found)
    except RecapError as error:
        return wrong, str(error)
    return wrong, None


def _tokenizer_problem(sides: Sides, prompts: list[ParityPrompt], vocabulary: int) -> str | None:
    theirs = load_tokenizer(sides.parts.language_model)
    try:
        ours = load_tokenizer(sides.merged_dir)
        require_own_tokenizer(sides.merged_dir, ours, vocabulary)
    except RecapError as error:
        return f"cannot be used: {error}"
    for prompt in prompts:
        if ours(prompt.text).input_ids != theirs(prompt.text).input_ids:
            return f"encodes the prompt {prompt.name} otherwise than the base's"
    return None
