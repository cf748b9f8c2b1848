"""Broken files: each refused by name, with what is wrong and what to do."""

import json
import os
import shutil

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
    save_checkpoint,
)
from recap.mgm.merge import merge_lora_weights
from recap.mgm.micro import write_micro_parts
from recap.mgm.provenance import (
    recorded_base,
    require_base,
    tensor_table,
    verify_checkpoint,
)
from recap.mgm.upstream_convert import convert_checkpoint
from recap.mgm.upstream_trained import Conversion
from recap.settings import MergeSettings

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def whole(mgm_adapter, mgm_parts, tmp_path_factory):
    """A merged checkpoint of several shards, with its manifest."""
    folder = tmp_path_factory.mktemp("faults") / "merged"
    settings = MergeSettings(dtype="float32", max_shard_size="500KB")
    merge_lora_weights(mgm_adapter, mgm_parts, folder, settings)
    return folder


@pytest.fixture
def checkpoint(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "merged")


def index_of(folder):
    return json.loads((folder / files.INDEX_FILE).read_text())


def shard_of(folder, name):
    return folder / index_of(folder)["weight_map"][name]


def edit(path, change):
    """Change a file's tensors, whatever its format."""
    if path.suffix == ".bin":
        tensors = torch.load(path, weights_only=True)
        change(tensors)
        torch.save(tensors, path)
        return
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def poison(name):
    def change(tensors):
        tensors[name].view(-1)[3] = float("nan")

    return change


def refused(folder, *words):
    """The loader and the converter both refuse, and say all of this."""
    messages = []
    with pytest.raises(RecapError) as caught:
        load_checkpoint(folder, dtype="float32")
    messages.append(str(caught.value))
    target = folder.with_name("converted")
    with pytest.raises(RecapError) as caught:
        convert_checkpoint(folder, target, Conversion())
    messages.append(str(caught.value))
    assert not list(folder.parent.glob("*converted*"))
    for message in messages:
        for word in words:
            assert word in message, message


def test_a_truncated_shard(checkpoint):
    shard = shard_of(checkpoint, EMBEDDING)
    truncate(shard)
    refused(checkpoint, str(shard), "not a whole safetensors file", "copy it again")


def test_a_missing_shard(checkpoint):
    shard = shard_of(checkpoint, EMBEDDING)
    lost = sorted(n for n, s in index_of(checkpoint)["weight_map"].items() if s == shard.name)
    shard.unlink()
    refused(checkpoint, str(shard), lost[0], f"{len(lost)} tensors", "copy the missing shard")


def test_an_index_that_names_a_tensor_its_shard_lacks(checkpoint):
    shard = shard_of(checkpoint, EMBEDDING)
    edit(shard, lambda tensors: tensors.pop(EMBEDDING))
    refused(checkpoint, files.INDEX_FILE, shard.name, f"missing ['{EMBEDDING}']", "different saves")


def test_an_index_that_places_a_tensor_in_the_wrong_shard(checkpoint):
    index = index_of(checkpoint)
    other = next(s for s in index["weight_map"].values() if s != index["weight_map"][EMBEDDING])
    index["weight_map"][EMBEDDING] = other
    (checkpoint / files.INDEX_FILE).write_text(json.dumps(index))
    refused(checkpoint, "disagree", EMBEDDING)


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/passwd", 3])
def test_an_index_that_leaves_its_folder(checkpoint, place):
    index = index_of(checkpoint)
    index["weight_map"][EMBEDDING] = place
    (checkpoint / files.INDEX_FILE).write_text(json.dumps(index))
    refused(checkpoint, EMBEDDING, "not a file beside it")


def test_an_index_without_a_map(checkpoint):
    (checkpoint / files.INDEX_FILE).write_text('{"metadata": {}}')
    refused(checkpoint, files.INDEX_FILE, "no weight_map")


def test_an_empty_tensor(checkpoint):
    name = "model.layers.0.mlp.up_proj.weight"
    edit(shard_of(checkpoint, name), lambda t: t.update({name: torch.empty(0)}))
    refused(checkpoint, name, "no elements", "ZeRO-3", "gather")


def test_nan_in_one_tensor(checkpoint):
    name = "model.layers.1.self_attn.k_proj.weight"
    edit(shard_of(checkpoint, name), poison(name))
    refused(checkpoint, str(checkpoint), name, "NaN", "earlier checkpoint")


def test_a_wrong_shape(checkpoint):
    name = "model.layers.1.self_attn.k_proj.weight"
    edit(shard_of(checkpoint, name), lambda t: t.update({name: t[name].T.contiguous()}))
    refused(checkpoint, name, "has shape (128, 32)", "asks for (32, 128)", "one save")


