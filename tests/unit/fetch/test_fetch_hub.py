"""ModelScope's own client against a small hub: downloads that go well, badly, and not at all."""

import signal
import subprocess
import threading
import time

import pytest
from fetch_bench import REPOSITORY, random_bytes
from fetch_hub import sha256


def staged(bench):
    return bench.out.with_name(".tiny.download")


def test_a_model_arrives_whole_with_a_manifest(bench, files):
    log = bench.succeed()
    assert bench.content() == files
    manifest = bench.manifest()
    assert {n: f["sha256"] for n, f in manifest["outputs"].items()} == {
        name: sha256(data) for name, data in files.items()
    }
    part = manifest["details"]["parts"]["tiny"]
    assert part["source"] == "modelscope:ns/tiny@v1"
    assert not staged(bench).exists()
    assert all(bench.hub.sent(name) == len(data) for name, data in files.items())
    # Without a lock nothing vouches for the files, and that is said, not skipped.
    assert manifest["details"]["verified"] is False
    assert part["unverified"] == sorted(files)
    assert "NOT VERIFIED" in log


def test_files_that_the_lock_lists_are_verified(bench, files):
    bench.write_lock(files)
    log = bench.succeed()
    assert "NOT VERIFIED" not in log
    assert bench.manifest()["details"]["verified"] is True


def test_a_file_that_the_lock_lacks_is_reported(bench, files):
    bench.write_lock({n: d for n, d in files.items() if n != "config.json"})
    assert "lists no hash for config.json" in bench.succeed()
    details = bench.manifest()["details"]
    assert details["verified"] is False
    assert details["parts"]["tiny"]["unverified"] == ["config.json"]


def test_only_the_files_wanted_are_fetched(bench, files):
    bench.succeed(bench.request(files=["*.json", "model-1*"]))
    assert set(bench.content()) == {"config.json", "model-1.safetensors"}
    assert bench.hub.sent("model-2.safetensors") == 0


