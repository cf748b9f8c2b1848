import copy
import re
from pathlib import Path

import pytest
import yaml

from recap.config import experiment_files, load_experiment
from recap.config.comparison import ComparisonWiring
from recap.config.rows import FinetunePresetRow
from recap.config.sheets import read_sheet
from recap.config.wiring import Wiring
from recap.errors import RecapError

SHIPPED = sorted(path.stem for path in Path("config/experiments").glob("*.yaml"))


def merge(base, extra):
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value
    return base


def raw_config(name):
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    for path in experiment_files(name):
        merge(config, yaml.safe_load(Path(path).read_text()))
    config["experiment"] = name
    return config


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_experiment_is_valid(name):
    experiment = load_experiment(raw_config(name))
    assert experiment.config.experiment == name
    assert ComparisonWiring(Wiring(experiment)).results()


def test_the_real_experiments_keep_the_reference_batches_and_stand_nothing_in():
    experiment = load_experiment(raw_config("blip2_30k"))
    train = experiment.config.train
    assert (train.pretrain.global_batch_size, train.finetune.global_batch_size) == (256, 128)
    assert (train.pretrain.learning_rate, train.finetune.learning_rate) == (1e-3, 2e-5)
    assert experiment.stand_ins == []
    assert load_experiment(raw_config("full_400k")).shard_count("mgm_pretrain_400k") == 40


def test_the_demo_names_its_stand_ins():
    demo = load_experiment(raw_config("demo"))
    assert set(demo.stand_ins) == {
        "blip2-micro",
        "clip-micro",
        "convnext-micro",
        "gemma-micro",
        "watermark-micro",
    }
    assert demo.shard_count("demo") >= 3
    assert demo.shard_count("demo") >= 3


def test_the_smoke_run_splits_both_curation_and_answers():
    smoke = load_experiment(raw_config("smoke"))
    assert smoke.shard_count("smoke") == 2
    assert smoke.config.evaluation_shards == 2


CHANGES = {
    "unknown key": ({"trane": {}}, "`trane`: unknown key"),
    "nested unknown key": ({"train": {"pretrain": {"lr": 1}}}, "`train.pretrain.lr`: unknown key"),
    "wrong type": ({"seeds": ["one"]}, "`seeds.0`"),
    "out of range": ({"compare": {"confidence": 1.5}}, "`compare.confidence`"),
    "missing arm": ({"arms": ["baseline", "nope"]}, "`nope` is not a row of config/arms.tsv"),
    "reference elsewhere": ({"reference_arm": "filtered_only"}, "`reference_arm`"),
    "trained and not trained": ({"funnel_arms": ["baseline"]}, "`funnel_arms`"),
    "same seed twice": ({"seeds": [1, 1]}, "`seeds`: lists a value twice"),
    "matched arm missing": (
        {"arms": ["baseline"], "funnel_arms": []},
        "`match_ids_to` names `blip2_enhanced`",
    ),
    "batch does not divide": (
        {"train": {"pretrain": {"micro_batch_size": 5}}},
        "does not divide the global batch 8",
    ),
    "more shards than questions": ({"evaluation_shards": 5000}, "choose fewer"),
    "unknown model": ({"captioner": "blip3"}, "model `blip3` is no row"),
    "wrong role": ({"captioner": "clip-micro"}, "has role `clip`, not `captioner`"),
    "unknown base model": ({"base_model": "mgm-9b"}, "`mgm-9b` is not a row"),
    "batch larger than data": (
        {"train": {"finetune": {"global_batch_size": 1024}}},
        "no update",
    ),
    "world not described": ({"worlds": {}}, "is not described under `worlds`"),
    "sheet missing": ({"sheets": {"arms": "nowhere.tsv"}}, "nowhere.tsv does not exist"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_mistakes_get_one_message_with_key_path(name):
    change, message = CHANGES[name]
    raw = raw_config("demo")
    for key in ("worlds",):
        if key in change:
            raw[key] = {}
    with pytest.raises(RecapError) as error:
        load_experiment(merge(copy.deepcopy(raw), change))
    assert message in str(error.value)


def test_contradictory_arm_is_refused(tmp_path):
    path = tmp_path / "arms.tsv"
    path.write_text("arm\tcaption_policy\tcaptioner\nbaseline\tkeep\tblip2-micro\n")
    raw = raw_config("demo") | {"arms": ["baseline"], "funnel_arms": []}
    raw["sheets"]["arms"] = str(path)
    with pytest.raises(RecapError, match="policy `keep` contradicts captioner"):
        load_experiment(raw)


def test_unknown_experiment_lists_the_known_ones():
    with pytest.raises(RecapError, match=r"known: blip2_30k, demo, demo_aa, .*smoke"):
        experiment_files("nope")


def test_a_recipe_is_read_once_however_many_shards_ask(monkeypatch):
    """Each job of a shard asks several times while the DAG is built."""
    from recap.config import wiring as module
    from recap.curate.recipe import resolve_recipe

    read = []

    def counting(path, overrides):
        read.append(path)
        return resolve_recipe(path, overrides)

    monkeypatch.setattr(module, "resolve_recipe", counting)
    wiring = Wiring(load_experiment(raw_config("demo")))
    for _ in range(50):
        before = wiring.operators("basic")
        after = wiring.operators("blip2_30k", after=True)
        wiring.post_operators("filtered_only")
    assert sorted(read) == ["config/recipes/basic.yaml", "config/recipes/blip2_30k.yaml"]
    assert before != after


def test_thresholds_are_not_part_of_what_is_measured():
    from recap.curate.recipe import measurements

    operators = Wiring(load_experiment(raw_config("demo"))).operators("basic")
    changed = copy.deepcopy(operators)
    changed[0]["text_length_filter"]["max_len"] = 150
    assert measurements(changed) == measurements(operators)


def test_reference_and_schemas_follow_the_settings():
    from recap.config.reference import build_files

    for name, text in build_files("config").items():
        path = Path("config") / name
        assert path.read_text(encoding="utf-8") == text, (
            f"{path} is out of date: run scripts/build_config_reference.py --folder config"
        )


def test_every_setting_is_explained():
    reference = Path("config/README.md").read_text(encoding="utf-8")
    unexplained = [line for line in reference.splitlines() if line.endswith("|  |")]
    assert unexplained == []
    assert not re.findall(r"annotation=|<class", reference)


def test_conda_environments_pin_what_the_lock_pins():
    locks = [Path("envs") / name for name in ("requirements.lock", "ocr.lock")]
    lock = "\n".join(path.read_text(encoding="utf-8") for path in locks).lower().replace("_", "-")
    pins = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", lock, flags=re.MULTILINE))
    pins["torch"] = re.search(
        r"torch==([\d.]+)", Path("envs/setup.sh").read_text(encoding="utf-8")
    ).group(1)
    for path in sorted(Path("envs").glob("*.yaml")):
        environment = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert environment["channels"][-1] == "nodefaults"
        for requirement in environment["dependencies"][-1]["pip"]:
            name, version = requirement.split("==")
            assert pins[name] == version, f"{path}: {name}"


def test_optional_lock_names_nothing_that_the_lock_has():
    locks = [Path("envs", name).read_text() for name in ("requirements.lock", "ocr.lock")]
    names = [{x.split("==")[0] for x in text.splitlines() if "==" in x} for text in locks]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("textvqa_ocr", {}, "resources/imported/textvqa/llava_textvqa_val_v051_ocr.jsonl"),
        (
            "textvqa_ocr",
            {"ocr_source": "rapidocr"},
            "results/smoke/ocr/textvqa_ocr/",
        ),
        ("textvqa_noocr", {"ocr_source": "rapidocr"}, "with `ocr` true"),
        ("gqa", {"ocr_source": "rapidocr"}, "for rows of kind textvqa"),
    ],
)
def test_made_ocr_tokens_take_the_place_of_the_question_file(tmp_path, name, values, wanted):
    raw = raw_config("smoke") | {"benchmarks": [name]}
    sheet = [x.split("\t") for x in Path(raw["sheets"]["benchmarks"]).read_text().splitlines()[1:]]
    row = dict(zip(sheet[0], next(x for x in sheet if x[0] == name), strict=True)) | values
    path = tmp_path / "benchmarks.tsv"
    path.write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    raw["sheets"]["benchmarks"] = str(path)
    if wanted.startswith("res"):
        assert Wiring(load_experiment(raw)).questions(name).startswith(wanted)
    else:
        with pytest.raises(RecapError, match=wanted):
            load_experiment(raw)


