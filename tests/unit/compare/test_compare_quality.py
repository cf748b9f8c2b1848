"""The page's section on captions shows what was measured, and compares only equal ids."""

import base64
import csv
import json
import re
from pathlib import Path

import pytest
from compare_experiment import Experiment, build_page

from recap.quality.compare import ArmFiles, compare_quality
from recap.quality.measure import measure_quality
from recap.settings import QualitySettings

SETTINGS = QualitySettings(token_budget=50, bootstrap_samples=200)


class Measured(Experiment):
    """An experiment whose arms' captions were measured; the new ones are one word longer."""

    def _arm(self, arm):
        folder = self.root / "arms" / arm
        folder.mkdir(parents=True, exist_ok=True)
        files = super()._arm(arm)
        captions = {name: self._captions(name) for name in self.arms}
        made = [folder / f"quality.{end}" for end in ("json", "manifest.json", "perf.json")]
        names = ("out", "manifest", "perf")
        measure_quality(
            arm,
            captions[arm],
            similarity=(),
            settings=SETTINGS,
            **dict(zip(names, made, strict=True)),
        )
        files["quality"] = str(made[0])
        if arm != "baseline":
            made = [folder / f"pair.{end}" for end in ("json", "manifest.json", "perf.json")]
            compare_quality(
                ArmFiles(arm, captions[arm]),
                ArmFiles("baseline", captions["baseline"]),
                settings=SETTINGS,
                **dict(zip(names, made, strict=True)),
            )
            files["quality_differences"] = str(made[0])
        return files

    def _captions(self, arm):
        more = "" if arm == "baseline" else " more"
        rows = [
            {
                "id": str(i),
                "text": f"<__dj__image>\nword{'abcdefgh'[i % 8]} on 图 {i}{more} <|__dj__eoc|>",
            }
            for i in range(60)
        ]
        rows[0]["text"] = "<__dj__image>\n图片 <|__dj__eoc|>"
        return self._jsonl(f"captions/{arm}.jsonl", rows)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return build_page(Measured(tmp_path_factory.mktemp("q"))).read_text(encoding="utf-8")


def section(page: str) -> str:
    return re.search(r'<section id="quality".*?</section>', page, flags=re.DOTALL)[0]


def table(page: str, name: str) -> list[list[str]]:
    uri = re.search(rf'href="data:text/csv;base64,([^"]+)" download="{name}.csv"', page)[1]
    return list(csv.reader(base64.b64decode(uri).decode().splitlines()))


def test_one_row_an_arm_with_counts_and_intervals(page):
    head, *rows = table(section(page), "caption-text")
    assert [row[0] for row in rows] == ["baseline", "blip2_enhanced"]
    place = head.index("words a caption")
    assert head[place + 1 : place + 3] == ["low", "high"]
    old, new = ([float(value) for value in row[place : place + 3]] for row in rows)
    assert old[0] == pytest.approx((59 * 4 + 1) / 60)
    assert new[0] == pytest.approx((59 * 5 + 1) / 60)
    assert old[1] < old[0] < old[2]
    assert rows[0][head.index("records")] == "60"
    assert rows[0][head.index("tokens")] == "118"
    assert all(len(row) == len(head) for row in rows)
    head, *rows = table(section(page), "caption-faults")
    assert rows[0][head.index("not covered")] == "1"
    assert float(rows[0][head.index("degenerate captions")]) == 0
    assert all(len(row) == len(head) for row in rows)


def test_what_grows_with_the_corpus_is_only_compared_at_equal_ids(page):
    for name in ("caption-text", "caption-faults"):
        head = table(section(page), name)[0]
        assert not any("duplicates" in label for label in head)
    pair = table(section(page), "quality-differences-blip2_enhanced")
    assert {"exact duplicates", "near duplicates"} <= {row[0] for row in pair}


def test_paired_differences_and_their_readings(page):
    head, *rows = table(section(page), "quality-differences-blip2_enhanced")
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    words = found["words a caption"]
    assert float(words["difference"]) == pytest.approx(59 / 60)
    assert (words["n"], words["reading"]) == ("60", "higher")
    assert float(words["low"]) <= 59 / 60 <= float(words["high"])
    assert found["degenerate captions"]["reading"] == "not distinguishable"


def test_protocol_and_sentences_are_on_the_page(page):
    text = section(page)
    assert "threshold 0.72, both directions averaged" in text
    assert "words a caption: blip2_enhanced is higher than baseline (+0.98" in text
    assert re.search(r"Not distinguishable, their intervals hold zero: [^<]*degenerate", text)
    assert "By one counter the captions have +24.89% words" in text
    assert "1 CJK" in text
    assert "How captions were chosen" not in text


def test_the_figure_holds_every_arm_and_can_be_read(page):
    figure = re.search(r'<figure data-hover="([^"]+)"[^>]*caption-lengths', section(page))
    series = json.loads(figure[1].replace("&#34;", '"'))["series"]
    assert [line["label"] for line in series] == ["baseline", "blip2_enhanced"]
    assert sum(series[0]["y"]) == pytest.approx(100, abs=0.1)


def test_long_captions_are_counted_at_the_end_of_the_axis():
    from recap.compare.quality import _shares

    shares = _shares({"2": 1, "39": 1, "40": 1, "700": 1})
    assert shares.size == 41
    assert shares[40] == 0.5


def test_equal_captions_are_told_in_a_sentence(tmp_path: Path):
    experiment = Measured(tmp_path)
    experiment._captions = lambda arm: Measured._captions(experiment, "baseline")
    text = section(build_page(experiment).read_text(encoding="utf-8"))
    assert "The captions of blip2_enhanced and baseline are the same on all 60 records" in text


def test_nothing_measured_is_told_too(tmp_path: Path):
    text = section(build_page(Experiment(tmp_path)).read_text(encoding="utf-8"))
    assert "No captions were measured." in text
