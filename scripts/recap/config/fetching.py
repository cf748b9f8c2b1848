"""What has to be fetched for an experiment, and the requests that say how."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import TypeVar

from ..errors import RecapError
from ..fetch.request import FetchRequest, Part
from .data_paths import as_json
from .rows import BenchmarkRow, CorpusRow, DownloadRow, InstructionsRow, ModelRow, SourcedRow
from .sheets import read_sheet
from .wiring import NO_RECIPE, Wiring

MODELS = "resources/models"
DATA = "resources/data"
DataRow = CorpusRow | InstructionsRow | BenchmarkRow
AnyRow = TypeVar("AnyRow", ModelRow, DownloadRow)


def model_request(name: str, row: ModelRow) -> FetchRequest:
    """Return what a fetch job is told about a model."""
    by_hand = row.location if row.source == "manual" and row.location else f"models/{name}"
    return FetchRequest(
        name=name,
        kind="model",
        parts=[Part(name=name, sources=_sources(row, by_hand, "modelscope"), files=_wanted(row))],
    )


def data_request(folder: str, downloads: Mapping[str, DownloadRow]) -> FetchRequest:
    """Return what a fetch job is told about a data set: every row of its folder."""
    parts = [
        Part(
            name=name,
            target=row.target,
            sources=_sources(row, f"{folder}/{row.target}".rstrip("/"), "modelscope-dataset"),
            unpack=row.unpack,
            files=_wanted(row),
        )
        for name, row in downloads.items()
        if row.folder == folder
    ]
    return FetchRequest(name=folder, kind="data", parts=parts)


def requests_for(
    names: Iterable[str], models_sheet: str | Path, downloads_sheet: str | Path
) -> tuple[dict[str, FetchRequest], dict[str, FetchRequest]]:
    """Return the requests for models and for data sets of the given names.

    Raises:
        RecapError: if a name is in neither sheet, or is read in place.
    """
    models = read_sheet(models_sheet, "model", ModelRow)
    downloads = read_sheet(downloads_sheet, "download", DownloadRow)
    folders = list(dict.fromkeys(row.folder for row in downloads.values()))
    fetched = [name for name, row in models.items() if not row.in_place]
    unknown = [name for name in names if name not in (*fetched, *folders)]
    if unknown:
        raise RecapError(
            f"{', '.join(unknown)}: nothing of that name is fetched; known are the models "
            f"{', '.join(fetched)} and the data sets {', '.join(folders)}"
        )
    return (
        {name: model_request(name, models[name]) for name in names if name in fetched},
        {name: data_request(name, downloads) for name in names if name in folders},
    )


def _sources(row: ModelRow | DownloadRow, by_hand: str, repository: str) -> list[str]:
    """Return a row's sources: what was placed by hand first, for it costs nothing."""
    own = {
        "modelscope": f"{repository}:{row.location}@{row.revision or 'master'}",
        "url": row.location,
        "local": f"path:{row.location}",
    }
    sources = [f"manual:{by_hand}", own.get(row.source, ""), *row.alternatives.split()]
    return list(dict.fromkeys(filter(None, sources)))


def _own_sources(row: AnyRow) -> AnyRow:
    return row.model_copy(update={"alternatives": ""})


def _wanted(row: SourcedRow) -> list[str]:
    return [pattern.strip() for pattern in row.files.split(",") if pattern.strip()]


