"""Mirror, offline, folders, the web, archives, and data sets of several parts."""

import io
import json
import shutil
import tarfile
import zipfile

import pytest
from fetch_bench import random_bytes
from fetch_hub import sha256

from recap.errors import RecapError
from recap.fetch import web
from recap.fetch.archive import unpack


def fill(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# mirror and offline


def test_a_mirror_serves_without_the_network(bench, files, tmp_path):
    for layout in ("ns/tiny/v1", "ns/tiny"):
        mirror = tmp_path / layout.replace("/", "-")
        fill(mirror / layout, files)
        bench.write_lock(files)
        bench.succeed(None, "--offline", "--mirror", str(mirror))
        assert bench.content() == files
        details = bench.manifest()["details"]
        assert details["parts"]["tiny"]["source"] == "the mirror of modelscope:ns/tiny@v1"
        assert details["verified"] is True
        (bench.out / "model-1.safetensors").unlink()
    assert (bench.hub.listings, bench.hub.served) == (0, [])


def test_the_environment_names_mirror_and_offline(bench, files, tmp_path, monkeypatch):
    fill(tmp_path / "mirror" / "ns/tiny", files)
    monkeypatch.setenv("RECAP_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("RECAP_OFFLINE", "1")
    bench.succeed()
    assert bench.content() == files
    assert bench.hub.listings == 0


def test_offline_without_a_mirror_says_so(bench, files):
    log = bench.fail(bench.request("modelscope:ns/tiny@v1", f"{bench.hub.address}/a"), "--offline")
    assert "modelscope:ns/tiny@v1: offline, and not in ModelScope's cache" in log
    assert f"{bench.hub.address}/a: offline, and an address needs the network" in log
    assert bench.hub.listings == 0


def test_offline_reads_modelscope_s_own_cache(bench, files, tmp_path):
    fill(tmp_path / "cache" / "models" / "ns--tiny" / "snapshots" / "v1", files)
    bench.succeed(None, "--offline")
    assert bench.content() == files


def test_a_mirror_that_lacks_the_revision_is_passed_by(bench, files, tmp_path):
    fill(tmp_path / "mirror" / "ns/tiny/v0", {"config.json": b"old"})
    log = bench.succeed(None, "--mirror", str(tmp_path / "mirror"))
    assert "has no revision v1; there: v0" in log
    assert bench.content() == files


def test_a_mirror_with_wrong_bytes_is_passed_by(bench, files, tmp_path):
    wrong = {**files, "model-2.safetensors": random_bytes(70_000, 77)}
    fill(tmp_path / "mirror" / "ns/tiny", wrong)
    bench.write_lock(files)
    log = bench.succeed(None, "--mirror", str(tmp_path / "mirror"))
    assert f"has sha256 {sha256(wrong['model-2.safetensors'])}" in log
    assert bench.content() == files


def test_what_was_placed_by_hand_is_taken_first(bench, files, tmp_path):
    fill(tmp_path / "data" / "models" / "tiny", files)
    bench.succeed(bench.request("manual:models/tiny", "modelscope:ns/tiny@v1"))
    assert bench.content() == files
    assert bench.hub.listings == 0


# the web


def page_request(bench, *names, **part):
    return bench.request(*(f"{bench.hub.address}/{name}" for name in names), kind="data", **part)


@pytest.fixture
def page(bench):
    data = random_bytes(3_000_000, 5)
    bench.hub.pages["set/big.json"] = data
    return data


def test_a_file_from_the_web(bench, page):
    bench.write_lock({"big.json": page})
    bench.succeed(page_request(bench, "set/big.json", target="answers.json"))
    assert bench.content() == {"answers.json": page}
    assert bench.manifest()["details"]["verified"] is True


def test_a_lost_connection_to_the_web_is_continued(bench, page, monkeypatch):
    monkeypatch.setattr(web, "WAITS", (0.0,))
    bench.hub.cut["set/big.json"] = 2_000_000
    bench.succeed(page_request(bench, "set/big.json", target="answers.json"))
    assert bench.content() == {"answers.json": page}
    first, second = bench.hub.served
    assert (first.start, first.sent) == (0, 2_000_000)
    assert second.range == f"bytes={second.start}-"
    assert 1_000_000 <= second.start <= 2_000_000
    assert second.sent == 3_000_000 - second.start


def test_a_file_that_changed_meanwhile_starts_over(bench, page, monkeypatch):
    monkeypatch.setattr(web, "WAITS", ())
    bench.hub.cut["set/big.json"] = 2_000_000
    request = page_request(bench, "set/big.json", target="answers.json")
    assert "the connection was lost" in bench.fail(request)
    other = random_bytes(3_000_000, 6)
    bench.hub.pages["set/big.json"] = other
    bench.succeed(request)
    assert bench.content() == {"answers.json": other}
    assert [answer.start for answer in bench.hub.served] == [0, 0]


def test_a_corrupted_page_is_fetched_once_more_and_then_refused(bench, page):
    bench.write_lock({"big.json": page})
    bench.hub.corrupt["set/big.json"] = 100
    wrong = page[:-1] + bytes([page[-1] ^ 0xFF])
    log = bench.fail(page_request(bench, "set/big.json", target="answers.json"))
    assert f"fetched twice, and big.json has sha256 {sha256(wrong)}, expected {sha256(page)}" in log
    assert bench.hub.answers("set/big.json") == 2


def test_errors_of_the_web_are_clear(bench, page, monkeypatch):
    monkeypatch.setattr(web, "WAITS", (0.0, 0.0))
    log = bench.fail(page_request(bench, "set/none.json", "gone", target="answers.json"))
    assert "/set/none.json: HTTP 404 Not Found" in log
    assert "/gone: HTTP 404 Not Found" in log
    bench.hub.status["set/big.json"] = 500
    log = bench.fail(page_request(bench, "set/big.json", target="answers.json"))
    assert log.count("trying again") == 2
    assert "HTTP 500 Internal Server Error" in log
    log = bench.fail(bench.request("http://127.0.0.1:9/x", kind="data", target="x.json"))
    assert "http://127.0.0.1:9/x: cannot connect" in log


def test_named_files_below_one_address(bench, page):
    bench.hub.pages["set/small one.json"] = b"{}"
    names = ["big.json", "small one.json"]
    bench.succeed(page_request(bench, "set/", files=names))
    assert bench.content() == {"big.json": page, "small one.json": b"{}"}
    bench.out.rename(bench.folder / "elsewhere")
    assert "a web server lists no files" in bench.fail(page_request(bench, "set/", files=["*"]))


def test_a_mirror_of_an_address(bench, page, tmp_path):
    address = bench.hub.address.removeprefix("http://")
    fill(tmp_path / "mirror" / address / "set", {"big.json": page})
    request = page_request(bench, "set/big.json", target="answers.json")
    bench.succeed(request, "--offline", "--mirror", str(tmp_path / "mirror"))
    assert bench.content() == {"answers.json": page}


# archives


def test_an_archive_is_verified_then_unpacked(bench):
    pictures = {f"train/{n}.jpg": random_bytes(1000, n) for n in range(3)}
    archive = zipped(pictures)
    bench.hub.pages["pictures.zip"] = archive
    bench.write_lock({"pictures.zip": archive})
    bench.succeed(page_request(bench, "pictures.zip", target="images/", unpack=True))
    # The archive's only folder is left away.
    assert bench.content() == {
        name.replace("train/", "images/"): data for name, data in pictures.items()
    }
    part = bench.manifest()["details"]["parts"]["tiny"]
    assert part["unpacked_files"] == 3
    assert part["files"]["pictures.zip"]["sha256"] == sha256(archive)
    assert part["files"]["pictures.zip"]["verified"] is True
    bench.hub.served.clear()
    (bench.out / "manifest.json").unlink()
    bench.succeed(page_request(bench, "pictures.zip", target="images/", unpack=True))
    assert bench.hub.served == []


def test_pictures_unpacked_by_hand_are_taken_as_they_are(bench, tmp_path):
    bench.write_lock({"pictures.zip": b"the archive"})
    pictures = {"1.jpg": b"one", "2.jpg": b"two"}
    fill(tmp_path / "data" / "set" / "images", pictures)
    request = bench.request("manual:set/images", kind="data", target="images/", unpack=True)
    bench.succeed(request)
    assert bench.content() == {f"images/{name}": data for name, data in pictures.items()}
    assert bench.manifest()["details"]["verified"] is False


def test_a_damaged_archive_is_refused(bench):
    bench.hub.pages["pictures.zip"] = b"<html>come back later</html>"
    log = bench.fail(page_request(bench, "pictures.zip", target="images/", unpack=True))
    assert "/pictures.zip: pictures.zip is neither a zip nor a tar archive" in log
    bench.hub.pages["copy.zip"] = zipped({"1.jpg": b"one"})
    bench.succeed(page_request(bench, "pictures.zip", "copy.zip", target="images/", unpack=True))
    assert bench.content() == {"images/1.jpg": b"one"}


def tarred(path, name):
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"evil"))


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt"])
def test_an_archive_cannot_write_elsewhere(tmp_path, name):
    (tmp_path / "a.zip").write_bytes(zipped({"good.txt": b"good", name: b"evil"}))
    with pytest.raises(RecapError, match="leaves its folder"):
        unpack(tmp_path / "a.zip", tmp_path / "out" / "zip")
    if not name.startswith("/"):  # tar's filter strips the leading slash instead
        tarred(tmp_path / "a.tgz", name)
        with pytest.raises(RecapError, match="cannot be unpacked"):
            unpack(tmp_path / "a.tgz", tmp_path / "out" / "tar")
    assert not (tmp_path / "evil.txt").exists()
    assert not (tmp_path / "out" / "zip").exists()


