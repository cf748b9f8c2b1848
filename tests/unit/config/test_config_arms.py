"""Arms that lean on other arms, their wiring, and controls in the list of inputs."""

import pytest
from test_config_experiments import merge, raw_config

from recap.compare.inputs import ComparisonInputs
from recap.config import load_experiment
from recap.config.comparison import ComparisonWiring
from recap.config.wiring import Wiring
from recap.errors import RecapError

COLUMNS = [
    "arm",
    "pre_recipe",
    "caption_policy",
    "max_caption_words",
    "post_recipe",
    "match_ids_to",
    "max_records",
    "max_records_of",
    "identical_to",
    "seed_offset",
]
BASE = {"pre_recipe": "basic", "caption_policy": "keep"}
ARMS = {
    "a": BASE,
    "b": BASE | {"caption_policy": "replace"},
    "again": {"identical_to": "a", "seed_offset": "10"},
    "draw": BASE | {"max_records_of": "a"},
}


def load(tmp_path, arms, **changes):
    path = tmp_path / "arms.tsv"
    rows = [
        [name, *(cells.get(column, "") for column in COLUMNS[1:])] for name, cells in arms.items()
    ]
    path.write_text("\n".join("\t".join(row) for row in [COLUMNS, *rows]) + "\n")
    raw = raw_config("demo") | {"arms": list(arms), "funnel_arms": [], "reference_arm": "a"}
    raw["sheets"]["arms"] = str(path)
    raw["seeds"] = [1, 2]
    return load_experiment(merge(raw, changes))


def test_a_twin_has_the_other_arms_data_and_seeds_of_its_own(tmp_path):
    wiring = Wiring(load(tmp_path, ARMS))
    assert wiring.train_data("again") == wiring.train_data("a")
    assert wiring.curated_arms() == ["a", "b", "draw"]
    assert [wiring.train_seed(arm, "2") for arm in ("a", "again", "b")] == [2, 12, 2]
    document = ComparisonWiring(wiring).document()
    arms = {arm["arm"]: arm for arm in document["arms"]}
    assert arms["again"]["identical_to"] == "a"
    assert arms["again"]["dataset_manifest"] == arms["a"]["dataset_manifest"]
    assert arms["a"]["compared_with"] == "draw" and arms["again"]["compared_with"] is None


@pytest.mark.parametrize("other", ["b", "draw"])
def test_a_twin_is_matched_to_the_arm_it_repeats(tmp_path, other):
    again = {"identical_to": other, "seed_offset": "10"}
    document = ComparisonWiring(Wiring(load(tmp_path, ARMS | {"again": again}))).document()
    matched = {arm["arm"]: arm["matched"] for arm in document["arms"]}
    assert matched == {"a": True, "b": False, "draw": False, "again": True}


