import json
import re

import pytest
import yaml
from docs_pages import ROOT, blocks, pages

from recap.config.experiment import experiment_files, load_experiment
from recap.curate.recipe import resolve_recipe

EXAMPLES = [block for page in pages() for block in blocks(page) if block.language == "yaml"]
FILE = re.compile(r"# config/local/([a-z0-9_]+)\.yaml\n")


def _update(base, changes):
    """Lay one configuration over another as Snakemake does: mappings are merged, lists replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _update(base[key], value)
        else:
            base[key] = value


def _read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def _where(block):
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("block", [b for b in EXAMPLES if FILE.match(b.text)], ids=_where)
def test_experiments_shown_are_valid(block, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    own = yaml.safe_load(block.text)
    for corpus in own.get("corpora", {}).values():  # a folder that only the reader has
        corpus["root"] = str(tmp_path)
        for name in filter(None, (corpus["jsonl"], corpus.get("original"))):
            (tmp_path / name).touch()
    merged = _read("config/config.yaml")
    for path in experiment_files(own.get("extends", "")):
        _update(merged, _read(path))
    _update(merged, {**own, "experiment": FILE.match(block.text)[1]})
    experiment = load_experiment(merged)
    assert experiment.config.title == own["title"]


@pytest.mark.parametrize("block", [b for b in EXAMPLES if "\nprocess:" in b.text], ids=_where)
def test_recipes_shown_resolve(block, tmp_path):
    if "custom_operator_paths" in block.text:  # Data-Juicer's own command runs that one
        assert (ROOT / yaml.safe_load(block.text)["custom_operator_paths"][0]).is_file()
        return
    path = tmp_path / "recipe.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert resolve_recipe(path)


def test_records_shown_are_json():
    shown = [b for page in pages() for b in blocks(page) if b.language == "json"]
    assert shown
    for block in shown:
        assert json.loads(block.text), _where(block)


def test_experiments_are_shown():
    assert len([block for block in EXAMPLES if FILE.match(block.text)]) >= 3