def test_a_vocabulary_that_is_off_by_one(checkpoint):
    def shorten(tensors):
        tensors[EMBEDDING] = tensors[EMBEDDING][:-1].contiguous()

    edit(shard_of(checkpoint, EMBEDDING), shorten)
    refused(checkpoint, EMBEDDING, "(357, 128)", "(358, 128)", "vocab_size, tokenizer and weights")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"vocab_size": 357}))
    refused(checkpoint, "358 entries", "357 rows", "restore the tokenizer")


def add_head(checkpoint, change):
    shard = shard_of(checkpoint, EMBEDDING)
    edit(shard, lambda t: t.update({"lm_head.weight": change(t[EMBEDDING])}))
    index = index_of(checkpoint)
    index["weight_map"]["lm_head.weight"] = shard.name
    (checkpoint / files.INDEX_FILE).write_text(json.dumps(index))


def test_a_stored_head_that_equals_the_embedding_is_fine(checkpoint, whole):
    add_head(checkpoint, torch.clone)
    model, _ = load_checkpoint(checkpoint, dtype="float32")
    other, _ = load_checkpoint(whole, dtype="float32")
    ids = torch.tensor([[2, 60, 61]])
    assert torch.equal(model.language_model(ids).logits, other.language_model(ids).logits)


def test_a_stored_head_that_differs(checkpoint):
    def nudge(embedding):
        head = embedding.clone()
        head[5, 7] += 1e-3
        return head

    add_head(checkpoint, nudge)
    refused(checkpoint, "lm_head.weight differs", EMBEDDING, "tie_word_embeddings")


def test_another_tokenizer(checkpoint):
    recorded = recorded_base(checkpoint)["tokenizer"]
    path = checkpoint / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    refused(checkpoint, "the tokenizer's fingerprint is", recorded, "restore the tokenizer")


def test_changed_bytes_are_found_on_request(checkpoint):
    assert verify_checkpoint(checkpoint) == len(index_of(checkpoint)["weight_map"])
    name = "model.vision_tower_aux.vision_stem.0.weight"
    shard = shard_of(checkpoint, name)
    edit(shard, lambda t: t[name].view(-1)[0].add_(1e-6))
    load_checkpoint(checkpoint, dtype="float32")
    with pytest.raises(RecapError, match=f"{name} has sha256 .* its manifest says"):
        load_checkpoint(checkpoint, dtype="float32", verify=True)
    with pytest.raises(RecapError, match=f"{name} has sha256"):
        convert_checkpoint(checkpoint, checkpoint.with_name("x"), Conversion(verify=True))


def test_nothing_to_verify_is_said(mgm_model, mgm_tokenizer, tmp_path):
    save_checkpoint(mgm_model, mgm_tokenizer, tmp_path, dtype="bfloat16")
    with pytest.raises(RecapError, match="lists no tensors"):
        load_checkpoint(tmp_path, dtype="float32", verify=True)


# adapters and projectors


class Exploit:
    def __reduce__(self):
        return (os.system, ("touch exploited",))


@pytest.fixture(params=[".safetensors", ".bin"])
def adapter(request, mgm_adapter, tmp_path):
    folder = shutil.copytree(mgm_adapter, tmp_path / "adapter")
    if request.param == ".bin":
        for path in list(folder.glob("*.safetensors")):
            torch.save(load_file(path), path.with_suffix(".bin"))
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def plain(mgm_parts):
    """A model that the refusing loaders must leave without an adapter."""
    return build_model(mgm_parts, dtype="float32", seed=2)


def adapter_refused(folder, model, *words):
    messages = []
    for action in (
        lambda: load_adapter(model, folder),
        lambda: convert_checkpoint(folder, folder.with_name("converted"), Conversion()),
    ):
        with pytest.raises(RecapError) as caught:
            action()
        messages.append(str(caught.value))
    for message in messages:
        for word in words:
            assert word in message, message


def file_of(folder, stem):
    return next(folder.glob(f"{stem}.*"))


LORA = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
MINING = "base_model.model.model.vlm_uni_val_projector.1.weight"


def test_a_truncated_adapter(adapter, mgm_model):
    path = file_of(adapter, "adapter_model")
    truncate(path)
    word = "not a whole" if path.suffix == ".safetensors" else "truncated"
    adapter_refused(adapter, mgm_model, str(path), word, "copy it again")


@pytest.mark.parametrize(
    ("stem", "name"), [("adapter_model", LORA), ("non_lora_trainables", MINING)]
)
def test_an_adapter_with_an_empty_tensor(adapter, mgm_parts, stem, name):
    path = file_of(adapter, stem)
    edit(path, lambda tensors: tensors.update({name: torch.empty(0)}))
    model = build_model(mgm_parts, dtype="float32", seed=2)
    adapter_refused(adapter, model, str(path), name, "no elements", "ZeRO-3")


