"""One line a stage while a run goes on, and where an experiment stands, from its files."""

import io
import json
import logging
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from recap import launch, live_progress, status
from recap.errors import RecapError, StoppedByUserError
from recap.progress import (
    ProgressPrinter,
    RunProgress,
    StageProgress,
    duration,
    gpu_use,
    progress_line,
)

LOG = """\
Building DAG of jobs...
Job stats:
job           count
----------  -------
caption_shard     4
pretrain          1
all               1
total             6

Select jobs to execute...
[Thu Nov 26 10:00:00 2026]
Finished jobid: 3 (Rule: caption_shard)
1 of 6 steps (17%) done
[Thu Nov 26 10:00:20 2026]
Finished jobid: 4 (Rule: caption_shard)
[Thu Nov 26 10:00:40 2026]
Error in rule pretrain, jobid: 9
[Thu Nov 26 10:00:40 2026]
Finished jobid: 5 (Rule: caption_shard)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    return tmp_path


def test_a_log_gives_counts_rates_and_what_is_left():
    run = RunProgress()
    events = [(s.name, s.done, s.failed) for s in run.feed(LOG.splitlines())]
    assert events == [
        ("caption_shard", 1, 0),
        ("caption_shard", 2, 0),
        ("pretrain", 0, 1),
        ("caption_shard", 3, 0),
    ]
    assert (run.done, run.total) == (3, 5), "the target rule runs nothing"
    stage = run.stages["caption_shard"]
    assert stage.rate == pytest.approx(2 / 40)
    assert stage.seconds_left == pytest.approx(20)
    line = progress_line(stage, run, "GPU 90 %, 3.0 of 24 GiB")
    for part in ("caption_shard", "3 of 4", "3 a minute, 20 s left", "GPU 90 %", "3 of 5"):
        assert part in line
    assert "1 FAILED" in progress_line(run.stages["pretrain"], run)


def test_no_rate_before_two_jobs_have_finished():
    assert StageProgress("a", 5, done=1, first=1.0, last=1.0).seconds_left is None
    assert duration(None) == "–"
    assert [duration(value) for value in (30, 600, 7200)] == ["30 s", "10 min", "2.0 h"]


def test_a_growing_log_is_read_once_and_half_lines_wait(project):
    log = project / "run.log"
    log.write_text(LOG[:-20])
    printer = ProgressPrinter(log, pause=0.0)
    assert len(list(printer.lines())) == 3
    assert list(printer.lines()) == []
    with log.open("a") as stream:
        stream.write(LOG[-20:])
    assert [line.split()[:4] for line in printer.lines()] == [["caption_shard", "3", "of", "4"]]


def test_unfinished_stages_speak_now_and_then_only(project):
    log = project / "run.log"
    log.write_text(LOG + "Finished jobid: 6 (Rule: caption_shard)\n")
    lines = list(ProgressPrinter(log, pause=3600).lines())
    assert [line.split()[0] for line in lines] == ["pretrain", "caption_shard"]
    assert "4 of 4" in lines[1]


def test_plain_snakemake_shows_the_same_lines(monkeypatch):
    """Its own table of jobs, then records as its scheduler logs them."""
    monkeypatch.setattr(live_progress, "gpu_use", lambda: "GPU 91 %")
    table = LOG.partition("Job stats:")[2].partition("Select")[0].strip()
    counts = {"caption_shard": 4, "pretrain": 1, "all": 1, "total": 6}
    dag = SimpleNamespace(stats=lambda: (f"Job stats:\n{table}\n", counts))
    out = io.StringIO()
    handler = live_progress.LiveProgress(out, pause=3600)
    handler.start(SimpleNamespace(dag=dag))
    begin = time.time()
    events = [
        (LogEvent.JOB_FINISHED, "Finished jobid: 3 (Rule: caption_shard)"),
        (LogEvent.JOB_INFO, "Finished jobid: 9 (Rule: pretrain)"),
        (None, "Finished jobid: 9 (Rule: pretrain)"),
        (LogEvent.JOB_FINISHED, "Finished jobid: 4 (Rule: caption_shard)"),
        (LogEvent.JOB_ERROR, "Error in rule pretrain, jobid: 9"),
        (LogEvent.JOB_FINISHED, "Finished jobid: 5 (Rule: caption_shard)"),
        (LogEvent.JOB_FINISHED, "Finished jobid: 6 (Rule: caption_shard)"),
        (LogEvent.JOB_FINISHED, "Finished jobid: 0 (Rule: all)"),
    ]
    for place, (event, text) in enumerate(events):
        record = logging.LogRecord("snakemake.logging", logging.INFO, "", 0, text, None, None)
        record.event, record.created = event, begin + 20 * place
        live_progress.logger.handle(record)
    live_progress.logger.removeHandler(handler)
    handler.close()
    failed, done = out.getvalue().splitlines()
    assert "pretrain" in failed
    assert "0 of 1" in failed
    assert "1 FAILED" in failed
    assert "all stages 2 of 5" in failed
    assert "caption_shard" in done
    assert "4 of 4" in done
    assert done.endswith("all stages 4 of 5  GPU 91 %")


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755 | stat.S_IXUSR)


def test_use_of_gpus_is_what_nvidia_smi_says(project, monkeypatch):
    monkeypatch.setenv("PATH", str(project / "bin"))
    assert gpu_use() == ""
    program(project / "bin", "nvidia-smi", "#!/bin/sh\necho '91, 20480, 24576'\n")
    assert gpu_use() == "GPU 91 %, 20.0 of 24 GiB"
    program(project / "bin", "nvidia-smi", "#!/bin/sh\necho '[N/A], 1, 2'\n")
    assert gpu_use() == ""
    program(project / "bin", "nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert gpu_use() == ""


@pytest.fixture
def stand_in(project, monkeypatch):
    """Put a shell script in Snakemake's place."""

    def install(text: str) -> None:
        program(project / "bin", "snakemake", f"#!/bin/sh\n{text}\n")
        monkeypatch.setattr(sys, "executable", str(project / "bin" / "python"))
        monkeypatch.setattr(launch, "_POLL_SECONDS", 0.02)

    return install


