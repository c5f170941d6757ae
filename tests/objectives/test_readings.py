"""What an objective sees of a model besides log-probabilities: views, readings, and those that are trained along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prefine import objectives as o
from prefine.engine.learner import LEARNT
from prefine.engine.score import logp_of
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.errors import InputError
from prefine.objectives import readings as r
from prefine.objectives.scores import Loss, Scores
from prefine.policies.base import Row
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair

torch.set_num_threads(1)


def alone(model: Any, row: Row) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(L, V) log-probabilities and the hidden states of one row, by transformers itself."""
    out = model(torch.tensor([row.prompt + row.response]), output_hidden_states=True)
    return out.logits[0].log_softmax(-1), tuple(h[0] for h in out.hidden_states)


@torch.no_grad()
def test_a_view_has_the_numbers_of_single_forwards(looked: Any) -> None:
    model, rows = looked.model, looked.rows
    view = looked.view(deep=True)
    assert torch.allclose(view.logp(), logp_of(model, rows, route="padded")[0], atol=1e-12)
    collided = r.over_vocabulary(r.collision, view)
    peaked = r.over_vocabulary(r.peak, view)
    logits = r.over_vocabulary(lambda x: x.mean(-1), view, logits=True)
    for n, row in enumerate(rows):
        logp_LV, states = alone(model, row)
        first = len(row.prompt) - 1
        for t, counts in enumerate(row.mask):
            p = logp_LV[first + t].exp()
            assert float(collided[n, t]) == pytest.approx(float((p * p).sum().log()) if counts else 0.0, abs=1e-12)
            assert float(peaked[n, t]) == pytest.approx(float(p.max().log()) if counts else 0.0, abs=1e-12)
        raw = model(torch.tensor([row.prompt + row.response])).logits[0, first].mean()
        assert float(logits[n, 0]) == pytest.approx(float(raw), abs=1e-12)
        for place in range(len(row.response) + 1):
            assert torch.allclose(view.states_NSD[n, place], states[-1][first + place], atol=1e-12)
            for layer in range(2):
                assert torch.allclose(view.layers_NSLD[n, place, layer], states[layer + 1][first + place], atol=1e-12)
        assert int(view.length_N[n]) == len(row.response)
    assert {"self_attn", "mlp", "residual"} <= view.means_NS.keys()
    assert all(len(found) == 2 for found in view.means_NS.values())


def test_the_kl_over_the_vocabulary_and_its_gradient(looked: Any) -> None:
    """KL(ref || pi) at every place, by the sum over the vocabulary; the gradient goes into pi alone."""
    model, other, rows = looked.model, looked.other, looked.rows
    with torch.no_grad():
        reference = looked.view(other)
    kl_NT = r.over_vocabulary(r.kl, reference, looked.view())
    kl_NT.sum().backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert all(p.grad is None for p in other.parameters())
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for n, row in enumerate(rows):
        first = len(row.prompt) - 1
        p, q = alone(other, row)[0].detach(), alone(model, row)[0]
        for t, counts in enumerate(row.mask):
            here = (p[first + t].exp() * (p[first + t] - q[first + t])).sum() * counts
            assert float(kl_NT[n, t].detach()) == pytest.approx(float(here.detach()), abs=1e-12)
            total = total + here
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(got[name], parameter.grad, atol=1e-10)


