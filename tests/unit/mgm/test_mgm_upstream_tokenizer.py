"""``tokenizer.json`` as tokenizers 0.15 reads it: merges as text, Metaspace without ``split``.

What is written for the four families was loaded by transformers 4.38.2 with
tokenizers 0.15.2 once, with equal ids; here its form is checked.
"""

import json
import logging

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from recap.errors import RecapError
from recap.mgm.checkpoint import build_model, load_checkpoint, load_tokenizer, save_checkpoint
from recap.mgm.micro import write_micro_parts, write_micro_tokenizer
from recap.mgm.micro_languages import write_micro_language
from recap.mgm.upstream import write_upstream_tokenizer
from recap.mgm.upstream_convert import convert_checkpoint
from recap.mgm.upstream_rules import UpstreamTowers
from recap.mgm.upstream_tokenizer import older_tokenizer, require_same_ids
from recap.mgm.upstream_trained import Conversion

FAMILIES = ("gemma", "vicuna_v1", "mistral_instruct", "llama_3")
WORDS = ("what", " dog", "red", "  ", "    ", "is it")
TEXTS = (
    "what is  it?", "    red\n  dog", " dog", "a\n\nb", "é 日本 3.5", "", "\n", "x    y",
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Tokenizers as the installed version saves them, and as they are written for upstream."""
    root, found = tmp_path_factory.mktemp("tokenizers"), {}
    for family in FAMILIES:
        source, out = root / family, root / f"{family}-old"
        if family == "gemma":
            write_micro_tokenizer(source, WORDS)
        else:
            write_micro_language(source, family, WORDS, hidden=32, layers=1)
        out.mkdir()
        write_upstream_tokenizer(source, out)
        found[family] = (source, out)
    return found


def content(folder):
    return json.loads((folder / "tokenizer.json").read_text())


def metaspaces(value):
    if isinstance(value, dict):
        return [value] * (value.get("type") == "Metaspace") + metaspaces(list(value.values()))
    return [m for inner in value for m in metaspaces(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_form_is_the_older_one(written, family):
    before, after = (content(folder) for folder in written[family])
    assert isinstance(before["model"]["merges"][0], list)
    assert after["model"]["merges"] == [" ".join(pair) for pair in before["model"]["merges"]]
    assert after["model"]["vocab"] == before["model"]["vocab"]
    assert after["added_tokens"] == before["added_tokens"]
    assert not any("split" in found for found in metaspaces(after))


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_cut_as_before(written, family):
    first, second = (Tokenizer.from_file(str(f / "tokenizer.json")) for f in written[family])
    for text in TEXTS:
        assert first.encode(text).ids == second.encode(text).ids, text


@pytest.mark.parametrize("family", ["vicuna_v1", "mistral_instruct"])
def test_runs_of_spaces_stay_whole(written, family):
    """Dropping ``split`` alone would cut in front of each space."""
    before, after = (content(folder) for folder in written[family])
    assert before["pre_tokenizer"]["split"] is False
    assert after["pre_tokenizer"] is None
    naive = json.loads(json.dumps(before))
    naive["pre_tokenizer"]["split"] = True
    with pytest.raises(RecapError, match="would be cut into"):
        require_same_ids(before, naive, "tokenizer.json")


def test_a_file_in_the_older_form_is_copied_byte_for_byte(written, tmp_path):
    source = written["gemma"][1]
    (source / "tokenizer.json").write_text(json.dumps(content(source), separators=(",", ":")))
    write_upstream_tokenizer(source, tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("scheme", ["always", "never", "first"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_metaspace_that_splits_loses_the_key_alone(scheme, nested):
    cutter = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    tokenizer = Tokenizer(BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[("▁", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cutter]) if nested else cutter
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=True)
    before = json.loads(tokenizer.to_str())
    after = older_tokenizer(before, "x")
    found = metaspaces(after)
    assert len(found) == 2
    wanted = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme}
    assert all(part == wanted | {"add_prefix_space": scheme != "never"} for part in found)
    require_same_ids(before, after, "x")


def test_a_decoder_loses_the_key_where_the_cutter_becomes_a_normalizer():
    tokenizer = Tokenizer(BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[("▁", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    before = json.loads(tokenizer.to_str())
    after = older_tokenizer(before, "x")
    assert after["pre_tokenizer"] is None
    assert "split" not in after["decoder"]
    assert after["decoder"]["add_prefix_space"] is True
    require_same_ids(before, after, "x")


def test_what_has_no_older_form_is_refused():
    with pytest.raises(RecapError, match=r"x: the merge \['a b', 'c'\] has a space"):
        older_tokenizer({"model": {"merges": [["a b", "c"]]}}, "x")
    cutter = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
    document = {"normalizer": {"type": "NFC"}, "pre_tokenizer": cutter, "model": {}}
    with pytest.raises(RecapError, match="x: Metaspace without split behind a normalizer"):
        older_tokenizer(document, "x")


def test_what_is_only_nearly_the_same_is_said(written, caplog):
    source = written["vicuna_v1"][0]
    with caplog.at_level(logging.WARNING):
        older_tokenizer(content(source), source)
    assert "behind a special token" in caplog.text
    with caplog.at_level(logging.WARNING):
        older_tokenizer({"model": {"ignore_merges": True}}, "x")
    assert "ignore_merges" in caplog.text


@pytest.mark.parametrize(("family", "name"), [("vicuna_v1", "mgm-7b"), ("llama_3", "mgm-8b")])
def test_a_converted_checkpoint_knows_its_own_tokenizer(tmp_path, family, name):
    """Its files are others than the base's, whose fingerprint it keeps."""
    parts = write_micro_parts(tmp_path / "parts", layers=1, hidden_size=64, conversation=family)
    tokenizer = load_tokenizer(parts.language_model)
    model = build_model(parts, dtype="bfloat16", seed=0)
    save_checkpoint(model, tokenizer, tmp_path / "ours", dtype="bfloat16")
    towers = UpstreamTowers("zoo/openai", "zoo/openclip-convnext-large-d-320")
    convert_checkpoint(tmp_path / "ours", tmp_path / name, Conversion(towers=towers))
    convert_checkpoint(tmp_path / name, tmp_path / "back", Conversion())
    for folder in (tmp_path / name, tmp_path / "back"):
        _, again = load_checkpoint(folder, dtype="bfloat16")
        for text in TEXTS:
            assert again(text).input_ids == tokenizer(text).input_ids
    path = tmp_path / name / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(RecapError, match="the tokenizer's fingerprint is"):
        load_checkpoint(tmp_path / name, dtype="bfloat16")
