"""Parts of the page: tables and their files, figures and their marks, controls."""

import base64
import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from compare_experiment import Experiment, build_page

from recap.compare.figures import _aa_intervals, accuracy_plot, curve_plot, forest_plot, thinned
from recap.compare.tables import csv_uri, table
from recap.compare.templating import environment

COLORS = {"a": "#4c72b0", "b": "#dd8452", "twin": "#55a868"}


def read_csv(uri: str) -> list[list[str]]:
    text = base64.b64decode(uri.removeprefix("data:text/csv;base64,")).decode()
    return list(csv.reader(io.StringIO(text)))


def read_svg(uri: str) -> str:
    return base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


def comparison(arm: str, difference: float, **change: Any) -> dict[str, Any]:
    return {
        "arm": arm,
        "reference": "a",
        "benchmark": "textvqa",
        "difference": difference,
        "interval": [difference - 2, difference + 2],
        "minimum_detectable_effect": 3.0,
        "noise_floor": 0.5,
        "identical_pair": False,
        "verdict": "better",
        **change,
    }


def curve(**change: Any) -> dict[str, Any]:
    loss = [3.0, 2.0, 9.5, 1.0]
    return {
        "arm": "a",
        "seed": 1,
        "step": [1, 2, 3, 4],
        "loss": loss,
        "spike": [False, False, True, False],
        "gates_passed": True,
        **change,
    }


def test_table_downloads_what_it_shows() -> None:
    body = (
        '<thead><tr><th>name</th><th data-value="low|high">range</th><th>n</th></tr></thead>'
        '<tbody><tr><td>a &amp; <b>b</b>, "c"</td><td data-value="-1.25|2.5">−1 to 3</td>'
        "<td>1\u202f234</td></tr><tr><td>=1+1</td><td>x</td><td>−3</td></tr></tbody>"
    )
    html = str(table(body, "my-table", 'of "things"'))
    uri = re.search(r'href="([^"]+)"', html)
    assert uri is not None
    assert read_csv(uri[1]) == [
        ["name", "low", "high", "n"],
        ['a & b, "c"', "-1.25", "2.5", "1234"],
        ["'=1+1", "x", "-3"],
    ]
    assert 'aria-label="of &#34;things&#34;"' in html
    assert 'download="my-table.csv"' in html


def test_table_keeps_what_a_template_escaped() -> None:
    source = '{% filter table("t", name) %}<tr><td>{{ name }}</td></tr>{% endfilter %}'
    html = environment().from_string(source).render(name="<script>x</script>")
    assert "<script" not in html
    assert "&lt;script&gt;x&lt;/script&gt;" in html


