"""One row of each sheet: corpora, models, data sets, benchmarks, arms."""

from typing import Literal

from pydantic import Field, field_validator

from ..fetch.request import parse_source
from ..settings import Settings
from .names import require_name

NAME = r"^[a-z0-9][a-z0-9_]*$"
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
    ocr_source: Literal["file", "rapidocr"] = Field(
        "file",
        description="where OCR tokens are from: the question `file`, or `rapidocr`, which reads "
        "the pictures of questions that have none",
    )
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

    @field_validator("pre_recipe", "post_recipe")
    @classmethod
    def _names_a_recipe(cls, name: str) -> str:
        if name == "none":
            raise ValueError("`none` is no recipe; leave the cell empty")
        return require_name(name) if name else name