def test_a_run_shows_a_line_a_stage_and_keeps_the_whole_log(project, stand_in, capsys):
    (project / "sample.log").write_text(LOG + "Finished jobid: 6 (Rule: caption_shard)\n")
    stand_in(f"cat {project / 'sample.log'}")
    report = project / "results/demo/report"
    report.mkdir(parents=True)
    (report / "verdict.txt").write_text("not distinguishable\n")
    launch.run_experiment("demo")
    shown = capsys.readouterr().out
    assert "caption_shard" in shown
    assert "Select jobs" not in shown
    assert "Verdict: not distinguishable" in shown
    assert "Select jobs" in launch.RUN_LOG.read_text()


def test_a_run_with_nothing_to_do_says_so(project, stand_in, capsys):
    stand_in("echo 'Nothing to be done (all requested files are present and up to date).'")
    (project / "results/demo/report").mkdir(parents=True)
    (project / "results/demo/report/verdict.txt").write_text("v")
    launch.run_experiment("demo")
    assert "Nothing to be done" in capsys.readouterr().out


def test_a_failure_shows_the_cause_and_the_command_to_go_on(project, stand_in, capsys):
    stand_in("echo 'WorkflowError: key `x` is unknown'; exit 1")
    with pytest.raises(RecapError, match="go on with: make demo EXPERIMENT=demo"):
        launch.run_experiment("demo")
    assert "key `x` is unknown" in capsys.readouterr().err


