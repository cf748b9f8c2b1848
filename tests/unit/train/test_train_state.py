import json
from pathlib import Path

import pytest

from recap.train.state import StateStore, remove_state


def written(store: StateStore, update: int, text: str = "weights") -> Path:
    folder = store.begin(update)
    (folder / "trainables.safetensors").write_text(f"{text} {update}")
    (folder / "trainer_state.json").write_text("{}")
    return store.publish(update)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    store = StateStore(tmp_path / "state", {"seed": 1})
    store.prepare()
    return store


def test_the_newest_checkpoint_is_used_and_old_ones_go(store: StateStore) -> None:
    assert store.latest() is None
    for update in (2, 9, 10):
        written(store, update)
    assert store.latest() == store.folder / "checkpoint-10"
    assert sorted(p.name for p in store.folder.glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-9",
    ]


REASONS = {
    "flip": "trainables.safetensors is damaged",
    "truncate": "trainables.safetensors is damaged",
    "remove": "trainables.safetensors is missing",
    "seal": "incomplete (",
    "no seal": "incomplete (",
    "foreign": "it belongs to another run",
    "rename": "it was written as update 8",
}


@pytest.mark.parametrize("damage", list(REASONS))
def test_a_torn_checkpoint_gives_way_to_the_one_before(
    store: StateStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = written(store, 4), written(store, 8)
    weights = bad / "trainables.safetensors"
    if damage == "flip":
        weights.write_text("weightz 8")
    elif damage == "truncate":
        weights.write_text("")
    elif damage == "remove":
        weights.unlink()
    elif damage == "seal":
        (bad / "complete.json").write_text('{"fingerp')
    elif damage == "no seal":
        (bad / "complete.json").unlink()
    elif damage == "foreign":
        seal = json.loads((bad / "complete.json").read_text())
        (bad / "complete.json").write_text(json.dumps(seal | {"fingerprint": "0" * 64}))
    else:
        bad = bad.rename(store.folder / "checkpoint-12")
    assert store.latest() == good
    assert f"checkpoint {bad} is not used: {REASONS[damage]}" in caplog.text


def test_torn_checkpoints_push_no_sound_one_out(store: StateStore) -> None:
    for update in (8, 10):
        (written(store, update) / "trainer_state.json").unlink()
    assert store.latest() is None
    newer = written(store, 3)
    assert store.latest() == newer
    assert list(store.folder.glob("checkpoint-*")) == [newer]


def test_a_half_written_checkpoint_is_dropped(store: StateStore) -> None:
    good = written(store, 4)
    (store.begin(8) / "trainables.safetensors").write_text("half")
    again = StateStore(store.folder.parent, {"seed": 1})
    again.prepare()
    assert again.latest() == good
    assert not list(store.folder.glob(".checkpoint-*"))


def test_state_of_another_run_is_put_aside(
    store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = written(store, 4)
    other = StateStore(store.folder.parent, {"seed": 2})
    other.prepare()
    assert other.latest() is None
    assert "other data, settings, seed" in caplog.text
    # even if someone copies it into the right folder
    foreign.rename(other.folder / foreign.name)
    assert other.latest() is None
    assert "belongs to another run" in caplog.text


def test_a_run_that_is_done_keeps_its_last_checkpoint(store: StateStore) -> None:
    written(store, 4)
    last = written(store, 5)
    StateStore(store.folder.parent, {"seed": 2}).prepare()
    store.settle()
    assert list(store.folder.parent.iterdir()) == [store.folder]
    assert list(store.folder.glob("checkpoint-*")) == [last]
    assert store.latest() == last


def test_removing_touches_only_training_state(store: StateStore) -> None:
    root = store.folder.parent
    written(store, 4)
    (root / "notes.txt").write_text("mine")
    StateStore(root, {"seed": 2}).prepare()
    remove_state(root)
    assert [path.name for path in root.iterdir()] == ["notes.txt"]
    (root / "notes.txt").unlink()
    remove_state(root)
    assert not root.exists()
    remove_state(root)
