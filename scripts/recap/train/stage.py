"""One training stage from its inputs to its declared outputs."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments

from ..hashing import sha256_file
from ..mgm.conversation import pad_token_id
from ..mgm.provenance import require_base
from ..perf import PerfRecord
from ..versions import STAGE_VERSIONS
from .audit import log_examples, require_sound_masks
from .collate import Collator
from .consistency import slope_ratio
from .gates import (
    GateBook,
    UpdateGates,
    require_consistent,
    require_moved_adapter,
    require_moved_projector,
    require_start_projector,
)
from .prepare import PreparedData, prepare_data
from .request import StageRequest
from .results import GATES_NAME, Provenance, record_cost, write_results
from .schedule import learning_rate_after
from .setup import (
    build_stage_model,
    expected_projector_hash,
    fingerprint_parts,
    largest_adapter_b,
    projector_hash,
    use_threads,
)
from .signals import StopRequest, stop_requests
from .state import StateStore
from .telemetry import Telemetry
from .trackers import Tracker, open_tracker
from .trainer import StageTrainer, training_arguments

logger = logging.getLogger(__name__)

# Settings that change neither weights nor telemetry, so a run may be continued under others.
_FREE_SETTINGS = {"save_steps"}


@dataclass(frozen=True)
class _Run:
    """What the steps of a run share."""

    request: StageRequest
    data: PreparedData
    args: TrainingArguments
    book: GateBook
    stop: StopRequest
    started: float

    @property
    def leads(self) -> bool:
        """Whether this process is rank zero, the one that writes."""
        return int(self.args.process_index) == 0


def run_stage(request: StageRequest) -> None:
    """Train one stage and write its results.

    Raises:
        RecapError: for bad input.
        GateError: if an evidence gate fails; ``gates.json`` then says which.
        InterruptedRunError: if a signal ended the run; its state is kept.
    """
    started, perf = time.time(), PerfRecord("train", "samples")
    use_threads(os.environ.get("OMP_NUM_THREADS"))
    request.check()
    with stop_requests() as stop:
        data = prepare_data(request, int(os.environ.get("WORLD_SIZE", "1")))
        args = _arguments(request, data)
        leads = args.process_index == 0
        book = GateBook(request.out_dir / GATES_NAME, writes=leads)
        require_sound_masks(book, data.audit, data.samples, data.tokens_of_update)
        log_examples(data.samples, data.encoded, data.order, data.tokenizer)
        _train(_Run(request, data, args, book, stop, started), perf)


def _arguments(request: StageRequest, data: PreparedData) -> TrainingArguments:
    settings = request.settings
    use_cpu = not torch.cuda.is_available()
    if not use_cpu and settings.dtype == "bfloat16":
        torch.set_float32_matmul_precision("high")
    return training_arguments(
        request.state_dir,
        data.plan,
        seed=request.seed,
        use_cpu=use_cpu,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )


def _train(run: _Run, perf: PerfRecord) -> None:
    request, data, book = run.request, run.data, run.book
    base, store = _open_store(run)
    if request.stage1_manifest is not None:
        require_base(request.stage1_manifest, base)
    run.stop.raise_if_set("before the first update")
    model = build_stage_model(
        request.parts, request.settings, seed=request.seed, projector=request.projector
    )
    start = projector_hash(model)
    if request.stage1_manifest is not None:
        require_start_projector(book, start, expected_projector_hash(request.stage1_manifest))
    telemetry = Telemetry(store.folder if run.leads else None)
    checkpoint = _restore(store, telemetry)
    resumed_from = len(telemetry.rows)
    with _tracking(run, resumed_from + 1) as tracker:
        trainer = _build_trainer(run, model, store, telemetry, tracker)
        require_consistent(book, _slope(trainer, run))
        _fit(trainer, run, checkpoint, resumed_from)
    result = projector_hash(model)
    _conclude(run, trainer, telemetry, start, result)
    if run.leads:
        book.write()
        provenance = Provenance(base, start, result)
        write_results(request, data, model, telemetry, provenance, run.started)
        record_cost(perf, data, trainer.update_seconds, resumed_from)
        perf.write(request.perf)
        store.clear()
    trainer.accelerator.wait_for_everyone()


def _conclude(
    run: _Run, trainer: StageTrainer, telemetry: Telemetry, start: str, result: str
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


def _open_store(run: _Run) -> tuple[dict[str, str], StateStore]:
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
                "settings": request.settings.model_dump(exclude=_FREE_SETTINGS),
                "data": sha256_file(request.data),
                "held_out": [(name, sha256_file(path)) for name, path in request.held_out],
                "held_out_every": request.held_out_every,
                "projector": sha256_file(request.projector) if request.projector else None,
                "base": base,
                "conversation": request.parts.conversation,
                "image_size_aux": request.parts.image_size_aux,
                "image_root": str(request.image_root),
            }
        ]
    broadcast_object_list(facts)
    store = StateStore(request.state_dir, facts[0])
    if run.leads:
        store.prepare()
    return facts[0]["base"], store


@contextmanager
def _tracking(run: _Run, first_update: int) -> Iterator[Tracker | None]:
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


def _build_trainer(
    run: _Run, model: Any, store: StateStore, telemetry: Telemetry, tracker: Tracker | None
) -> StageTrainer:
    data = run.data
    return StageTrainer(
        model=model,
        args=run.args,
        dataset=data.dataset,
        collator=Collator(pad_token_id(data.tokenizer)),
        ids=data.ids,
        order=data.order,
        tokens_of_update=data.tokens_of_update,
        positions_of_update=data.positions_of_update,
        plan=data.plan,
        gates=UpdateGates(int(model.config.vocab_size), run.book),
        telemetry=telemetry,
        tracker=tracker,
        store=store,
        held_out=data.held_out,
        held_out_every=run.request.held_out_every,
        stop=run.stop,
        save_steps=run.request.settings.save_steps,
    )


def _slope(trainer: StageTrainer, run: _Run) -> float:
    """Compare loss and gradient on the first micro-batch that has anything to predict."""
    data, size = run.data, run.data.plan.micro_batch
    start = next(
        position
        for position in range(0, len(data.order), size)
        if any(data.encoded[i].supervised for i in data.order[position : position + size])
    )
    batch = [data.dataset[index] for index in data.order[start : start + size]]
    tensors = trainer.data_collator(batch)
    inputs = {name: tensor.to(run.args.device) for name, tensor in tensors.items()}
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.train()
    parameters = list(trainer.trainables().values())
    return slope_ratio(parameters, lambda: model(**inputs).loss, run.request.seed)


def _restore(store: StateStore, telemetry: Telemetry) -> Path | None:
    """Return the newest sound checkpoint, its telemetry taken over."""
    PartialState().wait_for_everyone()
    checkpoint = store.latest()
    if checkpoint is not None:
        telemetry.restore(checkpoint)
        logger.info("continuing after update %d from %s", len(telemetry.rows), checkpoint)
    return checkpoint


def _fit(trainer: StageTrainer, run: _Run, checkpoint: Path | None, done: int) -> None:
    """Train to the end, from the checkpoint after ``done`` updates if there is one."""
    total = run.data.plan.updates
    if trainer.agreed(bool(run.stop)):
        run.stop.raise_if_set(f"after update {done} of {total}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    done = trainer.state.global_step
    if done < total:
        run.stop.signal_name = run.stop.signal_name or "a signal to another rank"
        run.stop.raise_if_set(f"after update {done} of {total}")
