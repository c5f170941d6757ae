"""004 (b): rejection sampling down a ladder has the law of one step, and needs far fewer proposals."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from prefine.errors import InputError, RunStopped
from prefine.sampling.rejection import Accepted, acceptance, ladder, rejection_sample, rejection_sampled
from prefine.slate import Candidate, Slate, scores

PI_0 = [0.4, 0.3, 0.2, 0.1]
R = [0.0, 0.5, 0.8, 1.0]


def gibbs(eta: float) -> list[float]:
    weights = [p * math.exp(r / eta) for p, r in zip(PI_0, R)]
    return [w / sum(weights) for w in weights]


def sampler(law: list[float]) -> Callable[[random.Random], int]:
    return lambda rng: rng.choices(range(len(law)), law)[0]


def chi_square(found: list[int], law: list[float]) -> float:
    counts, n = Counter(found), len(found)
    return sum((counts[k] - n * p) ** 2 / (n * p) for k, p in enumerate(law))


ONE_PERCENT_3 = 11.345
"""Chi-square with 3 degrees of freedom is above this one time in a hundred."""


def sample(etas: list[float], n: int, seed: int) -> Accepted[int]:
    """Refitting a tabular policy exactly: after each step the sampler is the step's own target."""
    laws = iter([gibbs(eta) for eta in etas])
    return rejection_sample(
        sampler(PI_0), lambda k: R[k], etas, n, random.Random(seed), r_max=1.0, refit=lambda found: sampler(next(laws))
    )


@pytest.mark.parametrize("etas", [[0.3], [1.0, 0.3], [0.9, 0.6, 0.4, 0.3], [5.0, 0.31, 0.3]])
def test_any_ladder_has_the_law_of_its_last_step(etas: list[float]) -> None:
    found = sample(etas, 4000, seed=1).samples
    assert chi_square(found, gibbs(0.3)) < ONE_PERCENT_3
    assert chi_square(found, PI_0) > ONE_PERCENT_3, "the test can tell another law"


def test_refitting_by_resampling_has_the_same_law_on_average() -> None:
    """Samples of one chain of resamplings hang together, so the law is checked over many small ones."""
    found = [
        rejection_sample(sampler(PI_0), lambda k: R[k], ladder(0.3, 3), 40, random.Random(s), r_max=1.0).samples[0]
        for s in range(1500)
    ]
    assert chi_square(found, gibbs(0.3)) < ONE_PERCENT_3


@pytest.mark.parametrize("depth", [8, 12])
def test_steps_save_proposals_where_the_reward_is_rare(depth: int) -> None:
    """r_max/eta >= 8 and a best response that pi_0 hardly ever gives."""
    law, reward = [0.98, 0.0199, 0.0001], [0.0, 0.7, 1.0]
    eta = 1.0 / depth

    def total(etas: list[float]) -> float:
        targets = []
        for e in etas:
            weights = [p * math.exp(r / e) for p, r in zip(law, reward)]
            targets.append([w / sum(weights) for w in weights])
        laws = iter(targets)
        found = rejection_sample(
            sampler(law), lambda k: reward[k], etas, 150, random.Random(0), r_max=1.0,
            refit=lambda accepted: sampler(next(laws)),
        )  # fmt: skip
        return sum(found.proposals) / 150

    assert total(ladder(eta, 4)) < total([eta])


def test_the_ladder_accepts_alike_at_every_step() -> None:
    etas = ladder(0.125, 5)
    before = [math.inf, *etas[:-1]]
    rates = [acceptance(0.2, 1.0, eta, b) for eta, b in zip(etas, before)]
    assert rates == pytest.approx([rates[0]] * 5)
    assert math.prod(rates) == pytest.approx(acceptance(0.2, 1.0, 0.125)), "and all together like one step"
    assert etas == sorted(etas, reverse=True) and etas[-1] == pytest.approx(0.125)


def test_what_is_never_accepted_stops_with_a_remedy() -> None:
    with pytest.raises(RunStopped, match="100 proposals"):
        rejection_sample(lambda rng: 0, lambda k: 0.0, [0.01], 1, random.Random(0), r_max=1.0, most=100)


def test_the_curator_accepts_with_the_probability_of_the_step() -> None:
    values = [0.0, 0.5, 1.0]
    slate = Slate("p", tuple(map(Candidate, "abc"))).with_feedback("score", scores(values))
    taken = Counter(
        contrast.members[0]
        for seed in range(2000)
        for contrast in rejection_sampled(0.5, 2.0)([slate], random.Random(seed))
    )
    for i, r in enumerate(values):
        assert taken[i] / 2000 == pytest.approx(math.exp((1 / 0.5 - 1 / 2.0) * (r - 1.0)), abs=0.04)
    assert taken[2] == 2000, "the best of a slate always stays"


def test_a_temperature_is_positive() -> None:
    with pytest.raises(InputError, match="eta"):
        ladder(0.0, 3)
