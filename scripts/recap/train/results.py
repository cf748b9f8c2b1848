"""A finished stage's declared outputs: weights, telemetry, gates, manifest."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hashing import sha256_file
from ..io import write_json, write_jsonl
from ..manifest import write_manifest
from ..mgm.checkpoint import save_adapter, save_projector
from ..mgm.modeling import MGMForCausalLM
from ..mgm.provenance import tensor_table
from ..perf import PerfRecord
from .data import id_order_hash, question_hash
from .execution import Execution
from .prepare import PreparedData
from .request import StageRequest
from .schedule import StepPlan
from .stability import convergence, stability
from .telemetry import TELEMETRY_NAME, Telemetry

GATES_NAME = "gates.json"
METRICS_NAME = "metrics.json"
PRETRAIN_OUTPUTS = ("mm_projector.safetensors", TELEMETRY_NAME, METRICS_NAME, GATES_NAME)
FINETUNE_OUTPUTS = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "non_lora_trainables.safetensors",
    "config.json",
    TELEMETRY_NAME,
    METRICS_NAME,
    GATES_NAME,
)


@dataclass(frozen=True)
class Provenance:
    """Hashes that tie a result to what it came from.

    Attributes:
        base: of the base models, by name.
        start_projector: of projector and mining before the first update.
        result_projector: of the same after the last.
        execution: how passes were made at the start.
    """

    base: dict[str, str]
    start_projector: str
    result_projector: str
    execution: Execution


def write_results(
    request: StageRequest,
    data: PreparedData,
    model: MGMForCausalLM,
    telemetry: Telemetry,
    provenance: Provenance,
    started: float,
) -> None:
    """Write weights and telemetry, then the manifest over all outputs."""
    out = request.out_dir
    out.mkdir(parents=True, exist_ok=True)
    names = PRETRAIN_OUTPUTS if request.stage == "pretrain" else FINETUNE_OUTPUTS
    if request.stage == "pretrain":
        save_projector(model, out / "mm_projector.safetensors")
    else:
        save_adapter(model, out, base=provenance.base)
    telemetry.write(out / TELEMETRY_NAME, request.settings.logging_steps)
    write_jsonl(request.updates_log, telemetry.perf.rows)
    write_json(out / METRICS_NAME, _metrics(request, telemetry))
    write_manifest(
        out / "manifest.json",
        stage="train",
        inputs=_inputs(request),
        outputs={Path(name).stem: out / name for name in names},
        settings=request.settings.model_dump(),
        counts=_counts(data),
        started=started,
        seed=request.seed,
        details={
            **_details(request, data, provenance),
            "micro_batch_sizes": sorted({row["micro_batch_size"] for row in telemetry.perf.rows}),
            "tensors": {
                name: tensor_table(out / name) for name in names if name.endswith(".safetensors")
            },
        },
    )


def _metrics(request: StageRequest, telemetry: Telemetry) -> dict[str, Any]:
    """Return convergence and stability, in training and on what was held out."""
    rows = telemetry.held_out.rows
    curves = {name: [row for row in rows if row["style"] == name] for name, _ in request.held_out}
    return {
        "stage": request.stage,
        **stability(telemetry.rows),
        "held_out": [curve[-1] for curve in curves.values()],
        "held_out_curves": rows if request.held_out_every else [],
        "held_out_updates_to_convergence": {
            name: convergence([row["step"] for row in curve], [row["loss"] for row in curve])
            for name, curve in curves.items()
            if request.held_out_every
        },
    }


def _inputs(request: StageRequest) -> dict[str, Path]:
    inputs = {"data": request.data}
    if request.projector is not None and request.stage1_manifest is not None:
        # Not its manifest, which holds times: two equal runs must have equal manifests.
        inputs["projector"] = request.projector
    return inputs


def _counts(data: PreparedData) -> dict[str, int]:
    return {
        "samples": data.plan.samples,
        "updates": data.plan.updates,
        "unused": data.plan.unused,
        "supervised_tokens": sum(data.tokens_of_update),
        "truncated_samples": data.audit.truncated,
        "unsupervised_samples": len(data.audit.unsupervised),
    }


def _details(request: StageRequest, data: PreparedData, provenance: Provenance) -> dict[str, Any]:
    data_hash = sha256_file(request.data)
    details = {
        "stage": request.stage,
        "base_fingerprints": provenance.base,
        "start_projector_hash": provenance.start_projector,
        "result_projector_hash": provenance.result_projector,
        "id_order_hash": id_order_hash(data.ids, data.order),
        "question_hash": question_hash(data.samples, data.order),
        "data_hash": data_hash,
        "plan": data.plan.with_micro_batch(provenance.execution.micro_batch).as_dict(),
        "execution": provenance.execution.as_dict(),
        "unsupervised_ids": data.audit.unsupervised,
        "ids_without_their_picture": data.audit.unseen,
    }
    if request.stage == "finetune":
        details["stage2_data_hash"] = data_hash
    return details


def record_cost(
    perf: PerfRecord, data: PreparedData, plan: StepPlan, seconds: list[float], resumed_from: int
) -> None:
    """Put counts and step times of this process into the performance record.

    Args:
        perf: the record; its ``items`` become the samples trained on here.
        data: the training set.
        plan: of the last update; its micro-batch may be smaller than planned.
        seconds: wall time of each update made by this process.
        resumed_from: update of the checkpoint this process started from, else 0.
    """
    done = len(seconds)
    tokens = sum(data.tokens_of_update[resumed_from : resumed_from + done])
    perf.items = done * data.plan.global_batch
    perf.extra = {
        "updates": done,
        "resumed_from_update": resumed_from,
        "training_seconds": round(sum(seconds), 3),
        "median_update_seconds": round(statistics.median(seconds), 4) if seconds else None,
        "samples_per_training_second": round(perf.items / sum(seconds), 3) if seconds else None,
        "supervised_tokens": tokens,
        "micro_batch_size": plan.micro_batch,
        "accumulation": plan.accumulation,
        "world_size": plan.world_size,
    }
