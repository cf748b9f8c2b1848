"""Experiments on a corpus of one's own: names, and files that were edited."""

import json
import re
from pathlib import Path

import pytest
import yaml

from recap.errors import RecapError
from recap.own_corpus import own_corpus_experiment


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_corpus(path, records=3):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("{}\n" * records)
    return path


def experiment(name):
    return yaml.safe_load(Path(f"config/local/{name}.yaml").read_text())


def edit(name, old, new):
    file = Path(f"config/local/{name}.yaml")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file.read_text()


def test_a_corpus_of_ones_own_becomes_an_experiment(project):
    (project / "data").mkdir()
    rows = [json.dumps({"id": str(i)}) for i in range(7)]
    (project / "data" / "My Captions.jsonl").write_text("\n".join(rows) + "\n\n")
    (project / "llava.json").write_text("[]")
    name = own_corpus_experiment("data/My Captions.jsonl", "llava.json")
    assert name == "own_my_captions"
    document = yaml.safe_load(Path(f"config/local/{name}.yaml").read_text())
    row = document["corpora"][name]
    assert row["records"] == 7
    assert (Path(row["root"]) / row["jsonl"]).is_file()
    assert (Path(row["root"]) / row["original"]).is_file()
    assert document["extends"] == "demo"
    own_corpus_experiment("data/My Captions.jsonl", "", "smoke")
    document = yaml.safe_load(Path(f"config/local/{name}.yaml").read_text())
    assert document["extends"] == "smoke"


def test_a_missing_or_empty_corpus_is_refused(project):
    with pytest.raises(RecapError, match="does not exist"):
        own_corpus_experiment("nowhere.jsonl", "")
    Path("empty.jsonl").write_text("\n")
    with pytest.raises(RecapError, match="holds no record"):
        own_corpus_experiment("empty.jsonl", "")


@pytest.mark.parametrize("second", ["b/records.jsonl", "a/记录 records.jsonl"])
def test_corpora_of_the_same_name_are_experiments_of_their_own(project, second):
    first = own_corpus_experiment(write_corpus("a/records.jsonl"), "")
    other = own_corpus_experiment(write_corpus(second, 5), "")
    assert first == "own_records"
    assert other.startswith("own_records_") and other != first
    assert experiment(first)["corpora"][first]["records"] == 3
    assert experiment(other)["corpora"][other]["records"] == 5
    # Each keeps its name, however its path is written.
    assert own_corpus_experiment(str(project / "a/records.jsonl"), "") == first
    Path(f"config/local/{first}.yaml").unlink()
    assert own_corpus_experiment(second, "") == other


def test_names_without_a_letter_of_ours_differ(project):
    names = [own_corpus_experiment(write_corpus(f"{n}.jsonl"), "") for n in ("描述", "图片", "-")]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"own_[0-9a-f]{6}", name) for name in names)


def test_an_edited_experiment_is_kept(project, caplog):
    caplog.set_level("INFO")
    name = own_corpus_experiment(write_corpus("records.jsonl"), "")
    text = edit(name, "extends: demo", "extends: smoke\nseeds: [1]")
    assert own_corpus_experiment("records.jsonl", "") == name
    assert own_corpus_experiment("records.jsonl", "", "smoke") == name
    assert Path(f"config/local/{name}.yaml").read_text() == text
    assert "own_records.yaml was edited: kept" in caplog.text


def test_what_differs_from_an_edited_experiment_is_refused(project):
    name = own_corpus_experiment(write_corpus("records.jsonl"), "")
    text = edit(name, "title: ", "title: My ")
    Path("llava.json").write_text("[]")
    with pytest.raises(RecapError, match=r"write `corpora\.own_records\.original: llava\.json`"):
        own_corpus_experiment("records.jsonl", "llava.json")
    with pytest.raises(RecapError, match=r"write `extends: smoke` there, or delete it"):
        own_corpus_experiment("records.jsonl", "", "smoke")
    write_corpus("records.jsonl", 4)
    with pytest.raises(RecapError, match=r"`corpora\.own_records\.records: 4`"):
        own_corpus_experiment("records.jsonl", "")
    assert Path(f"config/local/{name}.yaml").read_text() == text


@pytest.mark.parametrize(
    "text", ["a: [", "- 1\n", "corpora: 3\n", "corpora: {own_records: {root: 3}}\n"]
)
def test_a_file_that_holds_something_else_is_not_overwritten(project, text):
    write_corpus("records.jsonl")
    file = Path("config/local/own_records.yaml")
    file.parent.mkdir(parents=True)
    file.write_text(text)
    try:
        assert own_corpus_experiment("records.jsonl", "") != "own_records"
    except RecapError as error:
        assert "is not valid YAML" in str(error)
    assert file.read_text() == text
