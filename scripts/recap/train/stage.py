"""One training stage from its inputs to its declared outputs."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from ..errors import GateError
from ..hashing import digest_json, sha256_file
from ..mgm.provenance import require_base
from ..perf import PerfRecord
from ..train_settings import FREE_SETTINGS
from ..versions import STAGE_VERSIONS
from .audit import log_examples, require_sound_masks
from .fitting import Run, RunParts, as_before, fit_in_memory, stage_arguments
from .gates import (
    GateBook,
    require_moved_adapter,
    require_moved_projector,
    require_start_projector,
)
from .prepare import prepare_data
from .probing import resolve_execution
from .ranks import agreed
from .request import StageRequest
from .results import GATES_NAME, Provenance, record_cost, write_results
from .resumable import newest_checkpoint
from .schedule import learning_rate_after
from .setup import (
    build_stage_model,
    expected_projector_hash,
    fingerprint_parts,
    largest_adapter_b,
    projector_hash,
    use_threads,
)
from .sharding import shard_decoder
from .signals import stop_requests
from .state import StateStore, remove_state
from .telemetry import Telemetry
from .trackers import Tracker, open_tracker
from .trainer import StageTrainer

logger = logging.getLogger(__name__)


def run_stage(request: StageRequest) -> None:
    """Train one stage and write its results.

    Raises:
        RecapError: for bad input.
        GateError: if an evidence gate fails; ``gates.json`` then says which.
        InterruptedRunError: if a signal or the end of its time ended the run; its state is kept.
    """
    started, perf = time.time(), PerfRecord("train", "samples")
    use_threads(os.environ.get("OMP_NUM_THREADS"))
    request.check()
    with stop_requests(request.time_limit_minutes) as stop:
        data = prepare_data(request, int(os.environ.get("WORLD_SIZE", "1")))
        args = stage_arguments(request, data.plan)
        leads = args.process_index == 0
        if leads and request.finished_state is not None:
            remove_state(request.finished_state)
        book = GateBook(request.out_dir / GATES_NAME, writes=leads)
        require_sound_masks(book, data.audit, data.samples, data.tokens_of_update)
        log_examples(data.samples, data.encoded, data.order, data.tokenizer)
        _train(Run(request, data, args, book, stop, started, data.plan), perf)


def _train(run: Run, perf: PerfRecord) -> None:
    request, data, book = run.request, run.data, run.book
    base, store = _open_store(run)
    if request.stage1_manifest is not None:
        require_base(request.stage1_manifest, base)
    if agreed(run.stop.before_update()):
        raise run.stop.interruption("before the model was loaded")
    model = build_stage_model(
        request.parts, request.settings, seed=request.seed, projector=request.projector
    )
    start = projector_hash(model)
    if request.stage1_manifest is not None:
        require_start_projector(book, start, expected_projector_hash(request.stage1_manifest))
    chosen, probes = resolve_execution(
        request, data, run.plan, model, base, run.stop, leads=run.leads
    )
    run = replace(run, plan=run.plan.with_micro_batch(chosen.micro_batch))
    if run.sharded:
        shard_decoder(model, run.args.device, run.plan.world_size)
    elif request.settings.shard_base:
        logger.warning("shard_base has no effect: one rank holds all weights")
    telemetry = Telemetry(store.folder if run.leads else None)
    checkpoint = _restore(store, telemetry)
    resumed_from = len(telemetry.rows)
    run.stop.pace.expect([row["seconds"] for row in telemetry.perf.rows])
    with _tracking(run, resumed_from + 1) as tracker:
        parts = RunParts(model, store, telemetry, tracker, probes)
        trainer, seconds = fit_in_memory(as_before(run, telemetry), parts, checkpoint)
    result = projector_hash(model)
    try:
        _conclude(run, trainer, telemetry, start, result)
    except GateError:
        logger.error("a rerun goes on from %s; to train anew, remove that folder", store.folder)
        raise
    if run.leads:
        book.write()
        provenance = Provenance(base, start, result, chosen)
        write_results(request, data, model, telemetry, provenance, run.started)
        record_cost(perf, data, trainer.plan, seconds, resumed_from)
        perf.write(request.perf)
        store.settle()
    trainer.accelerator.wait_for_everyone()
    run.stop.mention(f"after update {run.data.plan.updates} of {run.data.plan.updates}")


def _conclude(
    run: Run, trainer: StageTrainer, telemetry: Telemetry, start: str, result: str
) -> None:
    """Check the gates that need a finished run."""
    plan, peak = run.data.plan, run.request.settings.learning_rate
    trainer.gates.conclude(telemetry.rows)
    trainer.gates.conclude_schedule(
        telemetry.rows, lambda update: learning_rate_after(update, plan, peak), peak
    )
    if run.request.stage == "pretrain":
        require_moved_projector(run.book, start, result)
    else:
        require_moved_adapter(run.book, largest_adapter_b(trainer.trainables()))


def _open_store(run: Run) -> tuple[dict[str, str], StateStore]:
    """Hash what determines the result, on rank zero, and open the state of that run."""
    request = run.request
    facts: list[Any] = [None]
    if run.leads:
        base = fingerprint_parts(request.parts)
        facts = [
            {
                "stage": request.stage,
                "stage_version": STAGE_VERSIONS["train"],
                "seed": request.seed,
                "settings": request.settings.model_dump(exclude=FREE_SETTINGS),
                "data": sha256_file(request.data),
                "held_out": [(name, sha256_file(path)) for name, path in request.held_out],
                "held_out_every": request.held_out_every,
                "projector": sha256_file(request.projector) if request.projector else None,
                "base": base,
                "conversation": request.parts.conversation,
                "image_size_aux": request.parts.image_size_aux,
                "image_root": str(request.image_root),
                "image_bytes": digest_json([sample.image_bytes for sample in run.data.samples]),
            }
        ]
    broadcast_object_list(facts)
    store = StateStore(request.state_dir, facts[0])
    if run.leads:
        store.prepare()
    return facts[0]["base"], store


@contextmanager
def _tracking(run: Run, first_update: int) -> Iterator[Tracker | None]:
    """Open the tracker on the rank that leads, and close it however the run ends."""
    folder = run.request.log_dir
    if folder is None or not run.leads:
        yield None
        return
    tracker = open_tracker(run.request.tracker, folder, first_update)
    try:
        yield tracker
    finally:
        if tracker is not None:
            tracker.close()


def _restore(store: StateStore, telemetry: Telemetry) -> Path | None:
    """Return the newest sound checkpoint, its telemetry taken over."""
    checkpoint = newest_checkpoint(store)
    if checkpoint is not None:
        telemetry.restore(checkpoint)
        logger.info("continuing after update %d from %s", len(telemetry.rows), checkpoint)
    return checkpoint
