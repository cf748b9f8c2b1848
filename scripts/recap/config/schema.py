"""Schema of ``config/config.yaml`` and of the experiment files that override it."""

from typing import Literal

from pydantic import Field, field_validator

from ..demo.settings import WorldSettings
from ..fetch.request import parse_source
from ..settings import (
    CaptionSettings,
    CompareSettings,
    CurateSettings,
    EvaluateSettings,
    HeldOutSettings,
    MergeSettings,
    QualitySettings,
    ReportSettings,
    Settings,
    SimilaritySettings,
    TrainSettings,
    ValidateSettings,
)

NAME = r"^[a-z0-9][a-z0-9_]*$"


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
        "with them, losses stay the same; 0 runs on CPU, one rank a node",
    )
    train_nodes: int = Field(
        1,
        ge=1,
        description="nodes of a training job; from 2 on its ranks are started by SLURM's `srun`, "
        "on a cluster alone. Memory a GPU stays the same",
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


_DATA_SOURCE = (
    "`world` (drawn here), `local` (read in place), `manual` (below `data_root`) or `fetched` "
    "(`root` starts with a folder of the downloads sheet)"
)


class CorpusRow(Settings):
    """A raw corpus of captioned images in Data-Juicer's JSONL form."""

    source: str = Field(pattern="^(world|local|manual|fetched)$", description=_DATA_SOURCE)
    root: str = Field(description="folder of the JSONL and its images; for `world`, a world's name")
    jsonl: str = Field(description="the JSONL's name inside `root`")
    original: str = Field("", description="LLaVA JSON with each id's question; empty if unknown")
    records: int = Field(ge=1, description="lines of the JSONL, verified by the first job")
    licence: str = Field("", description="terms of use, for the record")


class InstructionsRow(Settings):
    """A stage-2 instruction set in LLaVA JSON form, the same for every arm."""

    source: str = Field(pattern="^(world|local|manual|fetched)$", description=_DATA_SOURCE)
    root: str = Field(description="folder of the JSON and its images, or a world's name")
    json_file: str = Field(alias="json", description="the LLaVA JSON's name inside `root`")
    samples: int = Field(ge=1, description="samples in the file")
    licence: str = Field("", description="terms of use, for the record")


class SourcedRow(Settings):
    """Files with the places they can be had from, tried in turn."""

    location: str = Field("", description="repository, address, or folder, as `source` says")
    revision: str = Field("", description="ModelScope branch, tag or commit")
    licence: str = Field("", description="terms of use, for the record")
    alternatives: str = Field(
        "",
        description="further sources, tried after the first, parted by blanks: "
        "`modelscope:NS/NAME@REVISION`, `modelscope-dataset:NS/NAME@REVISION`, `https://...`, "
        "`path:FOLDER`, `manual:FOLDER` (below `data_root`)",
    )
    files: str = Field(
        "", description="patterns of the files wanted, parted by commas; empty for all"
    )
    notes: str = Field("", description="what else is known of where the files come from")

    @field_validator("alternatives")
    @classmethod
    def _known_forms(cls, alternatives: str) -> str:
        for text in alternatives.split():
            parse_source(text)
        return alternatives


class ModelRow(SourcedRow):
    """A model folder: shipped with the code, already on disk, or fetched."""

    role: str = Field(
        pattern="^(language_model|clip|convnext|captioner|watermark|similarity|aesthetics|checkpoint)$",
        description="what the model is used as",
    )
    source: str = Field(
        pattern="^(micro|local|modelscope|url|manual)$",
        description="`micro` (a stand-in's folder, which the report says), `local` (a folder, read "
        "in place), `modelscope`, `url` (fetched) or `manual` (no known download: place it in "
        "`models/<model>` below `data_root`)",
    )

    @property
    def in_place(self) -> bool:
        """Return whether the model is read where it lies, and not fetched."""
        return self.source in ("micro", "local")


class DownloadRow(SourcedRow):
    """One file, or one folder of files, of a data set that is fetched."""

    folder: str = Field(pattern=NAME, description="the data set; rows of one folder go together")
    target: str = Field(
        description="where it goes in the folder: a file, or a folder (ends in `/`)"
    )
    source: str = Field(
        pattern="^(local|modelscope|url|manual)$",
        description="`modelscope` (a repository of data), `url`, `local` (a path) or `manual` (no "
        "known download: place it below `data_root`, as `<folder>/<target>`)",
    )
    unpack: bool = Field(False, description="the file is a zip or tar archive to unpack")


class BaseModelRow(Settings):
    """The parts an MGM model is assembled from."""

    language_model: str = Field(description="row of the models sheet")
    clip: str = Field(description="row of the models sheet: the query tower")
    convnext: str = Field(description="row of the models sheet: the auxiliary tower")
    conversation: str = Field(description="conversation template")
    image_size_aux: int = Field(ge=32, description="side of the auxiliary image in pixels")
    image_grid: int = Field(
        1,
        ge=1,
        description="crops a side that the query tower sees; each has as many tokens as a whole "
        "image, so that the stages' max_length must grow too",
    )
    image_global: bool = Field(
        False, description="show the query tower the whole image besides the crops"
    )


class FinetunePresetRow(Settings):
    """Settings of stage 2 that belong together; an empty cell leaves `train.finetune` alone."""

    learning_rate: float | None = Field(None, gt=0, description="peak learning rate")
    rank: int | None = Field(None, ge=1, description="rank of the adapter")
    alpha: float | None = Field(None, gt=0, description="the update is scaled by alpha / rank")
    use_rslora: bool | None = Field(None, description="rsLoRA: alpha / sqrt(rank) instead")
    use_dora: bool | None = Field(None, description="DoRA")
    base_quantization: Literal["none", "nf4"] | None = Field(None, description="`nf4`: QLoRA")
    description: str = Field("", description="one line about it")


class BenchmarkRow(Settings):
    """A benchmark with its protocol; the OCR setting is part of the name."""

    kind: str = Field(description="protocol family, such as `textvqa`")
    source: str = Field(pattern="^(world|local|manual|fetched)$", description=_DATA_SOURCE)
    root: str = Field(description="folder of the files below, or a world's name")
    questions: str = Field(description="question file, one JSON object a line")
    annotations: str = Field(
        description="reference answers; several files of one folder are parted by commas; where "
        "`scored` is false, the questions that an upload must hold"
    )
    images: str = Field(description="image folder inside `root`")
    count: int = Field(
        ge=1, description="questions in the file, verified when answers are gathered"
    )
    ocr: bool = Field(description="whether the prompt lists OCR tokens")
    max_new_tokens: int = Field(ge=1, description="longest answer in tokens")
    scored: bool = Field(
        True, description="whether the answers are public; false: only a server scores the row"
    )
    licence: str = Field("", description="terms of use, for the record")


class PositiveControlRow(Settings):
    """A score that somebody published of a released model: ours must agree with it."""

    model: str = Field(description="row of the models sheet, with the role `checkpoint`")
    benchmark: str = Field(description="row of the benchmarks sheet")
    published: float = Field(ge=0, le=100, description="published score in points")
    citation: str = Field(description="who published it, under which protocol")


class ArmRow(Settings):
    """How one arm makes its training set; empty cells take the experiment's value.

    An arm with ``identical_to`` has no recipe of its own: it trains on the other
    arm's data with other seeds, and their difference is the noise.
    """

    corpus: str = Field("", description="row of the corpora sheet")
    pre_recipe: str = Field("", description="filters before captioning")
    caption_policy: Literal["", "keep", "replace", "replace_low_similarity", "mix"] = Field(
        "",
        description=(
            "`keep` the original caption, `replace` it, `replace_low_similarity` where it fits "
            "the image badly (see `similarity`), or `mix` old and new by id"
        ),
    )
    captioner: str = Field("", description="row of the models sheet")
    max_caption_words: int = Field(
        0,
        ge=0,
        description="longest new caption in words; a longer one is cut; 0 or empty is no cap",
    )
    post_recipe: str = Field("", description="filters on the arm's own text")
    match_ids_to: str = Field("", description="arm whose surviving ids this arm uses")
    max_records: int | None = Field(None, ge=1, description="record budget, drawn by id")
    max_records_of: str = Field(
        "", description="arm whose number of records is the budget: a random control of that arm"
    )
    identical_to: str = Field("", description="arm whose data this one trains on again (A/A)")
    seed_offset: int = Field(
        0, ge=0, description="added to every training seed; with `identical_to` only"
    )
    description: str = Field("", description="one line for the report")


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
    corpora: dict[str, CorpusRow] = Field(default={}, description="corpora of your own, as rows")
    operator_models: dict[str, dict[str, str]] = Field(
        default={}, description="recipe operator to parameter to row of the models sheet"
    )
    worlds: dict[str, WorldSettings] = Field(default={}, description="known-answer worlds")
    validate_corpus: ValidateSettings
    curate: CurateSettings
    caption: CaptionSettings
    similarity: SimilaritySettings
    quality: QualitySettings
    held_out: HeldOutSettings
    train: TrainSettings
    merge: MergeSettings
    evaluate: EvaluateSettings
    compare: CompareSettings
    report: ReportSettings
    compute: ComputeSettings
