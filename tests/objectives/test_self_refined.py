"""140: labels of one's own, softened below a quantile of sharpened margins, against the equations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from prefine import objectives as o
from prefine.errors import InputError
from prefine.objectives.readings import gathered
from prefine.objectives.scores import Scores
from prefine.objectives.self_refined import LogNormaliser, SelfRefined, _of_all

BETA = 0.3


def pairs(n: int, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    w, l, rw, rl = (torch.tensor(-rng.uniform(1, 6, size=n)) for _ in range(4))
    return Scores.of_pairs(w, l, rw, rl)


def gap(s: Scores) -> torch.Tensor:
    chosen, rejected = s.sides(s.ratio())
    return BETA * (chosen - rejected)


def filled(loss: SelfRefined, z: list[float]) -> SelfRefined:
    """The loss once it has seen these margins."""
    loss.pending = list(z)
    loss.after_step()
    return loss


def test_without_smoothing_or_with_trust_in_all_it_is_dpo() -> None:
    s = pairs(6)
    plain = o.dpo(BETA)(s).per_contrast
    low, high = [-100.0] * 4, [100.0] * 4
    for eps, window in ((0.0, high), (0.1, low)):
        loss = filled(o.self_refined(o.dpo(BETA), eps, window=4), window)  # type: ignore[arg-type]
        assert torch.allclose(loss(s).per_contrast, plain, atol=1e-12)


def test_without_trust_in_any_it_is_conservative_dpo() -> None:
    s = pairs(6)
    loss = filled(o.self_refined(o.dpo(BETA), 0.1, window=4), [100.0] * 4)
    assert torch.allclose(loss(s).per_contrast, o.dpo(BETA, label_smoothing=0.1)(s).per_contrast, atol=1e-12)


def test_value_and_gradient_against_the_equation() -> None:
    s = pairs(8, 3)
    x = s.logp_NT.clone().requires_grad_(True)
    s = replace(s, logp_NT=x)
    z = gap(s)
    tau = float(z.detach().sort().values[3:5].mean())
    loss = filled(o.self_refined(o.dpo(BETA), 0.2, quantile=0.5, window=2), [tau, tau])
    assert loss.threshold == pytest.approx(tau)
    t = (z.detach() > tau).double()
    expected = -(1 - 0.2 + 0.2 * t) * torch.log(torch.sigmoid(z)) - 0.2 * (1 - t) * torch.log(torch.sigmoid(-z))
    assert 0 < float(t.sum()) < 8
    (ours,) = torch.autograd.grad(loss(s).per_contrast.sum(), x)
    (theirs,) = torch.autograd.grad(expected.sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert not loss.margin(s).requires_grad, "neither trust nor its threshold moves the policy"


def test_the_threshold_is_the_mean_of_two_order_statistics() -> None:
    values = np.random.default_rng(1).normal(size=50)
    loss = filled(o.self_refined(o.dpo(BETA)), values[:49].tolist())
    assert loss.threshold is None, "until the window is full every label is trusted"
    filled(loss, [float(values[49])])
    assert loss.threshold == pytest.approx((np.sort(values)[5] + np.sort(values)[6]) / 2)  # 50 * 0.1
    filled(loss, [9.0] * 20)
    last = np.sort([*values[20:], *[9.0] * 20])
    assert loss.threshold == pytest.approx((last[5] + last[6]) / 2), "the last 50 alone"


def test_a_step_may_be_cut_into_micro_batches() -> None:
    """The release's window held batch means: the trust of a pair then depended on the batch it came in."""
    s = pairs(60)
    whole, parts = (o.self_refined(o.dpo(BETA), 0.1) for _ in range(2))
    for _ in range(2):
        at_once = whole(s).per_contrast
        whole.after_step()
        cut = [parts(_slice(s, i, i + 20)).per_contrast for i in (0, 20, 40)]
        parts.after_step()
        assert torch.equal(torch.cat(cut), at_once) and whole.threshold == parts.threshold
    untrusted = float((whole.margin(s) <= whole.threshold).double().mean())  # type: ignore[operator]
    assert untrusted == pytest.approx(0.1, abs=0.07)


def _slice(s: Scores, first: int, last: int) -> Scores:
    rows = slice(2 * first, 2 * last)
    return replace(
        s,
        logp_NT=s.logp_NT[rows],
        mask_NT=s.mask_NT[rows],
        role_N=s.role_N[rows],
        group_N=s.group_N[rows] - first,
        references={"reference": s.references["reference"][rows]},
    )


def test_quiet_steps_count_every_label_fully() -> None:
    s = pairs(5)
    loss = filled(o.self_refined(o.dpo(BETA), 0.1, window=4, quiet=2), [100.0] * 4)
    plain = o.dpo(BETA)(s).per_contrast
    assert torch.allclose(loss(s).per_contrast, plain)
    filled(loss, [100.0] * 4)
    assert not torch.allclose(loss(s).per_contrast, plain)


