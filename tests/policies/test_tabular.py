"""The exact policy: everything about it is a finite sum that can be written down."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine.engine.batch import collate_contrasts
from prefine.errors import InputError
from prefine.policies import load_policy
from prefine.policies.base import Limits, Policy, Sampling
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Contrast, Slate, pair, point

ACTIONS = ("left", "right", "up")
LOGITS = [[0.0, 1.0, 2.0], [0.5, -0.5, 0.0]]
CHAT = ({"role": "user", "content": "where?"},)


def policy() -> Tabular:
    return Tabular(["x", CHAT], ACTIONS, LOGITS)


def softmax(row: list[float]) -> list[float]:
    z = sum(math.exp(v) for v in row)
    return [math.exp(v) / z for v in row]


def slate(prompt: object = "x") -> Slate:
    return Slate(prompt, tuple(Candidate(a) for a in ACTIONS))  # type: ignore[arg-type]


def logp(p: Tabular, contrasts: list[Contrast], **more: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    return p.logp(collate_contrasts(contrasts, [p.encode(c, Limits()) for c in contrasts]), **more)


def test_it_is_a_policy() -> None:
    assert isinstance(policy(), Policy)


def test_log_probabilities_are_the_softmax_in_float64() -> None:
    contrasts = [pair(slate("x"), 2, 0), point(slate(CHAT), 1, good=True)]
    logp_NT, prompt_logp_N = logp(policy(), contrasts)
    x, y = softmax(LOGITS[0]), softmax(LOGITS[1])
    assert logp_NT.dtype == torch.float64 and logp_NT.shape == (3, 1) and prompt_logp_N is None
    assert logp_NT.flatten().tolist() == pytest.approx([math.log(x[2]), math.log(x[0]), math.log(y[1])], rel=1e-14)


def test_the_gradient_of_a_log_probability_is_the_indicator_minus_the_probabilities() -> None:
    p = policy()
    logp(p, [point(slate(), 1, good=True)])[0].sum().backward()
    x = softmax(LOGITS[0])
    assert p.module.logits_PA.grad is not None
    assert p.module.logits_PA.grad.tolist() == [pytest.approx([-x[0], 1 - x[1], -x[2]]), [0.0] * 3]


def test_prompts_are_given_so_their_log_probability_is_zero() -> None:
    assert logp(policy(), [pair(slate(), 0, 1)], with_prompt=True)[1].tolist() == [0.0, 0.0]  # type: ignore[union-attr]


def test_actions_that_do_not_count_are_masked() -> None:
    silent = Slate("x", (Candidate("left", counts=False),))
    (row,) = policy().encode(point(silent, 0, good=True), Limits())
    assert row.mask == (0.0,)
    assert logp(policy(), [point(silent, 0, good=True)])[0].tolist() == [[0.0]]


def test_each_prompt_can_have_actions_of_its_own() -> None:
    p = Tabular.of(["a", "b"], [["yes", "no"], ["1", "2", "3", "4"]], [[3, 1], [1, 2, 3, 4]])
    assert p.probabilities("a").tolist() == pytest.approx([0.75, 0.25])
    assert p.probabilities("b").tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert p.probabilities_PA().sum(-1).tolist() == pytest.approx([1, 1])
    uniform = Tabular.uniform(["a", "b"], p.actions)
    assert p.kl(uniform).isfinite().all() and uniform.kl(p).isfinite().all()
    contrast = point(Slate("a", (Candidate("no"),)), 0, good=True)
    logp(p, [contrast])[0].sum().backward()
    assert p.module.logits_PA.grad.isfinite().all()  # type: ignore[union-attr,operator]
    with pytest.raises(InputError, match="'3' is not an action"):
        p.encode(point(Slate("a", (Candidate("3"),)), 0, good=True), Limits())


def test_kl_is_its_sum() -> None:
    p, q = policy(), Tabular(["x", CHAT], ACTIONS, [[1.0, 0.0, 0.0], LOGITS[1]])
    mine, theirs = softmax(LOGITS[0]), softmax([1.0, 0.0, 0.0])
    wanted = sum(a * math.log(a / b) for a, b in zip(mine, theirs, strict=True))
    assert p.kl(q).tolist() == pytest.approx([wanted, 0.0])
    assert p.kl(p.copy()).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="same prompts"):
        p.kl(Tabular.uniform(["x"], ACTIONS))


def test_expectations_are_sums() -> None:
    values = [[1.0, 2.0, -1.0], [0.0, 10.0, 0.0]]
    wanted = [sum(p * v for p, v in zip(softmax(l), row, strict=True)) for l, row in zip(LOGITS, values, strict=True)]
    assert policy().expected(values).tolist() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="prompts x actions"):
        policy().expected([[1.0, 2.0, 3.0]])


def test_the_tilted_policy_is_best_under_a_kl_penalty() -> None:
    """No neighbour of pi exp(r / beta) / Z has more E[r] - beta KL."""
    start, values, beta = policy(), [[1.0, 0.0, -2.0], [0.0, 3.0, 0.5]], 0.7
    best = start.tilted(values, beta)

    def worth(p: Tabular) -> torch.Tensor:
        return p.expected(values) - beta * p.kl(start)

    # at the maximum the worth is beta log Z
    z = [
        sum(q * math.exp(v / beta) for q, v in zip(softmax(l), r, strict=True))
        for l, r in zip(LOGITS, values, strict=True)
    ]
    assert worth(best).tolist() == pytest.approx([beta * math.log(v) for v in z])
    noise = np.random.default_rng(0).normal(size=(20, 2, 3)) * 0.1
    for shift in noise:
        other = Tabular(best.prompts, best.actions, best.module.logits_PA.detach() + torch.tensor(shift))
        assert bool((worth(other) < worth(best)).all())


def test_log_linear_policies_tilt_their_base_by_features() -> None:
    features = np.random.default_rng(0).normal(size=(2, 3, 4))
    theta = np.array([0.5, -1.0, 0.0, 2.0])
    p = Tabular(["x", CHAT], ACTIONS, LOGITS, features_PAD=features, theta_D=theta)
    wanted = softmax([LOGITS[0][a] + float(features[0, a] @ theta) for a in range(3)])
    assert p.probabilities("x").tolist() == pytest.approx(wanted)
    assert [name for name, _ in p.module.named_parameters()] == ["theta_D"]
    start = Tabular(["x", CHAT], ACTIONS, LOGITS, features_PAD=features)
    assert torch.equal(start.probabilities_PA(), policy().probabilities_PA())


# -- sampling


def test_samples_depend_on_their_seed_alone() -> None:
    many = Sampling(n=20)
    together = policy().sample(["x", CHAT, "x"], many, [5, 6, 7])
    assert together[1] == policy().sample([CHAT], many, [6])[0]
    assert together[0] != together[2]


def test_samples_follow_the_probabilities() -> None:
    drawn = policy().sample(["x"], Sampling(n=20_000), [1])[0]
    share = [sum(c.text == a for c in drawn) / len(drawn) for a in ACTIONS]
    # five standard errors of the least certain share
    assert share == pytest.approx(softmax(LOGITS[0]), abs=5 * 0.5 / math.sqrt(20_000))


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (Sampling(n=50), softmax(LOGITS[0])),
        (Sampling(n=50, temperature=0.5), softmax([2 * v for v in LOGITS[0]])),
        (Sampling(n=50, temperature=0), [0.0, 0.0, 1.0]),
        # softmax(0, 1, 2) is about 0.09, 0.24, 0.67: 0.8 needs the two likeliest
        (Sampling(n=50, top_p=0.8), [0.0, 1 / (1 + math.e), math.e / (1 + math.e)]),
        (Sampling(n=50, top_p=0.1), [0.0, 0.0, 1.0]),
    ],
)
def test_stored_log_probabilities_are_of_the_distribution_that_drew(sampling: Sampling, wanted: list[float]) -> None:
    drawn = policy().sample(["x"], sampling, [3])[0]
    assert len(drawn) == 50
    for candidate in drawn:
        at = ACTIONS.index(candidate.text)
        assert candidate.tokens == (at,) and candidate.stop == "end"
        assert candidate.logps == (pytest.approx(math.log(wanted[at])),)
    assert {c.text for c in drawn} == {a for a, p in zip(ACTIONS, wanted, strict=True) if p > 0}


def test_a_sample_is_scored_as_it_was_drawn() -> None:
    drawn = policy().sample(["x"], Sampling(n=4), [0])[0]
    s = Slate("x", tuple(drawn))
    scored = logp(policy(), [point(s, i, good=True) for i in range(4)])[0][:, 0]
    assert [c.logps[0] for c in drawn] == pytest.approx(scored.tolist())  # type: ignore[index]


# -- saving


@pytest.mark.parametrize("linear", [False, True])
def test_saved_and_loaded_it_is_the_same_bits(tmp_path: Path, linear: bool) -> None:
    features = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = Tabular(["x", CHAT], ACTIONS, LOGITS, features_PAD=features if linear else None)
    with torch.no_grad():
        for parameter in p.module.parameters():
            parameter += 1 / 3
    p.save(tmp_path)
    q = load_policy(tmp_path, device="cpu")
    assert isinstance(q, Tabular) and (q.prompts, q.actions) == (p.prompts, p.actions)
    assert torch.equal(q.probabilities_PA(), p.probabilities_PA())
    assert [n for n, _ in q.module.named_parameters()] == [n for n, _ in p.module.named_parameters()]


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    policy().save(tmp_path / "a")
    policy().save(tmp_path / "b")
    policy().tilted([[1.0, 0, 0], [0, 0, 0]], 1.0).save(tmp_path / "c")
    Tabular(["x", "y"], ACTIONS, LOGITS).save(tmp_path / "d")
    a, b, c, d = (Tabular.fingerprint(tmp_path / name) for name in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_a_copy_shares_nothing() -> None:
    p = policy()
    q = p.copy()
    with torch.no_grad():
        q.module.logits_PA.add_(torch.arange(6.0).reshape(2, 3))  # type: ignore[union-attr,operator]
    assert p.probabilities("x").tolist() == pytest.approx(softmax(LOGITS[0]))


def _without(path: Path, name: str) -> None:
    (path / name).unlink()


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: _without(path, "tabular.json"),
        lambda path: _without(path, "tabular.safetensors"),
        lambda path: (path / "tabular.json").write_text("{"),
        lambda path: (path / "tabular.json").write_text(json.dumps({"prompts": ["x"], "actions": [["a", "a"]]})),
        lambda path: (path / "tabular.json").write_text(json.dumps({"prompts": ["x"]})),
        lambda path: (path / "tabular.safetensors").write_bytes(b"\x00" * 40),
    ],
)
def test_a_damaged_directory_is_refused_with_a_remedy(tmp_path: Path, harm: object) -> None:
    policy().save(tmp_path)
    harm(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError) as refused:
        load_policy(tmp_path)
    assert refused.value.remedy and str(tmp_path) in refused.value.message


# -- what it does not know


def test_what_it_does_not_know_is_an_input_error() -> None:
    with pytest.raises(InputError, match="does not know the prompt 'z'"):
        policy().sample(["z"], Sampling(), [0])
    with pytest.raises(InputError, match="its actions are: left, right, up"):
        policy().encode(point(Slate("x", (Candidate("down"),)), 0, good=True), Limits())
    with pytest.raises(InputError, match="probability 0"):
        Tabular.of(["x"], ["a", "b"], [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("prompts", "actions"),
    [([], ["a"]), (["x", "x"], ["a"]), (["x"], [["a", "a"]]), (["x"], [[]]), (["x"], [["a"], ["b"]])],
)
def test_sets_are_sets(prompts: list[str], actions: list[object]) -> None:
    with pytest.raises(ValueError, match="tabular policy"):
        Tabular(prompts, actions)  # type: ignore[arg-type]
