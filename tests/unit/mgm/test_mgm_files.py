import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from recap.errors import RecapError
from recap.mgm import tensors as files
from recap.mgm.checkpoint import (
    build_model,
    describe_base,
    load_adapter,
    load_checkpoint,
    load_projector,
    projector_state,
    read_projector,
    save_checkpoint,
    save_projector,
)
from recap.mgm.configuration import config_from_disk, config_to_disk
from recap.mgm.digests import fingerprint
from recap.mgm.names import checkpoint_state, expected_shapes, projector_names, projector_suffix

SHARD = "500KB"


def sample():
    ids = torch.tensor([[2, 106, -200, 60, 70, 107]])
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "images_aux": images}


@pytest.fixture(scope="module")
def saved(mgm_parts, mgm_tokenizer, tmp_path_factory):
    model = build_model(mgm_parts, dtype="float32", seed=11, image_aspect_ratio="pad")
    folder = tmp_path_factory.mktemp("checkpoint") / "mgm"
    save_checkpoint(model, mgm_tokenizer, folder, dtype="float32", max_shard_size=SHARD)
    return model, folder


@pytest.fixture
def copy(saved, tmp_path):
    import shutil

    return shutil.copytree(saved[1], tmp_path / "copy")


def test_a_checkpoint_alone_brings_the_model_back(saved):
    model, folder = saved
    loaded, tokenizer = load_checkpoint(folder, dtype="float32")
    ours, theirs = checkpoint_state(model), checkpoint_state(loaded)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(loaded(**sample()).logits, model(**sample()).logits)
    assert tokenizer("a").input_ids[0] == 2
    assert loaded.config.image_aspect_ratio == "pad"


def test_shards_index_and_tied_head(saved):
    _, folder = saved
    index = json.loads((folder / files.INDEX_FILE).read_text())
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(set(index["weight_map"].values())) == shards
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    on_disk = {name: s for s in shards for name in load_file(folder / s)}
    assert on_disk == index["weight_map"]
    assert "lm_head.weight" not in on_disk
    assert set(on_disk) == set(expected_shapes(config_from_disk(folder)))
    total = sum(t.nbytes for s in shards for t in load_file(folder / s).values())
    assert index["metadata"]["total_size"] == total


def test_one_shard_still_has_an_index(saved, mgm_tokenizer, tmp_path):
    save_checkpoint(saved[0], mgm_tokenizer, tmp_path / "one", dtype="bfloat16")
    assert (tmp_path / "one" / files.INDEX_FILE).is_file()
    assert (tmp_path / "one" / "model-00001-of-00001.safetensors").is_file()
    loaded, _ = load_checkpoint(tmp_path / "one", dtype="bfloat16")
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_saving_twice_gives_the_same_bytes(saved, mgm_tokenizer, tmp_path):
    model, folder = saved
    save_checkpoint(model, mgm_tokenizer, tmp_path, dtype="float32", max_shard_size=SHARD)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_config_survives_the_disk_and_names_no_folder(saved, mgm_parts):
    _, folder = saved
    text = (folder / "config.json").read_text()
    assert str(mgm_parts.clip.parent) not in text
    assert config_to_disk(config_from_disk(folder), "float32") == json.loads(text)


def first_shard(folder):
    return sorted(folder.glob("model-*.safetensors"))[0]


def test_truncated_shard_is_refused(copy):
    shard = first_shard(copy)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(RecapError, match="not a whole safetensors file"):
        load_checkpoint(copy, dtype="float32")


def test_missing_shard_and_missing_tensor_are_refused(copy):
    shard = first_shard(copy)
    tensors = load_file(shard)
    dropped = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != dropped}, shard)
    with pytest.raises(RecapError, match="disagree: missing"):
        load_checkpoint(copy, dtype="float32")
    shard.unlink()
    with pytest.raises(RecapError, match="does not exist"):
        load_checkpoint(copy, dtype="float32")


def test_vocabulary_off_by_one_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["vocab_size"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecapError, match=r"embed_tokens.weight has shape \(358"):
        load_checkpoint(copy, dtype="float32")


