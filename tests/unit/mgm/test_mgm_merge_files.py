"""What a merge does to folders and memory: killed, redone, streamed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mgm_adapters import KINDS, parts_flags, write_adapter

from recap.errors import RecapError
from recap.mgm.folders import replaced_folder
from recap.mgm.merge import merge_lora_weights
from recap.mgm.micro import write_micro_parts
from recap.mgm.tensors import open_model_folder
from recap.mgm.upstream_convert import convert_checkpoint
from recap.mgm.upstream_trained import Conversion
from recap.settings import MergeSettings

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
SETTINGS = MergeSettings(max_shard_size="500KB")

KILLED_AT_THE_THIRD_SHARD = """
import os, signal, sys
import merge_lora_weights
from recap.cli import run_cli
from recap.mgm import tensors

write, calls = tensors.write_safetensors, []

def dying(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments)

tensors.write_safetensors = dying
run_cli(merge_lora_weights.main, merge_lora_weights.parser(), sys.argv[1:])
"""

PEAK_OF_A_MERGE = """
import sys, threading, time
import merge_lora_weights
from recap.cli import run_cli

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))

def watch():
    while not done.is_set():
        seen.append(anonymous())
        time.sleep(0.001)

small, large = (sys.argv[1:][i::2] for i in (0, 1))
run_cli(merge_lora_weights.main, merge_lora_weights.parser(), small)
done, seen = threading.Event(), [anonymous()]
watcher = threading.Thread(target=watch)
watcher.start()
run_cli(merge_lora_weights.main, merge_lora_weights.parser(), large)
done.set()
watcher.join()
print(max(seen) - seen[0])
"""


def arguments(adapter, parts, out, settings=SETTINGS):
    flags = ["--lora-path", adapter, *parts_flags(parts), "--output-path", out]
    return [str(flag) for flag in (*flags, "--settings", settings.model_dump_json())]


def python(code, *argv):
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS), "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def interrupt(*_arguments, **_named):
    raise KeyboardInterrupt


def test_a_killed_merge_leaves_nothing_that_looks_whole(mgm_parts, mgm_adapter, tmp_path):
    out = tmp_path / "merged"
    killed = python(KILLED_AT_THE_THIRD_SHARD, *arguments(mgm_adapter, mgm_parts, out))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".merged.partial"]
    merge_lora_weights(mgm_adapter, mgm_parts, out, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = {path.name for path in out.glob("*.safetensors")}
    assert set(index["weight_map"].values()) == shards
    assert len(shards) > 3


def test_an_interrupted_second_merge_keeps_the_first(mgm_parts, mgm_adapter, tmp_path, monkeypatch):
    out = tmp_path / "merged"
    merge_lora_weights(mgm_adapter, mgm_parts, out, SETTINGS)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("recap.mgm.merge.write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        merge_lora_weights(mgm_adapter, mgm_parts, out, SETTINGS)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_merge_leaves_nothing(mgm_parts, mgm_adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("recap.mgm.merge.write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        merge_lora_weights(mgm_adapter, mgm_parts, tmp_path / "merged", SETTINGS)
    assert listed(tmp_path) == []


def test_a_report_that_cannot_be_written_keeps_the_first_merge(mgm_parts, mgm_adapter, tmp_path):
    out = tmp_path / "merged"
    merge_lora_weights(mgm_adapter, mgm_parts, out, SETTINGS)
    (out / "mine.txt").write_text("of the first merge")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        merge_lora_weights(
            mgm_adapter, mgm_parts, out, SETTINGS, report=tmp_path / "file" / "report.json"
        )
    assert (out / "mine.txt").is_file()
    assert listed(tmp_path) == ["file", "merged"]


def test_a_report_may_lie_in_the_merge(mgm_parts, mgm_adapter, tmp_path):
    out = tmp_path / "merged"
    for _ in range(2):
        report = merge_lora_weights(
            mgm_adapter, mgm_parts, out, SETTINGS, report=out / "reports" / "merge.json"
        )
        assert json.loads((out / "reports" / "merge.json").read_text()) == report
    assert listed(tmp_path) == ["merged"]


def fill(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(text)


def replace_with(place, text):
    with replaced_folder(place) as partial:
        fill(partial, text)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    place = tmp_path / "place"
    for text in ("one", "two"):
        replace_with(place, text)
        assert (place / "a.txt").read_text() == text
        assert listed(tmp_path) == ["place"]


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    place, rename = tmp_path / "place", Path.rename
    replace_with(place, "one")

    def failing(self, target):
        if self.name.endswith(".partial"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"):
        replace_with(place, "two")
    assert (place / "a.txt").read_text() == "one"
    assert listed(tmp_path) == ["place"]


def test_an_interrupt_between_the_renames_puts_the_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "m"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def interrupted(self, place):
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replaced_folder(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (target / "old").is_file()


def test_the_old_folder_is_found_again_after_a_kill(tmp_path):
    """Killed between the two renames: the new folder is lost, not the old one."""
    place = tmp_path / "place"
    fill(tmp_path / ".place.replaced", "one")
    fill(tmp_path / ".place.partial", "half of two")
    with pytest.raises(KeyboardInterrupt), replaced_folder(place) as partial:
        assert listed(partial) == []
        interrupt()
    assert (place / "a.txt").read_text() == "one"
    assert listed(tmp_path) == ["place"]
    fill(tmp_path / ".place.replaced", "zero")  # killed before it was deleted
    replace_with(place, "two")
    assert (place / "a.txt").read_text() == "two"
    assert listed(tmp_path) == ["place"]


@pytest.mark.parametrize("name", [".", "..", "../here"])
def test_the_current_folder_is_not_replaced(mgm_parts, mgm_adapter, tmp_path, monkeypatch, name):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(RecapError, match=r"holds the current folder.*start from another one"):
        merge_lora_weights(mgm_adapter, mgm_parts, name, SETTINGS)
    with pytest.raises(RecapError, match="holds the current folder"):
        convert_checkpoint(mgm_adapter, name, Conversion())
    merge_lora_weights(mgm_adapter, mgm_parts, "merged", SETTINGS)
    assert listed(here) == ["merged"]


def test_links_are_not_followed_into_other_folders(mgm_parts, mgm_adapter, tmp_path):
    earlier = tmp_path / "earlier"
    merge_lora_weights(mgm_adapter, mgm_parts, earlier, SETTINGS)
    for name, target in (("a", mgm_adapter), ("b", mgm_parts.language_model), ("c", earlier)):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(RecapError, match="symbolic link; choose a folder of its own"):
            merge_lora_weights(mgm_adapter, mgm_parts, tmp_path / name, SETTINGS)
    (tmp_path / "parent").symlink_to(mgm_adapter.parent)
    inside = tmp_path / "parent" / mgm_adapter.name
    with pytest.raises(RecapError, match="is, holds or lies in"):
        merge_lora_weights(mgm_adapter, mgm_parts, inside, SETTINGS)


def test_a_merge_holds_one_shard_and_one_layer(mgm_parts, mgm_adapter, tmp_path):
    parts = write_micro_parts(tmp_path / "wide", seed=1, hidden_size=512, layers=8)
    adapter = write_adapter(parts, tmp_path / "adapter", KINDS["DoRA"])
    settings = MergeSettings(max_shard_size="10MB")
    small = arguments(mgm_adapter, mgm_parts, tmp_path / "small", settings)
    large = arguments(adapter, parts, tmp_path / "large", settings)
    pairs = [flag for pair in zip(small, large, strict=True) for flag in pair]
    finished = python(PEAK_OF_A_MERGE, *pairs)
    assert finished.returncode == 0, finished.stderr
    peak = int(finished.stdout.split()[-1])
    base = open_model_folder(parts.language_model)
    layer = max(s.nbytes for name, s in base.items() if name.startswith("model.layers.0."))
    total = sum(source.nbytes for source in base.values())
    shard = max(path.stat().st_size for path in (tmp_path / "large").glob("*.safetensors"))
    assert 8e6 < shard < 10.1e6
    assert total > 4 * (shard + layer)
    assert peak <= shard + layer + 6e6, (peak, shard, layer)  # blocks of rows in float64


def test_the_log_lists_the_largest_change_first(mgm_parts, mgm_adapter, tmp_path, caplog):
    caplog.set_level("INFO")
    report = merge_lora_weights(mgm_adapter, mgm_parts, tmp_path / "m", SETTINGS)
    wanted = sorted(report["modules"], key=lambda row: -row["relative_change"])
    logged = [r.getMessage().split()[0] for r in caplog.records if " of its norm" in r.getMessage()]
    assert logged == [row["module"] for row in wanted]
