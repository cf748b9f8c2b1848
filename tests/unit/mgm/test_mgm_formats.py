"""This pipeline's files and upstream's: back and forth without losing a bit."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recap.errors import RecapError
from recap.mgm import tensors as files
from recap.mgm.adapters import write_tensor_file
from recap.mgm.checkpoint import (
    base_sources,
    build_model,
    load_adapter,
    load_checkpoint,
    load_tokenizer,
    open_towers,
    projector_state,
    save_checkpoint,
)
from recap.mgm.micro import write_micro_parts
from recap.mgm.names import checkpoint_state
from recap.mgm.upstream_convert import convert_checkpoint
from recap.mgm.upstream_rules import PEFT_KEYS, UpstreamTowers
from recap.mgm.upstream_trained import Conversion

SHARD = "500KB"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def towers(mgm_parts, tmp_path_factory):
    """The towers under names that upstream's loaders take."""
    root = tmp_path_factory.mktemp("towers")
    clip, aux = root / "openai-clip", root / "openclip-convnext-large-d-320"
    shutil.copytree(mgm_parts.clip, clip)
    shutil.copytree(mgm_parts.convnext, aux)
    torch.save(load_file(aux / "open_clip_model.safetensors"), aux / "open_clip_pytorch_model.bin")
    (aux / "open_clip_model.safetensors").unlink()
    return UpstreamTowers(str(clip), str(aux))


@pytest.fixture(scope="module")
def saved(mgm_parts, mgm_tokenizer, tmp_path_factory):
    model = build_model(mgm_parts, dtype="float32", seed=11, image_aspect_ratio="pad")
    folder = tmp_path_factory.mktemp("formats") / "ours"
    save_checkpoint(model, mgm_tokenizer, folder, dtype="float32", max_shard_size=SHARD)
    return folder


def contents(sources):
    """Type, shape and raw bytes of each tensor, taken without the code under test."""
    tensors = {name: source.load().contiguous() for name, source in sources.items()}
    return {
        name: (t.dtype, tuple(t.shape), t.flatten().view(torch.uint8).numpy().tobytes())
        for name, t in tensors.items()
    }


def shards(folder):
    return files.as_sources(
        {n: t for path in folder.glob("model-*.safetensors") for n, t in load_file(path).items()}
    )


def recast(folder, kind):
    """Rewrite a checkpoint's tensors in one type, or each in another."""
    tensors = {name: source.load() for name, source in files.open_model_folder(folder).items()}
    for path in folder.glob("model*"):
        path.unlink()
    kinds = DTYPES if kind is None else [kind]
    cast = {n: t.to(kinds[i % len(kinds)]) for i, (n, t) in enumerate(sorted(tensors.items()))}
    files.write_sharded(files.as_sources(cast), folder, SHARD)


