"""Typed settings of every stage: one source for defaults, schema and documentation.

The configuration is validated against these models when the workflow is
parsed; each stage's command line rebuilds its model from the JSON that its
rule passes. Descriptions and defaults end up in the configuration reference.
"""

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

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


# Above twice `PIL.Image.MAX_IMAGE_PIXELS` Pillow takes a file for a decompression bomb.
MOST_IMAGE_PIXELS = 178_956_970


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
        67_108_864,
        ge=1,
        le=MOST_IMAGE_PIXELS,
        description="largest image in pixels, read from its header; above 178,956,970 Pillow, and "
        "with it every later reader, refuses an image",
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


class HeldOutSettings(Settings):
    """Samples that every run is asked and none is trained on; sizes are counts."""

    records: int = Field(
        0,
        ge=0,
        description="caption records left out of every arm, drawn by id from those of the "
        "reference arm; asked after stage 1 with their original caption and with that of each "
        "captioner that an arm uses",
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

    batch_size: int | Literal["auto"] = Field(
        "auto",
        description="questions answered together; `auto`: the largest of up to 64 that is "
        "estimated to fit `memory_gib`",
    )
    memory_gib: float = Field(
        22.0, gt=0, description="GPU memory in GiB that an automatic batch size may fill"
    )
    dtype: Dtype = Field("float16", description="type of weights and activations")
    compile_blocks: bool | Literal["auto"] = Field(
        "auto",
        description="compile the towers and what reads prompts by `torch.compile`; `auto`: on a "
        "GPU, where a shard has questions enough to make up for the time that takes",
    )

    @field_validator("batch_size")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or `auto`")
        return value


class OcrSettings(Settings):
    """Which words of a picture become OCR tokens, where the question file has none."""

    min_confidence: float = Field(
        0.5, ge=0, le=1, description="lowest confidence of a line of text that counts"
    )
    max_words: int = Field(
        95, ge=1, description="most words a picture; TextVQA's own file has up to 95"
    )


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