def test_the_window_is_state_that_a_checkpoint_keeps() -> None:
    loss = filled(o.self_refined(o.dpo(BETA), window=4), [1.0, 2.0, 3.0, 4.0])
    again = o.self_refined(o.dpo(BETA), window=4)
    again.load_state_dict(loss.state_dict())
    assert again.threshold == loss.threshold and float(again.steps) == 1


def test_processes_see_the_margins_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {0: [1.0, 2.0], 1: [3.0], 2: [4.0, 5.0]}
    heard: dict[int, list[list[float]]] = {r: [] for r in own}
    counts = [[float(len(own[r])) if r == q else 0.0 for r in own] for q in own]
    placed = [[1.0, 2.0, 0, 0, 0], [0, 0, 3.0, 0, 0], [0, 0, 0, 4.0, 5.0]]

    def summed_by(rank: int):  # type: ignore[no-untyped-def]
        def summed(values):  # type: ignore[no-untyped-def]
            heard[rank].append(list(values))
            rows = (counts, placed)[len(heard[rank]) - 1]
            assert list(values) == rows[rank]
            return [sum(column) for column in zip(*rows, strict=True)]

        return summed

    for rank in own:
        for name, value in {"RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": "localhost"}.items():
            monkeypatch.setenv(name, str(value))
        assert _of_all(own[rank], summed_by(rank)) == [1.0, 2.0, 3.0, 4.0, 5.0]


# -- the sharpened policy


def mixed(tokens: int, c: float, seed: int = 0) -> tuple[float, float, Scores]:
    """(z_mix from the logits themselves, z, scores with the reading) of one pair of so many tokens over 7 words."""
    rng = torch.Generator().manual_seed(seed)
    h, ref = (torch.randn(2, tokens, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    y = torch.randint(0, 7, (2, tokens), generator=rng)
    if tokens == 1:  # one token after the same prompt: one distribution for both
        h[1], ref[1] = h[0], ref[0]

    def said(logits: torch.Tensor) -> torch.Tensor:
        return log_softmax(logits, -1).gather(-1, y[..., None])[..., 0]

    mix = said(c * h + (1 - c) * ref)
    z_mix = BETA * float((mix - said(ref))[0].sum() - (mix - said(ref))[1].sum())
    z = BETA * float((said(h) - said(ref))[0].sum() - (said(h) - said(ref))[1].sum())
    reading = LogNormaliser(c)(log_softmax(h, -1).reshape(-1, 7), log_softmax(ref, -1).reshape(-1, 7)).reshape(2, -1)
    scores = Scores(
        said(h),
        torch.ones(2, tokens, dtype=torch.float64),
        torch.tensor([1, -1]),
        torch.tensor([0, 0]),
        {"reference": said(ref)},
        readings={"mixture": reading},
    )
    return z_mix, z, scores


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_the_sharpened_margin_is_that_of_mixed_logits(tokens: int) -> None:
    for seed in range(5):
        z_mix, _, scores = mixed(tokens, 1.4, seed)
        loss = o.self_refined(o.dpo(BETA), sharpen=0.4)
        assert float(loss.margin(scores)) == pytest.approx(z_mix, abs=1e-10)


def test_of_one_token_it_is_c_times_the_margin_and_of_more_it_is_not() -> None:
    z_mix, z, _ = mixed(1, 1.4)
    assert z_mix == pytest.approx(1.4 * z, abs=1e-10)
    z_mix, z, _ = mixed(2, 1.4)
    assert abs(z_mix - 1.4 * z) > 1e-2
    _, z, scores = mixed(2, 1.0)
    assert float(o.self_refined(o.dpo(BETA)).margin(scores)) == pytest.approx(z, abs=1e-10)


def test_only_a_sharpened_one_looks_at_whole_distributions() -> None:
    assert not gathered(o.self_refined(o.dpo(BETA)))
    (reading,) = gathered(o.self_refined(o.dpo(BETA), sharpen=0.1)).values()
    assert reading.of == ("policy", "reference")
    assert (
        o.self_refined(o.simpo(), sharpen=0.1).references == ("reference",) and not o.self_refined(o.simpo()).references
    )


def test_words_that_a_model_excludes_have_no_share() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.2, 0.8, 0.0]]).log()
    assert float(LogNormaliser(2.0)(p, q).exp()) == pytest.approx(1.5625)


def test_options_are_checked_and_it_goes_around_any_pair_loss() -> None:
    assert isinstance(o.read("self-refined(eps=0.2, window=8):simpo"), SelfRefined)
    for options in ({"eps": 0.6}, {"quantile": 1.5}, {"window": 0}, {"sharpen": -1.0}):
        with pytest.raises(InputError):
            o.self_refined(o.dpo(), **options)
