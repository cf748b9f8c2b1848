import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recap.curate.recipe import (
    load_operators,
    measurements,
    name_of,
    params_of,
    resolve_recipe,
    thresholds,
)
from recap.errors import RecapError

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "config" / "recipes"

WORDS = {"lang": "en", "tokenization": False}
BASIC = [
    {"text_length_filter": {"min_len": 5, "max_len": 200}},
    {
        "image_shape_filter": {
            "min_width": 224,
            "max_width": 2048,
            "min_height": 224,
            "max_height": 2048,
            "any_or_all": "any",
        }
    },
    {"character_repetition_filter": {"rep_len": 5, "min_ratio": 0.0, "max_ratio": 0.15}},
    {"word_repetition_filter": {**WORDS, "rep_len": 3, "min_ratio": 0.0, "max_ratio": 0.2}},
]
CAPTIONER = {
    "image_captioning_mapper": {
        "hf_img2seq": "Salesforce/blip2-opt-2.7b",
        "keep_original_sample": False,
        "caption_num": 1,
        "batch_size": 1,
        "mem_required": 8,
    }
}


def enhanced(words: tuple[int, int], shape: tuple[int, int]) -> list[dict]:
    low, high = shape
    sides = {"min_width": low, "max_width": high, "min_height": low, "max_height": high}
    watermark = {
        "hf_watermark_model": "amrul-hzz/watermark_detector",
        "prob_threshold": 0.8,
        "any_or_all": "any",
        "max_closed_interval": False,
    }
    return [
        {"words_num_filter": {**WORDS, "min_num": words[0], "max_num": words[1]}},
        {"word_repetition_filter": {**WORDS, "rep_len": 1, "min_ratio": 0.0, "max_ratio": 0.3}},
        {"image_shape_filter": {**sides, "any_or_all": "any"}},
        {"image_watermark_filter": watermark},
    ]


def write(path: Path, process) -> Path:
    path.write_text(yaml.safe_dump({"project_name": "x", "process": process}, sort_keys=False))
    return path


def test_shipped_recipes_hold_every_value():
    basic = resolve_recipe(RECIPES / "basic.yaml")
    assert (basic.before, basic.captioner, basic.after) == (BASIC, None, [])
    large = resolve_recipe(RECIPES / "blip2_30k.yaml")
    tail = [
        {"character_repetition_filter": {"rep_len": 5, "min_ratio": 0.0, "max_ratio": 0.15}},
        {"text_length_filter": {"min_len": 20, "max_len": 300}},
    ]
    assert (large.before, large.captioner) == ([], CAPTIONER)
    assert large.after == enhanced((6, 60), (224, 1024)) + tail
    small = resolve_recipe(RECIPES / "blip2_10k.yaml")
    assert (small.before, small.captioner) == ([], CAPTIONER)
    assert small.after == enhanced((4, 50), (335, 769))
    for name, workers, traced in (("basic", 8, 100), ("blip2_30k", 1, 100), ("blip2_10k", 1, 10)):
        document = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
        assert (document["np"], document["trace_num"]) == (workers, traced)
        assert (document["text_keys"], document["image_key"]) == ("text", "images")
        assert document["open_monitor"] is document["open_tracer"] is True


@pytest.mark.parametrize("name", ["basic", "blip2_30k", "blip2_10k"])
def test_no_threshold_changes_a_measurement(tmp_path, name):
    recipe = resolve_recipe(RECIPES / f"{name}.yaml")
    operators = recipe.before + recipe.after
    changed = [
        {
            name_of(operator): {
                key: (
                    value
                    if key in ("rep_len", "lang", "tokenization", "hf_watermark_model")
                    else 12345
                )
                for key, value in params_of(operator).items()
            }
        }
        for operator in operators
    ]
    assert thresholds(changed) != thresholds(operators)
    assert measurements(changed) == measurements(operators)


@pytest.mark.parametrize(
    ("parameter", "value"), [("rep_len", 4), ("lang", "zh"), ("tokenization", True)]
)
def test_a_measurement_parameter_changes_the_measurement(parameter, value):
    changed = [{"word_repetition_filter": {**params_of(BASIC[3]), parameter: value}}]
    assert measurements(changed) != measurements([BASIC[3]])


