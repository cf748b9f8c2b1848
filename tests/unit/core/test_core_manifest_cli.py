import errno
import json
import sys
import time

import pytest

from recap.cli import add_json_option, load_settings, make_parser, run_cli
from recap.errors import GateError, RecapError
from recap.manifest import read_manifest, write_manifest


def make_manifest(path, source):
    write_manifest(
        path,
        stage="split",
        inputs={"records": source},
        outputs={},
        settings={"shard_size": 2},
        counts={"in": 3, "out": 3},
        started=time.time(),
        seed=7,
    )
    return read_manifest(path)


def test_manifests_of_the_same_work_differ_only_in_volatile(tmp_path):
    source = tmp_path / "records.jsonl"
    source.write_text("{}\n")
    first = make_manifest(tmp_path / "a.json", source)
    second = make_manifest(tmp_path / "b.json", source)
    assert first.pop("volatile")["created"] <= second.pop("volatile")["created"]
    assert first == second
    assert first["inputs"]["records"]["bytes"] == 3
    assert first["stage_version"] >= 1


@pytest.mark.parametrize(
    ("error", "code"), [(RecapError("what"), 2), (GateError("why"), 3), (ValueError("bug"), 1)]
)
def test_exit_codes(error, code, caplog):
    def main(args):
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_cli(main, make_parser("test", "example"), argv=[])
    assert stopped.value.code == code


def out_of_gpu_memory():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


SHORTAGES = [
    (out_of_gpu_memory, "larger card"),
    (MemoryError, "machine's memory"),
    (lambda: OSError(errno.ENOSPC, "No space left on device"), "free space"),
    (lambda: OSError(errno.EDQUOT, "Disk quota exceeded"), "free space"),
    (lambda: PermissionError(errno.EACCES, "Permission denied", "/data/x"), "rights of that path"),
    (lambda: OSError(errno.EROFS, "Read-only file system"), "rights of that path"),
    (lambda: FileExistsError(errno.EEXIST, "File exists", "/data/x"), "name another path"),
    (lambda: NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/y"), "name another path"),
    (lambda: IsADirectoryError(errno.EISDIR, "Is a directory", "/data/x"), "name another path"),
]


@pytest.mark.parametrize(("make", "advice"), SHORTAGES)
def test_what_a_machine_lacks_is_no_bug(make, advice, capsys, caplog):
    def main(args):
        raise make()

    parser = make_parser("test", "example")
    add_json_option(parser)
    with pytest.raises(SystemExit) as stopped:
        run_cli(main, parser, argv=["--json"])
    assert stopped.value.code == 2
    outcome = json.loads(capsys.readouterr().out)
    assert advice in outcome["message"]
    assert outcome["exit_code"] == 2
    assert "Traceback" not in caplog.text


def test_other_errors_of_the_system_stay_bugs(caplog):
    def main(args):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")

    with pytest.raises(SystemExit) as stopped:
        run_cli(main, make_parser("test", "example"), argv=[])
    assert stopped.value.code == 1


def test_success_ends_without_exit():
    seen = []
    run_cli(seen.append, make_parser("test", "example"), argv=[])
    assert len(seen) == 1


def test_help_shows_example_and_exit_codes(capsys):
    with pytest.raises(SystemExit):
        run_cli(print, make_parser("What it does.", "tool.py --x 1"), argv=["--help"])
    text = capsys.readouterr().out
    assert "tool.py --x 1" in text
    assert "evidence gate" in text


def test_settings_from_json_yaml_and_nonsense(tmp_path):
    assert load_settings('{"learning_rate": 1e-3}') == {"learning_rate": 0.001}
    path = tmp_path / "settings.yaml"
    path.write_text("batch_size: 4\n")
    assert load_settings(str(path)) == {"batch_size": 4}
    with pytest.raises(RecapError, match="does not exist"):
        load_settings("missing.yaml")
    path.write_text("- 1\n")
    with pytest.raises(RecapError, match="mapping"):
        load_settings(str(path))


def test_light_modules_import_nothing_heavy():
    """Every cluster job parses the workflow again: that must stay cheap."""
    import subprocess

    code = (
        "import sys; import recap.config, recap.config.wiring, recap.config.comparison;"
        "heavy = {'torch', 'transformers', 'data_juicer', 'pandas', 'scipy', 'matplotlib'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="scripts", check=False
    )
    assert result.returncode == 0, result.stderr
