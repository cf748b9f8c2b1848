"""When a run must end, and that ending inside an update or an evaluation changes no byte."""

import logging
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import train_processes as processes

import train_stage
from recap.cluster.failures import updates_made
from recap.errors import RecapError
from recap.io import read_json, read_jsonl
from recap.train import signals
from recap.train.limits import process_start, run_end
from recap.train.pace import Pace
from recap.train.signals import InterruptedRunError, StopRequest

# Pass 1 is the gate's that compares loss and gradient; then each of the 4 updates has 4.
PASSES = 4


class Clock:
    """A time that only goes on when it is told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def paced(clock: Clock, *seconds: float) -> Pace:
    pace = Pace(clock)
    for length in seconds:
        clock.now += length
        assert pace.update_done() == length
    return pace


def test_the_margin_follows_what_was_measured(clock: Clock) -> None:
    # 1.5 * (update + checkpoint) + 10; the first checkpoint is taken to last 10
    assert Pace(clock).needed() == 25.0
    pace = paced(clock, 4.0)
    assert pace.needed() == 1.5 * (4 + 10) + 10
    clock.now += 2.0
    pace.checkpoint_done()
    assert pace.needed() == 1.5 * (4 + 2) + 10
    clock.now += 1.0
    pace.checkpoint_done()
    assert pace.checkpoint_seconds == 2.0


def test_a_slow_first_update_counts_until_there_is_another(clock: Clock) -> None:
    assert paced(clock, 90.0).update_seconds == 90.0
    assert paced(clock, 90.0, 4.0).update_seconds == 4.0
    assert paced(clock, 90.0, 4.0, 6.0, 5.0).update_seconds == 6.0


def test_an_earlier_attempt_foretells_the_first_update(clock: Clock) -> None:
    pace = Pace(clock)
    pace.expect([])
    assert pace.update_seconds == 0.0
    pace.expect([50.0, 4.0, 6.0])
    assert pace.update_seconds == 6.0
    clock.now += 3.0
    pace.update_done()
    pace.expect([50.0])
    assert pace.update_seconds == 3.0


def test_the_rest_of_an_update_is_what_its_passes_foretell(clock: Clock) -> None:
    pace = paced(clock, 8.0)
    assert pace.needed(3, 4) == 1.5 * (2 + 10) + 10
    clock.now += 12.0  # 3 passes took longer than the longest update did
    assert pace.needed(3, 4) == 1.5 * (4 + 10) + 10
    assert pace.needed(4, 4) == 25.0


def test_the_earlier_end_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert run_end(None) == (None, "")
    end, source = run_end(2.0)
    assert end == pytest.approx(process_start() + 120, abs=1)
    assert source == "--time-limit-minutes 2"
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000")
    assert run_end(2.0) == (1000.0, "SLURM_JOB_END_TIME")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1e12")
    assert run_end(2.0) == (pytest.approx(end, abs=1), source)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "tomorrow")
    with pytest.raises(RecapError, match="is 'tomorrow', not UNIX seconds"):
        run_end(None)


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ("echo 2026-03-01T12:00:00", 1772366400.0),
        ("echo N/A", None),
        ("true", None),
        ("echo slurm_load_jobs error >&2; exit 1", None),
    ],
)
def test_an_older_slurm_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, end: float | None
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(
        f'#!/bin/sh\n[ "$*" = "--noheader --format=%e --job=77" ] || exit 2\n{answer}\n'
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert run_end(None) == ((end, "squeue, job 77") if end else (None, ""))
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000")
    assert run_end(None) == (1000.0, "SLURM_JOB_END_TIME")


def test_the_limit_counts_from_the_start_of_the_process() -> None:
    # /proc's own clock has ticks of 10 ms
    assert process_start() <= time.time()
    assert process_start() == pytest.approx(process_start(), abs=0.1)
    assert time.time() - process_start() >= time.process_time() / (os.cpu_count() or 1) - 0.1


def test_a_signal_sets_the_end_once(clock: Clock) -> None:
    stop = StopRequest(clock=clock)
    assert not stop.before_update()
    assert not stop.cuts_short(1, 2)
    stop.note(signal.SIGTERM)
    assert stop.before_update()
    assert not stop.cuts_short(1, 2), "30 s suffice for a checkpoint of 10"
    clock.now = 6.0
    stop.note(signal.SIGUSR1)  # must not give another 30 s
    assert stop.cuts_short(1, 2)
    assert "stopped by SIGTERM after update 3" in str(stop.interruption("after update 3"))


def test_a_word_in_advance_sets_no_end_and_sigterm_after_it_does(clock: Clock, caplog) -> None:
    stop = StopRequest(clock=clock)
    stop.mention("after update 3 of 3")
    stop.note(signal.SIGUSR1)
    assert stop.before_update()
    clock.now = 600.0
    assert not stop.cuts_short(0, 1), "the update under way may take as long as it takes"
    stop.note(signal.SIGTERM)
    clock.now = 606.0
    assert stop.cuts_short(1, 2)
    with caplog.at_level(logging.WARNING):
        stop.mention("after update 4 of 4")
    (said,) = caplog.messages
    assert updates_made(said) == 4


def test_a_signal_does_not_move_a_nearer_end(clock: Clock) -> None:
    stop = StopRequest(26.0, "SLURM_JOB_END_TIME", clock=clock)
    assert not stop.before_update()
    clock.now = 2.0
    assert stop.before_update()
    message = str(stop.interruption("after update 3"))
    assert "24 s are left (SLURM_JOB_END_TIME), and another update" in message
    assert "is given 25 s" in message
    stop.note(signal.SIGTERM)
    assert stop.cuts_short(1, 2)


@pytest.fixture
def arguments(world, stage_1: Path):
    def command(out: Path, *more: str, **changes: object) -> list[str]:
        values = {
            "image_aspect_ratio": "pad",
            "group_by_modality_length": True,
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
            "packing": False,
            "micro_batch_size": 2,
            "save_steps": 1000,
        }
        settings = world.settings(**(values | changes))
        return world.arguments("finetune", out, settings, "--projector", str(stage_1), *more)

    return command


def run(arguments: list[str]) -> None:
    train_stage.main(train_stage.parser().parse_args(arguments))


@pytest.fixture
def held_out(world) -> tuple[str, ...]:
    path = world.write_set("asked.json", 8, text_only=2)
    return ("--held-out", f"asked={path}", f"again={path}", "--held-out-every", "2")


def saved(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "state").glob("run-*/checkpoint-*"))


def assert_same_bytes(out: Path, expected: Path) -> None:
    names = {path.name for path in (expected / "result").iterdir()}
    assert {path.name for path in (out / "result").iterdir()} == names
    for name in names - {"manifest.json"}:
        ours, theirs = ((folder / "result" / name).read_bytes() for folder in (out, expected))
        assert ours == theirs, name


def terminate_at(wanted: int):
    def act(number: int, output: object) -> None:
        if number == wanted:
            os.kill(os.getpid(), signal.SIGTERM)

    return processes.each_pass(act)


def test_an_update_that_outlasts_the_grace_is_dropped(
    arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(arguments(whole))
    monkeypatch.setattr(signals, "GRACE_SECONDS", 1.0)
    seen = []
    with (
        terminate_at(1 + 2 * PASSES + 2),
        processes.each_pass(lambda number, output: seen.append(number)),
        pytest.raises(InterruptedRunError, match="stopped by SIGTERM after update 2 of 4"),
    ):
        run(arguments(cut))
    assert max(seen) == 1 + 2 * PASSES + 2, "no pass was begun after the signal"
    assert saved(cut) == ["checkpoint-2"]
    # A second stop before another update ends must not write over the checkpoint there is.
    before = next((cut / "state").glob("run-*/checkpoint-2")).stat().st_ino
    with terminate_at(1 + 1), pytest.raises(InterruptedRunError, match="after update 2 of 4"):
        run(arguments(cut))
    assert next((cut / "state").glob("run-*/checkpoint-2")).stat().st_ino == before
    run(arguments(cut))
    assert read_json(cut / "perf.json")["resumed_from_update"] == 2
    assert_same_bytes(cut, whole)


def test_a_stop_in_the_first_update_leaves_nothing(
    arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "GRACE_SECONDS", 1.0)
    with terminate_at(1 + 1), pytest.raises(InterruptedRunError, match="after update 0 of 4"):
        run(arguments(tmp_path))
    assert saved(tmp_path) == []
    assert not (tmp_path / "result").exists()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch):
    """Make each pass last 10 seconds on the clock that the end of the run is compared with."""

    def passes_of_ten_seconds(end: float, *, evaluation: bool = False):
        clock = Clock()
        monkeypatch.setattr(signals, "StopRequest", partial(StopRequest, clock=clock))
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(end))

        def act(number: int, output: object) -> None:
            clock.now += 10.0 if number or evaluation else 0.0

        return processes.each_pass(act)

    return passes_of_ten_seconds


def test_a_run_ends_itself_before_it_is_cut_off(
    arguments, tmp_path: Path, slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 90 s have gone after 9 passes; a checkpoint is given 25 s.
    cases = {"between_updates": (114.0, 2), "inside_an_update": (104.0, 1)}
    for name, (end, updates) in cases.items():
        message = rf"stopped after update {updates} of 4: .*SLURM_JOB_END_TIME"
        with slow(end), pytest.raises(InterruptedRunError, match=message):
            run(arguments(tmp_path / name))
        assert saved(tmp_path / name) == [f"checkpoint-{updates}"]
    monkeypatch.undo()
    run(arguments(tmp_path / "whole"))
    for name in cases:
        run(arguments(tmp_path / name))
        assert_same_bytes(tmp_path / name, tmp_path / "whole")


def test_a_run_does_not_start_without_time_for_an_update(
    arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 20))
    with pytest.raises(InterruptedRunError, match=r"before the model.*with more time if"):
        run(arguments(tmp_path))
    with pytest.raises(RecapError, match="must be above 0, not 0") as caught:
        run(arguments(tmp_path, "--time-limit-minutes", "0"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("updates", "end"), [(2, 10 * 9 + 25 + 15), (4, 10 * 26 + 25 + 15)])
def test_a_stop_inside_an_evaluation_is_made_up_for(
    arguments, held_out, tmp_path: Path, slow, updates: int, end: int, monkeypatch
) -> None:
    # The two sets of 8 have 4 passes each: 3 sets of passes come before the last evaluation.
    message = f"after update {updates} of 4"
    with slow(end, evaluation=True), pytest.raises(InterruptedRunError, match=message):
        run(arguments(tmp_path / "cut", *held_out))
    assert saved(tmp_path / "cut") == [f"checkpoint-{updates}"]
    monkeypatch.undo()
    run(arguments(tmp_path / "cut", *held_out))
    run(arguments(tmp_path / "whole", *held_out))
    assert_same_bytes(tmp_path / "cut", tmp_path / "whole")
    metrics = read_json(tmp_path / "cut" / "result" / "metrics.json")
    assert [(row["step"], row["style"]) for row in metrics["held_out_curves"]] == [
        *((2, "asked"), (2, "again"), (4, "asked"), (4, "again"))
    ]
    assert len(read_jsonl(tmp_path / "cut" / "perf.updates.jsonl")) == 4
