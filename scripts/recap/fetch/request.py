"""What to fetch and where from: what a sheet's row asks for, and what a fetch job is told.

No heavy imports: the rules build requests while the workflow is parsed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from ..settings import Settings

Scheme = Literal["modelscope", "modelscope-dataset", "url", "path", "manual"]
_FORMS = (
    "modelscope:NAMESPACE/NAME@REVISION, modelscope-dataset:NAMESPACE/NAME@REVISION, "
    "https://HOST/FILE, path:FOLDER or manual:FOLDER_BELOW_DATA_ROOT"
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """One place that files can come from.

    Attributes:
        scheme: what kind of place it is.
        location: repository, address, or folder.
        revision: branch, tag or commit of a repository.
    """

    scheme: Scheme
    location: str
    revision: str = ""

    def __str__(self) -> str:
        if self.scheme == "url":
            return self.location
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.scheme}:{self.location}{revision}"


def parse_source(text: str) -> Source:
    """Read a source as it is written in a sheet.

    Raises:
        ValueError: if it has none of the known forms.
    """
    if text.startswith(("https://", "http://")):
        return Source("url", text)
    scheme, _, rest = text.partition(":")
    if scheme in ("path", "manual") and rest:
        return Source("path" if scheme == "path" else "manual", rest)
    if scheme in ("modelscope", "modelscope-dataset"):
        location, _, revision = rest.partition("@")
        if _REPOSITORY.fullmatch(location):
            kind: Scheme = "modelscope" if scheme == "modelscope" else "modelscope-dataset"
            return Source(kind, location, revision or "master")
    raise ValueError(f"`{text}` is no source; write {_FORMS}")


class Part(Settings):
    """What one row of a sheet brings in."""

    name: str = Field(description="the row's name, which its lines of the lock sheet bear")
    target: str = Field(
        "", description="where it goes: a file, a folder (ends in `/`), or empty for all of it"
    )
    sources: list[str] = Field(min_length=1, description="where to look, best first")
    files: list[str] = Field(default=[], description="patterns of the files wanted; empty for all")
    unpack: bool = Field(False, description="the file is an archive, whose content is wanted")

    @field_validator("sources")
    @classmethod
    def _known_forms(cls, sources: list[str]) -> list[str]:
        for text in sources:
            parse_source(text)
        return sources

    @property
    def is_file(self) -> bool:
        """Return whether the target is a single file; a folder's ends in ``/`` or is empty."""
        return bool(self.target) and not self.target.endswith("/")


class FetchRequest(Settings):
    """A folder to fill: a model, or a data set of one or several parts."""

    name: str = Field(description="name of the model or of the data set")
    kind: Literal["model", "data"] = Field(description="a model must hold config and weights")
    parts: list[Part] = Field(min_length=1, description="rows that make up the folder")

    def with_alternatives(self, places: Mapping[str, list[str]]) -> "FetchRequest":
        """Return the request with further sources, by part, looked at after its own."""
        parts = [
            Part(**{**part.model_dump(), "sources": [*part.sources, *places.get(part.name, [])]})
            for part in self.parts
        ]
        return FetchRequest(name=self.name, kind=self.kind, parts=parts)
