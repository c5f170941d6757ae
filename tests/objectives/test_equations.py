"""Every objective against its equation, written here in plain Python from the papers: values and gradients.

The equations know nothing of the code: a batch is a list of contrasts, each a list of (role, token
log-probabilities under the policy, the same under the reference) and some numbers. Gradients are compared
with central differences of the equation, token by token.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from prefine import objectives as o
from prefine.objectives.scores import Objective, Scores, traits

torch.set_num_threads(1)


@dataclass
class Member:
    role: int
    logps: list[float]
    reference: list[float]
    prompt: list[float] = field(default_factory=list)

    @property
    def lp(self) -> float:
        return math.fsum(self.logps)

    @property
    def rp(self) -> float:
        return math.fsum(self.reference)

    @property
    def T(self) -> int:
        return len(self.logps)


@dataclass
class Lesson:
    members: list[Member]
    values: dict[str, float | list[float]]

    @property
    def chosen(self) -> Member:
        return next(m for m in self.members if m.role == 1)

    @property
    def rejected(self) -> Member:
        return next(m for m in self.members if m.role == -1)

    def win(self, role: int) -> float:
        """Values of members come in the order of the members, whatever their roles."""
        return next(v for m, v in zip(self.members, self.values["win"], strict=True) if m.role == role)


Equation = Callable[[list[Lesson]], float]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(xs: list[float]) -> float:
    return math.fsum(xs) / len(xs)


def gap(c: Lesson) -> float:
    return (c.chosen.lp - c.chosen.rp) - (c.rejected.lp - c.rejected.rp)


def mean_gap(c: Lesson) -> float:
    return (c.chosen.lp - c.chosen.rp) / c.chosen.T - (c.rejected.lp - c.rejected.rp) / c.rejected.T


def log_odds(m: Member) -> float:
    p = math.exp(m.lp / m.T)
    return math.log(p / (1 - p))


def kto_equation(beta: float, good: float, bad: float) -> Equation:
    def loss(batch: list[Lesson]) -> float:
        z0 = max(0.0, mean([m.lp - m.rp for c in batch for m in c.members if m.role == 0]))
        return mean([
            good * (1 - sigma(beta * (m.lp - m.rp - z0))) if m.role == 1
            else bad * (1 - sigma(beta * (z0 - (m.lp - m.rp))))
            for c in batch for m in c.members if m.role != 0
        ])  # fmt: skip

    return loss


def sft_equation(batch: list[Lesson], with_prompt: bool = False) -> float:
    nll = math.fsum(-c.chosen.lp - (math.fsum(c.chosen.prompt) if with_prompt else 0.0) for c in batch)
    return nll / sum(c.chosen.T + (len(c.chosen.prompt) if with_prompt else 0) for c in batch)


def orpo_equation(lam: float, with_prompt: bool) -> Equation:
    return lambda batch: (
        sft_equation(batch, with_prompt)
        + lam * mean([-math.log(sigma(log_odds(c.chosen) - log_odds(c.rejected))) for c in batch])
    )


def each(loss: Callable[[Lesson], float]) -> Equation:
    return lambda batch: mean([loss(c) for c in batch])


def dpo_loss(c: Lesson, beta: float) -> float:
    return -math.log(sigma(beta * gap(c)))


def simpo_loss(w: Member, l: Member, beta: float, gamma: float) -> float:
    return -math.log(sigma(beta / w.T * w.lp - beta / l.T * l.lp - gamma))


PAIR_CASES: dict[str, tuple[Objective, Equation]] = {
    "dpo": (o.dpo(0.3), each(lambda c: dpo_loss(c, 0.3))),
    "dpo smoothed": (
        o.dpo(0.3, label_smoothing=0.1),
        each(lambda c: -0.9 * math.log(sigma(0.3 * gap(c))) - 0.1 * math.log(sigma(-0.3 * gap(c)))),
    ),
    "ipo, token means": (o.ipo(0.4), each(lambda c: (mean_gap(c) - 1 / 0.8) ** 2)),
    "ipo, token sums": (o.ipo(0.4, mean=False), each(lambda c: (gap(c) - 1 / 0.8) ** 2)),
    "ipo, soft label": (
        # p and 1 - p of the two orders of the sampled loss; what does not depend on the policy is added back.
        o.ipo(0.4, mean=False, target="preference"),
        each(
            lambda c: (
                c.values["preference"] * (gap(c) - 1 / 0.8) ** 2
                + (1 - c.values["preference"]) * (-gap(c) - 1 / 0.8) ** 2
                - (1 / 0.8) ** 2 * (1 - (2 * c.values["preference"] - 1) ** 2)
            )
        ),
    ),
    "ipo, population": (
        o.ipo(0.4, mean=False, target="win"),
        each(lambda c: (gap(c) - (c.win(1) - c.win(-1)) / 0.4) ** 2),
    ),
    "simpo": (o.simpo(2.0, 0.7), each(lambda c: simpo_loss(c.chosen, c.rejected, 2.0, 0.7))),
    "length regularised": (
        o.length_regularised(0.2, 0.05),
        each(lambda c: -math.log(sigma(0.2 * gap(c) + 0.05 * (c.chosen.T - c.rejected.T)))),
    ),
    "bradley-terry": (o.bradley_terry(), each(lambda c: math.log(1 + math.exp(c.rejected.lp - c.chosen.lp)))),
    "bradley-terry with margins": (
        o.bradley_terry(margin="gap"),
        each(lambda c: math.log(1 + math.exp(c.rejected.lp - c.chosen.lp + c.values["gap"]))),
    ),
    "sppo": (
        o.sppo(eta=2.0),
        each(
            lambda c: 0.5 * (
                (c.chosen.lp - c.chosen.rp - (c.win(1) - 0.5) * 2.0) ** 2
                + (c.rejected.lp - c.rejected.rp - (c.win(-1) - 0.5) * 2.0) ** 2
            )
        ),
    ),
    "sppo, one comparison": (
        o.sppo_single(eta=2.0),
        each(
            lambda c: 0.5 * (
                (c.chosen.lp - c.chosen.rp - (c.values["preference"] - 0.5) * 2.0) ** 2
                + (c.rejected.lp - c.rejected.rp + (c.values["preference"] - 0.5) * 2.0) ** 2
            )
        ),
    ),
    "binary cross-entropy": (
        o.binary_cross_entropy(),
        lambda batch: mean([-math.log(sigma(m.role * m.lp)) for c in batch for m in c.members]),
    ),
    "sft": (o.sft(), sft_equation),
    "sft with prompts": (o.sft(prompt_in_nll=True), lambda batch: sft_equation(batch, True)),
    "likelihood of the rejected": (o.likelihood(side="rejected"), each(lambda c: -c.rejected.lp)),
    "regularised, cumulative": (
        o.regularised(0.3, 0.2), each(lambda c: dpo_loss(c, 0.3) - 0.2 * 0.3 * c.chosen.lp),
    ),
    "regularised, average": (
        o.regularised(0.3, 0.2, average=True), each(lambda c: dpo_loss(c, 0.3) - 0.2 * c.chosen.lp / c.chosen.T),
    ),
    "scpo": (
        o.scpo(0.5, 0.8),
        each(lambda c: c.values["weight"] * (dpo_loss(c, 0.5) - 0.8 * c.chosen.lp / c.chosen.T)),
    ),
    "orpo": (o.orpo(0.4), orpo_equation(0.4, True)),
    "orpo without prompts": (o.orpo(0.4, prompt_in_nll=False), orpo_equation(0.4, False)),
    "smoothed simpo": (
        o.smoothed(o.simpo(2.0, 0.7), 0.2),
        each(
            lambda c: (
                0.8 * simpo_loss(c.chosen, c.rejected, 2.0, 0.7) + 0.2 * simpo_loss(c.rejected, c.chosen, 2.0, 0.7)
            )
        ),
    ),
    "soft labels": (
        o.soft_labels(o.dpo(0.3)),
        each(
            lambda c: (
                -c.values["preference"] * math.log(sigma(0.3 * gap(c)))
                - (1 - c.values["preference"]) * math.log(sigma(-0.3 * gap(c)))
            )
        ),
    ),
    "weighted, scaled and added": (
        o.weighted(o.add(o.dpo(0.3), o.scale(0.5, o.ipo(0.4)))),
        each(lambda c: c.values["weight"] * (dpo_loss(c, 0.3) + 0.5 * (mean_gap(c) - 1 / 0.8) ** 2)),
    ),
}  # fmt: skip


def lessons(seed: int, roles: list[list[int]], tokens: int = 6) -> list[Lesson]:
    rng = random.Random(seed)

    def logps(n: int) -> list[float]:
        return [-rng.expovariate(1.0) - 0.05 for _ in range(n)]

    made = []
    for these in roles:
        members = []
        prompt = logps(rng.randint(1, 4))
        for role in these:
            n = rng.randint(1, tokens)
            members.append(Member(role, logps(n), logps(n), prompt))
        values = {
            "preference": rng.random(), "weight": rng.random(), "gap": rng.random(),
            "win": [rng.random() for _ in these],
        }  # fmt: skip
        made.append(Lesson(members, values))
    return made


def scores_of(batch: list[Lesson]) -> tuple[Scores, torch.Tensor]:
    rows = [m for c in batch for m in c.members]
    width = max(m.T for m in rows)

    def grid(of: Callable[[Member], list[float]]) -> torch.Tensor:
        return torch.tensor([of(m) + [0.0] * (width - m.T) for m in rows], dtype=torch.float64)

    logp_NT = grid(lambda m: m.logps).requires_grad_()
    values = {
        name: torch.tensor(
            [v for c in batch for v in c.values[name]] if isinstance(batch[0].values[name], list)
            else [c.values[name] for c in batch], dtype=torch.float64,
        )
        for name in batch[0].values
    }  # fmt: skip
    scores = Scores(
        logp_NT=logp_NT,
        mask_NT=grid(lambda m: [1.0] * m.T),
        role_N=torch.tensor([m.role for m in rows]),
        group_N=torch.tensor([g for g, c in enumerate(batch) for _ in c.members]),
        references={"reference": grid(lambda m: m.reference)},
        values=values,
        prompt_logp_N=torch.tensor([math.fsum(m.prompt) for m in rows], dtype=torch.float64),
        prompt_tokens_N=torch.tensor([len(m.prompt) for m in rows], dtype=torch.float64),
    )
    return scores, logp_NT


def differences(equation: Equation, batch: list[Lesson], h: float = 1e-6) -> list[list[float]]:
    rows = [m for c in batch for m in c.members]
    found = []
    for member in rows:
        slopes = []
        for t in range(member.T):
            kept = member.logps[t]
            member.logps[t] = kept + h
            above = equation(batch)
            member.logps[t] = kept - h
            below = equation(batch)
            member.logps[t] = kept
            slopes.append((above - below) / (2 * h))
        found.append(slopes)
    return found


def check(objective: Objective, equation: Equation, batch: list[Lesson]) -> None:
    scores, logp_NT = scores_of(batch)
    loss = objective(scores).mean(scores)
    assert loss.item() == pytest.approx(equation(batch), abs=1e-12)
    loss.backward()
    assert logp_NT.grad is not None
    for row, slopes in zip(logp_NT.grad.tolist(), differences(equation, batch), strict=True):
        assert row[: len(slopes)] == pytest.approx(slopes, abs=1e-8)
        assert not any(row[len(slopes) :]), "padding must not get a gradient"


@pytest.mark.parametrize("name", PAIR_CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairs_follow_their_equation(name: str, seed: int) -> None:
    objective, equation = PAIR_CASES[name]
    check(objective, equation, lessons(seed, [[1, -1], [-1, 1], [1, -1], [1, -1]]))


@pytest.mark.parametrize("seed", range(6))
def test_kto_follows_its_equation(seed: int) -> None:
    """Seeds on both sides of the clamp: z0 moves nothing in the gradient, which is where it is detached."""
    batch = lessons(seed, [[1, 0], [-1, 0], [-1, 0], [1, 0], [-1, 0]], tokens=3)
    beta, good, bad = 0.2, 1.3, 0.7
    equation = kto_equation(beta, good, bad)
    scores, logp_NT = scores_of(batch)
    loss = o.kto(beta, good, bad)(scores).mean(scores)
    assert loss.item() == pytest.approx(equation(batch), abs=1e-12)
    loss.backward()
    assert logp_NT.grad is not None
    z0 = max(0.0, mean([m.lp - m.rp for c in batch for m in c.members if m.role == 0]))
    for member, row in zip([m for c in batch for m in c.members], logp_NT.grad.tolist(), strict=True):
        weight = {1: good, -1: bad, 0: 0.0}[member.role]
        s = sigma(beta * member.role * (member.lp - member.rp - z0))
        slope = -weight * member.role * beta * s * (1 - s) / len(batch)
        assert row[: member.T] == pytest.approx([slope] * member.T, abs=1e-14)


def test_the_kto_seeds_lie_on_both_sides_of_the_clamp() -> None:
    means = [
        mean([m.lp - m.rp for c in lessons(s, [[1, 0], [-1, 0], [-1, 0], [1, 0], [-1, 0]], 3) for m in c.members
              if m.role == 0])
        for s in range(6)
    ]  # fmt: skip
    assert min(means) < 0 < max(means)


@pytest.mark.parametrize("name", PAIR_CASES)
def test_cut_into_micro_batches_the_gradient_is_the_same(name: str) -> None:
    """Two halves with the counts of the whole step add up to the whole step, whatever a loss is divided by."""
    objective, _ = PAIR_CASES[name]
    batch = lessons(7, [[1, -1], [1, -1], [1, -1]])
    whole, logp_NT = scores_of(batch)
    objective(whole).mean(whole).backward()
    units = ["contrast", "response", "token", "chosen_token", "chosen_text_token"]
    totals = {unit: whole.count(unit) for unit in units}
    pieces = []
    for part in (batch[:1], batch[1:]):
        scores, leaf = scores_of(part)
        scores = Scores(**{**vars(scores), "totals": totals})
        objective(scores).mean(scores).backward()
        assert leaf.grad is not None
        pieces += [row[: m.T] for row, m in zip(leaf.grad.tolist(), [m for c in part for m in c.members], strict=True)]
    assert logp_NT.grad is not None
    rows = [row[: m.T] for row, m in zip(logp_NT.grad.tolist(), [m for c in batch for m in c.members], strict=True)]
    assert [x for row in pieces for x in row] == pytest.approx([x for row in rows for x in row], abs=1e-15)


WITHOUT_REFERENCE = ["simpo", "orpo", "sft", "bradley-terry", "binary cross-entropy", "likelihood of the rejected"]


@pytest.mark.parametrize("name", PAIR_CASES)
def test_traits_say_what_is_read(name: str) -> None:
    """An objective gets by with the references it names and the prompts it asks for, and nothing else."""
    objective, _ = PAIR_CASES[name]
    references, reads_prompt, whole_batch = traits(objective)
    scores, _ = scores_of(lessons(0, [[1, -1], [1, -1]]))
    objective(
        Scores(
            **{
                **vars(scores),
                "references": {n: scores.references[n] for n in references},
                "prompt_logp_N": scores.prompt_logp_N if reads_prompt else None,
                "prompt_tokens_N": scores.prompt_tokens_N if reads_prompt else None,
            }
        )
    )
    assert references == (() if name in WITHOUT_REFERENCE or "without" in name or "sft" in name
                          or name in ("smoothed simpo", "bradley-terry with margins") else ("reference",))  # fmt: skip
    assert not whole_batch


def test_kto_takes_the_whole_step_at_once() -> None:
    assert traits(o.kto())[2] and not traits(o.kto(reference_point="zero"))[2]
    assert traits(o.add(o.kto(), o.dpo()))[2], "a combination needs what its parts need"
    assert traits(o.weighted(o.orpo()))[1]
