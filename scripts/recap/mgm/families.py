"""The conversation template that goes with a language model or an adapter."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from .reading import read_mapping

# model types of transformers, of upstream's checkpoints, and of this pipeline's
LANGUAGES = {
    "gemma": "gemma",
    "llama": "llama",
    "mistral": "mistral",
    "mgm_gemma": "gemma",
    "mgm": "llama",
    "mgm_llama": "llama",
    "mgm_mistral": "mistral",
}
_TEMPLATES = {"gemma": "gemma", "mistral": "mistral_instruct"}
_LLAMA_3_VOCABULARY = 100_000  # Llama 2 has 32,000 pieces, Llama 3 128,256
_LLAMA_3_TOKEN = "<|eot_id|>"  # noqa: S105


def family_template(folder: str | Path, config: dict[str, Any] | None = None) -> str:
    """Return the template of a language model's family.

    A Llama is one of the third generation if its tokenizer ends turns with
    ``<|eot_id|>``, or its vocabulary is as large as that one's.

    Args:
        folder: of the language model, or of a checkpoint.
        config: content of its ``config.json``, if it has been read already.

    Raises:
        RecapError: if there is no configuration, or the family has no template.
    """
    path = Path(folder) / "config.json"
    values = read_mapping(path) if config is None else config
    language = LANGUAGES.get(str(values.get("model_type")))
    if language is None:
        raise RecapError(
            f"{path}: no conversation template is known for model_type "
            f"{values.get('model_type')!r}; choose one with --conversation"
        )
    if language != "llama":
        return _TEMPLATES[language]
    newer = int(values.get("vocab_size") or 0) > _LLAMA_3_VOCABULARY or _ends_turns(folder)
    return "llama_3" if newer else "vicuna_v1"


def _ends_turns(folder: str | Path) -> bool:
    path = Path(folder) / "tokenizer.json"
    return path.is_file() and _LLAMA_3_TOKEN in path.read_text(encoding="utf-8")


def recorded_template(folder: str | Path) -> str | None:
    """Return the template that an adapter's or a checkpoint's folder says it was trained with."""
    from .provenance import read_section

    found = (read_section(folder) or {}).get("conversation")
    return found if isinstance(found, str) else None
