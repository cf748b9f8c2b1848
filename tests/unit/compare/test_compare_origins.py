"""The provenance says where models and data came from, and what nobody vouches for."""

import json

import pytest
from compare_experiment import Experiment
from compare_experiment import build_page as build

from recap.compare.inputs import FileInputs
from recap.compare.origins import origin
from recap.io import write_json


def entry(folder, name, details, files=2):
    path = folder / f"{name}.json"
    write_json(path, {"details": details, "counts": {"files": files}})
    return {"name": name, "licence": "MIT", "manifest": str(path)}


def part(*verified):
    files = {f"{n}.bin": {"verified": flag} for n, flag in enumerate(verified)}
    unverified = [name for name, file in files.items() if not file["verified"]]
    return {"source": "modelscope:ns/tiny@v1", "files": files, "unverified": unverified}


def entries(folder):
    fetched = {"verified": False, "parts": {"good": part(True, True), "half": part(True, False)}}
    return [
        entry(folder, "good", fetched),
        entry(folder, "half", fetched),
        entry(folder, "mine", {"source": "path:mine", "verified": True, "unverified": []}),
        entry(folder, "micro", {"source": "code"}, files=5),
    ]


def test_each_row_tells_source_and_what_verified_it(tmp_path):
    rows = [origin(FileInputs.model_validate(row)) for row in entries(tmp_path)]
    assert [(row["name"], row["files"], row["verified"]) for row in rows] == [
        ("good", 2, "by the lock sheet"),
        ("half", 2, "NO: 1 of 2 files have no line in the lock sheet"),
        ("mine", 2, "by the lock sheet"),
        ("micro", 5, "part of this code"),
    ]
    assert rows[0]["source"] == "modelscope:ns/tiny@v1"


@pytest.mark.parametrize("known", [True, False])
def test_the_page_shows_them(tmp_path, known):
    experiment = Experiment(tmp_path)
    if known:
        write, rows = experiment.write, entries(tmp_path)

        def with_origins():
            path = write()
            document = json.loads(path.read_text())
            path.write_text(json.dumps({**document, "brought_in": rows}))
            return path

        experiment.write = with_origins
    page = build(experiment).read_text(encoding="utf-8")
    assert ("Models and data from outside" in page) is known
    assert ("NO: 1 of 2 files have no line in the lock sheet" in page) is known