@pytest.fixture
def heeds_ctrl_c():
    """A test run started in the background ignores SIGINT, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_and_says_what_is_kept(project, stand_in, heeds_ctrl_c):
    stand_in("trap 'sleep 0.2; touch ended; exit 1' INT; touch begun; while :; do sleep 0.05; done")

    def press() -> None:
        while not (project / "begun").exists():
            time.sleep(0.01)
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
        for child in children.read_text().split():
            os.kill(int(child), 2)
        os.kill(os.getpid(), 2)

    threading.Thread(target=press).start()
    with pytest.raises(StoppedByUserError, match="Finished jobs are kept") as error:
        launch.run_experiment("demo")
    assert (project / "ended").exists(), "Snakemake was waited for"
    assert error.value.exit_code == 130
    assert "make demo EXPERIMENT=demo" in str(error.value)


def write(path: Path, text: str, age: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    moment = time.time() - age
    os.utime(path, (moment, moment))


def perf(seconds: float, items: int) -> str:
    return json.dumps({"wall_seconds": seconds, "items": items, "unit": "images", "updates": 22})


def test_status_of_a_stopped_experiment(project):
    """Two of four shards in 20 s, the first of which took 10 s: two more take 30 s."""
    base = Path("results/demo")
    names = [f"{base}/perf/caption_shard/{i}.json" for i in range(4)]
    write(Path(names[0]), perf(10, 100), age=100)
    write(Path(names[1]), perf(10, 200), age=80)
    assert status.stage_status("caption_shard", names) == status.StageStatus(
        "caption_shard", 2, 4, "15.00 images/s", pytest.approx(30, abs=0.1)
    )
    whole = json.loads(perf(5, 10)) | {"updates": 14, "resumed_from_update": 8}
    write(base / "perf/pretrain/a.seed1.json", json.dumps(whole))
    write(base / "state/pretrain/a.seed1/run-1/telemetry.jsonl", "{}\n" * 22)  # until stage 2
    write(base / "state/pretrain/a.seed2/run-1/telemetry.jsonl", "{}\n" * 7, age=20)
    write(base / "state/predict/a.seed1.vqa/3_0.x.jsonl", "{}\n" * 5)
    write(base / "perf/predict_shard/a.seed1.vqa.3_0.json", perf(5, 4))
    write(base / "state/predict/a.seed2.vqa/3_0.x.jsonl", "{}\n" * 5)
    write(base / "perf/predict_shard/a.seed2.vqa.blank.3_0.json", perf(5, 4))
    write(Path("logs/demo/finetune/a.log"), "10:00 ERROR recap: the disk is full\n")
    text = status.describe("demo", {"caption_shard": names, "report": ["report.html"]})
    assert "Experiment demo: not running here, 2 of 5 results" in text
    assert "pretrain a.seed2: 7 updates of 22, last written 20 s ago" in text
    assert "pretrain a.seed1" not in text
    assert "predict a.seed2.vqa: 4 answers" in text
    assert "predict a.seed1.vqa" not in text
    assert "logs/demo/finetune/a.log" in text
    assert text.endswith("such as make demo EXPERIMENT=demo\n")


def test_status_of_a_finished_and_of_an_unknown_experiment(project):
    write(Path("results/demo/report/verdict.txt"), "better\n")
    write(Path("logs/demo/x.log"), "ERROR of an attempt before\n")
    text = status.describe("demo", {"build_report": ["results/demo/report/verdict.txt"]})
    assert "Experiment demo: finished" in text
    assert text.endswith("Verdict: better\n")
    assert "Logs" not in text
    assert "not begun" in status.describe("other", {"build_report": ["nowhere"]})


def test_status_of_a_running_experiment(project, monkeypatch):
    monkeypatch.setattr(status, "controllers", lambda: [42])
    write(Path(".snakemake/log/2026.snakemake.log"), LOG)
    write(Path("done"), "")
    text = status.describe("demo", {"a": ["done"], "b": ["missing"]})
    assert "running here (process 42), 1 of 2 results" in text
    assert "This run: 3 of 5 jobs done, 2 to go" in text
    assert "Go on" not in text