@pytest.mark.parametrize("text", ["@SUM(A1)", "+1 day", "-x", "\tx"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert read_csv(csv_uri([[text, -1.5, None]])) == [[f"'{text}", "-1.5", ""]]


def test_forest_plot_has_a_band_only_with_a_twin() -> None:
    ordinary = [comparison("b", 4.0, noise_floor=None)]
    pair = comparison("twin", 0.5, identical_pair=True, noise_floor=None)
    without = forest_plot(ordinary, COLORS, "text").svg
    twin = forest_plot([comparison("b", 4.0), pair], COLORS, "text").svg
    assert "var(--band)" not in without
    assert "var(--band)" in twin
    assert "var(--floor)" in twin
    assert "b − a on textvqa: +4.00 points" in without
    assert "A/A interval" in twin
    assert "A/A" not in without


def test_band_covers_all_twins_of_its_benchmark_only() -> None:
    def twin(name: str, low: float, high: float, benchmark: str) -> dict[str, Any]:
        pair = comparison(name, 0.0, identical_pair=True, benchmark=benchmark)
        return {**pair, "interval": [low, high]}

    rows = [twin("a", -1, 2, "x"), twin("b", -3, 1, "x"), comparison("c", 5.0, benchmark="y")]
    assert _aa_intervals(rows) == {"x": (-3, 2)}


def test_downloaded_figure_stands_alone() -> None:
    figure = forest_plot([comparison("b", 4.0)], COLORS, "text")
    svg = read_svg(figure.download)
    assert ElementTree.fromstring(svg).tag.endswith("svg")  # noqa: S314
    assert "var(--" not in svg
    assert "currentColor" not in svg
    assert ElementTree.fromstring(figure.svg).get("role") == "img"  # noqa: S314


def test_figures_repeat_byte_for_byte() -> None:
    first, second = (curve_plot([curve()], "loss", "loss", COLORS, "x", "t") for _ in range(2))
    assert first == second


def shapes(svg: str, style: str) -> int:
    return len(re.findall(f"<use [^>]*{style}", svg))


def test_spikes_and_gates_leave_marks() -> None:
    def draw(value: str, **change: Any) -> str:
        given = curve(grad_norm=[1.0, 1.0, 1.0, 1.0], **change)
        return curve_plot([given], value, value, COLORS, "x", "t").svg

    calm = [3.0, 2.0, 1.5, 1.0]
    color = COLORS["a"]
    smooth = draw("loss", loss=calm, spike=[False] * 4)
    assert shapes(smooth, color) == 1
    assert shapes(draw("loss"), color) == 2
    assert shapes(draw("loss", loss=calm, spike=[False] * 4, gates_passed=None), color) == 0
    assert shapes(draw("grad_norm"), color) == 1
    assert draw("loss", loss=calm, spike=[False] * 4, gates_passed=False) != smooth


def test_hover_holds_the_values() -> None:
    figure = curve_plot([curve(), curve(seed=2)], "loss", "loss", COLORS, "x", "t")
    document = json.loads(figure.hover)
    assert [line["label"] for line in document["series"]] == ["a, seed 1", "a, seed 2"]
    assert document["series"][0]["y"] == [3.0, 2.0, 9.5, 1.0]
    assert document["label"] == "update"
    left, top, right, bottom = document["box"]
    assert 0 < left < right <= 360
    assert 0 <= top < bottom < 3.4 * 72


def test_thinning_keeps_ends_and_extremes() -> None:
    values = np.random.default_rng(1).normal(size=5000)
    values[1234], values[4321] = 50, -50
    steps, kept = thinned(list(range(1, 5001)), values.tolist())
    assert len(steps) <= 402
    assert (steps[0], steps[-1]) == (1, 5000)
    assert {50.0, -50.0} <= set(kept)
    assert all(values[step - 1] == value for step, value in zip(steps, kept, strict=True))
    assert thinned([1, 2], [5.0, 4.0]) == ([1, 2], [5.0, 4.0])


def test_controls_lie_beside_their_arms() -> None:
    arms = [
        {"arm": arm, "accuracy": 40.0, "interval": [30.0, 50.0], "seed_accuracy": [40.0]}
        for arm in ("a", "b")
    ]
    controls = [{"arm": arm, "control": "blank_image", "accuracy": 12.0} for arm in ("a", "b")]
    without = accuracy_plot(arms, [], COLORS, "x", "t").svg
    with_controls = accuracy_plot(arms, controls, COLORS, "x", "t").svg
    assert "blank image" in with_controls
    assert "blank image" not in without
    assert "<title>blank image: a 12.00, b 12.00 points</title>" in with_controls
    group = with_controls[with_controls.index('id="x-control-blank_image"') :]
    assert shapes(group[: group.index("</g>")], "currentColor") == 2


def test_page_stays_small_with_many_pictures_and_long_curves(tmp_path: Path) -> None:
    page = build_page(Experiment(tmp_path, effect=0.3, twin=True))
    assert page.stat().st_size < 1_000_000


def test_ground_truth_stands_beside_changed_answers(tmp_path: Path) -> None:
    text = build_page(Experiment(tmp_path, effect=0.3)).read_text(encoding="utf-8")
    assert "<dt>ground truth</dt><dd>nike (10)</dd>" in text
    assert "<dt>truth</dt><dd>the true shape 2</dd>" in text
    assert "similarity 0.300" in text
    assert "the raw one in 0" in text
