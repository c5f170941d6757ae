"""What any cluster has to hold, without Ray: order does not matter, what is done stays done, mistakes are told."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefine.artifacts import Logps, slates_at
from prefine.cli import main
from prefine.cluster import open_cluster
from prefine.cluster import ray as ray_module
from prefine.cluster.local import Here
from prefine.cluster.room import Shape, shape
from prefine.cluster.worker import Setup
from prefine.errors import InputError
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Slate, pair, scores


class Backwards(Here):
    """Parts done in the wrong order, and each task a copy that has been through another process's hands."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.left = stop_after

    def map(self, task: Any, parts: Iterable[Any]) -> Iterator[Any]:
        for first, rows in reversed(list(parts)):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield first, task(rows, first)


def by_length(slates: Any) -> Any:
    return [{"score": scores([float(len(c.text)) for c in slate.candidates])} for slate in slates]


def verbs(run: Run, folder: Path) -> list[Path]:
    if not (folder / "base").exists():
        Tabular(["x", "y"], ["a", "bb", "ccc"], torch.zeros(2, 3)).save(folder / "base")
    policy = run.policy(folder / "base")
    judged = run.judge(run.sample(policy, run.slates([Slate("xy"[i % 2]) for i in range(700)]), n=2), by_length)
    pairs = run.curate(judged, lambda slates, rng: [pair(s, 0, 1) for s in slates])
    return [judged.path.parent, run.logps(policy, pairs).path]


def contents(folders: Iterable[Path]) -> dict[str, bytes]:
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for folder in folders for f in sorted(folder.iterdir())}


def test_the_order_in_which_parts_are_done_is_not_seen(tmp_path: Path) -> None:
    with Run(tmp_path / "a" / "run") as run:
        want = contents(verbs(run, tmp_path))
    with Run(tmp_path / "b" / "run", cluster=Backwards()) as run:
        assert contents(verbs(run, tmp_path)) == want


@pytest.mark.parametrize("stops", [1, 2, 4, 6])
def test_parts_done_before_an_interrupt_are_not_done_again(tmp_path: Path, stops: int) -> None:
    """Three parts of samples, three of judgements, two of scores: stopped after some, the rest is done elsewhere."""
    with Run(tmp_path / "a" / "run") as run:
        want = contents(verbs(run, tmp_path))
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "b" / "run", cluster=Backwards(stops)) as run:
        verbs(run, tmp_path)
    rest = Backwards()
    with Run(tmp_path / "b" / "run", cluster=rest) as run:
        assert contents(verbs(run, tmp_path)) == want
    assert 10**9 - rest.left == 8 - stops


def test_a_run_that_cannot_open_its_cluster_holds_nothing(tmp_path: Path) -> None:
    class Closed(Here):
        def open(self, folders: Any, say: Callable[[str], None]) -> Any:
            raise InputError("closed today")

    with pytest.raises(InputError, match="closed today"):
        Run(tmp_path / "run", cluster=Closed()).__enter__()
    with Run(tmp_path / "run") as run:
        assert len(run.slates([Slate("x")])) == 1


