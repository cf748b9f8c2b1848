"""An experiment's configuration without Snakemake, for tools that only look."""

from pathlib import Path
from typing import Any

import yaml

from .experiment import Experiment, experiment_files, load_experiment

DEFAULTS = "config/config.yaml"


def read_experiment(name: str) -> Experiment:
    """Return an experiment as its files describe it, run from the repository's root.

    What a run changed by ``--config`` on its command line is not known here.

    Raises:
        RecapError: if the experiment is unknown or invalid.
    """
    config: dict[str, Any] = {}
    for path in (DEFAULTS, *experiment_files(name)):
        _merge(config, yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {})
    config["experiment"] = name
    return load_experiment(config)


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> None:
    """Merge mappings as Snakemake merges config files: the later value wins, key by key."""
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
