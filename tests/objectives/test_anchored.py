"""081 UAPO: labels against an anchor, against the equations written out; the anchor's own optimum."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from prefine import objectives as o
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.objectives.anchored import RunningMean
from prefine.objectives.scores import Scores
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate, pair, point

torch.set_num_threads(1)
F64 = torch.float64


def sigma(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def made(seed: int, roles: list[int], anchor: torch.Tensor | None = None) -> tuple[Scores, list[float], list[float]]:
    """Labelled responses of two tokens: scores, log-ratios, mean log-probabilities."""
    rng = random.Random(seed)
    logp = torch.tensor([[rng.uniform(-3, 0) for _ in range(2)] for _ in roles], dtype=F64, requires_grad=True)
    ref = torch.tensor([[rng.uniform(-3, 0) for _ in range(2)] for _ in roles], dtype=F64)
    scores = Scores(
        logp, torch.ones_like(ref), torch.tensor(roles), torch.arange(len(roles)), {"reference": ref},
        readings={} if anchor is None else {"anchor": anchor},
    )  # fmt: skip
    ratios = (logp - ref).sum(-1).tolist()
    return scores, ratios, logp.mean(-1).tolist()


@pytest.mark.parametrize("host", ["dpo", "simpo"])
@pytest.mark.parametrize("kappa", [0.0, 0.8])
@pytest.mark.parametrize("roles", [[1, -1, 1, 1], [-1, -1, -1], [1, -1]])
def test_value_and_gradients_of_the_labels_terms(host: str, kappa: float, roles: list[int]) -> None:
    """L = good mean_+ [w -log s(r - a)] + bad mean_- [w -log s(a - r)] + penalty a^2; w = 1 + kappa (1/2 - u)."""
    beta, good, bad, penalty = 0.6, 1.5, 0.7, 0.05
    anchor = torch.tensor(0.3, dtype=F64, requires_grad=True)
    scores, ratios, means = made(2, roles, anchor)
    loss = o.uapo(beta, "global", host, kappa, good, bad, penalty)(scores).mean(scores)
    g_logp, g_anchor = torch.autograd.grad(loss, (scores.logp_NT, anchor))
    want, slope_a, slopes = penalty * 0.3**2, 2 * penalty * 0.3, []
    for role, ratio, mean in zip(roles, ratios, means, strict=True):
        gap = beta * (ratio if host == "dpo" else mean) - 0.3
        u = 1 - abs(2 * sigma(gap) - 1)
        factor = (good if role > 0 else bad) * (1 + kappa * (0.5 - u)) / sum(r == role for r in roles)
        want += factor * -math.log(sigma(role * gap))
        slope = -factor * role * sigma(-role * gap)  # u is detached
        slope_a -= slope
        slopes.append([slope * beta * (1.0 if host == "dpo" else 0.5)] * 2)
    assert float(loss) == pytest.approx(want, abs=1e-12)
    assert float(g_anchor) == pytest.approx(slope_a, abs=1e-12)
    assert torch.allclose(g_logp, torch.tensor(slopes, dtype=F64), atol=1e-12)


def free(loss: Callable[[torch.Tensor], torch.Tensor], start: float = 0.0) -> torch.Tensor:
    """The anchor that makes a loss least."""
    a = torch.tensor(start, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [a], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(a)
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
    return a.detach()


def pair_loss(r_w: torch.Tensor, r_l: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    s = Scores.of_pairs(r_w[None], r_l[None], torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64))
    read = Scores(**{**vars(s), "readings": {"anchor": a}})
    return o.uapo(1.0)(read).mean(read)


def test_a_free_anchor_of_a_pair_ends_in_the_middle() -> None:
    """Sheet 081: r_w = 1.3, r_l = -0.4 gives a = 0.45 and 0.711730 = -2 log sigma(0.85)."""
    r_w, r_l = torch.tensor(1.3, dtype=F64), torch.tensor(-0.4, dtype=F64)
    a = free(lambda a: pair_loss(r_w, r_l, a))
    assert float(a) == pytest.approx(0.45, abs=1e-6)
    assert float(pair_loss(r_w, r_l, a)) == pytest.approx(0.711730, abs=1e-6)


def test_with_the_anchor_at_its_best_the_gradient_is_that_of_the_halved_pair_loss() -> None:
    r_w, r_l = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (0.9, 0.2))
    a = (r_w + r_l).detach() / 2
    ours = torch.autograd.grad(pair_loss(r_w, r_l, a), (r_w, r_l))
    host = torch.autograd.grad(-2 * F.logsigmoid((r_w - r_l) / 2), (r_w, r_l))
    assert [float(x) for x in ours] == pytest.approx([float(x) for x in host], abs=1e-12)


def test_good_labels_alone_send_the_anchor_away_and_the_penalty_holds_it() -> None:
    def loss(a: torch.Tensor, penalty: float) -> torch.Tensor:
        s, *_ = made(1, [1, 1], a)
        return o.uapo(1.0, penalty=penalty)(s).mean(s)

    a = torch.tensor(-30.0, dtype=F64, requires_grad=True)
    assert float(torch.autograd.grad(loss(a, 0.0), a)[0]) > 0  # still downhill to the left
    held = free(lambda a: loss(a, 0.01))
    assert abs(float(held)) < 10


def test_a_step_of_one_kind_has_no_term_of_the_other() -> None:
    scores, *_ = made(4, [1, 1, 1], torch.tensor(0.0, dtype=F64))
    a, b = (o.uapo(1.0, bad=bad)(scores).mean(scores) for bad in (1.0, 100.0))
    assert float(a) == float(b)


# -- the three anchors


def test_the_running_anchor_is_detached_and_runs() -> None:
    """a of the first step is its own (mean good + mean bad)/2; later a = m a + (1 - m) of the step."""
    objective = o.uapo(1.0, "batch", momentum=0.75)
    anchor = objective.anchor
    assert isinstance(anchor, RunningMean) and objective.whole_batch
    said = []
    for seed in (1, 2, 3):
        scores, ratios, _ = made(seed, [1, -1, -1])
        mean = (ratios[0] + (ratios[1] + ratios[2]) / 2) / 2
        said.append(mean if not said else 0.75 * said[-1] + 0.25 * mean)
        loss = objective(scores).mean(scores)
        want = -math.log(sigma(ratios[0] - said[-1])) + sum(-math.log(sigma(said[-1] - r)) for r in ratios[1:]) / 2
        assert float(loss) == pytest.approx(want, abs=1e-12)
        (gradient,) = torch.autograd.grad(loss, scores.logp_NT)
        assert float(gradient[0, 0]) == pytest.approx(-sigma(said[-1] - ratios[0]), abs=1e-12)  # a is a constant
        anchor.after_step()


def test_the_global_anchor_is_trained_along_at_ten_times_the_rate() -> None:
    """Two SGD steps on a table, written out: policy and anchor down the same loss."""
    policy = Tabular(["x"], list("abc"))
    slate = Slate("x", tuple(map(Candidate, "abc")))
    labels = [point(slate, 0, True), point(slate, 1, False), point(slate, 2, True)]
    settings = TrainSettings(
        lr=0.1, max_steps=2, batch_size=3, optimizer="sgd", schedule="constant", warmup=0.0, clip=None
    )
    result = train(policy, labels, o.uapo(1.0), references={"reference": policy.copy()}, settings=settings)
    logits, a = torch.zeros(3, dtype=F64, requires_grad=True), torch.zeros((), dtype=F64, requires_grad=True)
    for _ in range(2):
        r = logits.log_softmax(0) + math.log(3)
        loss = (-F.logsigmoid(r[0] - a) - F.logsigmoid(r[2] - a)) / 2 - F.logsigmoid(a - r[1])
        g, ga = torch.autograd.grad(loss, (logits, a))
        logits, a = (x.detach().requires_grad_() for x in (logits - 0.1 * g, a - 1.0 * ga))
    assert torch.allclose(policy.logp_PA()[0], logits.log_softmax(0), atol=1e-7)  # the anchor is in single precision
    assert float(result.readings["anchor.a"]) == pytest.approx(float(a), abs=1e-6)


def test_pairs_and_their_labels_are_one_loss() -> None:
    slate = Slate("x", tuple(map(Candidate, "ab")))
    settings = TrainSettings(lr=0.1, max_steps=3, batch_size=4, schedule="constant", shuffle=False)
    ends = []
    for rows in ([pair(slate, 0, 1)] * 2, [point(slate, 0, True), point(slate, 1, False)] * 2):
        policy = Tabular(["x"], list("ab"))
        train(policy, rows, o.uapo(1.0), references={"reference": policy.copy()}, settings=settings)
        ends.append(policy.logp_PA())
    assert torch.allclose(ends[0], ends[1], atol=1e-12)
