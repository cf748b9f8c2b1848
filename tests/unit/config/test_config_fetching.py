"""From the sheets' rows to what a fetch job is told."""

import json
import re
from pathlib import Path

import pytest
from test_config_experiments import merge, raw_config

from recap.config import load_experiment
from recap.config.fetching import FetchWiring, data_request, model_request, requests_for
from recap.config.rows import DownloadRow, ModelRow
from recap.config.sheets import read_sheet
from recap.config.wiring import Wiring
from recap.errors import RecapError
from recap.fetch.lock import read_lock

MODELS = read_sheet("config/models.tsv", "model", ModelRow)
DOWNLOADS = read_sheet("config/downloads.tsv", "download", DownloadRow)
SHIPPED_REMOTE = [name for name, row in MODELS.items() if not row.in_place]


def fetching(name, **changes):
    return FetchWiring(Wiring(load_experiment(merge(raw_config(name), changes))))


def test_a_row_s_sources_are_tried_in_order_what_is_here_first():
    row = ModelRow(
        role="clip",
        source="modelscope",
        location="ns/clip",
        revision="abc",
        alternatives="https://host/clip.zip path:/mnt/clip modelscope:other/clip@v2",
        files="*.json, *.safetensors",
        licence="MIT",
    )
    part = model_request("my-clip", row).parts[0]
    assert part.sources == [
        "manual:models/my-clip",
        "modelscope:ns/clip@abc",
        "https://host/clip.zip",
        "path:/mnt/clip",
        "modelscope:other/clip@v2",
    ]
    assert part.files == ["*.json", "*.safetensors"]
    by_hand = model_request("m", ModelRow(role="clip", source="manual"))
    assert by_hand.parts[0].sources == ["manual:models/m"]


@pytest.mark.parametrize("change", [{"licence": "other"}, {"alternatives": "path:/mnt/x"}])
def test_neither_licence_nor_alternatives_are_part_of_what_a_rule_asks_for(change):
    wiring = fetching("blip2_30k")
    models, downloads = wiring._experiment.models, wiring._experiment.downloads
    asked = wiring.model("blip2-opt-2.7b"), wiring.data("textvqa")
    for rows in (models, downloads):
        rows |= {name: row.model_copy(update=change) for name, row in rows.items()}
    assert (wiring.model("blip2-opt-2.7b"), wiring.data("textvqa")) == asked
    places = json.loads(wiring.data_alternatives("textvqa"))
    assert set(places) == {part["name"] for part in json.loads(asked[1])["parts"]}
    if "alternatives" in change:
        assert places["textvqa_images"] == ["path:/mnt/x"]
        assert json.loads(wiring.model_alternatives("gemma-2b-it")) == {
            "gemma-2b-it": ["path:/mnt/x"]
        }


def test_a_source_of_no_known_form_is_refused_with_its_line(tmp_path):
    sheet = tmp_path / "models.tsv"
    sheet.write_text("model\trole\tsource\talternatives\nx\tclip\tmanual\tftp://here\n")
    with pytest.raises(RecapError, match=r"line 2 \(x\): `alternatives`: .*`ftp://here` is no sou"):
        read_sheet(sheet, "model", ModelRow)


def test_the_rows_of_one_folder_make_one_data_set():
    request = data_request("textvqa", DOWNLOADS)
    parts = {part.name: part for part in request.parts}
    assert set(parts) == {"textvqa_questions", "textvqa_annotations", "textvqa_images"}
    assert parts["textvqa_questions"].sources == ["manual:textvqa/llava_textvqa_val_v051_ocr.jsonl"]
    assert parts["textvqa_annotations"].is_file
    images = parts["textvqa_images"]
    assert (images.target, images.unpack, images.is_file) == ("train_images/", True, False)
    assert images.sources[0] == "manual:textvqa/train_images"


@pytest.mark.parametrize("name", SHIPPED_REMOTE)
def test_every_shipped_model_has_a_request_and_a_licence(name):
    request = model_request(name, MODELS[name])
    assert request.parts[0].sources[0].startswith("manual:")
    assert MODELS[name].licence
    assert MODELS[name].source == "manual" or len(request.parts[0].sources) > 1


def test_the_rows_that_the_pipeline_needs_are_there():
    roles = {}
    for name in SHIPPED_REMOTE:
        roles.setdefault(MODELS[name].role, set()).add(name)
    assert len(roles["language_model"]) == 5
    assert {"blip2-opt-2.7b", "blip2-opt-6.7b", "blip2-flan-t5-xl"} <= roles["captioner"]
    assert len(roles["captioner"]) == 5
    for role in ("clip", "convnext", "watermark", "similarity", "aesthetics", "checkpoint"):
        assert roles[role], role
    benchmarks = {"textvqa", "mmbench", "pope", "gqa", "vqav2", "mme", "seedbench"}
    assert {row.folder for row in DOWNLOADS.values()} == benchmarks
    assert all(row.licence for row in DOWNLOADS.values())


