"""On a local Ray with two workers: the bits of one process, whoever is lost on the way."""

from __future__ import annotations

import runpy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefine.cluster import open_cluster
from prefine.cluster.ray import RayCluster
from prefine.errors import InputError, RunStopped
from prefine.objectives import dpo
from prefine.policies.base import Sampling
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate, pair

pytest.importorskip("ray", reason="ray is not installed: pip install 'prefine[ray]'")
pytestmark = pytest.mark.xdist_group("ray")  # one Ray for all of them

sys.path.insert(0, str(Path(__file__).parent))
import parts  # noqa: E402

TINY = runpy.run_path(str(Path(__file__).parents[1] / "cli" / "tiny.py"))


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    """Ray on this machine, with room for two workers: what `--cluster auto` finds in this process."""
    import logging

    from prefine.cluster.calls import need_ray

    ray = need_ray()
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20,
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    TINY["make_model"](folder / "model")
    return folder


@pytest.fixture(scope="module")
def cluster(ray: object) -> RayCluster:
    made = open_cluster("auto", threads=1, device="cpu")
    assert isinstance(made, RayCluster)
    return made


def verbs(run: Run, base: Path, mortal: Path | None = None) -> dict[str, bytes]:
    """Sample, judge, score; the bytes that came out."""
    policy = run.policy(base / "model")
    sampler = policy if mortal is None else parts.Mortal(policy, mortal)
    prompts = run.slates([Slate(f"say yes {i}") for i in range(400)])  # parts of 128, and one of 16
    judged = run.judge(run.sample(sampler, prompts, n=4), parts.by_length)  # type: ignore[arg-type]
    pairs = run.curate(judged, lambda slates, rng: [pair(s, 0, 1) for s in slates])
    logps = run.logps(policy, pairs)
    files = [f for path in (judged.path.parent, logps.path) for f in path.iterdir()]
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in sorted(files)}


def started(folder: Path, cluster: RayCluster | None, said: list[str] | None = None) -> Run:
    class Progress:
        def stage(self, label: str, total: float | None = None) -> Progress:
            return self

        def update(self, done: float, **figures: float) -> None: ...
        def end(self, **figures: float) -> None: ...
        def say(self, text: str) -> None:
            if said is not None:
                said.append(text)

    return Run(
        folder / "run", seed=3, store=folder / "store", sampling=Sampling(max_tokens=3), placement={"device": "cpu"},
        progress=Progress(), cluster=cluster,
    )  # fmt: skip


def test_two_workers_give_the_bits_of_one_process_though_one_is_killed(
    base: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    with started(tmp_path / "alone", None) as run:
        want = verbs(run, base)
    said: list[str] = []
    with started(tmp_path / "ray", cluster, said) as run:
        got = verbs(run, base, mortal=tmp_path)
    assert (tmp_path / "killed").exists(), "a worker died with a part in its hands"
    assert [text for text in said if "was lost" in text and "are done again" in text]
    assert got == want and len(want) >= 6
    assert not list(tmp_path.rglob("witness-*")), "nothing is left lying about"


def test_what_a_judge_raises_is_raised_and_not_tried_again(tmp_path: Path, cluster: RayCluster) -> None:
    with started(tmp_path, cluster) as run:
        slates = run.slates([Slate("x", (Candidate("a"), Candidate("b")))])
        with pytest.raises(InputError, match="French only") as refused:
            run.judge(slates, parts.Refusing(tmp_path, "input"))
        assert (refused.value.exit_code, refused.value.remedy) == (2, "translate the responses")
        with pytest.raises(ValueError, match="no such sentence"):
            run.judge(slates, parts.Refusing(tmp_path, "value"))
        assert len(list(tmp_path.glob("asked-*"))) == 2
        with pytest.raises(InputError, match=r"Locked cannot be sent to the workers .*lock"):
            run.judge(slates, Locked())
        assert len(run.judge(slates, parts.by_length)) == 1, "the workers are none the worse for it"


class Locked:
    """A judge that holds what cannot leave its process."""

    key = "locked"

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, slates: object) -> list[object]:
        return []


def test_a_part_that_kills_every_worker_stops_the_run(
    tmp_path: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefine.cluster.pool.LOSSES", 2)
    with started(tmp_path, cluster) as run:
        slates = run.slates([Slate("x", (Candidate("a"), Candidate("b")))])
        with pytest.raises(RunStopped, match=r"rows 1 to 1 lost their worker 2 times, last on .*"):
            run.judge(slates, parts.Deadly(tmp_path))
    assert (tmp_path / "deaths").read_text() == "xx"


def test_training_on_two_workers_is_training_in_one_process_though_one_is_killed(
    tmp_path: Path, cluster: RayCluster
) -> None:
    """A trainer is killed once there is a checkpoint. Training goes on from it, no step is told twice, and it ends
    in the losses and weights of one process."""
    said: list[str] = []
    rows, weights = [], []
    for name, where in (("alone", None), ("ray", cluster)):
        with started(tmp_path / name, where, said) as run:
            path, told = trained(run, tmp_path, parts.Fatal(dpo(0.1), str(tmp_path)))
        rows.append(told)
        weights.append(load_file(path / "tabular.safetensors"))
    assert (tmp_path / "killed").exists() and "training lost a worker" in " ".join(said)
    alone, ours = rows
    assert [row["step"] for row in ours] == [row["step"] for row in alone] == list(range(1, 13))
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in alone], rel=1e-4)
    assert [row["step_tokens"] for row in ours] == [row["step_tokens"] for row in alone]
    assert alone[-1]["loss"] < alone[0]["loss"] - 0.02, "there was something to learn"
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-6)
    assert not list((tmp_path / "ray" / "run").glob("work/ray")), "Ray Train's own files are gone"


def trained(run: Run, folder: Path, objective: Any) -> tuple[Path, list[dict[str, float]]]:
    """Twelve steps on a table, with the rows of metrics as they were told."""
    if not (folder / "table").exists():
        Tabular(["x", "y"], ["a", "b", "c"], torch.zeros(2, 3)).save(folder / "table")
    # a over b over c: with an order that goes in a circle the last loss hangs on the order of the data
    slates = [Slate("xy"[i % 2], (Candidate("aab"[i % 3]), Candidate("bcc"[i % 3]))) for i in range(20)]
    pairs = run.curate(run.slates(slates), lambda slates, rng: [pair(s, 0, 1) for s in list(slates)[:13]])
    told: list[dict[str, float]] = []
    run.track = told.append  # type: ignore[method-assign, assignment]
    policy = run.train(
        run.policy(folder / "table"), pairs, objective=objective,
        lr=0.5, batch_size=5, max_steps=12, save_every=2, schedule="constant", warmup=0.0,
    )  # fmt: skip
    return policy.path, told