# --- what can be wrong before anything starts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "2"], "workers without a cluster"),
        (["--cluster", "http://head:6379"], "there is no cluster 'http://head:6379'"),
        (["--cluster", "head"], "there is no cluster 'head'"),
        (["--cluster", "auto", "--workers", "0"], "workers=0 cannot be used"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    code = main(["run", "dpo", "--world", "assistant", "--out", str(tmp_path / "run"), *words])
    assert code == 2
    message = capsys.readouterr().err
    assert said in message and "remedy:" in message
    assert not (tmp_path / "run").exists()


def test_the_command_works_on_the_cluster_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Everything is asked of it, and the run is the same run without it."""
    seen: list[Any] = []

    class Counting(Here):
        def __init__(self, address: str, **asked: Any) -> None:
            seen.append((address, asked))

        def map(self, task: Any, parts: Iterable[Any]) -> Iterator[Any]:
            seen.append(type(task).__name__)
            yield from super().map(task, parts)

        def train(self, job: Any, tell: Any) -> Any:
            seen.append(type(job).__name__)
            return super().train(job, tell)

    monkeypatch.setattr(ray_module, "ray_cluster", Counting)
    words = ["run", "iterate", "--world", "games", "--rounds", "1", "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main([*words, "--cluster", "head:6379", "--workers", "2"]) == 0, capsys.readouterr().err
    assert seen[0] == ("head:6379", {"workers": 2, "threads": 1, "device": "auto"})
    assert {"Sampled", "Judged", "Scored", "Trained"} <= {name for name in seen if isinstance(name, str)}
    assert main(words) == 0, capsys.readouterr().err


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", "dpo", "--world", "assistant", "--out", str(tmp_path / "run"), "--cluster", "auto"]) == 2
    assert "pip install 'prefine[ray]'" in capsys.readouterr().err


def test_a_single_device_is_no_place_for_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefine.cluster.ray.need_ray", lambda: None)
    for address in ("auto", "ray://head:10001", "10.0.0.1:6379", "[::1]:6379"):
        open_cluster(address)
    with pytest.raises(InputError, match="device 'cuda:1' on a cluster"):
        open_cluster("auto", device="cuda:1")


# --- how many workers


def test_a_worker_a_gpu_or_else_a_cpu() -> None:
    assert shape([(8, 0), (4, 0)]) == Shape(12, 1, gpu=False)
    assert shape([(8, 2), (64, 0)]) == Shape(2, 4, gpu=True)
    assert shape([(8, 2)], device="cpu") == Shape(8, 1, gpu=False)
    assert shape([(8, 0), (3, 0)], threads=2) == Shape(5, 2, gpu=False), "no worker lies across two machines"


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [({"workers": 9}, "--workers 8"), ({"threads": 9}, "fewer --threads"), ({"device": "cuda"}, "--device cpu")],
)
def test_more_than_there_is_says_what_there_is(asked: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InputError) as error:
        shape([(4, 0), (4, 0)], **asked)
    assert remedy in error.value.remedy


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=4),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(1, 4),
)
def test_what_is_chosen_fits(nodes: list[tuple[int, int]], workers: int | None, threads: int | None) -> None:
    try:
        got = shape(nodes, workers, threads)
    except InputError:
        return
    places = sum(min(c // got.threads, g) if got.gpu else c // got.threads for c, g in nodes)
    assert 1 <= got.workers <= places
    assert got.workers == (workers or got.workers) and got.threads == (threads or got.threads)


# --- a worker made ready


@pytest.fixture
def setup() -> Setup:
    return Setup.here(threads=torch.get_num_threads())


def test_a_worker_says_what_it_lacks(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("prefine.cluster.worker.PATIENCE", 0.0)
    here = socket.gethostname()
    with pytest.raises(InputError, match=rf"the worker on {here} does not see {tmp_path}/gone"):
        replace(setup, folder=f"{tmp_path}/gone").apply()
    with pytest.raises(InputError, match=r"does not see /elsewhere/runs") as error:
        replace(setup, witnesses=("/elsewhere/runs/work/witness",)).apply()
    assert "share" in error.value.remedy
    with pytest.raises(InputError, match=r"has torch 2[^,]*, this machine has 1.0") as error:
        replace(setup, versions={"torch": "1.0"}).apply()
    assert "install torch==1.0" in error.value.remedy


def test_settings_travel_and_secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setenv("PREFINE_STORE", "/store")
    monkeypatch.setenv("MY_API_KEY", "sk-abcdefghijklmnop")
    sent = Setup.here(threads=1).environment
    assert sent["HF_HOME"] == "/models" and sent["PREFINE_STORE"] == "/store"
    assert not {"HF_TOKEN", "MY_API_KEY"} & sent.keys()
    assert os.environ["HF_TOKEN"] not in str(Setup.here(threads=1))


def test_logps_of_parts_are_those_of_the_whole(tmp_path: Path) -> None:
    """The parts end to end say the same as one array for everything."""
    with Run(tmp_path / "run") as run:
        judged, scored = verbs(run, tmp_path)
    logps = Logps("", scored)
    assert len(logps) == len(slates_at("", judged)) == 700
    assert all(np.allclose(member, np.log(1 / 3)) for members in logps[0:700] for member in members)
