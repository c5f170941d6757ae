"""073 SPO (self-supervised): the degree loss against its equation, its heads, and its limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from prefine import objectives as o
from prefine.objectives.degrees import Classifier
from prefine.objectives.readings import Size
from prefine.objectives.scores import Scores

torch.set_num_threads(1)
F64 = torch.float64

ROLES = [1, -1, 0, 0, 0, 1, -1, 0]
GROUPS = [0, 0, 0, 0, 0, 1, 1, 1]
DEGREE = [-1.0, -1.0, 0.0, 2.0, 1.0, -1.0, -1.0, 2.0]
OF = [1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0]


def made(seed: int = 0) -> tuple[Scores, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    heads = {name: torch.randn(8, 3, dtype=F64).requires_grad_() for name in ("degree-chosen", "degree-rejected")}
    logp = -torch.rand(8, 2, dtype=F64)
    scores = Scores(
        logp.requires_grad_(), torch.ones(8, 2, dtype=F64), torch.tensor(ROLES), torch.tensor(GROUPS),
        {"reference": -torch.rand(8, 2, dtype=F64)},
        {"degree": torch.tensor(DEGREE, dtype=F64), "of": torch.tensor(OF, dtype=F64)}, readings=heads,
    )  # fmt: skip
    return scores, heads


@pytest.mark.parametrize("sides", ["both", "chosen"])
def test_value_and_gradient(sides: str) -> None:
    """L_align + gamma_w mean_variants CE_w + gamma_l mean_variants CE_l, the mean over contrasts."""
    gamma, gamma_l = 0.3, 0.7
    scores, heads = made()
    objective = o.aware_of_degree(o.dpo(0.5), gamma, gamma_l, degrees=3, sides=sides)
    loss = objective(scores).mean(scores)
    gradients = torch.autograd.grad(loss, list(heads.values()), allow_unused=True)
    ratio = (scores.logp_NT - scores.references["reference"]).sum(-1).tolist()
    want = sum(math.log1p(math.exp(-0.5 * (ratio[w] - ratio[l]))) for w, l in ((0, 1), (5, 6))) / 2
    slopes = {name: torch.zeros(8, 3, dtype=F64) for name in heads}
    for name, side, factor in (("degree-chosen", 1.0, gamma), ("degree-rejected", -1.0, gamma_l)):
        if name == "degree-rejected" and sides == "chosen":
            continue
        for g in (0, 1):
            here = [n for n in range(8) if GROUPS[n] == g and DEGREE[n] >= 0 and OF[n] == side]
            for n in here:
                p = heads[name][n].detach().softmax(0)
                k = int(DEGREE[n])
                want += factor * -math.log(float(p[k])) / len(here) / 2
                slopes[name][n] = factor * (p - torch.eye(3, dtype=F64)[k]) / len(here) / 2
    assert float(loss) == pytest.approx(want, abs=1e-12)
    for (name, _), gradient in zip(heads.items(), gradients, strict=True):
        assert torch.allclose(torch.zeros(8, 3, dtype=F64) if gradient is None else gradient, slopes[name], atol=1e-12)


def test_without_gamma_it_is_the_alignment_loss() -> None:
    scores, _ = made(3)
    assert o.spo_degree(0.2, gamma=0.0) == o.dpo(0.2)
    a, b = (x(scores).mean(scores) for x in (o.aware_of_degree(o.ipo(), 0.0), o.ipo()))
    assert torch.equal(*(torch.autograd.grad(x, scores.logp_NT)[0] for x in (a, b)))


def test_variants_take_no_part_in_the_pair() -> None:
    scores, _ = made(4)
    (gradient,) = torch.autograd.grad(o.spo_degree(0.2, degrees=3)(scores).mean(scores), scores.logp_NT)
    assert bool((gradient[[2, 3, 4, 7]] == 0).all()) and bool((gradient[[0, 1, 5, 6]] != 0).all())


def test_the_classifier_reads_the_last_token_and_teaches_the_model(looked: Any) -> None:
    model = looked.model
    head = Classifier(3, 1.0, Size(16, 2)).double()
    logits = head(looked.view())
    for n, row in enumerate(looked.rows):
        last = model(torch.tensor([row.prompt + row.response]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert torch.allclose(logits[n], head.head(last), atol=1e-10)
    logits.sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


def test_degrees_out_of_range_are_refused() -> None:
    scores, _ = made()
    with pytest.raises(ValueError, match="degree 2 of 2"):
        o.spo_degree(0.2, degrees=2)(scores)