@pytest.mark.parametrize("kind", [*DTYPES, None], ids=["f32", "bf16", "f16", "mixed"])
def test_full_checkpoint_there_and_back_twice(saved, towers, tmp_path, kind):
    ours = shutil.copytree(saved, tmp_path / "ours")
    recast(ours, kind)
    upstream, back, again = tmp_path / "mgm-2b", tmp_path / "back", tmp_path / "MGM_2B"
    convert_checkpoint(ours, upstream, Conversion(towers=towers))
    convert_checkpoint(upstream, back, Conversion(max_shard_size=SHARD, verify=True))
    convert_checkpoint(back, again, Conversion(towers=towers))
    wanted = contents(shards(ours))
    assert len(wanted) > 100
    assert len({dtype for dtype, _, _ in wanted.values()}) == (3 if kind is None else 1)
    for folder in (upstream, back, again):
        assert contents(shards(folder)) == wanted
    assert (upstream / "config.json").read_bytes() == (again / "config.json").read_bytes()
    before = json.loads((ours / "config.json").read_text())
    after = json.loads((back / "config.json").read_text())
    paths = ("mm_vision_tower", "mm_vision_tower_aux", "torch_dtype")
    assert {k: v for k, v in after.items() if k not in paths} == {
        k: v for k, v in before.items() if k not in paths
    }


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("with_towers", [False, True])
def test_projector_there_and_back(saved, mgm_parts, towers, tmp_path, kind, with_towers):
    state = {name: source.load().to(kind) for name, source in shards(saved).items()}
    words = ("mm_projector", "vlm_uni", *(("vision_tower",) if with_towers else ()))
    state = {name: value for name, value in state.items() if any(word in name for word in words)}
    assert (len(state) > 16) == with_towers
    (tmp_path / "theirs").mkdir()
    torch.save(state, tmp_path / "theirs" / "mm_projector.bin")
    wanted = contents(files.as_sources(state))
    convert_checkpoint(tmp_path / "theirs", tmp_path / "ours", Conversion())
    ours = load_file(tmp_path / "ours" / "mm_projector.safetensors")
    assert contents(files.as_sources(ours)) == wanted
    convert_checkpoint(tmp_path / "ours", tmp_path / "back", Conversion(towers=towers))
    back = torch.load(tmp_path / "back" / "mm_projector.bin", weights_only=True)
    assert contents(files.as_sources(back)) == wanted


def test_sixteen_tensors_become_the_big_form_with_both_towers(
    mgm_parts, mgm_model, towers, tmp_path
):
    (tmp_path / "ours").mkdir()
    state = {f"model.{name}": value for name, value in projector_state(mgm_model).items()}
    write_tensor_file(tmp_path / "ours" / "mm_projector.safetensors", state)
    what = Conversion(towers=towers, clip=mgm_parts.clip, convnext=mgm_parts.convnext)
    convert_checkpoint(tmp_path / "ours", tmp_path / "big", what)
    big = torch.load(tmp_path / "big" / "mm_projector.bin", weights_only=True)
    wanted = state | {name: source.load() for name, source in open_towers(mgm_parts).items()}
    assert contents(files.as_sources(big)) == contents(files.as_sources(wanted))
    language = set(base_sources(mgm_parts)) - set(open_towers(mgm_parts))
    assert set(big) == set(checkpoint_state(mgm_model)) - language


@pytest.mark.parametrize("kind", DTYPES)
def test_adapter_there_and_back(mgm_adapter, towers, tmp_path, kind):
    ours = shutil.copytree(mgm_adapter, tmp_path / "ours")
    for path in ours.glob("*.safetensors"):
        save_file({name: t.to(kind) for name, t in load_file(path).items()}, path)
    convert_checkpoint(ours, tmp_path / "theirs", Conversion(towers=towers))
    convert_checkpoint(tmp_path / "theirs", tmp_path / "back", Conversion())
    for stem in ("adapter_model", "non_lora_trainables"):
        wanted = contents(files.as_sources(load_file(ours / f"{stem}.safetensors")))
        theirs = torch.load(tmp_path / "theirs" / f"{stem}.bin", weights_only=True)
        assert contents(files.as_sources(theirs)) == wanted
        back = load_file(tmp_path / "back" / f"{stem}.safetensors")
        assert contents(files.as_sources(back)) == wanted
    recorded = [
        json.loads((folder / name).read_text())
        for folder, name in ((ours, "config.json"), (tmp_path / "theirs", "recap_config.json"))
    ]
    assert recorded[0]["recap"]["base"] == recorded[1]["base"]
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    assert set(config) == set(PEFT_KEYS)


def test_an_adapter_of_peft_0_4_is_read(mgm_adapter, mgm_parts, mgm_model, towers, tmp_path):
    convert_checkpoint(mgm_adapter, tmp_path / "theirs", Conversion(towers=towers))
    other = build_model(mgm_parts, dtype="float32", seed=1)
    theirs = load_adapter(mgm_model, tmp_path / "theirs")
    ours = load_adapter(other, mgm_adapter)
    ids = torch.tensor([[2, 60, 61, 62]])
    assert torch.equal(theirs.language_model(ids).logits, ours.language_model(ids).logits)


