import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recap.curate.recipe import (
    is_plain,
    load_operators,
    measurements,
    name_of,
    params_of,
    resolve_recipe,
    steps,
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


def write(path: Path, process, head: str = "# recap: text=faithful\n") -> Path:
    document = {"project_name": "x", "process": process}
    path.write_text(head + yaml.safe_dump(document, sort_keys=False))
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
        ([{"suffix_filter": {}}], "without a statistic"),
        ([{"random_selector": {}}], "chooses among all records"),
        ([{"naive_grouper": {}}], "several records into one"),
        ([{"meta_tags_aggregator": {}}], "several records into one"),
        ([{"llm_inference_with_ray_vllm_pipeline": {}}], "Ray cluster"),
        ([{"ray_document_deduplicator": {}}], "Ray cluster"),
        ([{"video_duration_filter": {}}], "works on videos"),
        ([{"video_deduplicator": {}}], "works on videos"),
        ([{"audio_size_filter": {}}], "works on sound"),
        ([{"text_chunk_mapper": {}}], "changes the number of records"),
        ([{"python_lambda_mapper": {}}], "runs code"),
        ([{"image_blur_mapper": {}}], "writes pictures"),
        ([{"extract_keyword_mapper": {}}], "do not have"),
        ([{"document_line_deduplicator": {}}], "one line"),
        ([{"document_minhash_deduplicator_with_uid": {}}], "neither a filter, a mapper nor"),
        ([{"clean_htm_mapper": {}}], "no operator 'clean_htm_mapper'"),
        ([{"text_length": {}}], "neither a filter, a mapper nor"),
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


def test_every_operator_of_data_juicer_runs_or_is_refused_with_a_reason(tmp_path):
    """No operator falls through: what is let in is a file of its family's folder."""
    import data_juicer

    folder = Path(data_juicer.__file__).parent / "ops"
    families = ("filter", "mapper", "deduplicator", "selector", "grouper", "aggregator")
    accepted = {family: set() for family in families}
    for family in families:
        for path in (folder / family).glob(f"*_{family}.py"):
            try:
                resolve_recipe(write(tmp_path / "r.yaml", [path.stem]))
            except RecapError as error:
                assert "Remove it" in str(error) or "needs the package" in str(error)
            else:
                accepted[family].add(path.stem)
    assert {"text_length_filter", "image_aesthetics_filter"} <= accepted["filter"]
    assert {"clean_links_mapper", "replace_content_mapper"} <= accepted["mapper"]
    exact = {"document_deduplicator", "document_minhash_deduplicator", "image_deduplicator"}
    assert exact <= accepted["deduplicator"] <= {*exact, "document_simhash_deduplicator"}
    assert not accepted["selector"] | accepted["grouper"] | accepted["aggregator"]


def test_a_list_is_cut_into_steps():
    names = ["text_length_filter", "words_num_filter", "clean_html_mapper", "clean_ip_mapper"]
    names += ["document_deduplicator", "image_deduplicator", "alphanumeric_filter"]
    operators = [{name: {}} for name in names]
    found = [(step.name, [name_of(o) for o in step.operators]) for step in steps(operators)]
    assert found == [
        ("00_filter", names[:2]),
        ("01_mapper", names[2:4]),
        ("02_deduplicator", names[4:5]),
        ("03_deduplicator", names[5:6]),
        ("04_filter", names[6:]),
    ]
    assert is_plain(operators[:2])
    assert not is_plain(operators[:3])
    assert steps([]) == []
    assert is_plain([])


@pytest.mark.parametrize(
    ("head", "clean"),
    [("", True), ("# recap: text=clean\n", True), ("# recap: text=faithful\n", False)],
)
def test_the_flag_marks_what_reads_text_and_nothing_else(tmp_path, head, clean):
    process = [
        {"words_num_filter": {"min_num": 6}},
        {"image_shape_filter": {"min_width": 3}},
        {"image_text_similarity_filter": {"min_score": 0.1}},
        {"clean_links_mapper": None},
        {"document_deduplicator": None},
        {"image_deduplicator": None},
        {"image_deduplicator": {"consider_text": True}},
    ]
    operators = resolve_recipe(write(tmp_path / "r.yaml", process, head)).before
    marked = [params_of(operator).get("recap_text") for operator in operators]
    text = "clean" if clean else None
    assert marked == [text, None, None, text, text, None, text]
    plain = resolve_recipe(write(tmp_path / "p.yaml", process)).before
    assert (measurements(operators[:1]) == measurements(plain[:1])) is not clean
    assert measurements(operators[1:3]) == measurements(plain[1:3])


@pytest.mark.parametrize(
    "line", ["text=bare", "clean", "txt=clean", "text=clean\n# recap: text=clean"]
)
def test_a_flag_that_is_not_understood_stops_the_recipe(tmp_path, line):
    path = write(tmp_path / "r.yaml", [BASIC[0]], f"# recap: {line}\n")
    with pytest.raises(RecapError, match=r"text=faithful.*text=clean"):
        resolve_recipe(path)


def test_the_strict_recipe_sees_captions_and_has_every_kind_of_step():
    recipe = resolve_recipe(RECIPES / "strict.yaml")
    assert (recipe.captioner, recipe.after) == (None, [])
    kinds = [step.kind for step in steps(recipe.before)]
    assert kinds == ["filter", *["deduplicator"] * 3, "filter"]
    names = {name_of(operator): params_of(operator) for operator in recipe.before}
    assert names["words_num_filter"]["recap_text"] == "clean"
    assert "recap_text" not in names["image_text_similarity_filter"]
    # One more character than a shingle, or captions without any would count as equal.
    assert (
        names["text_length_filter"]["min_len"]
        > names["document_minhash_deduplicator"]["window_size"]
    )


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
    mapper = '[{"clean_links_mapper": {}}]'
    assert load_operators(mapper, "mapper") == [{"clean_links_mapper": {}}]
    with pytest.raises(RecapError, match="clean_links_mapper is no filter"):
        load_operators(mapper)


def test_reading_recipes_imports_nothing_heavy():
    code = (
        "import sys; from recap.curate.recipe import resolve_recipe;"
        f"resolve_recipe({str(RECIPES / 'basic.yaml')!r});"
        "heavy = {'data_juicer', 'torch', 'datasets', 'pandas', 'pyarrow', 'numpy', 'PIL'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", check=True)
