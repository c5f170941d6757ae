"""108: all slots by default are DPO; one slot changed is the named method's own implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.scores import Objective, Scores

torch.set_num_threads(1)


def batch() -> Scores:
    g = torch.Generator().manual_seed(0)
    w, l, rw, rl = (-20 * torch.rand(7, generator=g, dtype=torch.float64) for _ in range(4))
    return Scores.of_pairs(
        w.requires_grad_(), l.requires_grad_(), rw, rl,
        chosen_length=torch.randint(1, 9, (7,), generator=g), rejected_length=torch.randint(1, 9, (7,), generator=g),
    )  # fmt: skip


SAME: dict[str, tuple[Objective, Objective]] = {
    "defaults are DPO": (o.slots(), o.dpo(0.1)),
    "loss squared is IPO": (o.slots(loss="squared"), o.ipo(0.1, mean=False)),
    "reference none, length normalised and a margin are SimPO": (
        o.slots(beta=2.0, reference="none", length="normalised", margin=1.0), o.simpo(2.0, 1.0)
    ),
    "noise is rDPO": (o.slots(noise=0.2), o.robust(o.dpo(0.1), 0.2)),
    "length penalised is R-DPO": (o.slots(length="penalised", alpha=0.05), o.length_regularised(0.1, 0.05)),
    "likelihood is RPO": (o.slots(likelihood=0.3), o.regularised(0.1, 0.3, average=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_slot_changed_is_the_method(name: str) -> None:
    ours, theirs = SAME[name]
    scores = batch()
    a, b = ours(scores).mean(scores), theirs(scores).mean(scores)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def derivative(f: object, u: np.ndarray) -> np.ndarray:
    step = 1e-6 * u
    return (f(u + step) - f(u - step)) / (2 * step)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("reverse-kl", lambda u: u * np.log(u)),
        ("forward-kl", lambda u: -np.log(u)),
        ("jensen-shannon", lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2)),
    ],
)
def test_a_divergence_is_the_derivative_of_its_f(name: str, f: object) -> None:
    """f-DPO: L = -log sigma( beta f'(pi/ref(w)) - beta f'(pi/ref(l)) ), f' by central differences."""
    x, y = np.array([0.5, -1.0, 2.0]), np.array([-0.5, 1.5, 0.1])
    gap = derivative(f, np.exp(x)) - derivative(f, np.exp(y))
    wanted = np.log1p(np.exp(-0.3 * gap))
    zero = torch.zeros(3, dtype=torch.float64)
    scores = Scores.of_pairs(torch.tensor(x), torch.tensor(y), zero, zero)
    assert o.slots(0.3, divergence=name)(scores).per_contrast.numpy() == pytest.approx(wanted, abs=1e-6)


def test_choices_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InputError):
        o.slots(reference="none", divergence="forward-kl")
    for wrong in ({"loss": "sigmoidal"}, {"length": "long"}, {"beta": 0.0}, {"noise": 0.5}):
        with pytest.raises(InputError):
            o.slots(**wrong)  # type: ignore[arg-type]
