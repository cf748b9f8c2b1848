"""Answering one shard of a question file, from where it last stopped.

Shards are balanced contiguous slices of the question file. LLaVA's chunks are
``ceil(n / K)`` lines each, so that the last may be short or missing; with the
same K, line i may thus lie in another ``{K}_{k}.jsonl``, but the files one after
the other hold the same lines in the same order, for any K from 1 to n.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecapError
from ..io import write_jsonl
from ..perf import PerfRecord
from ..settings import EvaluateSettings
from ..shards import shard_bounds
from .benchmarks import get_benchmark
from .benchmarks.base import Benchmark, Question
from .controls import apply_control
from .identity import identity_of
from .images import ImageSource
from .journal import AnswerJournal, open_journal
from .loading import load_adapters, load_merged, load_preprocessor
from .model import Answerer, MgmAnswerer
from .ordering import asking_order
from .pictures import PictureProcesses, Pictures, by_threads
from .protocol import BenchmarkProtocol, Control
from .runner import Runner

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..mgm.parts import ModelParts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictRequest:
    """One shard to answer.

    Attributes:
        checkpoint: folder of the model, or of an adapter where ``parts`` is given.
        questions: the whole question file.
        image_root: folder of the images; ``None`` if the file carries them.
        protocol: how to ask.
        settings: how to compute.
        num_chunks: number of shards of the file.
        chunk_index: which of them, from 0.
        model_id: name of the model in the answers.
        state_dir: folder of the journal, outside all declared outputs.
        answers: the answer file to write.
        perf: the performance record to write; ``None`` for none.
        control: replaces the pictures, see :func:`~.controls.apply_control`.
        parts: folders of the base that an adapter in ``checkpoint`` was trained on.
    """

    checkpoint: Path
    questions: Path
    image_root: Path | None
    protocol: BenchmarkProtocol
    settings: EvaluateSettings
    num_chunks: int
    chunk_index: int
    model_id: str
    state_dir: Path
    answers: Path
    perf: Path | None
    control: Control = "none"
    parts: "ModelParts | None" = None


@dataclass(frozen=True)
class AnswererSource:
    """What answers, before it is loaded.

    Attributes:
        prepare: from a picture to pixels; needs no model.
        on_gpu: whether it will compute there.
        load: builds it.
    """

    prepare: Callable[["Image"], Any]
    on_gpu: bool
    load: Callable[[], Answerer]


def predict_shard(request: PredictRequest, source: AnswererSource | None = None) -> None:
    """Write the answers of a shard, in the order of the question file.

    In float32 the file does not depend on the batch size, the number of shards,
    or how often the work was interrupted; in half precision on a GPU a near tie
    may fall the other way in another batch. If the journal already holds every answer,
    the model is not loaded.

    Args:
        request: what to do.
        source: of the model; by default the request's checkpoint.

    Raises:
        RecapError: for unreadable questions, images or checkpoint, or a shard
            index that does not exist.
    """
    predict_shards([request], source)


def predict_shards(
    requests: Sequence[PredictRequest], source: AnswererSource | None = None
) -> None:
    """Write the answers of a shard for several adapters of one base, in one pass.

    The pictures are decoded once, and seen by the towers once.

    Args:
        requests: alike but for the adapter, the name of the model and the files.
        source: of the model, with a variant for each request.

    Raises:
        RecapError: as :func:`predict_shard`, or if the requests differ otherwise.
    """
    _require_alike(requests)
    first = requests[0]
    perf = PerfRecord("predict", "questions")
    benchmark = get_benchmark(first.protocol.kind)
    loaded = apply_control(benchmark.load(first.questions, first.protocol), first.control)
    shard = _cut(loaded.questions, first.num_chunks, first.chunk_index)
    name = f"{first.num_chunks}_{first.chunk_index}"
    images = ImageSource(first.image_root, loaded.inline_images)
    shown = images.fingerprint(shard)
    identities = [identity_of(request, shown) for request in requests]
    with contextlib.ExitStack() as stack:
        journals = [
            stack.enter_context(open_journal(request.state_dir, name, identity))
            for request, identity in zip(requests, identities, strict=True)
        ]
        missing = [q for q in shard if any(q.key not in journal.texts for journal in journals)]
        perf.items = len(missing)
        perf.extra |= {"shard": name, "resumed_answers": len(shard) - len(missing)}
        if missing:
            logger.info("shard %s: %d of %d open", name, len(missing), len(shard))
            started = time.perf_counter()
            source = source or _source(requests)
            ordered = asking_order(missing)
            pictures = _pictures(ordered, images, source)  # before a GPU is used
            stack.enter_context(contextlib.closing(pictures))
            answerer = source.load()
            perf.extra["model_load_seconds"] = round(time.perf_counter() - started, 3)
            size = answerer.batch_size([question.model_text for question in loaded.questions])
            answerer.expect(len(missing))
            runner = Runner(answerer, pictures, journals, size)
            started = time.perf_counter()
            runner.run(ordered)
            perf.extra["answering_seconds"] = round(time.perf_counter() - started, 3)
            perf.extra |= runner.figures() | answerer.facts()
        for request, journal in zip(requests, journals, strict=True):
            _write_answers(request, benchmark, shard, journal)
    for request, identity in zip(requests, identities, strict=True):
        if request.perf is not None:
            perf.extra |= {"model_id": request.model_id, "asked": identity}
            perf.write(request.perf)


def _require_alike(requests: Sequence[PredictRequest]) -> None:
    """Refuse requests that one pass cannot serve."""
    own = ("checkpoint", "model_id", "state_dir", "answers", "perf")
    blank = dict.fromkeys(own)
    if len(requests) > 1 and any(request.parts is None for request in requests):
        raise RecapError("several models in one pass must be adapters of one base")
    if any(replace(r, **blank) != replace(requests[0], **blank) for r in requests[1:]):  # type: ignore[arg-type]
        raise RecapError("adapters in one pass must be asked the same questions in the same way")


def _source(requests: Sequence[PredictRequest]) -> AnswererSource:
    import torch

    first = requests[0]
    preprocessor = load_preprocessor(first.checkpoint, first.parts)

    def load() -> Answerer:
        if first.parts is None:
            loaded = load_merged(first.checkpoint, first.settings.dtype)
        else:
            folders = [request.checkpoint for request in requests]
            loaded = load_adapters(first.parts, folders, first.settings.dtype)
        return MgmAnswerer(loaded, first.protocol, first.settings)

    prepare = partial(preprocessor.pixels, aspect=first.protocol.image_aspect_ratio)
    return AnswererSource(prepare, torch.cuda.device_count() > 0, load)


def _pictures(ordered: Sequence[Question], images: ImageSource, source: AnswererSource) -> Pictures:
    def prepare(question: Question) -> Any:
        return source.prepare(images.open(question))

    if source.on_gpu:
        return PictureProcesses(ordered, prepare).pictures()
    return by_threads(ordered, prepare)


def _cut(questions: list[Question], count: int, index: int) -> list[Question]:
    bounds = shard_bounds(len(questions), count)
    if not 0 <= index < count:
        raise RecapError(f"there is no shard {index} of {count}; they are numbered from 0")
    start, stop = bounds[index]
    return questions[start:stop]


def _write_answers(
    request: PredictRequest,
    benchmark: Benchmark,
    shard: list[Question],
    journal: AnswerJournal,
) -> None:
    metadata = {} if request.control == "none" else {"control": request.control}
    write_jsonl(
        request.answers,
        (
            benchmark.answer_row(question, journal.texts[question.key], request.model_id, metadata)
            for question in shard
        ),
    )
