"""SPAC, XPO, HyPO, VPO and RSO as recipes, on exact policies: what they sample, keep, hold still and learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.judging.base import Compared, Scored
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.slate import Candidate, Slate
from prefine.store import read_jsonl
from prefine.systems.data.rso import rso
from prefine.systems.iteration.xpo import xpo
from prefine.systems.nash.spac import spac
from prefine.systems.objectives.hypo_hybrid import hypo_hybrid
from prefine.systems.objectives.vpo import vpo
from prefine.worlds.two_arms import TwoArms, both_from_policy
from prefine.worlds.uncovered import Uncovered

torch.set_num_threads(1)
ACTIONS = list("abcdefgh")
REWARD = np.linspace(0.0, 2.1, 8)
SGD = {"optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "clip": None, "lr": 0.5, "save_every": 10_000}


def started(tmp_path: Path, **settings: object) -> tuple[Run, PolicyHandle]:
    Tabular(["x"], ACTIONS, [np.linspace(1.0, -1.0, 8)]).save(tmp_path / "base")
    run = Run(tmp_path / "run", settings=TrainSettings.of({**SGD, "batch_size": 512, **settings}))
    return run, run.policy(tmp_path / "base")


def probabilities(policy: PolicyHandle) -> torch.Tensor:
    return policy.load().probabilities("x")  # type: ignore[attr-defined]


def gold(slate: Slate) -> list[float]:
    return [float(REWARD[ACTIONS.index(c.text)]) for c in slate.candidates]


JUDGE = Scored(gold)
TABLE = judging.BradleyTerryTable(JUDGE)


def prompts(run: Run, n: int) -> Slates:
    return run.slates([Slate("x", meta={"id": str(i)}) for i in range(n)])


def pairs(run: Run, n: int = 40) -> Contrasts:
    """a against b, a against c, ... by turns: h is never seen."""
    rows = [Slate("x", (Candidate("a"), Candidate(ACTIONS[1 + i % 6])), meta={"id": str(i)}) for i in range(n)]
    return run.curate(run.judge(run.slates(rows), JUDGE), curating.extremes("score"))


def lessons_of(run: Run) -> list[int]:
    """How many contrasts each training had."""
    return [
        r["figures"]["contrasts"]
        for r in read_jsonl(run.dir / "journal.jsonl")
        if r["verb"] == "train" and r["event"] == "done"
    ]


def drawn(run: Run, t: int, policy: PolicyHandle, contrasts: Contrasts, n: int) -> Slates:
    """What a recipe draws on the prompts of these contrasts in its round t (the same artifact)."""
    for round_ in run.rounds(t + 1):
        if round_ == t:
            found = run.sample(policy, run.slates(curating.prompts_of(contrasts)), n=n)
    return found


# -- 061 SPAC


def test_one_round_of_spac_is_a_step_down_the_sheet_s_gradient(tmp_path: Path) -> None:
    """dL/dlogits written out for the very samples that were drawn, in the linear form."""
    run, base = started(tmp_path, max_steps=1)
    given, beta, lam = pairs(run), 0.4, 1.5
    own = [s.candidates[0].text for s in drawn(run, 0, base, given, n=1)]
    assert len(own) == len(given)
    pi, one_hot = probabilities(base).numpy(), np.eye(8)
    slope = np.zeros(8)
    for contrast, y in zip(given, own, strict=True):  # at the start q = 0: sigma = 1/2, and grad q(y) = e_y - pi
        w, l, o = (one_hot[ACTIONS.index(t)] - pi for t in (contrast.response(0), contrast.response(1), y))
        slope += (-lam * 0.5 * beta * (w - l) + beta * (o - (w + l) / 2)) / len(own)
    want = torch.as_tensor(np.log(pi) - 0.5 * slope).softmax(0)
    policy = spac(run, base, given, rounds=1, beta=beta, lam=lam, form="linear")
    assert torch.allclose(probabilities(policy), want, atol=1e-12)


def test_spac_s_reference_is_the_round_s_start_and_it_can_average(tmp_path: Path) -> None:
    run, base = started(tmp_path, max_steps=3)
    given = pairs(run)
    first, last = (spac(run, base, given, rounds=n) for n in (1, 2))
    mean = spac(run, base, given, rounds=2, average=True)
    logits = [p.load().module.state_dict()["logits_PA"] for p in (first, last, mean)]  # type: ignore[attr-defined]
    assert torch.allclose((logits[0] + logits[1]) / 2, logits[2], atol=1e-12)
    # a huge lam leaves DPO on the pairs, whose second round refers to the first
    far = spac(run, base, given, rounds=2, lam=50.0)
    follower = base
    for _ in range(2):
        follower = run.train(follower, given, objective=objectives.scale(50.0, objectives.dpo(0.1)))
    assert torch.allclose(probabilities(far), probabilities(follower), atol=0.05)


# -- 079 HyPO


def test_a_hypo_round_of_one_step_is_on_policy(tmp_path: Path) -> None:
    """The second of two one-step rounds, written out for the samples that were drawn: DPO's gradient on its pairs
    and lam/2 sum (R_i - R_j) grad log pi(y_i), R against the very start."""
    run, base = started(tmp_path, max_steps=1, lr=2.0)
    given, beta, lam = pairs(run), 0.3, 0.8
    final = hypo_hybrid(run, base, given, rounds=2, beta=beta, lam=lam)
    parts = [run.curate(given, curating.part(t, 2)) for t in range(2)]
    after_one = run.train(
        base, run.curate((parts[0], drawn(run, 0, base, parts[0], n=2)), curating.with_samples),
        objective=objectives.hypo(beta, lam, "sampler"), reference={"reference": base, "sampler": base},
    )  # fmt: skip
    own = drawn(run, 1, after_one, parts[1], n=2)
    pi, ref, one_hot = probabilities(after_one).numpy(), probabilities(base).numpy(), np.eye(8)
    q, slope = np.log(pi / ref), np.zeros(8)
    assert abs(q).max() > 0.05
    for contrast, slate in zip(parts[1], own, strict=True):
        w, l = (ACTIONS.index(contrast.response(i)) for i in (0, 1))
        slope += -beta / (1 + np.exp(beta * (q[w] - q[l]))) * (one_hot[w] - one_hot[l])
        i, j = (ACTIONS.index(c.text) for c in slate.candidates)
        slope += lam / 2 * ((q[i] - q[j]) * (one_hot[i] - pi) + (q[j] - q[i]) * (one_hot[j] - pi))
    want = torch.as_tensor(np.log(pi) - 2.0 * slope / len(own)).softmax(0)
    assert torch.allclose(probabilities(final), want, atol=1e-12)


def test_hypo_goes_through_all_pairs_once_and_holds_the_kl(tmp_path: Path) -> None:
    run, base = started(tmp_path, epochs=8, lr=2.0)
    given = pairs(run, 150)
    free = hypo_hybrid(run, base, given, rounds=5, beta=0.2, lam=0.0)
    assert lessons_of(run)[-5:] == [30] * 5
    held = hypo_hybrid(run, base, given, rounds=5, beta=0.2, lam=2.0)
    distances = [float(p.load().kl(base.load())) for p in (free, held)]  # type: ignore[attr-defined]
    assert distances[1] < 0.5 * distances[0]
    with pytest.raises(InputError, match="k="):
        hypo_hybrid(run, base, given, k=1)


def test_hypo_without_its_kl_is_dpo_on_the_parts(tmp_path: Path) -> None:
    run, base = started(tmp_path, epochs=4)
    given = pairs(run, 12)
    ours = hypo_hybrid(run, base, given, rounds=1, beta=0.2, lam=0.0)
    assert torch.allclose(
        probabilities(ours), probabilities(run.train(base, given, objective=objectives.dpo(0.2))), atol=1e-12
    )


def test_hypo_has_no_more_rounds_than_pairs(tmp_path: Path) -> None:
    run, base = started(tmp_path, epochs=1)
    hypo_hybrid(run, base, pairs(run, 3), rounds=8)
    assert lessons_of(run) == [1, 1, 1]


def test_hypo_samples_on_other_prompts(tmp_path: Path) -> None:
    Tabular(["x", "q"], ACTIONS, [np.zeros(8), np.linspace(0, 1, 8)]).save(tmp_path / "two")
    run, _ = started(tmp_path, epochs=5)
    base, given = run.policy(tmp_path / "two"), pairs(run, 8)
    other = run.slates([Slate("q", meta={"id": str(i)}) for i in range(8)])
    moved = hypo_hybrid(run, base, given, other, rounds=2, beta=0.2, lam=1.0)
    assert np.isfinite(probabilities(moved).numpy()).all()


# -- 068 XPO and 099 VPO


def test_xpo_compares_with_the_start_and_remembers(tmp_path: Path) -> None:
    run, base = started(tmp_path, epochs=1)
    policy = xpo(run, base, prompts(run, 30), JUDGE, rounds=3, alpha=0.01)
    assert lessons_of(run) == [10, 20, 30]
    assert float((probabilities(policy).numpy() * REWARD).sum()) > float((probabilities(base).numpy() * REWARD).sum())
    xpo(run, base, prompts(run, 30), JUDGE, rounds=3, alpha=0.02, memory=False)
    assert lessons_of(run)[3:] == [10, 10, 10]


def test_xpo_leaves_the_start_faster_than_online_dpo(tmp_path: Path) -> None:
    """On the same lessons. (Not in the first step, where pi = ref and the term's expected gradient is zero.)"""
    run, base = started(tmp_path, max_steps=30, lr=1.0)
    arms = [xpo(run, base, prompts(run, 200), JUDGE, rounds=1, alpha=a) for a in (0.0, 0.5)]
    plain, bold = (float((probabilities(p) * probabilities(base)).sum()) for p in arms)
    assert bold < plain


def test_offline_vpo_is_the_adversarial_regulariser(tmp_path: Path) -> None:
    run, base = started(tmp_path, epochs=20)
    given = pairs(run)
    ours = vpo(run, base, given, beta=0.2, alpha=0.7)
    theirs = run.train(base, given, objective=objectives.regularised(0.2, 0.7))
    assert torch.allclose(probabilities(ours), probabilities(theirs), atol=1e-9)


def test_pessimism_on_the_start_s_own_samples_is_a_forward_kl(tmp_path: Path) -> None:
    """One step from pi = ref for the samples that were drawn: DPO's gradient and -alpha beta (e_y - pi), whose mean over
    ref's samples is the gradient of alpha beta KL(ref||pi)."""
    run, base = started(tmp_path, max_steps=1)
    given, beta, alpha = pairs(run), 0.4, 1.5
    own = run.sample(base, run.slates(curating.prompts_of(given)), n=1, role="start")
    pi, one_hot = probabilities(base).numpy(), np.eye(8)
    slope = np.zeros(8)
    for contrast, slate in zip(given, own, strict=True):
        w, l, y = (one_hot[ACTIONS.index(t)] for t in (contrast.response(0), contrast.response(1), slate.response(0)))
        slope += (-0.5 * beta * (w - l) - alpha * beta * (y - pi)) / len(own)
    want = torch.as_tensor(np.log(pi) - 0.5 * slope).softmax(0)
    policy = vpo(run, base, given, beta=beta, alpha=alpha, calibration="other")
    assert torch.allclose(probabilities(policy), want, atol=1e-12)


@pytest.mark.parametrize("calibration", ["auto", "rejected", "chosen"])
def test_online_vpo_makes_its_own_pairs(tmp_path: Path, calibration: str) -> None:
    run, base = started(tmp_path, epochs=2)
    options = {"mode": "online", "calibration": calibration, "alpha": 0.1, "rounds": 2}
    policy = vpo(run, base, pairs(run), prompts(run, 60), JUDGE, **options)  # type: ignore[arg-type]
    grown = lessons_of(run)
    assert grown[0] < grown[1] <= 60 and np.isfinite(probabilities(policy).numpy()).all()
    vpo(run, base, pairs(run), prompts(run, 60), JUDGE, **options, warm=True)  # type: ignore[arg-type]
    assert lessons_of(run)[2] == grown[0] + 40


def test_vpo_says_what_it_lacks(tmp_path: Path) -> None:
    run, base = started(tmp_path)
    with pytest.raises(InputError, match="online mode needs prompts and a judge"):
        vpo(run, base, pairs(run), mode="online")
    with pytest.raises(InputError, match="mode"):
        vpo(run, base, pairs(run), mode="both")  # type: ignore[arg-type]


def test_the_two_arms_are_as_the_sheet_has_them() -> None:
    """Regret a round of the wrong hypothesis and the losses' table, by hand."""
    arms, ref, beta = TwoArms(), np.array([0.99, 0.01]), 0.1
    r = np.array([[0.5, 0.0], [0.5, 1.0]])
    pi = ref * np.exp(r / beta)
    pi /= pi.sum(1, keepdims=True)
    J = (pi * r[1]).sum(1) - beta * (pi * np.log(pi / ref)).sum(1)
    assert arms.regrets() == pytest.approx([J[1] - J[0], 0.0])
    table = arms.losses(objectives.vpo(beta, 0.3, "online"))
    q = np.log(pi / ref)
    for h, w, l, c in np.ndindex(2, 2, 2, 2):
        want = np.log1p(np.exp(-beta * (q[h, w] - q[h, l]))) + 0.3 * beta * q[h, c]
        assert table[h, w, l, c] == pytest.approx([want, want])
    explored = arms.losses(objectives.xpo(beta, 0.3))
    assert explored[1, 0, 1, 0, 1] - explored[1, 0, 1, 0, 0] == pytest.approx(0.3 * (np.log(pi[1, 1] / pi[1, 0])))


def test_without_optimism_the_wrong_hypothesis_stays() -> None:
    plays = [
        TwoArms().play(objectives.vpo(0.1, a, "online"), both_from_policy, np.random.default_rng(100)) for a in (0, 0.1)
    ]
    assert plays[0][0] > 3 * plays[1][0] and plays[1][1] and not plays[0][1]


def test_what_the_pairs_never_show_is_what_dpo_runs_to(tmp_path: Path) -> None:
    world = Uncovered(preferred=0.8)
    wins = [s.column("score")[0] for s in world.labelled(50)]
    assert sum(wins) == 40 and sum(wins[:5]) == 4
    run = Run(tmp_path / "run", settings=TrainSettings.of({**SGD, "max_steps": 300, "lr": 1.0}))
    base = run.policy(world.base(tmp_path))
    given = run.curate(run.slates(Uncovered().labelled(5)), curating.extremes("score"))
    drifted = run.train(base, given, objective=objectives.dpo(0.1)).load()
    assert drifted.probabilities(0)[2] > 0.95  # type: ignore[attr-defined]


# -- 117 RSO


def test_rso_keeps_samples_of_the_optimal_policy_and_pairs_them(tmp_path: Path) -> None:
    run, base = started(tmp_path, epochs=2)
    policy = rso(run, base, pairs(run), prompts(run, 20), TABLE, pool=24, n=4, beta=0.5, temperature=1.0)
    assert lessons_of(run) == [40]  # 20 prompts, two pairs each of four distinct responses
    assert float((probabilities(policy).numpy() * REWARD).sum()) > float((probabilities(base).numpy() * REWARD).sum())


def test_rso_s_sources(tmp_path: Path) -> None:
    run, base = started(tmp_path, epochs=2)
    given = pairs(run)
    direct = rso(run, base, given, prompts(run, 5), source="direct", loss="hinge-norm", gamma=0.2)
    trained = run.train(base, given, objective=objectives.rso(0.2, "hinge-norm"))
    assert direct.key == trained.key
    rso(run, base, given, prompts(run, 5), TABLE, source="sft", n=6)
    assert not any(r.get("label", "") == "accepted" for r in read_jsonl(run.dir / "journal.jsonl"))
    with pytest.raises(InputError, match="source"):
        rso(run, base, given, prompts(run, 5), source="best")  # type: ignore[arg-type]


def test_rso_asks_a_comparing_judge_once_a_candidate(tmp_path: Path) -> None:
    asked: list[int] = []

    def compare(slate: Slate) -> list[list[float]]:
        asked.append(len(slate.candidates))
        r = gold(slate)
        return [[1 / (1 + np.exp(b - a)) for b in r] for a in r]

    run, base = started(tmp_path, epochs=1)
    rso(run, base, pairs(run), prompts(run, 3), Compared(compare), pool=10, n=2, temperature=1.0)
    assert asked.count(2) == 3 * 10 + 3 and set(asked) == {2}
