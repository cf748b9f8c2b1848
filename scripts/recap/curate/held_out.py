"""Samples that no arm trains on, so that all arms can be asked the same.

Training losses of different captions are not comparable: a plain caption is
easier to predict, whatever was learnt. The loss of every run on the same ids,
with the same texts, is.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import RecapError
from ..hashing import stable_fraction
from ..io import atomic_path, iter_jsonl, read_json, write_json
from .convert import to_llava
from .questions import DrawnQuestions, OriginalQuestions
from .records import captioned_text, iter_shards


def draw_held_out(shards: Sequence[str | Path], *, size: int, seed: int, out: str | Path) -> None:
    """Draw the ids that every arm leaves out.

    They are drawn from one arm, so that an arm added later changes nothing for the others.

    Args:
        shards: records of the arm, all its filters passed.
        size: number of ids.
        seed: the ids with the smallest hash of (seed, id) are drawn, so that a
            larger draw holds a smaller one.
        out: ``{"ids": [...], "records": n}``.

    Raises:
        RecapError: if nothing would be left to train on.
    """
    ids = [row["id"] for row in iter_shards(shards)]
    if len(ids) <= size:
        raise RecapError(
            f"held_out.records is {size}, but the reference arm has only {len(ids)} records, so "
            "nothing would be left to train on; lower it"
        )
    write_json(out, {"ids": _first(ids, seed)[:size], "records": len(ids)})


def read_held_out(path: str | Path) -> list[str]:
    """Return the ids that :func:`draw_held_out` drew."""
    return list(read_json(path)["ids"])


def convert_held_out(
    ids: str | Path,
    records: Sequence[str | Path],
    *,
    image_root: str | Path,
    out: str | Path,
    captions: Sequence[str | Path] = (),
    original: str | Path | None = None,
) -> None:
    """Write the held-out ids in one caption style as LLaVA JSON.

    Args:
        ids: see :func:`draw_held_out`.
        records: shards that hold every one of them.
        image_root: folder of the images; every one must exist.
        out: JSON array in the order of the ids.
        captions: shards of ``{"id", "caption"}`` that take the place of the
            records' own captions.
        original: LLaVA file whose questions are restored, as in training.

    Raises:
        RecapError: if a record, caption or image is missing.
    """
    wanted = dict.fromkeys(read_held_out(ids))
    rows = {row["id"]: row for row in iter_shards(records) if row["id"] in wanted}
    new = {row["id"]: row["caption"] for path in captions for row in iter_jsonl(path)}
    source = OriginalQuestions(original, wanted) if original is not None else DrawnQuestions()
    samples = []
    for identity in wanted:
        if identity not in rows or (captions and identity not in new):
            raise RecapError(f"id {identity!r} of {ids} is not among the records and captions")
        row = rows[identity]
        if captions:
            row = {**row, "text": captioned_text(new[identity])}
        sample = to_llava(row, source.of(identity))
        if "image" in sample and not (Path(image_root) / sample["image"]).is_file():
            raise RecapError(f"id {identity!r}: {image_root}/{sample['image']} does not exist")
        samples.append(sample)
    _write(out, samples)


def split_instructions(
    source: str | Path, *, size: int, seed: int, train: str | Path, held_out: str | Path
) -> None:
    """Split instruction data; all samples of one picture stay on one side.

    Args:
        source: LLaVA JSON.
        size: samples held out at most: whole pictures (or ids of text-only
            samples) are drawn by hash of (seed, picture) as long as they fit.
        seed: of the draw.
        train: the rest, in the order of the source.
        held_out: what was drawn, in the order of the source.

    Raises:
        RecapError: for a malformed file or entry, or if one side would be empty.
    """
    samples = read_json(source)
    if not isinstance(samples, list):
        raise RecapError(f"{source} must hold a JSON list of LLaVA samples")
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(_group(sample, f"{source}, entry {index}"), []).append(index)
    chosen: set[int] = set()
    for key in _first(groups, seed):
        if len(chosen) + len(groups[key]) <= size:
            chosen.update(groups[key])
    if not 0 < len(chosen) < len(samples):
        raise RecapError(
            f"{source}: {len(chosen)} of {len(samples)} samples would be held out; change "
            f"held_out.instructions, now {size}"
        )
    _write(train, (s for i, s in enumerate(samples) if i not in chosen))
    _write(held_out, (s for i, s in enumerate(samples) if i in chosen))


def _group(sample: Any, where: str) -> str:
    """Return what is held out or trained on as a whole: a picture, or a sample without one."""
    key = (sample.get("image") or sample.get("id")) if isinstance(sample, dict) else None
    if not isinstance(key, (str, int)):
        raise RecapError(f"{where}: expected an object with a path as `image`, or an `id`")
    return str(key)


def _first(keys: Iterable[str], seed: int) -> list[str]:
    return sorted(keys, key=lambda key: (stable_fraction("held_out", seed, key), key))


def _write(path: str | Path, samples: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        lines = ",\n".join(json.dumps(sample, allow_nan=False) for sample in samples)
        temporary.write_text(f"[\n{lines}\n]\n", encoding="ascii")
