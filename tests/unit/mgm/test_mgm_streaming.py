"""Writing shards holds one of them at a time, whoever writes."""

import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from recap.mgm import tensors as files
from recap.mgm.merge import merge_lora_weights
from recap.mgm.micro import write_micro_parts
from recap.mgm.upstream_convert import convert_checkpoint
from recap.mgm.upstream_trained import Conversion
from recap.settings import MergeSettings


class Alive:
    """Bytes of the tensors that were handed out and are still held by somebody."""

    def __init__(self):
        self.bytes, self.peak = 0, 0

    def watch(self, tensor):
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, size)
        return tensor

    def _forget(self, size):
        self.bytes -= size

    def source(self, elements, value):
        def load():
            return self.watch(torch.full((elements,), value))

        return files.TensorSource((elements,), torch.float32, load)


def test_one_shard_is_alive_at_a_time(tmp_path):
    alive = Alive()
    sources = {f"t{i:02d}": alive.source(250, float(i)) for i in range(40)}
    table = files.write_sharded(sources, tmp_path, "8KB")
    assert len({entry["file"] for entry in table.values()}) == 5
    assert alive.peak == 8000
    assert alive.bytes == 0
    for name, entry in table.items():
        assert bool((load_file(tmp_path / entry["file"])[name] == float(name[1:])).all())


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    from mgm_adapters import KINDS, write_adapter

    root = tmp_path_factory.mktemp("wide")
    parts = write_micro_parts(root / "parts", seed=1, hidden_size=256, layers=4)
    return parts, write_adapter(parts, root / "adapter", KINDS["LoRA"])


@pytest.mark.parametrize("tool", ["merge", "convert"])
def test_a_tool_s_own_tensors_fill_one_shard(wide, tmp_path, monkeypatch, tool):
    """What merging and casting make is released before the next shard is begun."""
    parts, adapter = wide
    settings = MergeSettings(dtype="float16", max_shard_size="2MB")
    if tool == "convert":
        merge_lora_weights(adapter, parts, tmp_path / "m", MergeSettings(dtype="float32"))
    alive, write = Alive(), files.write_sharded

    def watched(source):
        return replace(source, load=lambda: alive.watch(source.load()))

    def watching(sources, *arguments, **named):
        return write({n: watched(source) for n, source in sources.items()}, *arguments, **named)

    monkeypatch.setattr(files, "write_sharded", watching)
    if tool == "merge":
        merge_lora_weights(adapter, parts, tmp_path / "out", settings)
    else:
        what = Conversion(dtype="float16", max_shard_size="2MB")
        convert_checkpoint(tmp_path / "m", tmp_path / "out", what)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) >= 3
    assert 1e6 < alive.peak <= 2e6
    assert alive.bytes == 0
