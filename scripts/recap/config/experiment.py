"""A validated experiment: configuration, sheets and what follows from both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import RecapError
from ..settings import explain
from ..shards import shard_count
from .names import DOTTED, LABEL
from .presets import with_preset
from .rows import (
    ArmRow,
    BaseModelRow,
    BenchmarkRow,
    CorpusRow,
    DownloadRow,
    FinetunePresetRow,
    InstructionsRow,
    ModelRow,
    PositiveControlRow,
)
from .schema import ExperimentConfig
from .sheets import read_sheet

EXPERIMENT_FOLDERS = ("config/experiments", "config/local")
RECIPE_FOLDER = "config/recipes"


@dataclass(frozen=True)
class Experiment:
    """The configuration with every name resolved to its row.

    ``rows`` are the arms as the sheet has them; in ``arms`` the experiment's
    values and, for an arm that repeats another, its recipe are filled in.
    """

    config: ExperimentConfig
    arms: dict[str, ArmRow]
    rows: dict[str, ArmRow]
    corpora: dict[str, CorpusRow]
    instructions: InstructionsRow
    models: dict[str, ModelRow]
    base_model: BaseModelRow
    benchmarks: dict[str, BenchmarkRow]
    downloads: dict[str, DownloadRow]
    positive_controls: dict[str, PositiveControlRow]

    def shard_count(self, corpus: str) -> int:
        """Return the number of curation shards of a corpus, from its declared records."""
        return shard_count(self.corpora[corpus].records, self.config.curate.shard_size)

    def model_dir(self, model: str) -> str:
        """Return the folder of a model's files."""
        row = self.models[model]
        return row.location if row.in_place else f"resources/models/{model}"

    def recipe_path(self, recipe: str) -> str:
        """Return the file of a recipe."""
        return f"{RECIPE_FOLDER}/{recipe}.yaml"

    def operator_overrides(self) -> dict[str, dict[str, str]]:
        """Return operator parameters that name the folders of local models."""
        return {
            operator: {name: self.model_dir(model) for name, model in parameters.items()}
            for operator, parameters in self.config.operator_models.items()
        }

    @property
    def scores_similarity(self) -> bool:
        """Tell whether a similarity model is used: for every arm that recaptions it is."""
        return any(arm.caption_policy != "keep" for arm in self.arms.values())

    @property
    def models_in_use(self) -> list[str]:
        """Return every model that some stage reads."""
        used = [self.base_model.language_model, self.base_model.clip, self.base_model.convnext]
        used += [arm.captioner for arm in self.arms.values() if arm.captioner]
        if self.scores_similarity:
            used.append(self.config.similarity.model)
        used += [m for names in self.config.operator_models.values() for m in names.values()]
        return sorted(set(used))

    @property
    def stand_ins(self) -> list[str]:
        """Return the models in use that only stand in for real ones."""
        return [model for model in self.models_in_use if self.models[model].source == "micro"]


def experiment_files(name: str, root: str | Path = ".") -> list[str]:
    """Return the files of an experiment, the one it extends first.

    Raises:
        RecapError: if the experiment is unknown or extends itself.
    """
    files: list[str] = []
    while name:
        paths = [f"{folder}/{name}.yaml" for folder in EXPERIMENT_FOLDERS]
        path = next((p for p in paths if (Path(root) / p).is_file()), None)
        if path is None:
            known = sorted(
                p.stem
                for folder in EXPERIMENT_FOLDERS
                for p in (Path(root) / folder).glob("*.yaml")
            )
            raise RecapError(
                f"`experiment`: there is no {' or '.join(paths)}; known: {', '.join(known)}"
            )
        if path in files:
            raise RecapError(f"{path}: `extends` leads back to itself")
        files.insert(0, path)
        name = _read_settings(Path(root) / path).get("extends", "")
    return files


