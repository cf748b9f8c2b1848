"""Lock sheets: read, written, and obeyed by everything that brings files in."""

import time

import pytest
from fetch_bench import random_bytes
from fetch_hub import sha256

import lock_models
from recap.errors import RecapError
from recap.fetch.files import describe_model, import_file, require_model
from recap.fetch.lock import Expected, read_lock, update_lock
from recap.manifest import read_manifest

HEAD = "row\tfile\tbytes\tsha256\n"


def test_a_lock_sheet_is_read_as_it_was_written(tmp_path):
    sheet = tmp_path / "locks.tsv"
    assert read_lock(sheet) == {}
    update_lock(sheet, {"b": {"x": Expected(3, "a" * 64), "a/y": Expected(0, "b" * 64)}})
    update_lock(sheet, {"a": {"z": Expected(1, "c" * 64)}, "b": {"x": Expected(4, "d" * 64)}})
    assert sheet.read_text().splitlines()[-2:] == [f"a\tz\t1\t{'c' * 64}", f"b\tx\t4\t{'d' * 64}"]
    lock = read_lock(sheet)
    assert {row: set(files) for row, files in lock.items()} == {"a": {"z"}, "b": {"x"}}
    assert lock["b"]["x"] == Expected(4, "d" * 64, str(sheet))


def test_mistakes_in_a_lock_sheet_name_the_line(tmp_path):
    sheet = tmp_path / "locks.tsv"
    good = f"a\tx\t1\t{'a' * 64}\n"
    for text, message in {
        "row\tfile\n": "columns must be row, file, bytes, sha256",
        HEAD + good + "a\ty\t1\n": "line 3: not as many cells",
        HEAD + good + good: "line 3: x of a is listed twice",
        "# comment\n" + HEAD + "a\tx\tmany\t" + "a" * 64 + "\n": "line 3: `many` bytes",
        HEAD + "a\tx\t1\tABC\n": "line 2: `1` bytes, sha256 `ABC`",
    }.items():
        sheet.write_text(text)
        with pytest.raises(RecapError, match=message):
            read_lock(sheet)


def sheets(folder, address):
    """Write a models sheet and a downloads sheet with one row to fetch in each."""
    (folder / "models.tsv").write_text(
        "model\trole\tsource\tlocation\trevision\n"
        "tiny\tclip\tmodelscope\tns/tiny\tv1\n"
        "here\tclip\tlocal\tsomewhere\t\n"
    )
    (folder / "downloads.tsv").write_text(
        "download\tfolder\ttarget\tsource\tlocation\n"
        f"answers\tset\tanswers.json\turl\t{address}/answers.json\n"
    )


def lock(folder, *rows):
    flags = [f"--{name}={folder}/{name}.tsv" for name in ("models", "downloads")]
    flags += [f"--model-locks={folder}/locks.tsv", f"--data-locks={folder}/data-locks.tsv"]
    argv = [*rows, *flags, f"--resources={folder}"]
    lock_models.main(lock_models.parser().parse_args(argv))


def test_locking_takes_what_the_hub_states_without_downloading(bench, files):
    sheets(bench.folder, bench.hub.address)
    lock(bench.folder, "tiny")
    assert read_lock(bench.lock) == {
        "tiny": {n: Expected(len(d), sha256(d), str(bench.lock)) for n, d in files.items()}
    }
    assert bench.hub.served == []
    bench.succeed()
    assert bench.manifest()["details"]["verified"] is True


def test_locking_takes_what_was_fetched(bench, files):
    sheets(bench.folder, bench.hub.address)
    bench.succeed()
    bench.hub.repositories.clear()
    lock(bench.folder, "tiny")
    assert {n: e.sha256 for n, e in read_lock(bench.lock)["tiny"].items()} == {
        name: sha256(data) for name, data in files.items()
    }


