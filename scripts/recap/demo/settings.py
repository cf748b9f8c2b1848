"""Settings of the demo world and of the micro models; no heavy imports."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..settings import Settings

MICRO_MODELS = ("gemma-micro", "clip-micro", "convnext-micro", "blip2-micro", "watermark-micro")


class CorruptionRates(Settings):
    """Share of raw captions that are bad in each way; the rest are true."""

    off_topic: float = Field(0.2, ge=0, le=1, description="the caption of another picture")
    truncation: float = Field(0.1, ge=0, le=1, description="cut off, often inside a word")
    keyword_spam: float = Field(0.1, ge=0, le=1, description="a heap of search keywords")
    word_repetition: float = Field(0.1, ge=0, le=1, description="words said over and over")
    brand_soup: float = Field(0.1, ge=0, le=1, description="brand names and model numbers")
    non_english: float = Field(
        0.1, ge=0, le=1, description="true, but in French, German, Spanish or pinyin"
    )

    @model_validator(mode="after")
    def _check_sum(self) -> "CorruptionRates":
        _check_shares("corruption", list(self.model_dump().values()))
        return self


class ImageRates(Settings):
    """Share of the corpus's pictures with each flaw; broken ones are bad lines."""

    tiny: float = Field(0.02, ge=0, le=1, description="under 224 pixels")
    duplicate: float = Field(0.02, ge=0, le=1, description="an earlier picture, byte for byte")
    near_duplicate: float = Field(
        0.02, ge=0, le=1, description="an earlier picture, cropped, relit and encoded again"
    )
    watermark: float = Field(
        0.05, ge=0, le=1, description="overlaid with text or a logo, whatever else is wrong"
    )

    @model_validator(mode="after")
    def _check_sum(self) -> "ImageRates":
        _check_shares("tiny and duplicate", [self.tiny, self.duplicate, self.near_duplicate])
        return self


def _check_shares(what: str, shares: list[float]) -> None:
    total = sum(shares)
    if total > 1 + 1e-9:
        raise ValueError(f"the {what} rates sum to {total:.3f}; keep the sum at or below 1")


def _zeros(model: type[Settings]) -> dict[str, float]:
    return dict.fromkeys(model.model_fields, 0.0)


def _read_corruption(value: Any) -> Any:
    return _zeros(CorruptionRates) if value == "none" else value