def test_chunks_of_the_vocabulary_change_nothing(looked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    view = looked.view()
    whole = r.over_vocabulary(r.collision, view)
    monkeypatch.setattr(r, "CHUNK_NUMBERS", 23)
    assert torch.allclose(r.over_vocabulary(r.collision, view), whole, atol=1e-12)


def test_a_distribution_without_gradient_has_none(looked: Any) -> None:
    view = looked.view()
    assert not r.Distribution(r.collision).made(r.Size())(view).requires_grad
    assert r.Distribution(r.collision, gradient=True).made(r.Size())(view).requires_grad


def test_a_kl_with_excluded_actions_is_finite_with_its_gradient() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    q = torch.tensor([[0.3, 0.7, 0.0]]).log().requires_grad_()
    value = r.kl(p, q)
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(0.5 * np.log(0.5 / 0.3) + 0.5 * np.log(0.5 / 0.7), abs=1e-6)
    assert q.grad is not None and torch.allclose(q.grad, torch.tensor([[-0.5, -0.5, 0.0]]))


# -- readings of an objective


class Slope(nn.Module):
    """One number, for the log-ratios to be multiplied with."""

    def __init__(self, lr_factor: float, size: r.Size) -> None:
        super().__init__()
        self.lr_factor = lr_factor
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        return self.a


@dataclass(frozen=True)
class Pulled:
    """(a - 3)^2 a contrast, and the policy takes no part."""

    lr_factor: float = 1.0
    references: tuple[str, ...] = ()

    @property
    def readings(self) -> Mapping[str, r.Reading]:
        return {"a": r.Learned(partial(Slope, self.lr_factor), shape=())}

    def __call__(self, scores: Scores) -> Loss:
        return Loss.of((scores.reading("a") - 3.0) ** 2 + 0 * scores.over_group(scores.sum()))


def duel(names: tuple[str, ...] = ("a", "b", "c"), n: int = 6) -> tuple[Tabular, list[Contrast]]:
    slates = [Slate("x", tuple(map(Candidate, names)), meta={"id": str(i)}) for i in range(n)]
    return Tabular(["x"], list(names)), [pair(s, i % 3, (i + 1) % 3) for i, s in enumerate(slates)]


@pytest.mark.parametrize("lr_factor", [1.0, 5.0])
def test_a_reading_with_parameters_is_trained_at_its_own_rate(lr_factor: float) -> None:
    policy, pairs = duel()
    settings = TrainSettings(
        lr=0.1, max_steps=1, batch_size=6, optimizer="sgd", schedule="constant", warmup=0.0, clip=None
    )
    result = train(policy, pairs, Pulled(lr_factor), settings=settings)  # type: ignore[arg-type]
    assert float(result.readings["a.a"]) == pytest.approx(0.1 * lr_factor * 6.0)


def test_readings_are_found_in_wrappers_measures_and_weights() -> None:
    inner = o.wpo(0.1)
    assert set(r.gathered(o.smoothed(o.on_policy(o.dpo()), 0.1))) == {"collision"}
    assert set(r.gathered(o.add(inner, o.sparsepo(masks="independent")))) == {
        "collision", "forward-kl", "mask-u", "mask-d",
    }  # fmt: skip
    assert r.gathered(o.dpo()) == {}
    with pytest.raises(ValueError, match="under the name 'a'"):
        r.gathered(o.add(Pulled(1.0), Pulled(2.0)))  # type: ignore[arg-type]


def test_an_objective_that_looks_into_stored_numbers_says_so(tmp_path: Path) -> None:
    policy, pairs = duel()
    stored = [[np.zeros(1), np.zeros(1)] for _ in pairs]
    with pytest.raises(InputError, match="looks into the reference"):
        train(policy, pairs, o.sparsepo(masks="ones"), references={"reference": stored})


def test_hidden_states_of_a_table_are_an_error_that_says_what_to_do() -> None:
    policy, pairs = duel()
    for objective in (o.sparsepo(), o.uapo(anchor="prompt"), o.spo_degree()):
        with pytest.raises(InputError, match="reads hidden states"):
            train(policy, pairs, objective, references={"reference": policy.copy()})


def test_a_run_gives_a_live_reference_where_it_is_looked_into(tmp_path: Path) -> None:
    """TDPO1 on a table, by the verb: equal to gradient steps on the formula with both distributions exact."""
    _, pairs = duel()
    base = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    Tabular(["x"], list("abc"), base).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings(
        lr=0.5, max_steps=3, batch_size=6, optimizer="sgd", schedule="constant", warmup=0.0, clip=None,
    ))  # fmt: skip
    contrasts = run.curate(run.slates(c.slate for c in pairs), lambda slates, rng: pairs)
    done = run.train(run.policy(tmp_path / "base"), contrasts, objective=o.sparsepo(0.7, "ones"))
    logits, ref = base[0].clone().requires_grad_(), base[0].log_softmax(0)
    for _ in range(3):
        logp = logits.log_softmax(0)
        kl = (ref.exp() * (ref - logp)).sum()
        worth = logp - ref + kl
        loss = torch.stack([
            -torch.nn.functional.logsigmoid(0.7 * (worth[c.members[0]] - worth[c.members[1]])) for c in pairs
        ]).mean()  # fmt: skip
        (step,) = torch.autograd.grad(loss, logits)
        logits = (logits - 0.5 * step).detach().requires_grad_()
    assert torch.allclose(done.load().logp_PA()[0], logits.log_softmax(0), atol=1e-12)  # type: ignore[attr-defined]


def test_what_was_learnt_beside_the_policy_is_kept(tmp_path: Path) -> None:
    policy, pairs = duel()
    policy.save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings(lr=0.1, max_steps=2))
    contrasts = run.curate(run.slates(c.slate for c in pairs), lambda slates, rng: pairs)
    done = run.train(run.policy(tmp_path / "base"), contrasts, objective=Pulled())  # type: ignore[arg-type]
    assert float(load_file(done.path / LEARNT)["a.a"]) > 0


@pytest.mark.parametrize("budget", [None, 1])
def test_a_cut_step_is_the_uncut_step(budget: int | None) -> None:
    """The weights of a pair, the anchor and the KL do not know how a step was cut."""
    for objective in (o.wpo(0.5), o.uapo(0.5), o.sparsepo(0.5, "ones")):
        policy, pairs = duel()
        settings = TrainSettings(
            lr=0.5, max_steps=2, batch_size=6, optimizer="sgd", schedule="constant", warmup=0.0, clip=None,
            tokens_per_microbatch=budget,
        )  # fmt: skip
        train(policy, pairs, objective, references={"reference": policy.copy()}, settings=settings)
        whole, _ = duel()
        train(
            whole, pairs, objective, references={"reference": whole.copy()},
            settings=replace(settings, tokens_per_microbatch=10_000),
        )  # fmt: skip
        assert torch.allclose(policy.logp_PA(), whole.logp_PA(), atol=1e-14)
