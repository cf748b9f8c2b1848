"""Fetching as the workflow does it, offline from a mirror: no other job is needed."""

import json
import zipfile

import pytest

from .conftest import copy_repository

pytestmark = pytest.mark.workflow

MODEL = "resources/models/clip-vit-l-14-336"
ANSWERS = "resources/imported/textvqa/TextVQA_0.5.1_val.json"
DATA = "resources/data/textvqa"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("RECAP_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("RECAP_OFFLINE", "1")
    return copy_repository(tmp_path / "copy")


def fill_mirror(project):
    model = project.path.parent / "mirror" / "AI-ModelScope" / "clip-vit-large-patch14-336"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    data = project.path.parent / "mirror" / "dl.fbaipublicfiles.com" / "textvqa"
    (data / "data").mkdir(parents=True)
    (data / "data" / "TextVQA_0.5.1_val.json").write_text('{"data": []}')
    (data / "images").mkdir()
    with zipfile.ZipFile(data / "images" / "train_val_images.zip", "w") as archive:
        archive.writestr("train_images/a.jpg", b"a picture")
    questions = project.path / "data" / "textvqa"
    questions.mkdir(parents=True)
    (questions / "llava_textvqa_val_v051_ocr.jsonl").write_text("{}\n")


def make(project, *arguments, check=True):
    targets = ("--", f"{MODEL}/manifest.json", ANSWERS)
    config = ("experiment=blip2_30k",)
    return project.snakemake(*arguments, config=config, targets=targets, check=check)


def test_models_and_benchmarks_come_from_a_mirror_and_stay(project):
    failed = make(project, check=False)
    assert failed.returncode != 0
    for text in (
        "data/models/clip-vit-l-14-336 does not exist",
        "offline, and not in ModelScope's cache",
        "data/textvqa/llava_textvqa_val_v051_ocr.jsonl does not exist",
    ):
        assert text in failed.stdout + failed.stderr
    assert not list((project.path / MODEL).glob("*"))
    assert not list((project.path / DATA).glob("*"))

    fill_mirror(project)
    make(project)
    manifest = json.loads((project.path / MODEL / "manifest.json").read_text())
    assert set(manifest["outputs"]) == {"config.json", "model.safetensors"}
    assert manifest["details"]["verified"] is False
    assert (project.path / ANSWERS).read_text() == '{"data": []}'
    assert (project.path / DATA / "train_images" / "a.jpg").read_bytes() == b"a picture"
    assert "Nothing to be done" in make(project, "--dry-run").stdout

    # What was fetched is verified again, not fetched again: the mirror is gone.
    (project.path.parent / "mirror").rename(project.path.parent / "gone")
    with project.raised("models"):
        make(project)
    assert (project.path / MODEL / "model.safetensors").read_bytes() == b"weights"
