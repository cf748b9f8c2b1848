"""The documents of an arm and of a pair: counts, pairing, similarities, sentences."""

import json

import pytest

from recap.curate.similarity import NEW_COLUMN, ORIGINAL_COLUMN
from recap.curate.statistics import StatisticsTable, write_statistics
from recap.errors import RecapError
from recap.io import read_json
from recap.quality.catalogue import catalogue
from recap.quality.compare import ArmFiles, compare_quality
from recap.quality.measure import measure_quality
from recap.quality.sentences import sentence, shown
from recap.settings import QualitySettings

SETTINGS = QualitySettings(token_budget=20, bootstrap_samples=200)


def arm(folder, name, rows):
    """Write merged records from ``(id, caption, source)``."""
    path = folder / f"{name}.jsonl"
    lines = [
        {"id": i, "text": f"<__dj__image> {caption}\n <|__dj__eoc|>", "caption_source": source}
        for i, caption, source in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scores(folder, name, rows):
    """Write a table of similarities from ``(id, original, new)``."""
    path = folder / f"{name}.parquet"
    ids, old, new = zip(*rows, strict=True)
    columns = {ORIGINAL_COLUMN: list(old), NEW_COLUMN: list(new)}
    write_statistics(path, StatisticsTable(list(ids), columns, {}))
    return path


def outputs(folder, name):
    return {
        "out": folder / f"{name}.json",
        "manifest": folder / f"{name}.manifest.json",
        "perf": folder / f"{name}.perf.json",
    }


def measure(folder, name, rows, similarity=()):
    path = arm(folder, name, rows)
    made = outputs(folder, f"{name}.quality")
    return measure_quality(name, path, similarity=similarity, settings=SETTINGS, **made)


def compare(folder, new, old, new_scores=(), old_scores=()):
    return compare_quality(
        ArmFiles("new", arm(folder, "new", new), new_scores),
        ArmFiles("old", arm(folder, "old", old), old_scores),
        settings=SETTINGS,
        **outputs(folder, "pair"),
    )


def row(document, name):
    return next(row for row in document["differences"] if row["measure"] == name)


def test_a_document_counts_and_says_by_what(tmp_path):
    rows = [(f"{i}", f"a red bus number {i}", "original") for i in range(30)]
    rows[0] = ("0", "猫和狗", "blip2")
    document = measure(tmp_path, "arm", rows)
    assert (document["records"], document["recaptioned"]) == (30, 1)
    assert (document["words"], document["tokens"], document["types"]) == (29 * 5 + 1, 29 * 4, 4)
    assert document["coverage"]["not_covered_scripts"] == {"CJK": 1}
    assert document["length_histogram"] == {"1": 1, "5": 29}
    measures = document["measures"]
    assert measures["words"]["value"] == pytest.approx(146 / 30)
    assert "str.split" in measures["words"]["protocol"]
    assert measures["ttr_at_budget"]["value"] == pytest.approx(4 / 20)
    assert measures["ttr_at_budget"]["n"] == 5  # draws of five captions; the last has nine tokens
    assert "similarity" not in measures
    assert all(m["n"] for m in measures.values())
    assert read_json(tmp_path / "arm.quality.json") == document
    assert read_json(tmp_path / "arm.quality.manifest.json")["counts"]["records"] == 30
    assert read_json(tmp_path / "arm.quality.perf.json")["items"] == 30


def test_similarity_shift_counts_the_captions_that_were_not_replaced(tmp_path):
    rows = [("a", "x y", "blip2"), ("b", "x z", "original"), ("c", "y z", "blip2")]
    table = scores(tmp_path, "s", [("c", 0.1, 0.4), ("b", 0.5, 0.9), ("a", 0.2, 0.3), ("z", 0, 1)])
    measures = measure(tmp_path, "arm", rows, [table])["measures"]
    assert measures["similarity"]["value"] == pytest.approx((0.3 + 0.5 + 0.4) / 3)
    assert measures["similarity_shift"]["value"] == pytest.approx((0.1 + 0.0 + 0.3) / 3)
    assert measures["similarity_shift"]["interval"] is None


def test_only_common_ids_enter_a_comparison(tmp_path):
    """The arm's own records are ten times as long; the shared ones differ by one word."""
    shared = [f"s{i}" for i in range(40)]
    old = [(i, "a red bus", "original") for i in shared]
    new = [(i, "a very red bus", "blip2") for i in reversed(shared)]
    new += [(f"n{i}", "word " * 40, "blip2") for i in range(40)]
    document = compare(tmp_path, new, old)
    assert (document["arm_records"], document["reference_records"]) == (80, 40)
    assert (document["common_records"], document["changed_captions"]) == (40, 40)
    words = row(document, "words")
    assert (words["arm"], words["reference"], words["difference"], words["n"]) == (4, 3, 1, 40)
    assert words["interval"] == pytest.approx([1, 1])
    assert words["reading"] == "higher"
    assert document["length_histograms"] == {"new": {"4": 40}, "old": {"3": 40}}


def test_the_mean_of_paired_differences_is_the_difference_of_means(tmp_path):
    old = [(f"{i}", "w " * (i % 7 + 1), "original") for i in range(100)]
    new = [(f"{i}", "w " * (i % 7 + 1 + (i % 3 == 0)), "blip2") for i in range(100)]
    words = row(compare(tmp_path, new, old), "words")
    assert words["difference"] == pytest.approx(34 / 100)
    low, high = words["interval"]
    assert 0.2 < low < 0.34 < high < 0.5


def test_similarities_are_paired_where_both_are_known(tmp_path):
    ids = [f"{i}" for i in range(12)]
    old = [(i, f"old {i}", "original") for i in ids]
    new = [(i, f"new {i}", "blip2") for i in ids[:-1]] + [("11", "old 11", "original")]
    table = scores(tmp_path, "s", [(i, 0.2, 0.2 + 0.01 * int(i)) for i in ids[1:]])
    found = row(compare(tmp_path, new, old, [table]), "similarity")
    assert found["n"] == 11  # id 0 was never scored
    assert found["reference"] == pytest.approx(0.2)
    assert found["difference"] == pytest.approx(sum(0.01 * i for i in range(1, 11)) / 11)
    assert found["reading"] == "higher"


def test_two_captioners_are_compared_by_their_own_scores(tmp_path):
    ids = [f"{i}" for i in range(10)]
    old = [(i, f"one {i}", "blip2") for i in ids]
    new = [(i, f"two {i}", "instruct") for i in ids]
    new_scores = [scores(tmp_path, "sn", [(i, 0.1, 0.2) for i in ids])]
    old_scores = [scores(tmp_path, "so", [(i, 0.1, 0.3) for i in ids])]
    found = row(compare(tmp_path, new, old, new_scores, old_scores), "similarity")
    assert (found["reference"], found["arm"]) == pytest.approx((0.3, 0.2))
    assert found["reading"] == "lower"


def test_equal_captions_are_called_equal(tmp_path):
    rows = [(f"{i}", f"caption {i}", "original") for i in range(10)]
    document = compare(tmp_path, rows[:6], rows)
    assert (document["changed_captions"], document["differences"]) == (0, [])
    assert (document["common_records"], document["reference_records"]) == (6, 10)


def test_arms_without_a_common_id_are_refused(tmp_path):
    with pytest.raises(RecapError, match="share no id"):
        compare(tmp_path, [("a", "x", "original")], [("b", "x", "original")])


def test_two_counters_show_a_gain_that_one_does_not(tmp_path):
    """Ten words each; the special tokens of one side would be two more."""
    old = [(f"{i}", "w " * 10, "original") for i in range(10)]
    new = [(f"{i}", "v " * 10, "blip2") for i in range(10)]
    check = compare(tmp_path, new, old)["counter_check"]
    assert check["one_counter"] == pytest.approx(0)
    assert check["two_counters"] == pytest.approx(0.2)


def test_little_text_says_so_instead_of_a_number(tmp_path):
    document = compare(tmp_path, [("a", "one", "blip2")], [("a", "two", "original")])
    found = row(document, "mattr_50")
    assert (found["difference"], found["reading"]) == (None, "not measured")
    assert "not measured" in found["sentence"]
    assert row(document, "words")["reading"] == "no interval"
    assert "too few" in row(document, "words")["sentence"]


def test_sentences_follow_the_numbers():
    measures = catalogue(SETTINGS)
    base = {"difference": 0.5, "n": 1234, "resampled": "records"}
    words = {**base, "interval": [0.25, 0.75], "reading": "higher"}
    assert sentence(measures["words"], words, "new", "old", 0.95) == (
        "words a caption: new is higher than old (+0.50, 95% interval +0.25 to +0.75, "
        "1 234 common records)."
    )
    share = {**base, "difference": -0.01, "interval": [-0.03, 0.01]}
    share["reading"] = "not distinguishable"
    assert sentence(measures["degenerate"], share, "new", "old", 0.9) == (
        "degenerate captions: new is not distinguishable from old (−1.00 percentage points, 90% "
        "interval −3.00 to +1.00, 1 234 common records)."
    )


def test_values_are_shown_with_a_unit_and_without_a_negative_zero():
    measures = catalogue(SETTINGS)
    assert shown(measures["degenerate"], 0.0123) == "1.23%"
    assert shown(measures["mtld"], 133.718) == "133.7"
    assert shown(measures["similarity"], -0.00001, sign=True) == "+0.000"
    assert shown(measures["words"], None) == "–"


def test_measures_that_grow_with_the_corpus_are_marked():
    growing = {name for name, measure in catalogue(SETTINGS).items() if measure.grows}
    assert growing == {"exact_duplicates", "near_duplicates"}