def test_an_adapter_with_nan(adapter, mgm_model):
    path = file_of(adapter, "adapter_model")
    edit(path, poison(LORA))
    adapter_refused(adapter, mgm_model, str(path), LORA, "NaN")


def test_an_adapter_of_another_shape(adapter, mgm_model):
    path = file_of(adapter, "adapter_model")
    edit(path, lambda tensors: tensors.update({LORA: tensors[LORA][:, 1:].contiguous()}))
    adapter_refused(adapter, mgm_model, str(path), LORA, "(16, 511)", "(16, 512)")


def test_an_adapter_without_a_projector_group(adapter, mgm_model):
    path = file_of(adapter, "non_lora_trainables")

    def drop(tensors):
        for name in [name for name in tensors if "vlm_uni_aux" in name]:
            del tensors[name]

    edit(path, drop)
    adapter_refused(adapter, mgm_model, str(path), "vlm_uni_aux_projector.0.weight", "16")


def test_code_in_a_pickle_is_not_run(mgm_adapter, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({MINING: Exploit()}, tmp_path / "mm_projector.bin")
    for action in (
        lambda: load_projector(plain, tmp_path / "mm_projector.bin"),
        lambda: convert_checkpoint(tmp_path, tmp_path.with_name("other"), Conversion()),
    ):
        with pytest.raises(RecapError, match=r"mm_projector\.bin .*holds code, which is refused"):
            action()
    assert not (tmp_path / "exploited").exists()


def with_manifest(folder, base):
    tables = {path.name: tensor_table(path) for path in folder.glob("*.safetensors")}
    document = {"stage": "train", "details": {"base_fingerprints": base, "tensors": tables}}
    (folder / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize("stem", ["adapter_model", "non_lora_trainables"])
def test_trained_files_are_held_against_their_manifest(mgm_adapter, mgm_parts, tmp_path, stem):
    folder = shutil.copytree(mgm_adapter, tmp_path / "adapter")
    with_manifest(folder, describe_base(mgm_parts))
    load_adapter(build_model(mgm_parts, dtype="float32", seed=2), folder)
    name = LORA if stem == "adapter_model" else MINING
    edit(folder / f"{stem}.safetensors", lambda tensors: tensors[name].view(-1)[0].add_(1e-3))
    with pytest.raises(RecapError, match=rf"{stem}\.safetensors: {name} has sha256 .* restore"):
        load_adapter(build_model(mgm_parts, dtype="float32", seed=2), folder)
    with pytest.raises(RecapError, match=f"{name} has sha256"):
        merge_lora_weights(folder, mgm_parts, tmp_path / "merged", MergeSettings())
    edit(folder / f"{stem}.safetensors", lambda tensors: tensors.pop(name))
    with pytest.raises(RecapError, match=f"{name} is missing from the file"):
        load_adapter(build_model(mgm_parts, dtype="float32", seed=2), folder)


def test_another_base_is_refused_with_both_fingerprints(mgm_adapter, mgm_parts, tmp_path):
    other = write_micro_parts(tmp_path / "other", seed=2, layers=2, words=("zebra",))
    true, given = describe_base(mgm_parts), describe_base(other)
    assert all(true[name] != given[name] for name in true)
    require_base(mgm_adapter, true)
    with pytest.raises(RecapError) as caught:
        require_base(mgm_adapter, given)
    for name in true:
        assert f"{name}: trained on {true[name]}, given {given[name]}" in str(caught.value)
    require_base(tmp_path, given)


def test_a_projector_that_is_not_there(tmp_path, plain):
    state = projector_state(plain)
    torch.save(
        {f"model.{n}": t for n, t in state.items() if not n.startswith("mm_projector")},
        tmp_path / "mm_projector.bin",
    )
    with pytest.raises(RecapError, match=r"\.bin: .*mm_projector\.0\.weight is missing"):
        load_projector(plain, tmp_path / "mm_projector.bin")


@pytest.mark.parametrize("target", ["same", "inside", "full"])
def test_a_conversion_overwrites_nothing(checkpoint, target):
    out = {"same": checkpoint, "inside": checkpoint / "x", "full": checkpoint.with_name("full")}
    (checkpoint.with_name("full")).mkdir()
    (checkpoint.with_name("full") / "notes.txt").write_text("mine")
    with pytest.raises(RecapError, match="choose another"):
        convert_checkpoint(checkpoint, out[target], Conversion())
    assert (checkpoint.with_name("full") / "notes.txt").read_text() == "mine"
