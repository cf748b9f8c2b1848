"""Builds one micro model: weights, tokenizer or processor, model card and manifest."""

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..io import write_text
from ..manifest import write_manifest
from .micro_training import Place
from .settings import MicroSettings

logger = logging.getLogger(__name__)

_STANDS_FOR = {
    "gemma-micro": "Gemma-2B-IT",
    "clip-micro": "CLIP ViT-L/14-336",
    "convnext-micro": "OpenCLIP ConvNeXt-L (convnext_large_d_320)",
    "blip2-micro": "BLIP2-OPT-2.7B",
    "watermark-micro": "amrul-hzz/watermark_detector",
}
_HOW = {
    "gemma-micro": "trained as a language model on generated text of the demo world, in Gemma's "
    "chat format; it has never seen a picture",
    "clip-micro": "trained on drawn pictures and their true captions by contrast, and to name what "
    "lies in each patch; its pictures come from random streams that the demo corpus does not use",
    "convnext-micro": "trained to name what lies in each patch of drawn pictures; they come from "
    "random streams that the demo corpus does not use",
    "blip2-micro": "trained on freshly drawn pictures of the demo world and their true captions; "
    "its pictures come from random streams that the demo corpus does not use",
    "watermark-micro": "trained on drawn pictures, half of them with a watermark, to say which and "
    "where; they come from random streams that the demo corpus does not use",
}
_CARD = """\
# {name}

A micro stand-in with the architecture and the file layout of {real}. **It is not {real}**,
and no result obtained with it says anything about {real}.

- How it was made: {how}.
- Built by `scripts/build_micro_models.py --models {name} --seed {seed}` on the device `{device}`.
  On the CPU of one machine the same seed and settings give the same bytes; a GPU's sums differ
  a little from run to run.
- Parameters: {parameters:,}.
{measured}
Licence: Apache-2.0, like the code that made it; no downloaded data or weights took part.
"""


def build_micro_model(
    name: str,
    out: str | Path,
    *,
    seed: int,
    settings: MicroSettings,
    place: Place | None = None,
) -> None:
    """Build the micro model ``name`` (see ``settings.MICRO_MODELS``) in the folder ``out``.

    The folder is replaced as a whole once the model is complete.

    Args:
        name: which model.
        out: folder; an existing one is replaced.
        seed: of weights, texts and pictures.
        settings: sizes and training lengths.
        place: device and processes to build with; the CPU and one by default.
    """
    started = time.time()
    # Threads of the tokenizer library must not decide the order of its work.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    target = Path(out)
    work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        place = place or Place()
        measured = _builder(name)(work, seed, settings_of(name, settings), place)
        _write_card(work, name, seed, place, measured)
        _replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    files = sorted(path for path in target.iterdir() if path.is_file())
    write_manifest(
        target / "manifest.json",
        stage="models",
        inputs={},
        outputs={path.name: path for path in files},
        settings=settings_of(name, settings).model_dump(),
        counts={"parameters": measured["parameters"]},
        started=started,
        seed=seed,
        details={
            "model": name,
            "stands_for": _STANDS_FOR[name],
            "device": place.device,
            "measured": measured,
        },
        root=target,
    )
    logger.info("built %s in %s: %s", name, target, measured)


def _builder(name: str) -> Callable[[Path, int, Any, Place], dict[str, Any]]:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    from . import micro_captioner, micro_clip, micro_convnext, micro_language, micro_watermark

    builders: dict[str, Callable[[Path, int, Any, Place], dict[str, Any]]] = {
        "gemma-micro": micro_language.build_language_model,
        "clip-micro": micro_clip.build_clip,
        "convnext-micro": micro_convnext.build_convnext,
        "blip2-micro": micro_captioner.build_captioner,
        "watermark-micro": micro_watermark.build_watermark,
    }
    return builders[name]


def settings_of(name: str, settings: MicroSettings) -> Any:
    """Return the section of ``settings`` that the micro model ``name`` is built with."""
    return {
        "gemma-micro": settings.language,
        "clip-micro": settings.clip,
        "convnext-micro": settings.convnext,
        "blip2-micro": settings.captioner,
        "watermark-micro": settings.watermark,
    }[name]


def _write_card(folder: Path, name: str, seed: int, place: Place, measured: dict[str, Any]) -> None:
    lines = [
        f"- {key.replace('_', ' ')}: {value}"
        for key, value in measured.items()
        if key != "parameters"
    ]
    card = _CARD.format(
        name=name,
        real=_STANDS_FOR[name],
        how=_HOW[name],
        seed=seed,
        device=place.device,
        parameters=measured["parameters"],
        measured="\nMeasured when it was built:\n\n" + "\n".join(lines) + "\n" if lines else "",
    )
    write_text(folder / "README.md", card)


def _replace(work: Path, target: Path) -> None:
    """Put ``work`` in the place of ``target``, with permissions others can read."""
    for path in work.iterdir():
        path.chmod(0o644)
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
