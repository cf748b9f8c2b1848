"""Typed settings of every stage: one source for defaults, schema and documentation.

The configuration is validated against these models when the workflow is
parsed; each stage's command line rebuilds its model from the JSON that its
rule passes. Descriptions and defaults end up in the configuration reference.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Dtype = Literal["float32", "bfloat16", "float16"]
Auto = Literal["auto"]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def explain(error: ValidationError) -> str:
    """Return a validation error as `key.path: what is wrong`, one a key."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or "(top level)"
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            message = "unknown key; check the spelling or remove it"
        elif item["type"] == "missing":
            message = "required, but not set"
        lines.append(f"`{path}`: {message}")
    return "; ".join(lines)


class ValidateSettings(Settings):
    """Which raw records are fit to enter the pipeline."""

    max_reject_share: float = Field(
        0.1, ge=0, le=1, description="stop when more than this share of the lines is rejected"
    )
    max_caption_chars: int = Field(
        20_000, ge=1, description="longest caption in characters, special tokens excluded"
    )
    max_line_bytes: int = Field(4_194_304, ge=1024, description="longest line in bytes")
    max_image_pixels: int = Field(
        67_108_864, ge=1, description="largest image in pixels, read from its header"
    )


class OperatorModelSettings(Settings):
    """How the models of image operators run: watermark, CLIP similarity and their like."""

    dtype: Dtype = Field(
        "float32",
        description="floating-point type of operators' models; below `float32` their statistics "
        "differ from Data-Juicer's in the third decimal",
    )
    batch_size: int = Field(
        64, ge=1, description="images a forward pass; halved while it does not fit the GPU"
    )


class CurateSettings(Settings):
    """How the corpus is cut for parallel work."""

    shard_size: int = Field(10_000, ge=1, description="records a shard")
    operator_models: OperatorModelSettings = OperatorModelSettings()
    seed: int = Field(1024, description="seed of draws by record id: budgets and policy `mix`")
    mix_share: float = Field(
        0.5, ge=0, le=1, description="share of new captions under the policy `mix`"
    )


class SimilaritySettings(Settings):
    """How well captions fit their images, and which originals fit too badly to stay."""

    kind: Literal["clip", "itm"] = Field(
        "clip",
        description="`clip`: cosine of image and text, within -1 and 1; `itm`: probability that "
        "they match, within 0 and 1, by BLIP-2 or BLIP",
    )
    model: str = Field(
        description="row of the models sheet: for `clip` a whole CLIP model, role `clip` or "
        "`similarity`; for `itm` an image-text retrieval model, role `similarity`"
    )
    dtype: Dtype = Field("float32", description="floating-point type of the model")
    batch_size: int = Field(64, ge=1, description="images, texts or pairs a forward pass")
    threshold: float = Field(
        0.5, ge=-1, le=1, description="originals below it are replaced; a similarity or a quantile"
    )
    threshold_kind: Literal["absolute", "quantile"] = Field(
        "quantile",
        description="`absolute`: the cosine or probability itself; `quantile`: of the originals'",
    )

    @model_validator(mode="after")
    def _threshold_can_be_reached(self) -> "SimilaritySettings":
        if self.threshold < 0 and self.threshold_kind == "quantile":
            raise ValueError("`threshold` is a quantile, so it must be within 0 and 1")
        if self.threshold < 0 and self.kind == "itm":
            raise ValueError("`threshold` is a probability, so it must be within 0 and 1")
        return self


class QualitySettings(Settings):
    """How the captions of arms are measured and compared."""

    token_budget: int = Field(
        5000,
        ge=10,
        description="tokens of every draw that a type-token ratio is taken of; captions beyond "
        "the last full draw are left out",
    )
    bootstrap_samples: int = Field(2000, ge=100, description="bootstrap resamples of records")
    confidence: float = Field(0.95, gt=0, lt=1, description="level of the intervals")
    seed: int = Field(2024, description="seed of draws and resampling")


class CaptionSettings(Settings):
    """How the captioner decodes; part of the key under which a caption is stored."""

    prompt: str | None = Field(
        None, description="text before the caption; none for plain captioning"
    )
    max_new_tokens: int = Field(30, ge=1, description="longest caption in tokens")
    num_beams: int = Field(1, ge=1, description="1 is greedy")
    candidates: int = Field(
        1,
        ge=1,
        description="captions made for an image; of several the first is greedy, the others are "
        "sampled, and the best by similarity is kept",
    )
    temperature: float = Field(1.0, gt=0, description="divides the logits of sampled candidates")
    top_k: int = Field(50, ge=1, description="tokens a sampled candidate may choose from")
    seed: int = Field(
        1024, description="seed of sampled candidates; each image draws from a stream of its own"
    )
    dtype: Dtype = Field("bfloat16", description="floating-point type of the captioner")
    batch_size: int | Literal["auto"] = Field(
        "auto",
        description="captions a forward pass; `auto`: the largest of up to 256 that is estimated "
        "to fit `memory_gib`",
    )
    memory_gib: float = Field(
        20.0, gt=0, description="GPU memory in GiB that an automatic batch size may fill"
    )

    @model_validator(mode="after")
    def _candidates_are_sampled(self) -> "CaptionSettings":
        if self.candidates > 1 and self.num_beams > 1:
            raise ValueError("`candidates` are sampled, so `num_beams` must be 1")
        if isinstance(self.batch_size, int) and not 1 <= self.candidates <= self.batch_size:
            raise ValueError(f"`batch_size` must hold the {self.candidates} candidates of an image")
        return self


