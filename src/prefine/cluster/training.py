"""Training through Ray Train: N processes on one optimiser step, their checkpoints in the run's directory.

A lost worker ends all of a training's processes; they are started again, with as many as the cluster then has
room for, and go on from the last checkpoint. A step does not depend on how many share it.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from prefine.cluster import Job, Tell
from prefine.cluster.calls import LOSSES, Lost, Site, kill, need_ray, result, ship, why
from prefine.cluster.worker import Relay, learn
from prefine.errors import RunStopped

if TYPE_CHECKING:
    from prefine.engine.train import TrainResult

Row = dict[str, float]


def train(site: Site, job: Job, tell: Tell) -> TrainResult:
    """See ``Cluster.train``. Steps that are done again are not told again."""
    held, told, losses = [ship(job, "the objective")], 0.0, 0
    while True:
        seen: list[Row] = []

        def hear(row: Row, seen: list[Row] = seen, told: float = told) -> None:
            seen.append(row)
            if row["step"] > told:
                tell(row)

        try:
            return _fit(site, held, hear)
        except Lost as error:
            reached = max((row["step"] for row in seen), default=0.0)
            losses = 1 if reached > told else losses + 1
            told = max(told, reached)
            if losses >= LOSSES:
                raise RunStopped(
                    f"training lost its workers {losses} times without getting further: {error}",
                    remedy="most often memory ran out: lower tokens_per_microbatch or --workers, or see Ray's logs; "
                    "then run the same command again: it goes on from its last checkpoint",
                ) from error
            site.say("training lost a worker; it goes on from its last checkpoint")


def _fit(site: Site, held: list[Any], hear: Callable[[Row], None]) -> TrainResult:
    """Once through Ray Train, in a thread: so rows are heard as they come, and Ctrl-C comes here."""
    relay = need_ray().remote(Relay).options(num_cpus=0).remote()
    trainer = _trainer(site, held, relay)
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    try:
        while True:
            thread.join(0.1)
            going = thread.is_alive()
            for row in result(relay.read.remote()):
                hear(row)
            if not going:
                break
        finished, raised = result(relay.outcome.remote())
    finally:
        kill(relay)  # nobody trains on without it
        thread.join(10)
    if finished is not None:
        return finished  # type: ignore[no-any-return]
    cause = next((error for error in raised if not _is_of_a_lost_peer(error)), None)
    if cause is not None:
        raise cause
    raise Lost(why(failed[0]) if failed else "they ended without a word")


def _trainer(site: Site, held: list[Any], relay: Any) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    room = site.room()
    each = {"CPU": room.threads, **({"GPU": 1} if room.gpu else {})}
    return TorchTrainer(
        partial(learn, site.setup(room), held, relay),
        torch_config=TorchConfig(backend="nccl" if room.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=room.workers, use_gpu=room.gpu, resources_per_worker=each),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=site.scratch,
            failure_config=FailureConfig(max_failures=0),  # we try again ourselves: after a loss, not after an error
        ),
    )


PEERS = re.compile(r"gloo|nccl|connection (closed|reset|refused)|socket", re.IGNORECASE)


def _is_of_a_lost_peer(error: BaseException) -> bool:
    """Whether a process failed only because another one, or the relay, went away."""
    import torch.distributed as dist

    known = (dist.DistError, need_ray().exceptions.RayError)
    return isinstance(error, known) or (type(error) is RuntimeError and bool(PEERS.search(str(error))))
