"""Schema of ``config/config.yaml`` and of the experiment files that override it."""

from typing import Literal

from pydantic import Field

from ..demo.settings import WorldSettings
from ..settings import (
    CaptionSettings,
    CompareSettings,
    CurateSettings,
    EvaluateSettings,
    HeldOutSettings,
    MergeSettings,
    OcrSettings,
    QualitySettings,
    ReportSettings,
    Settings,
    SimilaritySettings,
    ValidateSettings,
)
from ..train_settings import TrainSettings
from .names import Label
from .rows import NAME, CorpusRow


class SheetPaths(Settings):
    """Where the sheets are; each row is one arm, corpus, model or benchmark."""

    arms: str = Field("config/arms.tsv", description="data recipes, one row an arm")
    corpora: str = Field("config/corpora.tsv", description="raw corpora")
    instructions: str = Field("config/instructions.tsv", description="stage-2 data")
    models: str = Field("config/models.tsv", description="model folders and their sources")
    base_models: str = Field("config/base_models.tsv", description="parts of an MGM model")
    benchmarks: str = Field("config/benchmarks.tsv", description="benchmarks with protocol")
    downloads: str = Field("config/downloads.tsv", description="files of data sets to fetch")
    model_locks: str = Field(
        "config/locks/models.tsv", description="sizes and hashes of the models' files"
    )
    data_locks: str = Field(
        "config/locks/data.tsv", description="sizes and hashes of the data sets' files"
    )
    finetune_presets: str = Field(
        "config/finetune_presets.tsv", description="named settings of stage 2"
    )
    positive_controls: str = Field(
        "config/positive_controls.tsv", description="released models with published scores"
    )


class ComputeSettings(Settings):
    """What a job may ask of the machine; profiles map it to partitions and cards."""

    gpus: int = Field(1, ge=0, description="GPUs of a caption or evaluation job; 0 runs on CPU")
    train_gpus: int = Field(
        1,
        ge=0,
        description="GPUs of a training job on each of its nodes, one rank a GPU: samples/s grow "
        "with them, losses stay the same, dropout masks apart; 0 runs on CPU, one rank a node",
    )
    train_nodes: int = Field(
        1,
        ge=1,
        description="nodes of a training job; from 2 on its ranks are started by SLURM's `srun`, "
        "on a cluster alone. Memory a GPU stays the same",
    )
    gpu_request: str = Field(
        "gpus",
        pattern=r"^(gpus|gres(:\w+)?)$",
        description="how GPUs are asked for on a cluster: `gpus`, `gres`, or `gres:rtx4090` to "
        "name the kind of card; `profiles/slurm-gres` sets it",
    )
    gpu_memory_gib: float = Field(
        22.0, gt=0, description="memory that each card must have free; a node with less is refused"
    )
    cpu_threads: int = Field(4, ge=1, description="threads of a CPU job")
    gpu_threads: int = Field(
        8, ge=1, description="threads of a model job; of a training job, of each of its ranks"
    )
    cpu_mem_mb: int = Field(4000, ge=500, description="memory of a CPU job in MB")
    model_mem_mb: int = Field(
        32_000,
        ge=500,
        description="memory of a model job in MB; of a training job, of each of its ranks",
    )
    runtime_minutes: int = Field(240, ge=1, description="time limit of a job, training apart")
    train_runtime_minutes: int = Field(1440, ge=1, description="time limit of a training job")


class ExperimentConfig(Settings):
    """Everything a run depends on; one instance per invocation of Snakemake."""

    experiment: str = Field(pattern=NAME, description="names the folder below `results/`")
    extends: str = Field("", description="experiment file whose values this one overrides")
    title: str = Field(description="one line for the report's head")
    notes: str = Field("", description="what a reader must know before believing a number")
    corpus: str = Field(description="row of the corpora sheet that arms use by default")
    captioner: str = Field(description="row of the models sheet that arms use by default")
    base_model: str = Field(description="row of the base models sheet")
    instructions: str = Field(description="row of the instructions sheet: stage-2 data")
    finetune_preset: str = Field(
        "",
        description="row of the presets sheet whose cells win over `train.finetune`; none if empty",
    )
    arms: list[str] = Field(min_length=1, description="rows of the arms sheet to train and compare")
    reference_arm: str = Field(description="the arm the others are compared with")
    funnel_arms: list[str] = Field(default=[], description="arms curated and reported, not trained")
    seeds: list[int] = Field(min_length=1, description="training seeds; each arm runs every seed")
    benchmarks: list[str] = Field(min_length=1, description="rows of the benchmarks sheet")
    controls: list[Literal["blank_image", "shuffled_images", "text_only_majority"]] = Field(
        default=["blank_image"],
        description="conditions that every run is compared with, on every benchmark",
    )
    positive_controls: list[str] = Field(
        default=[],
        description="rows of the positive controls sheet: where the model's weights are here, our "
        "score must agree with the published one before anything is compared",
    )
    submissions: list[str] = Field(
        default=[],
        description="rows of the benchmarks sheet whose answers are written in the form that the "
        "benchmark's server or official script reads",
    )
    evaluation_shards: int = Field(1, ge=1, description="parallel answer files a benchmark")
    data_root: str = Field("data", description="folder of corpora that cannot be downloaded")
    sheets: SheetPaths = SheetPaths()
    corpora: dict[Label, CorpusRow] = Field(default={}, description="corpora of your own, as rows")
    operator_models: dict[str, dict[str, str]] = Field(
        default={}, description="recipe operator to parameter to row of the models sheet"
    )
    worlds: dict[Label, WorldSettings] = Field(default={}, description="known-answer worlds")
    validate_corpus: ValidateSettings
    curate: CurateSettings
    caption: CaptionSettings
    similarity: SimilaritySettings
    quality: QualitySettings
    held_out: HeldOutSettings
    train: TrainSettings
    merge: MergeSettings
    evaluate: EvaluateSettings
    ocr: OcrSettings
    compare: CompareSettings
    report: ReportSettings
    compute: ComputeSettings