@pytest.mark.parametrize("base", ["mgm-7b", "mgm-13b", "mgm-8b", "mgm-7b-mistral"])
def test_larger_base_models_name_models_and_templates_that_exist(base):
    found = load_experiment(raw_config("demo") | {"base_model": base})
    row = found.models[found.base_model.language_model]
    assert (row.role, row.source) == ("language_model", "modelscope")
    assert row.licence


def test_unknown_template_lists_the_known_ones(tmp_path):
    raw = raw_config("demo") | {"base_model": "mgm-7b"}
    sheet = tmp_path / "base_models.tsv"
    sheet.write_text(Path("config/base_models.tsv").read_text().replace("vicuna_v1", "vicuna"))
    raw["sheets"]["base_models"] = str(sheet)
    with pytest.raises(RecapError, match="no template `vicuna`; known: gemma, llama_3"):
        load_experiment(raw)


def finetune_with(preset, **changes):
    raw = merge(raw_config("demo"), {"finetune_preset": preset, **changes})
    return load_experiment(raw).config.train.finetune


def test_presets_win_over_the_configuration_cell_by_cell():
    plain = finetune_with("")
    assert finetune_with("faithful") == plain.model_copy(update={"learning_rate": 2e-5})
    assert finetune_with("tuned").learning_rate == 2e-4
    rslora = finetune_with("rslora")
    assert (rslora.lora.rank, rslora.lora.alpha, rslora.lora.use_rslora) == (64, 16, True)
    assert rslora.lora.dropout == plain.lora.dropout
    assert rslora.global_batch_size == plain.global_batch_size == 8
    assert finetune_with("dora").lora.use_dora
    assert finetune_with("qlora").base_quantization == "nf4"
    with pytest.raises(RecapError, match=r"`fast` is not a row of config/finetune_presets.tsv"):
        finetune_with("fast")
    dora = {"train": {"finetune": {"lora": {"use_dora": True}}}}
    with pytest.raises(RecapError, match=r"qlora: .*DoRA starts from the lengths"):
        finetune_with("qlora", **dora)


def test_every_preset_is_valid():
    names = read_sheet("config/finetune_presets.tsv", "preset", FinetunePresetRow)
    assert {"faithful", "tuned", "rslora", "dora", "qlora"} <= set(names)
    assert all(finetune_with(name) != finetune_with("") or name == "tuned" for name in names)