class WorldSettings(Settings):
    """The demo corpus, its instruction data and its benchmark."""

    seed: int = Field(2024, ge=0, description="everything drawn follows from it")
    records: int = Field(800, ge=2, description="records of the corpus that are fit to enter")
    bad_lines: int = Field(1, ge=0, description="corpus lines of each unfit kind")
    corruption: Annotated[
        CorruptionRates,
        BeforeValidator(_read_corruption, json_schema_input_type=CorruptionRates | Literal["none"]),
    ] = Field(
        CorruptionRates(),
        description="or `none`: all captions true, no picture flawed unless `images` says so",
    )
    images: ImageRates = ImageRates()
    sft_samples: int = Field(240, ge=0, description="instruction samples")
    sft_text_only_share: float = Field(
        0.1, ge=0, le=1, description="share of instruction samples without an image"
    )
    sft_ocr_share: float = Field(
        0.5, ge=0, le=1, description="share of instruction samples that list OCR tokens"
    )
    questions: int = Field(240, ge=0, description="benchmark questions")
    questions_no_ocr_share: float = Field(
        0.06, ge=0, le=1, description="share of benchmark images with an empty OCR token list"
    )
    mmbench_questions: int = Field(
        30, ge=0, description="multiple-choice questions, before the rotations of their options"
    )
    pope_images: int = Field(20, ge=0, description="pictures with six yes/no questions each")
    image_min_side: int = Field(224, ge=64, description="shortest image side in pixels")
    image_max_side: int = Field(448, ge=64, le=1024, description="longest image side in pixels")

    @model_validator(mode="before")
    @classmethod
    def _clean_pictures(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("corruption") == "none":
            return {"images": _zeros(ImageRates), **values}
        return values

    @model_validator(mode="after")
    def _check_sizes(self) -> "WorldSettings":
        if self.image_max_side < self.image_min_side:
            raise ValueError("image_max_side must not be below image_min_side")
        return self


class LanguageSettings(Settings):
    """The Gemma-shaped language model, trained on text of the world."""

    vocabulary: int = Field(1536, ge=600, description="size of the tokenizer's vocabulary")
    hidden_size: int = Field(128, ge=8, description="width")
    layers: int = Field(4, ge=1, description="decoder layers")
    heads: int = Field(4, ge=1, description="query heads; one key-value head")
    head_dim: int = Field(32, ge=2, description="width of a head")
    intermediate_size: int = Field(512, ge=8, description="width of the feed-forward layers")
    tile_grid: int = Field(8, ge=2, description="tiles a side in the texts that begin with tiles")
    texts: int = Field(240_000, ge=2, description="texts written to learn from")
    steps: int = Field(4600, ge=0, description="optimizer updates")
    batch_size: int = Field(128, ge=1, description="texts an update")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak learning rate")
    held_out: int = Field(1000, ge=0, description="fresh texts the result is measured on")


class PictureLessons(Settings):
    """How a model is trained on drawn pictures."""

    pictures: int = Field(60_000, ge=1, description="pictures drawn to learn from")
    steps: int = Field(2000, ge=0, description="optimizer updates")
    batch_size: int = Field(64, ge=1, description="pictures an update")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    held_out: int = Field(1000, ge=0, description="fresh pictures the result is measured on")


class CaptionerSettings(PictureLessons):
    """The BLIP2-shaped captioner, trained on pictures of the world."""

    image_size: int = Field(80, ge=16, description="side of the square input in pixels")
    patch_size: int = Field(8, ge=2, description="side of a patch in pixels")
    vision_width: int = Field(96, ge=8, description="width of the image encoder")
    vision_layers: int = Field(4, ge=1, description="layers of the image encoder")
    qformer_width: int = Field(96, ge=8, description="width of the Q-Former")
    qformer_layers: int = Field(2, ge=1, description="layers of the Q-Former")
    query_tokens: int = Field(8, ge=6, description="query tokens of the Q-Former")
    text_width: int = Field(96, ge=8, description="width of the OPT decoder")
    text_layers: int = Field(2, ge=1, description="layers of the OPT decoder")
    heads: int = Field(4, ge=1, description="attention heads everywhere")
    steps: int = Field(6000, ge=0, description="optimizer updates")
    look_share: float = Field(
        0.4, ge=0, le=1, description="share of the updates that come before the first caption"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")


class ClipSettings(PictureLessons):
    """The CLIP, both of its halves."""

    view_size: int = Field(
        128, ge=32, description="side of the picture that CLIP's input is derived from, as in MGM"
    )
    image_size: int = Field(64, ge=16, description="side of CLIP's input in pixels")
    patch_size: int = Field(8, ge=2, description="side of a patch in pixels")
    width: int = Field(96, ge=8, description="width of the image encoder")
    layers: int = Field(5, ge=2, description="layers of the image encoder")
    heads: int = Field(4, ge=1, description="attention heads")
    text_width: int = Field(64, ge=8, description="width of the text encoder")
    text_layers: int = Field(2, ge=1, description="layers of the text encoder")
    vocabulary: int = Field(640, ge=300, description="size of the tokenizer's vocabulary")
    batch_size: int = Field(128, ge=2, description="pictures an update, contrasted with each other")


class ConvNextSettings(PictureLessons):
    """The ConvNeXt tower."""

    image_size: int = Field(128, ge=32, description="side of the input in pixels")
    dims: tuple[int, int, int, int] = Field(
        (16, 32, 64, 128), description="channels of the four stages"
    )
    depths: tuple[int, int, int, int] = Field((1, 1, 2, 1), description="blocks of the four stages")
    grid: int = Field(8, ge=2, description="patches a side that are named while it learns")
    steps: int = Field(4000, ge=0, description="optimizer updates")
    batch_size: int = Field(256, ge=1, description="pictures an update")


class WatermarkSettings(PictureLessons):
    """The ViT that tells marked pictures from clean ones."""

    image_size: int = Field(128, ge=16, description="side of the input in pixels")
    patch_size: int = Field(8, ge=2, description="side of a patch in pixels")
    width: int = Field(64, ge=8, description="width")
    layers: int = Field(3, ge=1, description="layers")
    heads: int = Field(4, ge=1, description="attention heads")
    pictures: int = Field(40_000, ge=1, description="pictures drawn to learn from")
    steps: int = Field(1200, ge=0, description="optimizer updates")


class MicroSettings(Settings):
    """All micro models; each build reads its own section."""

    language: LanguageSettings = LanguageSettings()
    captioner: CaptionerSettings = CaptionerSettings()
    clip: ClipSettings = ClipSettings()
    convnext: ConvNextSettings = ConvNextSettings()
    watermark: WatermarkSettings = WatermarkSettings()