def test_a_lost_connection_is_continued_where_it_broke(bench, files):
    bench.hub.cut["model-1.safetensors"] = 2_000_000
    bench.write_lock(files)
    assert bench.process()[0] == 0
    assert bench.content() == files
    answers = [a for a in bench.hub.served if a.file == "model-1.safetensors"]
    assert [answer.start > 0 for answer in answers] == [False, True]
    assert answers[1].range == f"bytes={answers[1].start}-"
    # What was received before the break is not sent again.
    assert sum(answer.sent for answer in answers) <= 3_000_000 + (2_000_000 - answers[1].start)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_a_killed_download_shows_nothing_and_is_continued(bench, files):
    big = random_bytes(8_000_000, 3)
    bench.hub.repositories[REPOSITORY]["model-1.safetensors"] = big
    bench.hub.delay = 0.05
    process = subprocess.Popen(bench.command(bench.request()), env=bench.environment)
    try:
        wait_for(
            lambda: any(p.stat().st_size >= 2_000_000 for p in staged(bench).rglob("*.incomplete"))
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not bench.out.exists()
    bench.hub.delay = 0
    first = bench.hub.answers("model-1.safetensors")
    bench.succeed()
    assert bench.content()["model-1.safetensors"] == big
    later = [a for a in bench.hub.served if a.file == "model-1.safetensors"][first:]
    assert len(later) == 1
    assert later[0].start >= 2_000_000
    assert later[0].sent == 8_000_000 - later[0].start
    # The small files were complete, so that they are not sent again.
    assert bench.hub.answers("config.json") == 1


def test_at_no_moment_is_a_part_visible(bench, files):
    bench.hub.delay = 0.02
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            if bench.out.exists():
                seen.append({p.name for p in bench.out.rglob("*") if p.is_file()})
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        bench.succeed()
    finally:
        time.sleep(0.05)
        done.set()
        watcher.join()
    whole = {"manifest.json", "config.json", "vocab.txt"}
    whole |= {"model-1.safetensors", "model-2.safetensors"}
    assert seen
    assert all(names == whole for names in seen)


def test_an_older_folder_stays_until_the_new_one_is_whole(bench, files):
    bench.succeed()
    bench.hub.repositories["models/ns/tiny@v2"] = {
        "config.json": b"{}",
        "new.safetensors": random_bytes(50_000, 9),
    }
    bench.hub.status["new.safetensors"] = 404
    assert bench.process(bench.request("modelscope:ns/tiny@v2"))[0] == 2
    assert bench.content() == files
    bench.hub.status.clear()
    bench.succeed(bench.request("modelscope:ns/tiny@v2"))
    assert set(bench.content()) == {"config.json", "new.safetensors"}


def test_killed_just_before_the_rename_nothing_is_downloaded_again(bench, files, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recap.fetch.item.replaced_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.succeed()
    assert not bench.out.exists()
    bench.hub.served.clear()
    bench.succeed()
    assert bench.content() == files
    assert bench.hub.served == []


def test_a_corrupted_file_is_fetched_once_more(bench, files):
    bench.write_lock(files)
    bench.hub.corrupt["model-2.safetensors"] = 1
    log = bench.succeed()
    assert "fetching it once more" in log
    assert bench.content() == files
    assert bench.hub.answers("model-2.safetensors") == 2
    assert bench.hub.answers("model-1.safetensors") == 1


def test_a_file_that_stays_corrupted_is_refused(bench, files):
    data = files["model-2.safetensors"]
    wrong = data[:-1] + bytes([data[-1] ^ 0xFF])
    for lock in (False, True):
        if lock:
            bench.write_lock(files)
        bench.hub.served.clear()
        bench.hub.corrupt["model-2.safetensors"] = 100
        log = bench.fail()
        assert "model-2.safetensors has sha256 " + sha256(wrong) in log
        by = str(bench.lock) if lock else "the hub's listing"
        assert f"expected {sha256(data)} by {by}" in log
        assert bench.hub.answers("model-2.safetensors") == 2


def test_what_was_refused_can_be_fetched_later(bench, files):
    bench.hub.corrupt["model-2.safetensors"] = 100
    bench.fail()
    bench.hub.corrupt.clear()
    bench.hub.served.clear()
    bench.succeed()
    assert bench.content() == files
    assert bench.hub.answers("model-1.safetensors") == 0


def test_a_moved_revision_is_refused_before_anything_is_downloaded(bench, files):
    bench.write_lock(files)
    moved = random_bytes(70_000, 8)
    bench.hub.repositories[REPOSITORY]["model-2.safetensors"] = moved
    log = bench.fail()
    assert f"model-2.safetensors has sha256 {sha256(moved)} by the hub's listing" in log
    assert f"expected {sha256(files['model-2.safetensors'])}" in log
    assert bench.hub.served == []
    del bench.hub.repositories[REPOSITORY]["model-2.safetensors"]
    assert "it lacks model-2.safetensors" in bench.fail()


def test_an_unknown_repository_or_revision_is_a_clear_error(bench, files):
    for source in ("modelscope:ns/other@v1", "modelscope:ns/tiny@v9"):
        log = bench.fail(bench.request(source))
        assert f"{source}: cannot list the files: HTTP 404, not found" in log
        assert "cannot fetch tiny. Tried in turn" in log


def test_a_file_that_is_gone_is_named(bench, files):
    bench.hub.status["model-2.safetensors"] = 404
    log = bench.fail()
    assert "cannot download model-2.safetensors: HTTP 404, not found" in log


def test_a_hub_out_of_order_is_a_clear_error(bench, files):
    for broken, message in (
        ("listing", "cannot list the files: HTTP 500"),
        ("model-1.safetensors", "cannot download model-1.safetensors: HTTP 500"),
    ):
        bench.hub.status = {broken: 500}
        code, log = bench.process()
        assert (code, message in log) == (2, True), log
        assert not bench.out.exists()


def test_a_hub_that_does_not_answer_leaves_the_other_sources(bench, files, tmp_path):
    for name, data in files.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    bench.write_lock(files)
    down = {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    request = bench.request("manual:models/tiny", "modelscope:ns/tiny@v1")
    code, log = bench.process(request, **down)
    assert (code, bench.out.exists()) == (2, False)
    assert f"manual:models/tiny: {tmp_path}/data/models/tiny does not exist" in log
    assert "modelscope:ns/tiny@v1: cannot list the files: cannot connect (" in log
    request = bench.request("modelscope:ns/tiny@v1", f"path:{tmp_path}/copy")
    code, log = bench.process(request, **down)
    assert (code, "not from modelscope:ns/tiny@v1" in log) == (0, True), log
    assert bench.content() == files
    details = bench.manifest()["details"]
    assert details["parts"]["tiny"]["source"] == f"path:{tmp_path}/copy"
    assert details["verified"] is True


def test_a_repository_of_data_is_fetched_too(bench):
    bench.hub.repositories["datasets/ns/set@master"] = {"a.json": b"[]", "images/1.jpg": b"jpg"}
    bench.succeed(bench.request("modelscope-dataset:ns/set", kind="data"))
    assert bench.content() == {"a.json": b"[]", "images/1.jpg": b"jpg"}


def test_files_that_leave_the_folder_are_refused(bench, files):
    bench.hub.repositories[REPOSITORY]["folder/../../../evil.json"] = b"{}"
    assert "it lists folder/../../../evil.json, which leaves the folder" in bench.fail()
    assert not list(bench.folder.rglob("evil.json"))


def test_what_is_there_is_verified_again_and_not_downloaded(bench, files):
    bench.succeed()
    assert bench.manifest()["details"]["verified"] is False
    bench.hub.served.clear()
    bench.hub.listings = 0
    bench.write_lock(files)
    (bench.out / "manifest.json").unlink()
    assert "verified again" in bench.succeed()
    assert bench.manifest()["details"]["verified"] is True
    assert (bench.hub.served, bench.hub.listings) == ([], 0)
    (bench.out / "model-2.safetensors").write_bytes(b"spoilt")
    assert "fetching it again" in bench.succeed()
    assert bench.content() == files


def test_two_processes_do_not_fetch_the_same_model(bench, files):
    bench.hub.delay = 0.2
    process = subprocess.Popen(
        bench.command(bench.request()), env=bench.environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: bench.hub.served)
        assert "another process is fetching" in bench.fail()
        assert process.poll() is None
        bench.hub.delay = 0
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, log
    assert bench.content() == files


def test_something_else_than_a_model_is_refused(bench, files):
    bench.hub.repositories[REPOSITORY] = {"config.json": b"{}", "README.md": b"weights elsewhere"}
    assert "holds no .safetensors or .bin weights" in bench.fail()
