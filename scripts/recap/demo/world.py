"""Builds the whole demo world: corpus, instruction data, benchmarks, and the truth about them."""

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ..io import atomic_path, write_json, write_jsonl
from ..manifest import write_manifest
from ..perf import PerfRecord
from .benchmark import IMAGE_FOLDER, Benchmark, build_benchmark
from .corpus import Corpus, build_corpus
from .instructions import build_instructions
from .multiple_choice import build_multiple_choice, table_bytes
from .settings import WorldSettings
from .tree import Tree
from .yes_no import CATEGORIES, YesNo, build_yes_no
from .yes_no import IMAGE_FOLDER as YES_NO_FOLDER

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = ("images", "sft_images", IMAGE_FOLDER, YES_NO_FOLDER)
_FILES = {
    "corpus": "corpus.jsonl",
    "original": "original.json",
    "truth": "truth.jsonl",
    "bad_lines": "bad_lines.json",
    "sft": "sft.json",
    "annotations": "textvqa/TextVQA_0.5.1_val.json",
    "questions": "textvqa/llava_textvqa_val_v051_ocr.jsonl",
    "mmbench": "mmbench/mmbench_dev_20230712.tsv",
    "pope": "pope/llava_pope_test.jsonl",
    **{f"pope_{name}": f"pope/coco/coco_pope_{name}.json" for name in CATEGORIES},
    "world": "world.json",
}


def build_world(out: str | Path, settings: WorldSettings, perf: str | Path | None = None) -> None:
    """Write the world under ``out``; the same settings give the same bytes.

    Folders of images below ``out`` are emptied first. ``world.json`` comes
    last, before the manifest, so its presence means that the rest is complete.

    Args:
        out: folder; image paths in ``corpus.jsonl`` and ``sft.json`` are relative to it.
        settings: what to draw.
        perf: where to write the cost of the step, if anywhere.
    """
    started, record = time.time(), PerfRecord("world", "images")
    root = Path(out)
    (root / _FILES["world"]).unlink(missing_ok=True)
    tree = Tree(root, _IMAGE_FOLDERS)
    corpus = build_corpus(settings, tree)
    instructions = build_instructions(settings, tree)
    benchmark = build_benchmark(settings, tree)
    yes_no = build_yes_no(settings, tree)
    multiple_choice = build_multiple_choice(settings)
    _write_corpus(root, corpus)
    write_json(root / _FILES["sft"], instructions)
    write_json(root / _FILES["annotations"], benchmark.annotations)
    write_jsonl(root / _FILES["questions"], benchmark.questions)
    _write_yes_no(root, yes_no)
    _write_bytes(root / _FILES["mmbench"], table_bytes(multiple_choice))
    counts = _counts(corpus, instructions, benchmark, len(tree))
    counts |= {"pope": len(yes_no.questions), "mmbench_rows": len(multiple_choice)}
    summary = {
        "seed": settings.seed,
        "counts": counts,
        "bad_lines_by_kind": dict(Counter(row["kind"] for row in corpus.bad_lines)),
        "captions_by_corruption": dict(
            sorted(Counter(row["corruption"] for row in corpus.truth).items())
        ),
        "images_by_kind": dict(sorted(Counter(row["image_kind"] for row in corpus.truth).items())),
        "watermarked_images": sum(row["watermark"] for row in corpus.truth),
        "settings": settings.model_dump(),
        "tree_sha256": tree.sha256(),
    }
    write_json(root / _FILES["world"], summary)
    write_manifest(
        root / "manifest.json",
        stage="world",
        inputs={},
        outputs={name: root / path for name, path in _FILES.items()},
        settings=settings.model_dump(),
        counts=counts,
        started=started,
        seed=settings.seed,
        details={"tree_sha256": tree.sha256()},
    )
    record.items = len(tree)
    if perf is not None:
        record.write(perf)
    logger.info("wrote %d lines, %d images to %s", len(corpus.lines), len(tree), root)


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _write_yes_no(root: Path, yes_no: YesNo) -> None:
    write_jsonl(root / _FILES["pope"], yes_no.questions)
    for name in CATEGORIES:
        write_jsonl(root / _FILES[f"pope_{name}"], yes_no.labels[name])


def _write_corpus(root: Path, corpus: Corpus) -> None:
    _write_bytes(root / _FILES["corpus"], b"".join(line + b"\n" for line in corpus.lines))
    write_json(root / _FILES["original"], corpus.original)
    write_jsonl(root / _FILES["truth"], corpus.truth)
    write_json(root / _FILES["bad_lines"], corpus.bad_lines)


def _counts(
    corpus: Corpus, instructions: list[dict[str, Any]], benchmark: Benchmark, images: int
) -> dict[str, int]:
    return {
        "corpus_lines": len(corpus.lines),
        "records": len(corpus.truth),
        "bad_lines": len(corpus.bad_lines),
        "sft": len(instructions),
        "questions": len(benchmark.questions),
        "question_images": len({row["question_id"] for row in benchmark.questions}),
        "images": images,
    }