def test_execution_parameters_are_no_measurements():
    tuned = [{"text_length_filter": {"max_len": 9, "batch_size": 7, "num_proc": 3}}]
    assert measurements(tuned) == [{"text_length_filter": {}}]
    assert thresholds(tuned) == tuned


def test_exceptions_to_the_naming_rule():
    subplot = {
        "image_subplot_filter": {"min_line_length": 9, "hough_threshold": 1, "min_confidence": 1}
    }
    assert measurements([subplot]) == [
        {"image_subplot_filter": {"min_line_length": 9, "hough_threshold": 1}}
    ]
    language = {"language_id_score_filter": {"lang": "en", "min_score": 0.8}}
    assert measurements([language]) == [{"language_id_score_filter": {}}]


def test_equal_measurements_are_made_once():
    twice = [{"text_length_filter": {"max_len": 9}}, {"text_length_filter": {"min_len": 3}}]
    assert measurements(twice) == [{"text_length_filter": {}}]
    assert len(thresholds(twice)) == 2


def test_the_list_is_cut_at_the_captioner(tmp_path):
    path = write(tmp_path / "r.yaml", [BASIC[0], CAPTIONER, BASIC[3]])
    recipe = resolve_recipe(path)
    assert (recipe.before, recipe.captioner, recipe.after) == ([BASIC[0]], CAPTIONER, [BASIC[3]])


def test_overrides_win_and_touch_nothing_else():
    recipe = resolve_recipe(
        RECIPES / "blip2_30k.yaml",
        {"image_watermark_filter": {"hf_watermark_model": "resources/models/w"}, "other": {"a": 1}},
    )
    plain = resolve_recipe(RECIPES / "blip2_30k.yaml")
    assert params_of(recipe.after[3])["hf_watermark_model"] == "resources/models/w"
    assert params_of(recipe.after[3])["prob_threshold"] == 0.8
    assert recipe.after[:3] == plain.after[:3]


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ([{"clean_html_mapper": {}}], "neither a filter nor"),
        ([{"document_deduplicator": {}}], "neither a filter nor"),
        ([{"suffix_filter": {}}], "without a statistic"),
        ([{"text_lenght_filter": {}}], "no operator 'text_lenght_filter'"),
        ([CAPTIONER, CAPTIONER], "2 captioning steps"),
        ([{"text_length_filter": [1]}], "mapping of parameters"),
        ([{"a_filter": {}, "b_filter": {}}], "each operator must be one"),
        ([7], "each operator must be one"),
        ("text_length_filter", "needs a `process:` list"),
        (None, "needs a `process:` list"),
    ],
)
def test_a_recipe_that_cannot_run_says_so(tmp_path, process, message):
    path = write(tmp_path / "bad.yaml", process)
    with pytest.raises(RecapError, match=message) as caught:
        resolve_recipe(path)
    assert "bad.yaml" in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(RecapError, match="does not exist"):
        resolve_recipe(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_text("process: [")
    with pytest.raises(RecapError, match="not valid YAML"):
        resolve_recipe(tmp_path / "b.yaml")


def test_operators_come_as_json_or_as_a_file(tmp_path):
    (tmp_path / "ops.json").write_text('[{"text_length_filter": {"max_len": 3}}]')
    expected = [{"text_length_filter": {"max_len": 3}}]
    assert load_operators('[{"text_length_filter": {"max_len": 3}}]') == expected
    assert load_operators(str(tmp_path / "ops.json")) == expected
    for bad in ("[1]", "[", str(tmp_path / "none.json"), '[{"image_captioning_mapper": {}}]'):
        with pytest.raises(RecapError):
            load_operators(bad)


def test_reading_recipes_imports_nothing_heavy():
    code = (
        "import sys; from recap.curate.recipe import resolve_recipe;"
        f"resolve_recipe({str(RECIPES / 'basic.yaml')!r});"
        "heavy = {'data_juicer', 'torch', 'datasets', 'pandas', 'pyarrow', 'numpy', 'PIL'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", check=True)
