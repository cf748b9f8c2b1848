"""A SLURM for the length of the tests, and a micro model with something to train on."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import CannotStartError, Cluster, install

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """The running cluster; without root or Debian the tests that need it are skipped."""
    try:
        install()
        cluster = Cluster()
    except CannotStartError as error:
        pytest.skip(str(error))
    try:
        cluster.start()
    except CannotStartError as error:
        cluster.stop()
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory):
    """The unit tests' micro model and its training sets."""
    path = ROOT / "tests/unit/train/conftest.py"
    spec = importlib.util.spec_from_file_location("train_world", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module.World(tmp_path_factory.mktemp("train_world"))
