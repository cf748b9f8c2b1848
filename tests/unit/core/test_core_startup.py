"""Libraries imported with the garbage collector at rest."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recap.startup import load_libraries

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


@pytest.fixture
def crowded(tmp_path, monkeypatch):
    """A module that makes far more objects than the collector lets pass."""
    (tmp_path / "crowded.py").write_text("ROWS = [[i] for i in range(50_000)]\n")
    (tmp_path / "broken.py").write_text("ROWS = [[i] for i in range(50_000)]\nraise OSError\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "crowded"
    sys.modules.pop("crowded", None)


def test_no_collection_while_importing_and_as_before_afterwards(crowded):
    before = collections()
    load_libraries(crowded)
    assert collections() - before <= 1, "at most the one that the call itself fell into"
    assert len(sys.modules[crowded].ROWS) == 50_000
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    load_libraries(crowded)
    assert gc.get_freeze_count() == frozen, "nothing to do the second time"
    with pytest.raises(OSError):
        load_libraries("broken")
    assert gc.isenabled()
    gc.disable()
    try:
        sys.modules.pop(crowded)
        load_libraries(crowded)
        assert not gc.isenabled(), "who switched it off decides"
    finally:
        gc.enable()


def test_help_imports_no_large_library():
    """The line that reads a command comes before them, so a mistake is answered at once."""
    program = "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
    program += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    program += "finally: sys.stderr.write(str({'torch', 'transformers'} & set(sys.modules)))\n"
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    for name in ("train_stage", "predict_shard", "caption_shard", "check_parity"):
        command = [sys.executable, "-c", program, str(SCRIPTS / f"{name}.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == "set()", name