def test_pickled_files_of_equal_tensors_are_equal(mgm_adapter, towers, tmp_path):
    for name in ("a", "b"):
        convert_checkpoint(mgm_adapter, tmp_path / name, Conversion(towers=towers))
    for file in ("adapter_model.bin", "non_lora_trainables.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.fixture
def upstream_made(saved, towers, tmp_path):
    """A checkpoint in the form an old upstream run leaves behind."""
    folder = tmp_path / "MGM-2B-old"
    convert_checkpoint(saved, folder, Conversion(towers=towers, dtype="float16"))
    for name in ("recap_config.json", "manifest.json"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_act": "gelu", "_name_or_path": "work_dirs/MGM-2B", "mm_version": None}
    config |= {"transformers_version": "4.38.0", "unfreeze_mm_vision_tower": False}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: source.load() for name, source in shards(folder).items()}
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding.clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    position = "model.vision_tower.vision_tower.vision_model.embeddings.position_ids"
    tensors[position] = torch.arange(65)[None]
    for path in folder.glob("model*"):
        path.unlink()
    files.write_sharded(files.as_sources(tensors), folder, SHARD)
    return folder


def logits(model):
    ids = torch.tensor([[2, 106, -200, 60, 70, 107]])
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), images_aux=images)
    return out.logits


def test_a_checkpoint_that_upstream_made_is_read(saved, upstream_made, tmp_path):
    convert_checkpoint(saved, tmp_path / "half", Conversion(dtype="float16"))
    ours, _ = load_checkpoint(tmp_path / "half", dtype="float32")
    theirs, tokenizer = load_checkpoint(upstream_made, dtype="float32")
    assert theirs.config.text_config.hidden_activation == "gelu_pytorch_tanh"
    assert theirs.config.conversation == "gemma"
    assert torch.equal(logits(theirs), logits(ours))
    assert tokenizer("a").input_ids[0] == 2


def test_towers_are_named_where_config_json_names_none_here(
    upstream_made, mgm_parts, towers, tmp_path
):
    config = json.loads((upstream_made / "config.json").read_text())
    config |= {"mm_vision_tower": "/gone/openai", "mm_vision_tower_aux": "/gone/openclip"}
    (upstream_made / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecapError, match=r"mm_vision_tower '/gone/openai'.*--clip"):
        load_checkpoint(upstream_made, dtype="float32")
    where = {"clip": mgm_parts.clip, "convnext": mgm_parts.convnext}
    model, _ = load_checkpoint(upstream_made, dtype="float32", **where)
    result = convert_checkpoint(upstream_made, tmp_path / "ours", Conversion(**where))
    again, _ = load_checkpoint(tmp_path / "ours", dtype="float32")
    assert result == {
        "kind": "checkpoint",
        "tensors": len(checkpoint_state(model)),
        "folder": str(tmp_path / "ours"),
    }
    assert torch.equal(logits(model), logits(again))
    with pytest.raises(RecapError, match=r"--clip .*missing is not a folder"):
        load_checkpoint(upstream_made, dtype="float32", clip=tmp_path / "missing")


def test_towers_of_another_size_are_refused(upstream_made):
    config = json.loads((upstream_made / "config.json").read_text())
    (upstream_made / "config.json").write_text(json.dumps(config | {"mm_hidden_size_aux": 2880}))
    with pytest.raises(RecapError, match=r"mm_hidden_size_aux 2880, .* folder has 240"):
        load_checkpoint(upstream_made, dtype="float32")


def old_tokenizer_config(kind):
    special = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 106}
    decoder = {
        str(index): {
            "content": text, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True,
        }
        for text, index in (special | {"<end_of_turn>": 107}).items()
    }  # fmt: skip
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "legacy": None,
        "model_max_length": 2048,
        "pad_token": "<pad>",
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": kind,
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


