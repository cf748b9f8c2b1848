"""Libraries that are only tested against: fetched for the test, never installed."""

import subprocess
import sys
import zipfile

import pytest


@pytest.fixture(scope="session")
def fetch_wheels(tmp_path_factory):
    """Return a function that unpacks wheels in one new folder; it skips without an index."""

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
