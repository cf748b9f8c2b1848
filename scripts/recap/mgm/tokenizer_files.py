"""The tokenizer of a folder: loading it, and telling whether it is a checkpoint's own."""

from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import digest_json, sha256_file
from ..io import read_json
from .loading import quiet_transformers
from .provenance import recorded_base
from .sentencepieces import require_same_pieces


def load_tokenizer(path: str | Path) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        RecapError: if there is none, it does not add BOS as MGM expects, or the library
            misreads its file.
    """
    from transformers import AutoTokenizer

    if not any((Path(path) / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise RecapError(f"{path} holds no tokenizer.json or tokenizer.model")
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    ids = tokenizer("a").input_ids
    if not ids or ids[0] != tokenizer.bos_token_id:
        raise RecapError(f"the tokenizer in {path} does not put BOS first; set add_bos_token")
    require_same_pieces(tokenizer, path)
    return tokenizer


def tokenizer_fingerprint(folder: Path) -> str:
    """Return one hash over the files that define a folder's tokenizer."""
    names = ("tokenizer.json", "tokenizer.model")
    found = {name: sha256_file(folder / name) for name in names if (folder / name).is_file()}
    return digest_json(found)


def count_entries(folder: Path, tokenizer: Any) -> int:
    """Return one more than the highest id that a folder's tokenizer gives out.

    The file is asked, where there is one: a tokenizer in memory may hold a
    ``<mask>`` that transformers adds to Gemma's if the vocabulary has none.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return len(tokenizer)
    document = read_json(path)
    vocabulary = document["model"]["vocab"]
    pieces = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
    added = [int(token["id"]) for token in document.get("added_tokens", [])]
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
    recorded = (recorded_base(path) or {}).get("tokenizer")
    found = tokenizer_fingerprint(Path(path))
    if recorded is not None and recorded != found:
        raise RecapError(
            f"{path}: the tokenizer's fingerprint is {found}, but the model was trained with "
            f"{recorded}; restore the tokenizer's files"
        )