MISTAKES = {
    "twin without offset": ({"again": {"identical_to": "a"}}, r"seeds \[1, 2\] on the same data"),
    "offset within the seeds": (
        {"again": {"identical_to": "a", "seed_offset": "1"}},
        r"seeds \[2\] on the same data as `a`",
    ),
    "two twins alike": (
        {"third": {"identical_to": "a", "seed_offset": "11"}},
        r"seeds \[12\] on the same data as `third`",
    ),
    "twin with a recipe": (
        {"again": {"identical_to": "a", "seed_offset": "10", "post_recipe": "blip2_30k"}},
        "takes everything from `a`: clear post_recipe",
    ),
    "twin of nothing": (
        {"again": {"identical_to": "c", "seed_offset": "10"}},
        "needs `c` and itself among `arms`",
    ),
    "twin of a twin": (
        {"third": {"identical_to": "again", "seed_offset": "100"}},
        "repeats an arm itself; name `a`",
    ),
    "offset without twin": ({"b": BASE | {"seed_offset": "3"}}, "`seed_offset` belongs to"),
    "no policy": ({"b": {"pre_recipe": "basic"}}, "`caption_policy` is empty"),
    "unknown policy": ({"b": BASE | {"caption_policy": "replce"}}, "caption_policy"),
    "draw of nothing": ({"draw": BASE | {"max_records_of": "c"}}, "names `c`, which this"),
    "two budgets": ({"draw": BASE | {"max_records_of": "b", "max_records": "3"}}, "two budgets"),
    "draw of a draw": (
        {"third": BASE | {"max_records_of": "draw"}},
        "`draw` has a borrowed budget too",
    ),
    "draw with other captions": (
        {"draw": BASE | {"max_records_of": "b"}},
        "differs from `b` in corpus or caption_policy",
    ),
    "draw of a matched arm": (
        {"m": BASE | {"match_ids_to": "b"}, "draw": BASE | {"max_records_of": "m"}},
        "takes its ids from `b`",
    ),
    "matched draw": (
        {"draw": BASE | {"max_records_of": "a", "match_ids_to": "b"}},
        "clear post_recipe and both max_records",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_contradictory_rows_are_refused(tmp_path, name):
    change, message = MISTAKES[name]
    with pytest.raises(RecapError, match=message):
        load(tmp_path, ARMS | change)


def test_the_similarity_model_needs_the_right_role(tmp_path):
    arms = ARMS | {"low": BASE | {"caption_policy": "replace_low_similarity"}}
    assert "clip-micro" in load(tmp_path, arms).stand_ins
    with pytest.raises(RecapError, match="role `captioner`, not `similarity`"):
        load(tmp_path, arms, similarity={"model": "blip2-micro"})
    with pytest.raises(RecapError, match="model `unused` is no row"):
        load(tmp_path, ARMS, similarity={"model": "unused"})
    originals = {name: row for name, row in ARMS.items() if name != "b"}
    load(tmp_path, originals, similarity={"model": "unused"})
    with pytest.raises(RecapError, match="quantile, so it must be within 0 and 1"):
        load(tmp_path, arms, similarity={"threshold": -0.1})


def test_policy_flags_hold_only_what_the_policy_reads(tmp_path):
    arms = ARMS | {
        "low": BASE | {"caption_policy": "replace_low_similarity"},
        "mixed": BASE | {"caption_policy": "mix"},
    }
    wiring = Wiring(load(tmp_path, arms))
    assert wiring.policy_flags("a") == "--policy keep"
    assert wiring.policy_flags("low").endswith("--captioner blip2-micro")
    assert "--mix-share 0.5 --seed 1024" in wiring.policy_flags("mixed")
    assert wiring.arm_similarity("b", "00000") == wiring.arm_threshold("mixed") == []
    (table,) = wiring.arm_similarity("low", "00001")
    assert table.endswith("recipes/basic/similarity/blip2-micro/00001.parquet")
    assert wiring.budget_flags("a") == ""
    assert wiring.budget_flags("draw").endswith("arms/a/merged.jsonl --seed 1024")


def test_matching_needs_a_model_of_the_role_similarity(tmp_path):
    arms = ARMS | {"low": BASE | {"caption_policy": "replace_low_similarity"}}
    with pytest.raises(RecapError, match="role `clip`, not `similarity`"):
        load(tmp_path, arms, similarity={"kind": "itm"})


def test_the_length_cap_is_part_of_an_arm(tmp_path):
    cells = {"caption_policy": "replace", "max_caption_words": "12"}
    wiring = Wiring(load(tmp_path, ARMS | {"short": BASE | cells}))
    assert wiring.policy_flags("short").endswith("--captioner blip2-micro --max-caption-words 12")
    assert "--max-caption-words" not in wiring.policy_flags("b")
    zero = BASE | cells | {"max_caption_words": "0"}
    assert "--max" not in Wiring(load(tmp_path, ARMS | {"short": zero})).policy_flags("short")
    with pytest.raises(RecapError, match="clear `max_caption_words`"):
        load(tmp_path, ARMS | {"a": BASE | {"max_caption_words": "12"}})


def test_candidates_are_chosen_from_where_there_are_several(tmp_path):
    base = "results/demo/corpus/demo/recipes/basic"
    one = load(tmp_path, ARMS)
    assert Wiring(one).arm_captions("b", "00000") == [f"{base}/captions/blip2-micro/00000.jsonl"]
    several = load(tmp_path, ARMS, caption={"candidates": 3})
    wiring = Wiring(several)
    assert wiring.arm_captions("b", "00000") == [f"{base}/chosen/blip2-micro/00000.jsonl"]
    assert wiring.arm_captions("a", "00000") == []
    assert several.scores_similarity
    perf = [entry["path"] for entry in ComparisonWiring(wiring).document()["perf"]]
    assert "results/demo/perf/choose_caption/demo.basic.blip2-micro.00000.json" in perf
    kept = {name: row for name, row in ARMS.items() if name != "b"}
    assert not load(tmp_path, kept, caption={"candidates": 3}).scores_similarity


def test_every_run_is_compared_with_every_control():
    wiring = ComparisonWiring(Wiring(load_experiment(raw_config("demo_full"))))
    document = wiring.document()
    inputs = ComparisonInputs.model_validate(document)
    runs = len(inputs.arms) * len(inputs.seeds)
    by_control = [item.control for item in inputs.controls]
    assert [by_control.count(name) for name in dict.fromkeys(by_control)] == [runs, runs, 1]
    assert {str(item.score) for item in inputs.controls} <= set(wiring.results())
    assert {arm.arm for arm in inputs.challengers} == {
        "baseline_again",
        "blip2_enhanced",
        "blip2_low_similarity",
        "mixed",
        "filtered_only",
    }
    opponents = {arm.arm: inputs.opponent(arm) for arm in inputs.challengers}
    assert opponents["filtered_only"] == "random_control"
    assert opponents["baseline_again"] == opponents["mixed"] == "baseline"
    matched = {arm.arm: arm.matched for arm in inputs.arms}
    assert matched == {arm: arm not in ("filtered_only", "random_control") for arm in matched}


def test_the_same_arms_without_controls_list_the_same_files_as_before():
    with_all = ComparisonWiring(Wiring(load_experiment(raw_config("demo_full"))))
    raw = raw_config("demo_full") | {"controls": []}
    without = ComparisonWiring(Wiring(load_experiment(raw)))
    assert without.document()["controls"] == []
    extra = set(with_all.results()) - set(without.results())
    assert extra and all(".blank" in f or ".shuf" in f or "majority" in f for f in extra)
    assert set(without.results()) < set(with_all.results())