def test_a_tar_archive_is_unpacked(tmp_path):
    tarred(tmp_path / "a.tgz", "deep/er/file.txt")
    assert unpack(tmp_path / "a.tgz", tmp_path / "out") == 1
    assert (tmp_path / "out" / "er" / "file.txt").read_bytes() == b"evil"


# several parts


def whole_set(bench):
    address = bench.hub.address
    parts = [
        {"name": "q", "target": "questions.jsonl", "sources": ["manual:set/questions.jsonl"]},
        {"name": "a", "target": "deep/answers.json", "sources": [f"{address}/answers.json"]},
        {"name": "i", "target": "images/", "sources": [f"{address}/i.zip"], "unpack": True},
    ]
    return {"name": "tiny", "kind": "data", "parts": parts}


def test_a_data_set_of_several_parts_is_all_there_or_not_at_all(bench, tmp_path):
    fill(tmp_path / "data" / "set", {"questions.jsonl": b"q"})
    bench.hub.pages["answers.json"] = b"[]"
    log = bench.fail(whole_set(bench))
    assert "cannot fetch i. Tried in turn" in log
    bench.hub.pages["i.zip"] = zipped({"1.jpg": b"one", "2.jpg": b"two"})
    bench.succeed(whole_set(bench))
    assert bench.content() == {
        "questions.jsonl": b"q",
        "deep/answers.json": b"[]",
        "images/1.jpg": b"one",
        "images/2.jpg": b"two",
    }
    # The parts that were complete at the first attempt were kept.
    assert bench.hub.answers("answers.json") == 1
    manifest = json.loads((bench.out / "manifest.json").read_text())
    assert set(manifest["outputs"]) == {"questions.jsonl", "deep/answers.json"}
    assert manifest["outputs"]["deep/answers.json"]["path"] == "deep/answers.json"
    assert set(manifest["details"]["parts"]) == {"q", "a", "i"}


