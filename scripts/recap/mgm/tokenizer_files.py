"""The tokenizer of a folder: loading it, and telling whether it is a checkpoint's own."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json, sha256_file
from ..io import read_json
from .loading import quiet_transformers
from .provenance import read_details, recorded_base
from .reading import read_mapping
from .sentencepieces import require_same_pieces

_JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# of tokenizer_config.json, beside the special tokens: they change where text is cut
_CUTTING_KEYS = ("added_tokens_decoder", "add_prefix_space", "legacy")


def load_tokenizer(path: str | Path) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        RecapError: if there is none, it does not add BOS as MGM expects, or the library
            misreads its file.
    """
    from transformers import AutoTokenizer

    if not any((Path(path) / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise RecapError(f"{path} holds no tokenizer.json or tokenizer.model")
    for name in _JSON_FILES:
        if (Path(path) / name).is_file():
            read_mapping(Path(path) / name)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raises no class of its own
        raise RecapError(
            f"the tokenizer in {path} cannot be read: {error}; fetch or build its files again"
        ) from error
    ids = tokenizer("a").input_ids
    if not ids or ids[0] != tokenizer.bos_token_id:
        raise RecapError(f"the tokenizer in {path} does not put BOS first; set add_bos_token")
    require_same_pieces(tokenizer, path)
    return tokenizer


def tokenizer_fingerprint(folder: Path) -> str:
    """Return one hash over what defines a folder's tokenizer: its files and special tokens."""
    names = ("tokenizer.json", "tokenizer.model", "added_tokens.json")
    found = {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}
    special = {
        f"{name}:{key}": value  # by file: what one says must not hide what the other says
        for name in ("tokenizer_config.json", "special_tokens_map.json")
        for key, value in _read_mapping(folder / name).items()
        if key.endswith(("_token", "_tokens")) or key in _CUTTING_KEYS
    }
    return digest_json(found | ({"special": special} if special else {}))


def _read_mapping(path: Path) -> dict[str, Any]:
    values = read_json(path) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def count_entries(folder: Path, tokenizer: Any) -> int:
    """Return one more than the highest id that a folder's tokenizer gives out.

    The file is asked, where there is one: a tokenizer in memory may hold a
    ``<mask>`` that transformers adds to Gemma's if the vocabulary has none.

    Raises:
        RecapError: if the file is broken.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return len(tokenizer)
    document = read_mapping(path)
    try:
        vocabulary = document["model"]["vocab"]
        pieces = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
        added = [int(token["id"]) for token in document.get("added_tokens", [])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecapError(
            f"{path} is no tokenizer: {type(error).__name__}: {error}; fetch or build it again"
        ) from error
    return max([*pieces, *added], default=-1) + 1


def require_own_tokenizer(path: str | Path, tokenizer: Any, vocabulary: int) -> None:
    """Refuse a tokenizer that is not the one a checkpoint was trained with.

    Raises:
        RecapError: if it has more entries than the embedding rows, or another
            fingerprint than the manifest states.
    """
    entries = count_entries(Path(path), tokenizer)
    if entries > vocabulary:
        raise RecapError(
            f"{path}: the tokenizer has {entries} entries, the embedding {vocabulary} "
            "rows; restore the tokenizer the model was trained with"
        )
    # a checkpoint in upstream's form has the same tokenizer in other files than the base
    recorded = read_details(path).get("tokenizer") or (recorded_base(path) or {}).get("tokenizer")
    found = tokenizer_fingerprint(Path(path))
    if recorded is not None and recorded != found:
        raise RecapError(
            f"{path}: the tokenizer's fingerprint is {found}, but the model was trained with "
            f"{recorded}; restore the tokenizer's files"
        )