class LoraSettings(Settings):
    """The adapter of stage 2 (rank, alpha and dropout as in the reference run)."""

    rank: int = Field(
        16,
        ge=1,
        description="rank r of the update; weights, gradients and moments of the adapter, 16 bytes "
        "a number, grow with it",
    )
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / r, a pure number")
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the adapter's inputs set to zero while training; costs a mask of the "
        "activations' size, and makes the trajectory depend on the micro-batch",
    )
    use_rslora: bool = Field(
        False, description="rsLoRA: scale by alpha / sqrt(r) instead; costs nothing"
    )
    use_dora: bool = Field(
        False,
        description="DoRA: train the length of each row of the weights besides; a norm of every "
        "adapted weight a pass, so slower, with more memory for activations",
    )
    rank_pattern: dict[str, int] = Field(
        default={},
        description="ranks that differ: end of a module's name, or a regular expression, to rank",
    )
    alpha_pattern: dict[str, float] = Field(
        default={}, description="alphas that differ, by module as in `rank_pattern`"
    )


class StageSettings(Settings):
    """One training stage."""

    global_batch_size: int = Field(
        ge=1,
        description="samples an optimizer update, over all passes and ranks; no effect on memory",
    )
    micro_batch_size: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="samples a forward pass and rank; activations grow with it, and up to a point "
        "samples/s do. `auto` measures which is fastest within `memory_gib`. Halved by itself "
        "where the GPU's memory runs out. No choice changes the updates, dropout masks apart",
    )
    learning_rate: float = Field(
        gt=0, description="peak learning rate, reached after the warm-up, then a cosine to zero"
    )
    warmup_ratio: float = Field(
        0.03, ge=0, le=1, description="share of the updates over which the learning rate rises"
    )
    weight_decay: float = Field(
        0.0, ge=0, description="AdamW weight decay, a share of the weight times the learning rate"
    )
    max_grad_norm: float = Field(
        1.0, ge=0, description="gradients are scaled down to this 2-norm; 0 switches it off"
    )
    epochs: int = Field(1, ge=1, description="passes over the training set; time grows with it")
    max_length: int = Field(
        2048,
        ge=8,
        description="longest sequence in tokens, image tokens included; longer samples are cut. "
        "Only a bound: memory and time follow the longest sample of each pass",
    )
    image_aspect_ratio: Literal["square", "pad"] = Field(
        description="`square` crops the centre, `pad` keeps the whole image; equal cost"
    )
    group_by_modality_length: bool = Field(
        False,
        description="never mix image and text-only samples in an update; within an update, passes "
        "hold samples of like length in any case",
    )
    dtype: Dtype = Field(
        "bfloat16",
        description="type of frozen weights and activations; float32 takes twice the memory and "
        "more than twice the time on a GPU. Trained weights are float32 in any case",
    )
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="stochastic depth of the frozen ConvNeXt while training; upstream's is 0.1",
    )
    gradient_checkpointing: Auto | bool | Annotated[float, Field(gt=0, lt=1)] = Field(
        "auto",
        description="keep the decoder layers' inputs alone and compute the rest again in the "
        "backward pass: far less memory for about a third more time; a number is the share of the "
        "layers that do so. `auto` measures what is fastest within `memory_gib`; on a CPU, none",
    )
    compile_blocks: Auto | bool = Field(
        "auto",
        description="compile decoder layers, towers and mining with torch.compile: about half as "
        "much time again, a minute at the start, and other rounding. `auto` does so on a GPU",
    )
    memory_gib: float = Field(
        24.0,
        gt=0,
        description="GPU memory in GiB that a rank may reserve, of what the card has; no effect on "
        "a CPU",
    )
    shard_base: bool = Field(
        False,
        description="cut the frozen decoder layers over the ranks, for 7B and 13B: each holds its "
        "share of them and gathers a layer when it is computed, which costs time, least within a "
        "node. Needs numbers for `micro_batch_size` and `gradient_checkpointing`; no effect on one "
        "rank. Changes no result",
    )
    logging_steps: int = Field(
        1, ge=1, description="updates between lines of telemetry.jsonl; spikes are always in it"
    )
    save_steps: int = Field(
        50,
        ge=1,
        description="updates between resumable checkpoints, which hold what is trained and its "
        "moments, 12 bytes a number; a killed run repeats fewer than so many updates",
    )

    @model_validator(mode="after")
    def _shared_passes_are_given(self) -> "StageSettings":
        names = ("micro_batch_size", "gradient_checkpointing")
        missing = [f"`{name}`" for name in names if getattr(self, name) == "auto"]
        if self.shard_base and missing:
            raise ValueError(
                f"`shard_base` needs a value for {' and '.join(missing)}: `auto` tries what does "
                "not fit, after which ranks that share their weights cannot go on"
            )
        return self


