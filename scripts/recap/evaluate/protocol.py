"""The protocol of a benchmark row: what is asked, how, and for how many tokens.

Light on purpose: the workflow validates its benchmark rows with this module.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ..settings import Settings

Control = Literal["none", "blank_image", "shuffled_images"]
CONTROLS: tuple[Control, ...] = ("none", "blank_image", "shuffled_images")
MAJORITY = "text_only_majority"
"""A control that no model answers: the most frequent answer of the instruction data."""


def available_kinds() -> list[str]:
    """Return the kinds of benchmark this code knows: the folders in ``benchmarks/``."""
    root = Path(__file__).parent / "benchmarks"
    return sorted(path.parent.name for path in root.glob("*/__init__.py"))


class BenchmarkProtocol(Settings):
    """How the questions of one benchmark row are put to the model.

    OCR and no-OCR accuracies are different benchmarks, so the choice is part of
    the row, and the whole protocol is printed beside every score.
    """

    kind: str = Field(description="folder in recap/evaluate/benchmarks, for instance textvqa")
    ocr: bool = Field(False, description="keep the OCR tokens of the question file in the prompt")
    max_new_tokens: int = Field(128, ge=1, description="longest answer in tokens")
    instruction: str | None = Field(
        None, description="replaces the benchmark's own instruction line; none keeps it"
    )
    image_aspect_ratio: Literal["square", "pad"] = Field(
        "pad", description="`pad` keeps the whole image (as in stage 2), `square` crops it"
    )

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        kinds = available_kinds()
        if value not in kinds:
            raise ValueError(f"unknown kind {value!r}; known are {', '.join(kinds)}")
        return value

    @field_validator("instruction")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and ("\n" in value or not value.strip()):
            raise ValueError("the instruction must be one non-empty line")
        return value