def test_duplicate_of_the_tied_head_is_refused(copy):
    index = json.loads((copy / files.INDEX_FILE).read_text())
    shard = copy / index["weight_map"]["model.embed_tokens.weight"]
    tensors = load_file(shard)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * 2}, shard)
    index["weight_map"]["lm_head.weight"] = shard.name
    (copy / files.INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(RecapError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        load_checkpoint(copy, dtype="float32")


def test_a_folder_without_our_section_says_what_to_do(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["recap"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecapError, match="--clip"):
        load_checkpoint(copy, dtype="float32")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_projector_round_trip(saved, mgm_model, tmp_path, suffix):
    path = tmp_path / f"mm_projector{suffix}"
    save_projector(saved[0], path)
    on_disk = files.read_tensor_file(path)
    assert set(on_disk) == {f"model.{name}" for name in projector_names()}
    assert len(on_disk) == 16
    load_projector(mgm_model, path)
    ours, theirs = projector_state(saved[0]), projector_state(mgm_model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model.", "module.model."])
def test_projector_prefixes_do_not_matter(saved, mgm_model, tmp_path, prefix):
    state = projector_state(saved[0])
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "p.bin")
    load_projector(mgm_model, tmp_path / "p.bin")
    assert torch.equal(
        projector_state(mgm_model)["mm_projector.2.weight"], state["mm_projector.2.weight"]
    )


def test_upstream_s_big_projector_file_with_both_towers(saved, mgm_model, tmp_path):
    """Upstream writes every vision parameter: 16 tensors and the towers'."""
    vision = ("mm_projector", "vlm_uni", "vision_tower")
    state = checkpoint_state(saved[0])
    big = {name: v for name, v in state.items() if any(part in name for part in vision)}
    assert len(big) > 16
    torch.save(big, tmp_path / "mm_projector.bin")
    assert set(read_projector(tmp_path / "mm_projector.bin")) == set(projector_names())
    load_projector(mgm_model, tmp_path / "mm_projector.bin")


def test_names_of_other_modules_are_not_projector_names():
    assert projector_suffix("model.vision_tower.mm_projector.0.weight") is not None
    assert projector_suffix("model.my_mm_projector.0.weight") is None
    assert projector_suffix("model.layers.0.mlp.up_proj.weight") is None


def broken_projectors():
    def drop(state):
        del state["vlm_uni_val_projector.1.bias"]

    def poison(state):
        state["mm_projector.0.weight"][0, 0] = float("nan")

    def empty(state):
        state["mm_projector.0.weight"] = torch.empty(0)

    return [(drop, "missing"), (poison, "NaN"), (empty, "shape")]


@pytest.mark.parametrize(("break_it", "reason"), broken_projectors())
def test_broken_projectors_are_refused(saved, mgm_model, tmp_path, break_it, reason):
    state = {name: value.clone() for name, value in projector_state(saved[0]).items()}
    break_it(state)
    torch.save(state, tmp_path / "p.bin")
    with pytest.raises(RecapError, match=reason):
        load_projector(mgm_model, tmp_path / "p.bin")


class Exploit:
    def __reduce__(self):
        import os

        return (os.system, ("touch exploited",))


def test_pickles_with_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model.mm_projector.0.weight": Exploit()}, tmp_path / "p.bin")
    with pytest.raises(RecapError, match="refused"):
        read_projector(tmp_path / "p.bin")
    assert not (tmp_path / "exploited").exists()
    (tmp_path / "half.bin").write_bytes((tmp_path / "p.bin").read_bytes()[:40])
    with pytest.raises(RecapError, match="truncated"):
        read_projector(tmp_path / "half.bin")


def test_adapter_names_and_round_trip(mgm_parts, mgm_adapter, mgm_model):
    on_disk = load_file(mgm_adapter / "adapter_model.safetensors")
    assert len(on_disk) == 14 * 2
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    assert tuple(on_disk[name].shape) == (16, 512)
    others = load_file(mgm_adapter / "non_lora_trainables.safetensors")
    assert set(others) == {f"base_model.model.model.{name}" for name in projector_names()}
    config = json.loads((mgm_adapter / "adapter_config.json").read_text())
    wanted = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "bias": "none"}
    assert {key: config[key] for key in wanted} == wanted
    recorded = json.loads((mgm_adapter / "config.json").read_text())["recap"]["base"]
    assert recorded == describe_base(mgm_parts)
    before = mgm_model(**sample()).logits
    load_adapter(mgm_model, mgm_adapter)
    assert not torch.allclose(mgm_model(**sample()).logits, before)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_peft_itself_reads_our_adapter(mgm_parts, mgm_adapter, mgm_model):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(mgm_parts.language_model)
    theirs = PeftModel.from_pretrained(plain, str(mgm_adapter)).eval()
    ours = load_adapter(mgm_model, mgm_adapter).language_model
    ids = torch.tensor([[2, 60, 61, 62]])
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)


def test_upstream_s_pickled_adapter_is_read(mgm_adapter, mgm_parts, mgm_model, tmp_path):
    import shutil

    shutil.copy(mgm_adapter / "adapter_config.json", tmp_path)
    for stem in ("adapter_model", "non_lora_trainables"):
        torch.save(load_file(mgm_adapter / f"{stem}.safetensors"), tmp_path / f"{stem}.bin")
    other = build_model(mgm_parts, dtype="float32", seed=1)
    ours = load_adapter(mgm_model, tmp_path)(**sample()).logits
    assert torch.equal(ours, load_adapter(other, mgm_adapter)(**sample()).logits)


def test_sizes_are_parsed_and_shards_planned():
    assert files.parse_size("5GB") == 5_000_000_000
    assert files.parse_size("2 MiB") == 2 << 20
    with pytest.raises(RecapError, match="cannot read the size"):
        files.parse_size("much")
    sources = files.as_sources({str(i): torch.zeros(10) for i in range(5)})
    assert files.plan_shards(sources, 80) == [["0", "1"], ["2", "3"], ["4"]]
    assert files.plan_shards(sources, 1) == [["0"], ["1"], ["2"], ["3"], ["4"]]


def test_fingerprints_see_names_types_shapes_and_bytes():
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    variants = [
        base,
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].bfloat16(), "b": base["b"]},
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"] + torch.eye(6)[5], "b": base["b"]},
    ]
    found = [fingerprint(files.as_sources(tensors)) for tensors in variants]
    assert len(set(found)) == len(found)
    assert fingerprint(files.as_sources(dict(reversed(base.items())))) == found[0]
