"""Recipes that keep earlier policies or draw fresh samples, run on tables; and what they say when data lack something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefine import curating, objectives
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Compared
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair, point, scores
from prefine.systems.multi_objective.spo_sequential import spo_sequential
from prefine.systems.objectives.drpo_doubly_robust import drpo_doubly_robust
from prefine.systems.objectives.uapo import uapo

torch.set_num_threads(1)
NAMES = list("abcd")
SGD: dict[str, Any] = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "clip": None}


def start(tmp_path: Path, **settings: Any) -> tuple[Run, Any]:
    Tabular(["x"], NAMES, [[0.2, -0.1, 0.4, 0.0]]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({**SGD, **settings}))
    return run, run.policy(tmp_path / "base")


def as_contrasts(run: Run, rows: list[Contrast]) -> Any:
    return run.curate(run.slates(row.slate for row in rows), lambda slates, rng: rows)


def both_ways() -> list[Contrast]:
    """Pairs whose responses are ordered one way by "helpful" and the other way by "harmless"."""
    slate = Slate("x", tuple(map(Candidate, NAMES)))
    slate = slate.with_feedback("helpful", scores([3.0, 2.0, 1.0, 0.0]))
    slate = slate.with_feedback("harmless", scores([0.0, 1.0, 3.0, 2.0]))
    return [pair(slate, i, j) for i in range(4) for j in range(4) if i < j]


def test_every_stage_compares_with_all_earlier_ones(tmp_path: Path) -> None:
    """Two stages by the recipe are the two trainings written out, with references by their place in the chain."""
    run, base = start(tmp_path, lr=0.5, batch_size=8, max_steps=4)
    aspects = as_contrasts(run, both_ways())
    done = spo_sequential(run, base, aspects, dimensions="helpful, harmless", beta=0.5, alpha=0.4, lam=2.0)
    logits = torch.tensor([0.2, -0.1, 0.4, 0.0], dtype=torch.float64)
    log0 = logits.log_softmax(0)
    orders = [[(i, j) for i in range(4) for j in range(4) if v[i] > v[j]] for v in ([3, 2, 1, 0], [0, 1, 3, 2])]

    def descend(logits: torch.Tensor, q: Any, pairs: list[tuple[int, int]]) -> torch.Tensor:
        for _ in range(4):
            x = logits.clone().requires_grad_()
            gap = torch.stack([q(x.log_softmax(0))[w] - q(x.log_softmax(0))[l] for w, l in pairs])
            (step,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(gap).mean(), x)
            logits = logits - 0.5 * step
        return logits

    one = descend(logits, lambda logp: 0.5 * (logp - log0), orders[0])
    log1 = one.log_softmax(0)
    two = descend(one, lambda logp: 0.4 * (logp - log1) - 2.0 * 0.5 * (log1 - log0), orders[1])
    assert torch.allclose(done.load().logp_PA()[0], two.log_softmax(0), atol=1e-12)


def test_dimensions_that_are_not_in_the_data_are_refused_first(tmp_path: Path) -> None:
    run, base = start(tmp_path)
    with pytest.raises(InputError, match="no dimension 'honest'"):
        spo_sequential(run, base, as_contrasts(run, both_ways()), dimensions="helpful, honest")


def test_one_step_rounds_are_the_released_loop(tmp_path: Path) -> None:
    """Every round: rows of its part in both orders, the samples drawn, one step with constants at the round's start."""
    run, base = start(tmp_path, lr=0.7, batch_size=100, max_steps=1)
    rng = np.random.default_rng(2)
    slate = [Slate("x", tuple(map(Candidate, NAMES)), meta={"id": str(i)}) for i in range(12)]
    rows = [pair(s, *(int(i) for i in rng.choice(4, 2, replace=False))) for s in slate]
    g = rng.uniform(size=(4, 4))

    def compared(slate: Slate) -> list[list[float]]:
        at = [NAMES.index(c.text) for c in slate.candidates]
        return g[np.ix_(at, at)].tolist()

    pairs = as_contrasts(run, rows)
    done = drpo_doubly_robust(run, base, pairs, Compared(compared), rounds=2, n=3, beta=0.2, C=1.2)
    policy, logits = base, torch.tensor([0.2, -0.1, 0.4, 0.0], dtype=torch.float64)
    ref = logits.log_softmax(0)
    for t in run.rounds(2):
        part = run.curate(pairs, curating.part(t, 2))
        own = run.sample(
            policy, run.slates(curating.prompts_of(part), label="prompts"), n=3, temperature=1.0, top_p=1.0
        )
        x = logits.clone().requires_grad_()
        logp, losses = x.log_softmax(0), []
        for contrast, drawn in zip(part, own, strict=True):
            w, l = (NAMES.index(contrast.response(m)) for m in (0, 1))
            stars = [NAMES.index(c.text) for c in drawn.candidates]
            for a1, a2, z in ((w, l, 1.0), (l, w, 0.0)):
                rho = float((logp[a1] - ref[a1]).exp().clamp(1 / 1.2, 1.2))
                loss = -rho * (z - g[a1, a2]) * logp[a1]
                for a in stars:
                    d = ref[a] - logp[a]
                    loss = loss + (-g[a, a2] * logp[a] + 0.2 * (d.exp() - d - 1)) / 3
                losses.append(loss)
        (step,) = torch.autograd.grad(torch.stack(losses).mean(), x)
        logits = logits - 0.7 * step
        beside = run.slates(curating.beside_samples(part, own), label="again")
        again = run.curate(run.judge(beside, Compared(compared)), curating.both_orders())
        policy = run.train(
            policy, again, objective=objectives.doubly_robust(0.2, 1.2, sampler="sampler"),
            reference={"reference": base, "sampler": policy},
        )  # fmt: skip
        assert torch.allclose(policy.load().logp_PA()[0], logits.log_softmax(0), atol=1e-12)
    assert torch.allclose(done.load().logp_PA()[0], logits.log_softmax(0), atol=1e-12)


def test_labels_of_one_kind_need_an_anchor_that_is_held(tmp_path: Path) -> None:
    run, base = start(tmp_path, max_steps=1)
    slate = Slate("x", tuple(map(Candidate, NAMES)))
    good = as_contrasts(run, [point(slate, 0, True), point(slate, 1, True)])
    with pytest.raises(InputError, match="all labels are good"):
        uapo(run, base, good)
    for held in ({"anchor": "batch"}, {"penalty": 0.01}):
        uapo(run, base, good, **held)  # type: ignore[arg-type]