def test_what_nobody_states_must_be_fetched_before_it_is_locked(bench, files):
    sheets(bench.folder, bench.hub.address)
    bench.hub.unhashed = {"config.json"}
    with pytest.raises(RecapError, match="states no hash for some files: fetch it once"):
        lock(bench.folder, "tiny")
    with pytest.raises(RecapError, match="answers cannot be locked before it is fetched"):
        lock(bench.folder, "set")
    bench.hub.pages["answers.json"] = b"[1]"
    part = {"name": "answers", "target": "answers.json"}
    part["sources"] = [f"{bench.hub.address}/answers.json"]
    bench.out = bench.folder / "data" / "set"
    bench.succeed({"name": "set", "kind": "data", "parts": [part]})
    lock(bench.folder, "set")
    sheet = bench.folder / "data-locks.tsv"
    entry = Expected(3, sha256(b"[1]"), str(sheet))
    assert read_lock(sheet) == {"answers": {"answers.json": entry}}


def test_only_what_is_fetched_can_be_locked(bench):
    sheets(bench.folder, bench.hub.address)
    for name in ("here", "nothing"):
        with pytest.raises(RecapError, match=rf"{name}: nothing of that name .* models tiny"):
            lock(bench.folder, "tiny", name)
    assert not bench.lock.exists()


# files that are here already


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(random_bytes(100))
    return folder


def test_a_local_model_is_described_and_verified(tmp_path, model, caplog):
    sheet, manifest = tmp_path / "locks.tsv", tmp_path / "manifest.json"
    describe_model(model, manifest, "mine", sheet)
    written = read_manifest(manifest)
    assert set(written["outputs"]) == {"config.json", "model.safetensors"}
    assert written["details"]["source"] == f"path:{model}"
    assert written["details"]["verified"] is False
    assert "mine: NOT VERIFIED" in caplog.text
    outputs = written["outputs"].items()
    update_lock(sheet, {"mine": {n: Expected(f["bytes"], f["sha256"]) for n, f in outputs}})
    describe_model(model, manifest, "mine", sheet)
    assert read_manifest(manifest)["details"]["verified"] is True
    (model / "model.safetensors").write_bytes(random_bytes(100, 2))
    with pytest.raises(RecapError, match=r"mine: model\.safetensors has sha256 .*, expected"):
        describe_model(model, manifest, "mine", sheet)


def test_a_local_model_described_twice_is_the_same_to_the_byte(tmp_path, model):
    manifests = [tmp_path / "a.json", tmp_path / "b.json"]
    for manifest in manifests:
        describe_model(model, manifest, "mine", tmp_path / "locks.tsv")
        time.sleep(0.01)
    assert manifests[0].read_bytes() == manifests[1].read_bytes()


def test_the_code_s_own_models_need_no_lock(tmp_path, model):
    describe_model(model, tmp_path / "manifest.json", "micro", None)
    assert read_manifest(tmp_path / "manifest.json")["details"] == {"source": "code"}


def test_a_folder_without_config_or_weights_is_no_model():
    require_model("m", ["config.json", "pytorch_model.bin"])
    require_model("m", ["open_clip_config.json", "a.safetensors"])
    with pytest.raises(RecapError, match=r"m holds no config\.json"):
        require_model("m", ["a.safetensors"])
    with pytest.raises(RecapError, match=r"m holds no \.safetensors or \.bin weights"):
        require_model("m", ["config.json"])


def test_an_imported_file_is_a_copy_verified_by_its_folder_s_rows(tmp_path):
    (tmp_path / "data" / "set").mkdir(parents=True)
    (tmp_path / "data" / "set" / "a.json").write_bytes(b"[1]")
    out, manifest, sheet = tmp_path / "out.json", tmp_path / "m.json", tmp_path / "locks.tsv"
    arguments = (tmp_path / "data", "set/a.json", out, manifest)
    import_file(*arguments, sheet)
    assert out.read_bytes() == b"[1]"
    assert read_manifest(manifest)["details"]["verified"] is False
    update_lock(sheet, {"set": {"a.json": Expected(3, sha256(b"[1]"))}})
    import_file(*arguments, sheet)
    assert read_manifest(manifest)["details"]["verified"] is True
    update_lock(sheet, {"set": {"a.json": Expected(3, sha256(b"[2]"))}})
    with pytest.raises(RecapError, match=r"a\.json has sha256 .*, expected .* by .*locks\.tsv"):
        import_file(*arguments, sheet)


def test_a_missing_file_says_where_to_place_it(tmp_path):
    with pytest.raises(RecapError, match=r"data/set/a\.json does not exist.*place it"):
        import_file(f"{tmp_path}/data", "set/a.json", tmp_path / "a", tmp_path / "m", None)