def _read_settings(path: Path) -> dict[str, Any]:
    """Return what a YAML file of settings holds."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or error
        raise RecapError(f"{where}: this is no YAML: {problem}; correct the file") from error
    if node is None or content is None:
        return {}
    if not isinstance(content, dict):
        raise RecapError(
            f"{path}, line {node.start_mark.line + 1}: expected settings as `key: value`, found a "
            f"{type(content).__name__}; correct the file"
        )
    return content


def experiment_from_files(name: str, root: str | Path = ".") -> Experiment:
    """Return an experiment as Snakemake would load it without further settings.

    Raises:
        RecapError: with the key path and the fix, at the first problem.
    """
    raw: dict[str, Any] = {}
    for path in ("config/config.yaml", *experiment_files(name, root)):
        _merge(raw, _read_settings(Path(root) / path))
    return load_experiment(raw | {"experiment": name})


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> None:
    """Put settings over others, mappings key by key, as Snakemake does."""
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def load_experiment(raw: dict[str, Any]) -> Experiment:
    """Validate a merged configuration and resolve the rows it names.

    Raises:
        RecapError: with the key path and the fix, at the first problem.
    """
    from .checks import check_experiment

    try:
        config = ExperimentConfig.model_validate(raw)
    except ValidationError as error:
        raise RecapError(f"configuration: {explain(error)}") from error
    presets = read_sheet(config.sheets.finetune_presets, "preset", FinetunePresetRow)
    config = with_preset(config, presets)
    arms = read_sheet(config.sheets.arms, "arm", ArmRow, LABEL)
    models = read_sheet(config.sheets.models, "model", ModelRow, DOTTED)
    base_models = read_sheet(config.sheets.base_models, "base_model", BaseModelRow)
    instructions = read_sheet(config.sheets.instructions, "instructions", InstructionsRow)
    benchmarks = read_sheet(config.sheets.benchmarks, "benchmark", BenchmarkRow, LABEL)
    downloads = read_sheet(config.sheets.downloads, "download", DownloadRow, DOTTED)
    published = (
        read_sheet(config.sheets.positive_controls, "positive_control", PositiveControlRow)
        if config.positive_controls
        else {}
    )
    corpora = read_sheet(config.sheets.corpora, "corpus", CorpusRow, LABEL) | config.corpora
    used_arms = config.arms + config.funnel_arms
    rows = {a: _pick(arms, a, "arms", config.sheets.arms) for a in used_arms}
    experiment = Experiment(
        config=config,
        arms={name: _fill(_recipe_of(row, rows), config) for name, row in rows.items()},
        rows=rows,
        corpora=corpora,
        instructions=_pick(
            instructions, config.instructions, "instructions", config.sheets.instructions
        ),
        models=models,
        base_model=_pick(base_models, config.base_model, "base_model", config.sheets.base_models),
        benchmarks={
            b: _pick(benchmarks, b, "benchmarks", config.sheets.benchmarks)
            for b in dict.fromkeys(config.benchmarks + config.submissions)
        },
        downloads=downloads,
        positive_controls={
            name: _pick(published, name, "positive_controls", config.sheets.positive_controls)
            for name in config.positive_controls
        },
    )
    check_experiment(experiment)
    return experiment


def _pick(rows: dict[str, Any], name: str, key: str, sheet: str) -> Any:
    if name not in rows:
        raise RecapError(
            f"configuration: `{key}`: `{name}` is not a row of {sheet}; known: {', '.join(rows)}"
        )
    return rows[name]


def _recipe_of(arm: ArmRow, rows: dict[str, ArmRow]) -> ArmRow:
    """Return an arm with the recipe of the arm it repeats, if it repeats one."""
    other = rows.get(arm.identical_to)
    if other is None:
        return arm
    own = {name: getattr(arm, name) for name in ("identical_to", "seed_offset", "description")}
    return other.model_copy(update=own)


def _fill(arm: ArmRow, config: ExperimentConfig) -> ArmRow:
    """Give an arm the experiment's corpus and, where it recaptions, its captioner."""
    captioner = arm.captioner
    if arm.caption_policy != "keep" and not captioner:
        captioner = config.captioner
    return arm.model_copy(update={"corpus": arm.corpus or config.corpus, "captioner": captioner})