@pytest.mark.parametrize("kind", ["GemmaTokenizer", "GemmaTokenizerFast"])
def test_the_old_form_of_a_tokenizer_is_read_and_kept(
    upstream_made, mgm_tokenizer, towers, tmp_path, kind
):
    config = upstream_made / "tokenizer_config.json"
    config.write_text(json.dumps(old_tokenizer_config(kind)))
    (upstream_made / "tokenizer.model").write_bytes(b"sentencepiece pieces")
    _, tokenizer = load_checkpoint(upstream_made, dtype="float32")
    text = "<start_of_turn>user\nwhat is  red, 3?<end_of_turn>\n<eos>"
    assert tokenizer(text).input_ids == mgm_tokenizer(text).input_ids
    convert_checkpoint(upstream_made, tmp_path / "mgm-2b", Conversion(towers=towers))
    kept = json.loads((tmp_path / "mgm-2b" / "tokenizer_config.json").read_text())
    assert kept == json.loads(config.read_text())
    assert (tmp_path / "mgm-2b" / "tokenizer.model").read_bytes() == b"sentencepiece pieces"


def test_a_manifest_lists_every_tensor_with_its_hash(saved, towers, tmp_path):
    folder = tmp_path / "mgm-2b"
    convert_checkpoint(saved, folder, Conversion(towers=towers))
    details = json.loads((folder / "manifest.json").read_text())["details"]
    tables = details["tensors"]
    assert set(tables) == {path.name for path in folder.glob("*.safetensors")}
    for file, table in tables.items():
        found = load_file(folder / file)
        assert set(table) == set(found)
        for name, entry in table.items():
            array = found[name].numpy()
            assert entry["shape"] == list(array.shape)
            assert entry["dtype"] == str(array.dtype)
            raw = np.ascontiguousarray(array).tobytes()
            assert entry["sha256"] == hashlib.sha256(raw).hexdigest()
    assert set(details["base"]) == {"tokenizer"}


@pytest.mark.parametrize(
    ("conversation", "name", "kind"),
    [
        ("vicuna_v1", "mgm-7b", "mgm"),
        ("mistral_instruct", "mgm-7b", "mgm_mistral"),
        ("llama_3", "mgm-8b", "mgm"),
    ],
)
def test_siblings_there_and_back(towers, tmp_path, conversation, name, kind):
    parts = write_micro_parts(tmp_path / "parts", layers=2, conversation=conversation)
    model = build_model(parts, dtype="bfloat16", seed=1)
    tokenizer = load_tokenizer(parts.language_model)
    save_checkpoint(model, tokenizer, tmp_path / "ours", dtype="bfloat16")
    convert_checkpoint(tmp_path / "ours", tmp_path / name, Conversion(towers=towers))
    for file in ("recap_config.json", "manifest.json"):
        (tmp_path / name / file).unlink()
    assert json.loads((tmp_path / name / "config.json").read_text())["model_type"] == kind
    assert "lm_head.weight" in shards(tmp_path / name)
    convert_checkpoint(tmp_path / name, tmp_path / "back", Conversion())
    assert contents(shards(tmp_path / "back")) == contents(shards(tmp_path / "ours"))
    again, _ = load_checkpoint(tmp_path / "back", dtype="bfloat16")
    assert again.config.conversation == conversation
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("stray", ["mm_projector.bin", "adapter_config.json"])
def test_a_checkpoint_with_another_kind_s_file_is_not_taken_for_that_kind(saved, tmp_path, stray):
    folder = shutil.copytree(saved, tmp_path / "m")
    (folder / stray).write_text("{}")
    with pytest.raises(RecapError, match=rf"holds model\S* of a full checkpoint and {stray}"):
        convert_checkpoint(folder, tmp_path / "out", Conversion())
    assert not (tmp_path / "out").exists()
