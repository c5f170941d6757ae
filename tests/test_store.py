"""Artifacts: whole or not at all, checked when taken up, one process a run directory."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from prefine.errors import RunStopped
from prefine.store import Store, append_json, holder, lock, read_jsonl, room, write_text


def made(store: Store, key: str, text: str = "hello") -> Path:
    work = store.root / "work" / key
    work.mkdir(parents=True)
    (work / "data.txt").write_text(text)
    return store.commit(key, work, verb="test", figures={})


def test_an_artifact_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get("k") is None
    made(store, "k")
    assert (store.get("k") / "data.txt").read_text() == "hello"


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: (p / "data.txt").write_text("jello"),
        lambda p: (p / "data.txt").write_text("hello and more"),
        lambda p: (p / "data.txt").unlink(),
        lambda p: (p / "manifest.json").unlink(),
        lambda p: (p / "manifest.json").write_text("{"),
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text().replace("test", "tset")),
        lambda p: os.truncate(p / "data.txt", 0),
    ],
    ids=["bit flip", "longer", "missing file", "no manifest", "broken manifest", "edited manifest", "truncated"],
)
def test_a_damaged_artifact_is_put_aside_and_never_used(tmp_path: Path, harm) -> None:  # type: ignore[no-untyped-def]
    said: list[str] = []
    store = Store(tmp_path, said.append)
    harm(made(store, "k"))
    assert Store(tmp_path, said.append).get("k") is None
    assert not store.path("k").exists()
    assert list((tmp_path / "damaged").iterdir())
    assert "damaged" in said[0]


def test_damage_after_a_first_check_is_seen_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = made(store, "k")
    assert store.get("k") is not None
    (path / "data.txt").write_text("other")
    assert store.get("k") is None


def test_two_runs_may_make_the_same_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = made(store, "k")
    work = tmp_path / "work" / "again"
    work.mkdir(parents=True)
    (work / "data.txt").write_text("hello")
    assert store.commit("k", work, verb="test", figures={}) == first
    assert not work.exists()


def _hold(folder: str, ready, done) -> None:  # type: ignore[no-untyped-def]
    with lock(Path(folder)):
        ready.set()
        done.wait(30)


def test_a_lock_keeps_a_second_process_out_and_says_who_holds_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(RunStopped, match=f"in use by process {process.pid}"), lock(tmp_path):
        pass
    assert str(process.pid) in (holder(tmp_path) or "")
    process.kill()  # the kernel lets go of a dead process's lock
    process.join()
    with lock(tmp_path):
        pass
    assert holder(tmp_path) is None


def test_a_full_disk_is_a_message_that_says_how_to_go_on() -> None:
    with pytest.raises(RunStopped, match="disk is full") as caught, room():
        raise OSError(errno.ENOSPC, "No space left on device", "/x")
    assert "again" in caught.value.remedy
    with pytest.raises(OSError, match="Permission"), room():
        raise OSError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_exhausted_memory_is_a_message_that_says_how_to_go_on(error: Exception) -> None:
    with pytest.raises(RunStopped, match="out of memory"), room():
        raise error


def test_a_log_line_cut_by_a_kill_is_skipped_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_json(log, {"a": 1})
    with log.open("a") as file:
        file.write('{"b": ')
    append_json(log, {"c": 3})
    assert read_jsonl(log) == [{"a": 1}, {"c": 3}]


def test_a_text_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f.txt"
    write_text(target, "old")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_text(target, "new")
    assert target.read_text() == "old"


def test_a_manifest_names_every_file_and_no_time(tmp_path: Path) -> None:
    manifest = json.loads((made(Store(tmp_path), "k") / "manifest.json").read_text())
    assert set(manifest["files"]) == {"data.txt"}
    assert set(manifest) == {"key", "verb", "figures", "files", "sha256"}