class FinetuneSettings(StageSettings):
    """Stage 2: instruction tuning with LoRA."""

    packing: bool = Field(
        True,
        description="let short samples share a row, up to the longest sample's length, where no "
        "sample sees another; saves time where there are short samples. A row of several "
        "pictures takes more memory, which `auto` measures. The updates stay as they were, "
        "dropout masks apart",
    )
    lora: LoraSettings = LoraSettings()
    base_quantization: Literal["none", "nf4"] = Field(
        "none",
        description="`nf4`: QLoRA, the frozen language model's linear layers in 4 bits, a quarter "
        "of bfloat16's memory and slower; needs the package bitsandbytes. The adapter is merged "
        "into the unquantised weights",
    )

    @model_validator(mode="after")
    def _shares_are_not_quantised(self) -> "FinetuneSettings":
        if self.base_quantization != "none" and self.shard_base:
            raise ValueError(
                "4-bit weights lose their scales when they are cut over ranks; use `shard_base` "
                "with `base_quantization: none`, or `nf4` with `shard_base: false`"
            )
        return self

    @model_validator(mode="after")
    def _lengths_need_full_weights(self) -> "FinetuneSettings":
        if self.base_quantization != "none" and self.lora.use_dora:
            raise ValueError(
                "DoRA starts from the lengths of unquantised weights; use it with "
                "`base_quantization: none`"
            )
        return self


class TrainSettings(Settings):
    """Both stages of a run."""

    pretrain: StageSettings
    finetune: FinetuneSettings
    tracker: Literal["none", "tensorboard", "wandb"] = Field(
        "tensorboard",
        description="what a run can be watched with, below `logs/<experiment>/tracking`; changes "
        "no result. `wandb` needs its package and stays offline",
    )


class HeldOutSettings(Settings):
    """Samples that every run is asked and none is trained on; sizes are counts."""

    records: int = Field(
        0,
        ge=0,
        description="caption records left out of every arm, drawn by id from those of the "
        "reference arm; asked after stage 1 with their original and with their new caption",
    )
    instructions: int = Field(
        0,
        ge=0,
        description="instruction samples held out of stage 2, whole pictures at a time; asked "
        "after stage 2",
    )
    seed: int = Field(1024, description="seed of both draws")
    every_updates: int = Field(
        0,
        ge=0,
        description="updates between evaluations on the way, for curves; 0: at the end only. Each "
        "costs a forward pass over all held-out samples, and no memory beyond training's",
    )


class MergeSettings(Settings):
    """How the adapter becomes part of the weights."""

    dtype: Dtype = Field("bfloat16", description="type of the merged weights")
    max_shard_size: str = Field("5GB", description="largest weights file")
    parity_prompts: int = Field(4, ge=1, description="image prompts of the parity gate")
    parity_max_new_tokens: int = Field(8, ge=1, description="tokens compared a prompt")


class EvaluateSettings(Settings):
    """How answers are generated."""

    batch_size: int = Field(16, ge=1, description="questions a forward pass")
    dtype: Dtype = Field("float16", description="type of weights and activations")


class CompareSettings(Settings):
    """How arms are compared."""

    confidence: float = Field(0.95, gt=0, lt=1, description="level of the intervals")
    bootstrap_samples: int = Field(2000, ge=100, description="bootstrap resamples")
    permutation_samples: int = Field(10_000, ge=100, description="random sign flips of the p-value")
    power: float = Field(0.8, gt=0, lt=1, description="power of the minimum detectable effect")
    seed: int = Field(2024, description="seed of the resampling")


class ReportSettings(Settings):
    """What the report shows."""

    title: str = Field("mgm-recap comparison", description="heading of the page")
    gallery_size: int = Field(24, ge=0, description="records in the caption gallery")
    example_answers: int = Field(12, ge=0, description="changed answers shown")
    image_width: int = Field(160, ge=16, description="width of thumbnails in pixels")
    color_scheme: list[str] = Field(
        default=["#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860"],
        description="one colour an arm, in order",
    )
