"""An experiment of the user's own: the demo's models on a corpus that the user names."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import yaml

from .errors import RecapError
from .hashing import sha256_bytes
from .io import write_text

logger = logging.getLogger(__name__)

LOCAL_EXPERIMENTS = Path("config/local")
DEFAULT_BASE = "demo"

Document = dict[str, Any]


def own_corpus_experiment(corpus: str, original: str, base: str = DEFAULT_BASE) -> str:
    """Write an experiment that runs the demo's models on a corpus of the user's.

    A file that the user has edited is kept; one as it was written is written anew.

    Args:
        corpus: Data-Juicer JSONL; image paths are relative to its folder.
        original: LLaVA JSON with each id's question, or empty.
        base: the experiment that all else is taken from, such as arms, seeds and questions.

    Returns:
        The experiment's name; its file is below ``config/local``.

    Raises:
        RecapError: if a file is missing, the corpus is empty, or what is given differs
            from what an edited file says.
    """
    path = Path(corpus)
    for given in filter(None, (corpus, original)):
        if not Path(given).is_file():
            raise RecapError(f"{given} does not exist; pass CORPUS=records.jsonl")
    with path.open("rb") as stream:
        records = sum(1 for line in stream if line.strip())
    if not records:
        raise RecapError(f"{path} holds no record")
    name = _name(path)
    row = {
        "source": "local",
        "root": str(path.parent),
        "jsonl": path.name,
        "original": os.path.relpath(original, path.parent) if original else "",
        "records": records,
    }
    file = _file(name)
    if file.is_file() and _edited(name):
        _require_same(name, row, bool(original), base)
        logger.info("%s was edited: kept as it is", file)
        return name
    header = f"# Written by `make demo CORPUS={corpus}`; edited, it is kept.\n"
    write_text(file, header + yaml.safe_dump(_document(name, row, base)))
    return name


def _document(name: str, row: Document, base: str) -> Document:
    return {
        "extends": base,
        "title": f"Demo models on {row['jsonl']}",
        "corpus": name,
        "corpora": {name: row},
        "curate": {"shard_size": max(1, -(-row["records"] // 4))},
    }


def _name(path: Path) -> str:
    """Return the name of a corpus's experiment; a hash in it keeps equal file names apart."""
    stem = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    names = [f"own_{part}" for part in (stem, f"{stem}_{_digest(path)}".strip("_")) if part]
    taken = [name for name in names if _file(name).exists()]
    mine = [name for name in taken if _is_of(name, path)]
    free = [name for name in names if name not in taken]
    if not mine and not free:
        raise RecapError(f"{_file(names[-1])} names another corpus than {path}; rename that file")
    return [*mine, *free][0]


def _digest(path: Path) -> str:
    return sha256_bytes(os.fsencode(path.resolve()))[:6]


def _file(name: str) -> Path:
    return LOCAL_EXPERIMENTS / f"{name}.yaml"


def _is_of(name: str, path: Path) -> bool:
    """Tell whether an experiment's own corpus is a certain file."""
    row = _read_row(name)
    return Path(str(row.get("root")), str(row.get("jsonl"))).resolve() == path.resolve()


def _read_row(name: str) -> Document:
    corpora = _read(name).get("corpora")
    row = corpora.get(name) if isinstance(corpora, dict) else None
    return row if isinstance(row, dict) else {}


def _read(name: str) -> Document:
    try:
        document = yaml.safe_load(_file(name).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecapError(f"{_file(name)} is not valid YAML: {error}; mend or delete it") from error
    return document if isinstance(document, dict) else {}


def _edited(name: str) -> bool:
    """Tell whether a file holds anything but what was written from its own row and base."""
    document, row = _read(name), _read_row(name)
    if not isinstance(row.get("records"), int):
        return True
    written = yaml.safe_dump(_document(name, row, document.get("extends", "")))
    return _file(name).read_text(encoding="utf-8").partition("\n")[2] != written


def _require_same(name: str, row: Document, original_given: bool, base: str) -> None:
    """Refuse what is given now and differs from what an edited file says."""
    document, kept = _read(name), _read_row(name)
    wanted = {f"corpora.{name}.records": (kept.get("records"), row["records"])}
    if original_given:
        wanted[f"corpora.{name}.original"] = (kept.get("original"), row["original"])
    if base != DEFAULT_BASE:
        wanted["extends"] = (document.get("extends"), base)
    differing = [f"`{key}: {new}`" for key, (old, new) in wanted.items() if old != new]
    if differing:
        raise RecapError(
            f"{_file(name)} was edited and is not overwritten, but differs from what is given now; "
            f"write {', '.join(differing)} there, or delete it"
        )
