"""How many workers a cluster has room for, and what each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefine.errors import InputError

Node = tuple[float, float]
"""(CPUs, GPUs) of a machine."""


@dataclass(frozen=True)
class Shape:
    """Workers, the CPU threads of each, and whether each has a GPU."""

    workers: int
    threads: int
    gpu: bool


def shape(nodes: Sequence[Node], workers: int | None = None, threads: int | None = None, device: str = "auto") -> Shape:
    """Workers for a cluster: one a GPU where there are GPUs (unless ``device`` is cpu), else one for every
    ``threads`` CPUs (1 unless said). With ``workers`` alone given, the CPUs are shared out among them.

    >>> shape([(8, 0), (8, 0)]), shape([(8, 0), (8, 0)], workers=4)
    (Shape(workers=16, threads=1, gpu=False), Shape(workers=4, threads=4, gpu=False))
    >>> shape([(16, 4)])
    Shape(workers=4, threads=4, gpu=True)
    """
    gpus = sum(int(g) for _, g in nodes)
    if device == "cuda" and not gpus:
        raise InputError("the cluster has no GPU", remedy="leave out --device, or give --device cpu")
    gpu = device != "cpu" and gpus > 0
    if threads is None:
        threads = _share(nodes, gpu, workers or (gpus if gpu else _fits(nodes, 1, gpu)))
    there = _fits(nodes, threads, gpu)
    if there < (workers or 1):
        cpus = sum(int(c) for c, _ in nodes)
        raise InputError(
            f"the cluster has no room for {workers or 1} workers of {threads} CPU{'s' if threads > 1 else ''}"
            f"{' and a GPU' if gpu else ''} each: it has {cpus} CPUs and {gpus} GPUs on {len(nodes)} machines",
            remedy=f"give --workers {there} or fewer" if there else "give fewer --threads, or a larger cluster",
        )
    return Shape(workers or there, threads, gpu)


def _fits(nodes: Sequence[Node], threads: int, gpu: bool) -> int:
    """Workers that there is room for: a worker lies on one machine."""
    return sum(min(int(c) // threads, int(g)) if gpu else int(c) // threads for c, g in nodes)


def _share(nodes: Sequence[Node], gpu: bool, workers: int) -> int:
    """The most threads with which so many workers still fit, at least one."""
    most = max((int(c) for c, _ in nodes), default=1)
    return next((t for t in range(most, 1, -1) if _fits(nodes, t, gpu) >= workers), 1)