def test_a_source_of_no_known_form_is_refused(bench):
    for source in ("ftp://x/y", "modelscope:no-namespace", "path:", "somewhere"):
        with pytest.raises(RecapError, match="is no source; write"):
            bench.succeed(bench.request(source))


def test_the_same_files_fetched_again_are_the_same_manifest(bench, files, tmp_path):
    def fetched(*sources):
        bench.succeed(bench.request("modelscope:ns/tiny@v1", *sources))
        return (bench.out / "manifest.json").read_bytes()

    fill(tmp_path / "mirror", files)
    first = fetched()
    shutil.rmtree(bench.out.parent)
    assert fetched() == first
    bench.hub.served.clear()
    (bench.out / "manifest.json").unlink()
    # Another place to look at is no reason to download again; another revision is.
    assert fetched("manual:models/other") == first
    assert bench.hub.served == []
    assert "names modelscope:ns/tiny@v1 no longer" in bench.succeed(
        bench.request(f"path:{tmp_path / 'mirror'}")
    )


def test_alternatives_are_looked_at_last(bench, files, tmp_path):
    fill(tmp_path / "mirror", files)
    request = bench.request("manual:models/none")
    places = json.dumps({"tiny": [f"path:{tmp_path / 'mirror'}"]})
    bench.succeed(request, "--alternatives", places)
    assert bench.manifest()["details"]["parts"]["tiny"]["source"] == f"path:{tmp_path / 'mirror'}"
