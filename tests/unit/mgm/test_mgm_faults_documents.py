"""Broken JSON files: a refusal that names them, with the report that was asked for, never a bug."""

import json
import shutil
from dataclasses import replace

import pytest
from mgm_adapters import parts_flags, run_json

import check_lora_model
import check_parity
import merge_lora_weights
from recap.errors import RecapError
from recap.mgm.configuration import config_from_disk, config_from_parts
from recap.mgm.tokenizer_files import count_entries, load_tokenizer


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def truncate(path):
    path.write_text(path.read_text()[:-20])


def empty_list(path):
    path.write_text("[]")


@pytest.fixture
def adapter(mgm_adapter, tmp_path):
    return shutil.copytree(mgm_adapter, tmp_path / "adapter")


def changed(parts, part, tmp_path):
    folder = shutil.copytree(getattr(parts, part), tmp_path / part)
    return folder, replace(parts, **{part: folder})


# of the adapter


@pytest.mark.parametrize("change", [truncate, empty_list])
@pytest.mark.parametrize("name", ["adapter_config.json", "config.json", "manifest.json"])
def test_a_broken_file_of_an_adapter_is_a_finding(
    mgm_parts, adapter, tmp_path, capsys, name, change
):
    (adapter / "manifest.json").write_text(json.dumps({"stage": "train", "details": {}}))
    change(adapter / name)
    flags = parts_flags(mgm_parts)
    report = tmp_path / "report.json"
    code, outcome = run_json(capsys, check_lora_model, adapter, *flags, "--report", report)
    assert code == 3
    assert [failure["name"] for failure in outcome["failures"]] == [name]
    assert json.loads(report.read_text())["failures"] == outcome["failures"]
    merge = ["--lora-path", adapter, *flags, "--output-path", tmp_path / "m"]
    assert run_json(capsys, merge_lora_weights, *merge)[0] == 2


@pytest.mark.parametrize("layer", ["-2", -2.0, True])
def test_a_layer_that_is_no_whole_number(mgm_parts, adapter, capsys, layer):
    edit_json(adapter / "config.json", mm_vision_select_layer=layer)
    code, outcome = run_json(capsys, check_lora_model, adapter, *parts_flags(mgm_parts))
    assert code == 3
    assert [failure["name"] for failure in outcome["failures"]] == ["mm_vision_select_layer"]


# of the base


@pytest.mark.parametrize("change", [truncate, empty_list])
def test_a_broken_tokenizer(mgm_parts, adapter, tmp_path, capsys, change):
    folder, parts = changed(mgm_parts, "language_model", tmp_path)
    change(folder / "tokenizer.json")
    with pytest.raises(RecapError, match=r"tokenizer\.json"):
        load_tokenizer(folder)
    with pytest.raises(RecapError, match=r"tokenizer\.json"):
        count_entries(folder, None)
    code, outcome = run_json(capsys, check_lora_model, adapter, *parts_flags(parts))
    assert code == 3
    assert {failure["name"] for failure in outcome["failures"]} == {"tokenizer"}


def test_a_tokenizer_that_is_json_and_no_tokenizer(mgm_parts, tmp_path):
    folder, _ = changed(mgm_parts, "language_model", tmp_path)
    (folder / "tokenizer.json").write_text('{"model": {"type": "none", "vocab": 3}}')
    with pytest.raises(RecapError, match="cannot be read"):
        load_tokenizer(folder)
    with pytest.raises(RecapError, match="is no tokenizer"):
        count_entries(folder, None)


@pytest.mark.parametrize("part", ["clip", "language_model"])
@pytest.mark.parametrize("change", [truncate, empty_list, lambda path: path.unlink()])
def test_a_broken_configuration_of_a_part(mgm_parts, tmp_path, part, change):
    folder, parts = changed(mgm_parts, part, tmp_path)
    change(folder / "config.json")
    with pytest.raises(RecapError, match=rf"{folder}/config\.json"):
        config_from_parts(parts)


def test_an_unknown_kind_of_language_model(mgm_parts, adapter, tmp_path, capsys):
    folder, parts = changed(mgm_parts, "language_model", tmp_path)
    edit_json(folder / "config.json", model_type="unheard_of")
    flags = [adapter, *parts_flags(parts), "--conversation", "gemma"]
    code, outcome = run_json(capsys, check_lora_model, *flags)
    assert code == 2
    assert "unheard_of" in outcome["message"]


def test_a_checkpoint_s_section_without_its_keys(mgm_parts, adapter):
    config = json.loads((adapter / "config.json").read_text())
    for section in (
        {"drop_path": 0.0},
        config["recap"] | {"vision_config": {"num_attention_heads": 7}},
    ):
        (adapter / "config.json").write_text(json.dumps(config | {"recap": section}))
        with pytest.raises(RecapError, match="does not describe an MGM model"):
            config_from_disk(adapter)


# of the shell


def test_a_report_below_a_file(mgm_parts, adapter, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = [adapter, *parts_flags(mgm_parts), "--report", tmp_path / "file" / "report.json"]
    code, outcome = run_json(capsys, check_lora_model, *flags)
    assert code == 2
    assert "name another path" in outcome["message"]


def test_a_question_about_a_number(mgm_parts, adapter, mgm_questions, tmp_path, capsys):
    run_json(
        capsys, merge_lora_weights, "--lora-path", adapter, *parts_flags(mgm_parts),
        "--output-path", tmp_path / "m",
    )  # fmt: skip
    row = {"question_id": 1, "image": 3, "text": "what?"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    flags = [
        "--merged", tmp_path / "m", "--adapter", adapter, *parts_flags(mgm_parts),
        "--questions", tmp_path / "questions.jsonl",
        "--images-root", mgm_questions.parent / "images", "--out", tmp_path / "p.json",
    ]  # fmt: skip
    code, outcome = run_json(capsys, check_parity, *flags)
    assert code == 2
    assert "image of a question must be text" in outcome["message"]
