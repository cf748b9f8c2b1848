"""The caption store while its segments are being merged."""

import os
from functools import partial

import pytest

from recap.caption import store
from recap.caption.store import CaptionStore


def filled_store(root, count=3):
    for index in range(count):
        with CaptionStore(root, "f") as one:
            one.append({f"{index}": [f"caption {index}"]})
    for path in (root / "f" / "segments").iterdir():
        os.utime(path, (1, 1))
    return {f"{index}": [f"caption {index}"] for index in range(count)}


def between_list_and_read(monkeypatch, act):
    """Do something once, after segments were listed and before they are read."""
    listed, waiting = CaptionStore._listed, [act]

    def list_then_act(self):
        found = listed(self)
        if waiting:
            waiting.pop()()
        return found

    monkeypatch.setattr(CaptionStore, "_listed", list_then_act)
    monkeypatch.setattr(store, "_WAIT_SECONDS", 0)


def test_a_reader_lives_through_a_merge(tmp_path, monkeypatch):
    content = filled_store(tmp_path)
    merge = partial(CaptionStore(tmp_path, "f").merge, older_than_hours=1)
    between_list_and_read(monkeypatch, merge)
    assert CaptionStore(tmp_path, "f").lookup(content) == content


def test_two_merges_at_once_lose_nothing(tmp_path, monkeypatch):
    content = filled_store(tmp_path)
    merge = partial(CaptionStore(tmp_path, "f").merge, older_than_hours=1)
    between_list_and_read(monkeypatch, merge)
    assert merge() == 0
    assert CaptionStore(tmp_path, "f").lookup(content) == content


def test_an_error_that_no_merge_explains_is_raised(tmp_path, monkeypatch):
    content = filled_store(tmp_path)
    monkeypatch.setattr(store, "_WAIT_SECONDS", 0)
    (tmp_path / "f" / "segments" / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        CaptionStore(tmp_path, "f").lookup(content)