class FetchWiring:
    """Answers the rules' questions about what an experiment brings in."""

    def __init__(self, wiring: Wiring) -> None:
        self._experiment = wiring.experiment
        self._config = wiring.config

    # models

    def fetched_models(self) -> str:
        """Return a pattern of the models that are fetched."""
        rows = self._experiment.models
        return _pattern(name for name, row in rows.items() if not row.in_place)

    def local_models(self) -> str:
        """Return a pattern of the models that are read in place."""
        rows = self._experiment.models
        return _pattern(name for name, row in rows.items() if row.in_place)

    def model(self, name: str) -> str:
        """Return the request for a model as JSON, alternatives apart."""
        return as_json(model_request(name, _own_sources(self._experiment.models[name])))

    def model_alternatives(self, name: str) -> str:
        """Return further sources of a model as JSON; they decide nothing about its files."""
        return as_json({name: self._experiment.models[name].alternatives.split()})

    def local_lock(self, name: str) -> str:
        """Return the flag that names the lock sheet; the code's own models need none."""
        micro = self._experiment.models[name].source == "micro"
        return "" if micro else f"--lock {quote(self._config.sheets.model_locks)}"

    # data

    def benchmark_data(self) -> str:
        """Return a pattern of the data sets that are fetched for benchmarks."""
        return _pattern(self._folders(self._experiment.benchmarks.values()))

    def training_data(self) -> str:
        """Return a pattern of the data sets that are fetched for training only."""
        experiment = self._experiment
        rows: list[DataRow] = [*experiment.corpora.values(), experiment.instructions]
        others = self._folders(experiment.benchmarks.values())
        return _pattern(name for name in self._folders(rows) if name not in others)

    def data(self, folder: str) -> str:
        """Return the request for a data set as JSON, alternatives apart."""
        rows = self._experiment.downloads.items()
        return as_json(data_request(folder, {name: _own_sources(row) for name, row in rows}))

    def data_alternatives(self, folder: str) -> str:
        """Return further sources of a data set's rows as JSON; see ``model_alternatives``."""
        rows = self._experiment.downloads.items()
        return as_json({n: row.alternatives.split() for n, row in rows if row.folder == folder})

    def import_input(self, path: str) -> list[str]:
        """Return what an imported file depends on.

        That is the manifest of a fetched data set, or the file placed by hand; nothing
        where it isn't there yet, so that the job can say where to place it.
        """
        if self._is_fetched(path):
            return [f"{DATA}/{path.split('/', maxsplit=1)[0]}/manifest.json"]
        source = Path(self._config.data_root) / path
        return [str(source)] if source.is_file() else []

    def import_folder(self, path: str) -> str:
        """Return the folder that an imported file's path is relative to."""
        return DATA if self._is_fetched(path) else self._config.data_root

    def import_lock(self, path: str) -> str:
        """Return the flag that names the lock sheet; what was fetched is verified already."""
        return "" if self._is_fetched(path) else f"--lock {quote(self._config.sheets.data_locks)}"

    def brought_in(self) -> list[dict[str, str]]:
        """Return name, licence and manifest of every model and file that is from outside."""
        experiment = self._experiment
        entries = [
            {"name": name, "licence": row.licence, "manifest": f"{MODELS}/{name}/manifest.json"}
            for name, row in experiment.models.items()
            if name in experiment.models_in_use
        ]
        folders = self._folders(self._rows_in_use())
        for name, download in experiment.downloads.items():
            if download.folder in folders:
                manifest = f"{DATA}/{download.folder}/manifest.json"
                entries.append({"name": name, "licence": download.licence, "manifest": manifest})
        for row in self._rows_in_use():
            for file in _files(row) if row.source == "manual" else ():
                name = f"{row.root}/{file}"
                manifest = f"resources/imported/{name}.manifest.json"
                entries.append({"name": name, "licence": row.licence, "manifest": manifest})
        return list({entry["name"]: entry for entry in entries}.values())

    def _rows_in_use(self) -> list[DataRow]:
        experiment = self._experiment
        corpora = dict.fromkeys(arm.corpus for arm in experiment.arms.values())
        return [
            *(experiment.corpora[name] for name in corpora),
            experiment.instructions,
            *experiment.benchmarks.values(),
        ]

    def _is_fetched(self, path: str) -> bool:
        experiment = self._experiment
        rows: list[DataRow] = [
            *experiment.corpora.values(),
            *experiment.benchmarks.values(),
            experiment.instructions,
        ]
        return path.split("/", maxsplit=1)[0] in self._folders(rows)

    def _folders(self, rows: Iterable[DataRow]) -> list[str]:
        names = (row.root.split("/")[0] for row in rows if row.source == "fetched")
        return list(dict.fromkeys(names))


def _files(row: DataRow) -> list[str]:
    """Return the names of a row's files, pictures apart."""
    if isinstance(row, CorpusRow):
        return [name for name in (row.jsonl, row.original) if name]
    if isinstance(row, InstructionsRow):
        return [row.json_file]
    return [row.questions, *row.annotations.split(",")]


def _pattern(names: Iterable[str]) -> str:
    """Return a pattern that matches any of the names, and nothing if there are none."""
    return "|".join(names) or NO_RECIPE
