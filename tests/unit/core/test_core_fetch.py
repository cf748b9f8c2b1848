import pytest

from recap.errors import RecapError
from recap.fetch import describe_model, fetch_model, import_file
from recap.manifest import read_manifest


def test_an_imported_file_is_a_copy(tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "a.json").write_text("[1]")
    import_file(tmp_path / "data", "set/a.json", tmp_path / "out" / "a.json")
    assert (tmp_path / "out" / "a.json").read_text() == "[1]"


def test_a_missing_file_says_where_to_place_it(tmp_path):
    with pytest.raises(RecapError, match=r"data/set/a\.json does not exist.*place it"):
        import_file(f"{tmp_path}/data", "set/a.json", tmp_path / "a.json")


def test_a_model_folder_is_described_file_by_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecapError, match=r"no \.safetensors or \.bin"):
        describe_model(tmp_path, tmp_path / "manifest.json", details={})
    (tmp_path / "model.safetensors").write_bytes(b"w")
    describe_model(tmp_path, tmp_path / "manifest.json", details={"source": "local"})
    manifest = read_manifest(tmp_path / "manifest.json")
    assert set(manifest["outputs"]) == {"config.json", "model.safetensors"}
    assert manifest["details"] == {"source": "local"}


def test_an_unreachable_hub_is_explained_and_old_files_do_not_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_OFFLINE", "1")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "stale.safetensors").write_bytes(b"of another revision")
    with pytest.raises(RecapError, match="cannot fetch a/b at master from ModelScope"):
        fetch_model("a/b", "master", folder)
    assert not (folder / "stale.safetensors").exists()
    assert not (folder / "manifest.json").exists()
