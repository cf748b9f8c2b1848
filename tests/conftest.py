"""What all tests share: a rested garbage collector, and libraries fetched to compare with."""

import gc
import subprocess
import sys
import zipfile

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Import the test modules, and what they import, as recap.startup does."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def fetch_wheels(tmp_path_factory):
    """Return a function that unpacks wheels in one new folder; it skips without an index.

    They are only tested against, never installed.
    """

    def fetch(*requirements):
        folder = tmp_path_factory.mktemp("wheels")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        wheels = list(folder.glob("*.whl"))
        if done.returncode or len(wheels) != len(requirements):
            pytest.skip(f"{requirements} cannot be had here: {done.stderr.strip()[-200:]}")
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "unpacked")
            wheel.unlink()
        return folder / "unpacked"

    return fetch
