"""Corpora for ``curate.py`` and ``scaling.py``: drawn pictures, captions like real ones.

Pictures have the size that the pre-training corpus's have: 336 pixels on the shorter
side, up to 600 on the longer. A corpus may have more records than pictures; further
records are hard links to the same files, so that a million fit on a disk.

    PYTHONPATH=scripts python benchmarks/curation_corpus.py --folder /tmp/corpus --records 10000
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from recap.curate.records import original_text
from recap.demo.captions import caption
from recap.demo.corrupt import choose_corruption, corrupt
from recap.demo.draw import encode_jpeg, render
from recap.demo.scene import sample_scene
from recap.demo.settings import CorruptionRates
from recap.demo.streams import Stream, generator

SHORTER_SIDE = 336
LONGEST_SIDE = 600
_FOLDER_SIZE = 1000
_RATES = CorruptionRates()


def main() -> None:
    """Build one corpus; what is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where")
    parser.add_argument("--records", type=int, required=True, help="lines of the JSONL file")
    parser.add_argument("--pictures", type=int, default=2000, help="distinct pictures to draw")
    args = parser.parse_args()
    build_corpus(args.folder, args.records, args.pictures)


def build_corpus(folder: Path, records: int, pictures: int) -> None:
    """Draw ``pictures`` images, link them ``records`` times, and write the JSONL file.

    Image paths in ``corpus_<records>.jsonl`` are relative to ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw(folder / "drawn", index) for index in range(min(pictures, records))]
    path = folder / f"corpus_{records}.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for index in range(records):
            name = f"images/{index // _FOLDER_SIZE:05d}/{index:09d}.jpg"
            link(drawn[index % len(drawn)], folder / name)
            row = {"id": f"{index:09d}", "text": original_text(text(index)), "images": [name]}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def draw(folder: Path, index: int) -> Path:
    """Return a picture's file, drawn unless it is there already."""
    path = folder / f"{index:06d}.jpg"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = generator(1, Stream.RECORD, index)
        width, height = size(rng)
        path.write_bytes(encode_jpeg(render(sample_scene(rng), rng, width, height), rng))
    return path


def size(rng: np.random.Generator) -> tuple[int, int]:
    """Return width and height: one side is 336 pixels, the other 336 to 600."""
    longer = int(rng.integers(SHORTER_SIDE, LONGEST_SIDE + 1))
    sides = (SHORTER_SIDE, longer)
    return sides if rng.random() < 0.5 else sides[::-1]


def link(source: Path, target: Path) -> None:
    """Hard-link a picture under a record's own name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(source, target)


def text(index: int) -> str:
    """Return a caption of record ``index``, bad as often as those of the drawn world are."""
    rng = generator(1, Stream.CAPTION, index)
    scene = sample_scene(rng)
    kind = choose_corruption(_RATES, float(rng.random()))
    return corrupt(kind, caption(scene, rng), scene, rng)


if __name__ == "__main__":
    main()
