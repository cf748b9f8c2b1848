"""Configuration: schema, sheets and the checks made before any job starts."""

from .experiment import Experiment, experiment_files, load_experiment

__all__ = ["Experiment", "experiment_files", "load_experiment"]