def test_the_documentation_names_every_row():
    page = Path("docs/data.md").read_text(encoding="utf-8")
    assert [name for name in (*SHIPPED_REMOTE, *DOWNLOADS) if f"`{name}`" not in page] == []


def test_the_lock_sheets_hold_rows_of_the_sheets_only():
    assert set(read_lock("config/locks/models.tsv")) <= set(MODELS)
    corpora = {"mgm_pretrain_10k", "mgm_pretrain_30k", "mgm_pretrain_400k", "mgm_instruction"}
    assert set(read_lock("config/locks/data.tsv")) <= {*DOWNLOADS, *corpora}


def test_both_kinds_are_found_by_name():
    models, data = requests_for(
        ["clip-vit-l-14-336", "pope"], "config/models.tsv", "config/downloads.tsv"
    )
    assert (set(models), set(data)) == ({"clip-vit-l-14-336"}, {"pope"})
    with pytest.raises(RecapError, match="gemma-micro: nothing of that name is fetched"):
        requests_for(["gemma-micro"], "config/models.tsv", "config/downloads.tsv")


def test_fetched_files_come_from_the_data_set_and_others_from_the_user(tmp_path):
    real = fetching("blip2_30k", data_root=str(tmp_path))
    questions = "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    assert real.import_input(questions) == ["resources/data/textvqa/manifest.json"]
    assert (real.import_folder(questions), real.import_lock(questions)) == ("resources/data", "")
    corpus = "mgm_pretrain_30k/stage_1.json"
    assert real.import_input(corpus) == []
    (tmp_path / "mgm_pretrain_30k").mkdir()
    (tmp_path / corpus).write_text("[]")
    assert real.import_input(corpus) == [str(tmp_path / corpus)]
    assert real.import_lock(corpus) == "--lock config/locks/data.tsv"


def test_patterns_part_what_is_fetched_from_what_is_read_in_place():
    real, demo = fetching("blip2_30k"), fetching("demo")
    assert set(SHIPPED_REMOTE) == set(real.fetched_models().split("|"))
    assert "gemma-micro" in real.local_models().split("|")
    assert (real.benchmark_data(), real.training_data()) == ("textvqa", "none")
    assert (demo.benchmark_data(), demo.training_data()) == ("none", "none")
    assert real.local_lock("gemma-micro") == ""


def test_whatever_downloads_runs_where_snakemake_was_started():
    text = Path("rules/models.smk").read_text(encoding="utf-8")
    rules = re.findall(r"^(?:use rule \w+ as|rule) (fetch_\w+)", text, flags=re.MULTILINE)
    local = re.search(r"^localrules:\n((?:    \w+,\n)+)", text, flags=re.MULTILINE).group(1)
    assert sorted(rules) == sorted(re.findall(r"\w+", local))
    assert len(rules) == 3


def test_a_moved_data_root_fetches_nothing_again():
    """It is no parameter, whose change would rerun the rules and all that follows."""
    text = Path("rules/models.smk").read_text(encoding="utf-8")
    params = re.findall(r"^    params:\n((?:        .*\n)+)", text, flags=re.MULTILINE)
    assert len(params) == 5
    assert not any("data_root" in listed for listed in params)
    assert text.count("--data-root {resources.data_root:q}") == 2


def test_data_for_training_can_be_fetched_too():
    sheet = Path("config/instructions.tsv").read_text()
    assert "\nmgm_instruction_12k\tmanual\tmgm_instruction\t" in sheet
    wiring = fetching(
        "blip2_30k",
        corpus="seed",
        corpora={
            "seed": {"source": "fetched", "root": "pope/x", "jsonl": "a.jsonl", "records": 10}
        },
    )
    assert (wiring.benchmark_data(), wiring.training_data()) == ("textvqa", "pope")


def test_a_folder_that_nothing_downloads_is_refused():
    row = {"source": "fetched", "root": "nowhere", "jsonl": "a.jsonl", "records": 10}
    with pytest.raises(RecapError, match=r"corpora: seed.*downloads\.tsv has the folder of root"):
        fetching("demo", corpus="seed", corpora={"seed": row})


def test_the_report_gets_every_model_and_file_from_outside():
    rows = {entry["name"]: entry for entry in fetching("blip2_30k").brought_in()}
    assert set(rows) == {
        *("gemma-2b-it", "clip-vit-l-14-336", "convnext-l-d-320"),
        *("blip2-opt-2.7b", "watermark-detector"),
        *("textvqa_questions", "textvqa_annotations", "textvqa_images"),
        "mgm_pretrain_30k/mgm_pretrain_stage_1_30k.jsonl",
        "mgm_pretrain_30k/stage_1.json",
        "mgm_instruction/mgm_instruction_stage_2_12k.json",
    }
    assert all(entry["licence"] for entry in rows.values())
    assert rows["textvqa_images"]["manifest"] == "resources/data/textvqa/manifest.json"
