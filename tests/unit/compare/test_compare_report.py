"""The page: complete, escaped, self-contained, the same bytes twice."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compare_experiment import CAPTION, FAST, Experiment
from compare_experiment import build_page as build
from PIL import Image

from recap.compare.comparison import compare
from recap.compare.examples import changed_examples
from recap.compare.figures import curve_plot
from recap.compare.funnels import arm_funnels
from recap.compare.gates import read_gates
from recap.compare.inputs import load_inputs
from recap.compare.report import ReportRequest, build_report
from recap.compare.telemetry import curve_summary, stage_curves
from recap.compare.thumbnails import thumbnail
from recap.errors import GateError, RecapError
from recap.io import write_json


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("page")
    return build(Experiment(root, effect=0.3, twin=True)).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Collects what a browser would act on."""

    VOID = frozenset({"meta", "img", "br", "wbr", "path", "use", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            text = value or ""
            assert not name.startswith("on"), f"event handler {name}"
            if name == "id":
                self.ids.append(text)
            if name in {"href", "src", "xlink:href"}:
                self.links.append(text)
            self.references += re.findall(r"url\(#([^)]+)\)", text)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    result = Outline()
    result.feed(page)
    return result


def test_page_is_well_formed_and_needs_no_network(outline: Outline) -> None:
    assert not outline.open
    assert outline.tags.count("script") == 1
    assert all(link.startswith(("#", "data:image/", "data:text/csv")) for link in outline.links)
    assert len(outline.ids) == len(set(outline.ids))
    inner = {link[1:] for link in outline.links if link.startswith("#")}
    assert inner | set(outline.references) <= set(outline.ids)


def test_page_keeps_other_content_out(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["']https?:""", page)
    assert "@import" not in page


def test_captions_are_escaped(page: str) -> None:
    assert CAPTION.startswith("Totally <script>")
    assert page.count("<script") == 1
    assert "Totally &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;quoted" in page


def test_order_of_sections(page: str) -> None:
    order = [
        "verdict",
        "contract",
        "funnel",
        "gallery",
        "quality",
        "training",
        "gates",
        "benchmarks",
    ]
    order += ["answers", "cost", "provenance"]
    places = [page.index(f'<section id="{name}"') for name in order]
    assert places == sorted(places)
    assert page.index('class="banner"') < places[0]


def test_banner_only_with_stand_ins(tmp_path: Path, page: str) -> None:
    assert "Stand-in models were used (micro_gemma, micro_clip)" in page
    real = build(Experiment(tmp_path, stand_ins=())).read_text(encoding="utf-8")
    assert "Stand-in models were used" not in real
    assert "trained for seconds" in real


def test_page_shows_the_evidence(page: str) -> None:
    assert page.count("<svg") == 2 + 4
    assert page.count("data:image/jpeg;base64,") >= 3
    for text in ("malformed_json", "select: words_<wbr>num_<wbr>filter", "A/A twin of baseline"):
        assert text in page
    for text in ("adapter: tensors", "56 tensors, none at fault", "0" * 40):
        assert text in page


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, effect=0.2)
    first = build(experiment, "one")
    second = build(experiment, "two")
    folder = first.parent
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert {"report.html", "run_card.json", "forest.png", "contract.csv"} <= {n.name for n in names}
    for name in names:
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def test_verdict_is_one_line_and_texts_carry_the_numbers(tmp_path: Path) -> None:
    out = build(Experiment(tmp_path, effect=0.3, seeds=(3,)))
    verdict = out.with_name("verdict.txt").read_text(encoding="utf-8")
    assert verdict.count("\n") == 1
    assert "baseline on textvqa_ocr" in verdict
    summary = out.with_name("final_project_summary.md").read_text(encoding="utf-8")
    assert verdict.split(" One training seed")[0] in summary
    training = out.with_name("training_comparison_analysis.md").read_text(encoding="utf-8")
    assert (
        training.index("## pretrain") < training.index("## finetune") < training.index("## Gates")
    )
    assert "variance" not in training


def test_gallery_size_and_examples_are_settings(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, effect=0.3)
    page = build(experiment, settings='{"gallery_size": 1, "example_answers": 0}')
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 1


@pytest.mark.parametrize(
    "unknown",
    [("truth", "corruption"), ("truth", "corruption", "similarity_original", "similarity_new")],
)
def test_a_corpus_whose_truth_nobody_knows_has_a_gallery(
    tmp_path: Path, unknown: tuple[str, ...]
) -> None:
    page = build(Experiment(tmp_path, unknown=unknown)).read_text(encoding="utf-8")
    gallery = page.split('id="gallery-list"')[1].split("</ul>")[0]
    assert gallery.count("<li ") == 3
    assert "data-corruption" not in gallery and "<dt>truth</dt>" not in gallery
    assert ("data-gain" in gallery) == ("similarity_new" not in unknown)


def test_comparison_of_another_experiment_is_refused(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    experiment.write()
    write_json(tmp_path / "comparison.json", {"experiment": "other", "arms": []})
    out = tmp_path / "x.html"
    names = ("comparison_inputs.json", "comparison.json", "costs.json")
    inputs, comparison, costs = (tmp_path / name for name in names)
    request = ReportRequest(inputs, comparison, "{}", costs, out, out, out)
    with pytest.raises(RecapError, match="compare again"):
        build_report(request)


def test_losses_of_different_stages_never_meet(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    path = experiment.write()
    curves = stage_curves(load_inputs(path))
    assert [len(curve["step"]) for curve in curves["pretrain"]] == [8] * 4
    assert [len(curve["step"]) for curve in curves["finetune"]] == [10] * 4
    manifest = "runs/baseline/seed1/pretrain/manifest.json"
    experiment.edit(manifest, lambda m: m["details"].update(stage="finetune"))
    with pytest.raises(GateError, match="different stages are never compared"):
        stage_curves(load_inputs(path))


def test_curve_summary_by_hand() -> None:
    curve = {
        "arm": "a",
        "seed": 1,
        "step": list(range(1, 21)),
        "loss": [4.0] * 10 + [13.0] + [4.0] * 7 + [2.0, 1.0],
        "grad_norm": [1.0] * 19 + [7.0],
        "spike": [False] * 10 + [True] + [False] * 9,
        "metrics": {"updates_to_convergence": 12, "grad_norm_variation": 0.5},
    }
    summary = curve_summary(curve)
    assert summary["tail_loss"] == pytest.approx(1.5)
    assert (summary["first_loss"], summary["last_loss"], summary["lowest_loss"]) == (4, 1, 1)
    assert (summary["spikes"], summary["highest_grad_norm"], summary["updates"]) == (1, 7, 20)
    assert (summary["updates_to_convergence"], summary["grad_norm_variation"]) == (12, 0.5)


def test_figure_takes_the_colours_of_the_page() -> None:
    curves = [{"arm": "a", "seed": 1, "step": [1, 2], "loss": [2.0, 1.0], "spike": [False] * 2}]
    text = 'a "quoted" <text>'
    svg = curve_plot(curves, "loss", "loss", {"a": "#4c72b0"}, "one", text).svg
    assert svg.startswith('<svg role="img" aria-label="a &#34;quoted&#34; &lt;text&gt;"')
    assert "currentColor" in svg
    assert "#4c72b0" in svg
    assert "#010203" not in svg
    assert "<metadata>" not in svg


def test_examples_hold_both_directions(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, effect=0.5)
    path = experiment.write()
    _, scores = compare(load_inputs(path), FAST)
    table = scores["textvqa_ocr"]
    rows = changed_examples(table, "blip2_enhanced", "baseline", 4)
    assert [row["change"] for row in rows] == ["better"] * 4
    rows = changed_examples(table, "baseline", "blip2_enhanced", 4)
    assert [row["change"] for row in rows] == ["worse"] * 4
    assert changed_examples(table, "baseline", "baseline", 4) == []


@pytest.mark.parametrize("name", ["../secret.png", "missing", "/etc/hostname"])
def test_thumbnail_says_why_there_is_none(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    root = tmp_path / "root"
    root.mkdir()
    result = thumbnail(root, name, 32)
    assert result.uri == ""
    assert name in result.problem


def test_thumbnail_scales_and_finds_the_suffix(tmp_path: Path) -> None:
    Image.new("RGBA", (320, 160), (1, 2, 3, 0)).save(tmp_path / "picture.png")
    result = thumbnail(tmp_path, "picture", 80)
    assert (result.width, result.height, result.problem) == (80, 40, "")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert thumbnail(tmp_path, "broken.jpg", 80).problem


@pytest.mark.parametrize(
    ("document", "passed"),
    [
        ({"failures": [], "adapter_tensors": 252}, True),
        ({"failures": ["B is zero"], "adapter_tensors": 252}, False),
        ({"merged_modules": 28, "unchanged_modules": 28}, False),
        ({"passed": False, "prompts": [{"passed": False}]}, False),
        ({"gates": [{"name": "a", "passed": False}]}, False),
        ({"something": 1}, False),
    ],
)
def test_gates_are_read_in_every_form(tmp_path: Path, document: dict, passed: bool) -> None:
    write_json(tmp_path / "gate.json", document)
    assert [gate["passed"] for gate in read_gates(tmp_path / "gate.json")] == [passed]


def test_funnel_that_loses_records_stops(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    inputs = load_inputs(experiment.write())
    path = "arms/baseline/funnel.json"
    experiment.edit(path, lambda d: d["stages"][1].update(records_out=79))
    with pytest.raises(GateError, match="does not add up"):
        arm_funnels(inputs)
