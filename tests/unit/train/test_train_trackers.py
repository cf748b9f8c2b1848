"""Event files read back by protobuf itself, and the choice of trackers."""

import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import train_stage
from recap.errors import RecapError
from recap.io import read_jsonl
from recap.train.events import EventWriter, crc32c
from recap.train.trackers import open_tracker

_TYPES = {"double": 1, "float": 2, "int64": 3, "string": 9, "message": 11, "int32": 5}


def event_class():
    """Build the parts of event.proto and summary.proto that are read here."""
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="tb", syntax="proto3")
    messages = {
        "Value": [("tag", 1, "string", ""), ("simple_value", 2, "float", "")],
        "Summary": [("value", 1, "message", "Value")],
        "SessionLog": [("status", 1, "int32", "")],
        "Event": [
            ("wall_time", 1, "double", ""),
            ("step", 2, "int64", ""),
            ("file_version", 3, "string", ""),
            ("summary", 5, "message", "Summary"),
            ("session_log", 7, "message", "SessionLog"),
        ],
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind, target in fields:
            added = message.field.add(name=field, number=number, type=_TYPES[kind])
            added.label = 3 if field == "value" else 1
            if target:
                added.type_name = f".tb.{target}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tb.Event"))


def read_events(path: Path) -> list:
    data, events, kind = path.read_bytes(), [], event_class()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        payload = data[12 : 12 + length]
        for part, stored in ((data[:8], data[8:12]), (payload, data[12 + length : 16 + length])):
            crc = crc32c(part)
            masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            assert stored == struct.pack("<I", masked)
        events.append(kind.FromString(payload))
        data = data[16 + length :]
    return events


def test_crc32c_of_the_standards_own_examples() -> None:
    # RFC 3720, appendix B.4, and the check value of the CRC catalogue
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_events_are_what_protobuf_reads(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "run", 300)
    writer.write(300, {"loss": 2.5, "grad_norm": 0.125})
    writer.write(70_000, {"loss": 1.25})
    writer.close()
    (file,) = (tmp_path / "run").iterdir()
    assert "tfevents" in file.name
    head, start, first, second = read_events(file)
    assert head.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (1, 300)
    assert [(v.tag, v.simple_value) for v in first.summary.value] == [
        *(("loss", 2.5), ("grad_norm", 0.125))
    ]
    assert (first.step, second.step) == (300, 70_000)
    assert second.wall_time >= first.wall_time > 1.5e9


def test_a_run_can_be_watched(world, tmp_path: Path) -> None:
    more = ("--log-dir", str(tmp_path / "logs"))
    arguments = world.arguments("pretrain", tmp_path, world.settings(), *more)
    train_stage.main(train_stage.parser().parse_args(arguments))
    (file,) = (tmp_path / "logs").iterdir()
    events = read_events(file)[2:]
    rows = read_jsonl(tmp_path / "result" / "telemetry.jsonl")
    assert [event.step for event in events] == [row["step"] for row in rows]
    for event, row in zip(events, rows, strict=True):
        values = {value.tag: value.simple_value for value in event.summary.value}
        for name in ("loss", "grad_norm", "learning_rate", "supervised_tokens", "spike"):
            assert values[name] == pytest.approx(float(row[name]), rel=1e-6)
        assert values["samples_per_second"] > 0


def test_wandb_is_asked_for_and_stays_offline(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecapError, match=r"not installed; install it, or set train.tracker"):
        open_tracker("wandb", tmp_path / "x", 1)
    calls: list = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("end")
    )
    fake = SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = open_tracker("wandb", tmp_path / "baseline.seed1" / "pretrain", 3)
    tracker.write(3, {"loss": 1.0})
    tracker.close()
    assert calls[0]["mode"] == "offline"
    assert calls[0]["name"] == "baseline.seed1.pretrain.from3"
    assert calls[1:] == [(3, {"loss": 1.0}), "end"]
    assert open_tracker("none", tmp_path, 1) is None
