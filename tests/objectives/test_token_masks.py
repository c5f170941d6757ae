"""062 SparsePO: token masks against the equations, their limits, and where masks come from."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from prefine import objectives as o
from prefine.objectives.readings import Size
from prefine.objectives.scores import Scores
from prefine.objectives.token_masks import MaskNet, activity, ranged

torch.set_num_threads(1)
F64 = torch.float64
Plain = list[dict[str, list[float]]]


def made(seed: int) -> tuple[Scores, Plain]:
    rng = random.Random(seed)
    lengths = [3, 2, 1, 3]
    rows: Plain = []
    for n in lengths:
        rows.append({name: [rng.uniform(-2, -0.1) for _ in range(n)] for name in ("logp", "reference")})
        rows[-1] |= {name: [max(0.0, rng.uniform(-0.5, 1.5)) for _ in range(n)] for name in ("mask-u", "mask-d")}
        rows[-1]["kl"] = [rng.uniform(0, 0.5) for _ in range(n)]

    def padded(name: str) -> torch.Tensor:
        return torch.tensor([[*row[name], *[0.0] * (3 - len(row[name]))] for row in rows], dtype=F64)

    mask = torch.tensor([[1.0] * n + [0.0] * (3 - n) for n in lengths], dtype=F64)
    readings = {"mask-u": padded("mask-u"), "mask-d": padded("mask-d"), "forward-kl": padded("kl")}
    scores = Scores(
        padded("logp").requires_grad_(), mask, torch.tensor([1, -1] * 2), torch.tensor([0, 0, 1, 1]),
        {"reference": padded("reference")}, readings={n: x.requires_grad_() for n, x in readings.items()},
    )  # fmt: skip
    return scores, rows


def equation(rows: Plain, beta: float, lam_u: float, lam_d: float, u_mask: str | float, d_mask: str | float) -> float:
    """-log s( beta (u - d) ) + lam_u |m^u|_1 + lam_d |m^d|_1, k_t = -KL_t, the mean over pairs."""

    def m(row: dict[str, list[float]], mask: str | float) -> list[float]:
        return row[mask] if isinstance(mask, str) else [mask] * len(row["logp"])

    total = 0.0
    for w, l in (rows[:2], rows[2:]):
        u = d = norms = 0.0
        for sign, row in ((1, w), (-1, l)):
            gain = [a - b for a, b in zip(row["logp"], row["reference"], strict=True)]
            u += sign * math.fsum(x * y for x, y in zip(m(row, u_mask), gain, strict=True))
            d += sign * math.fsum(-x * y for x, y in zip(m(row, d_mask), row["kl"], strict=True))
            norms += lam_u * sum(map(abs, m(row, u_mask))) * isinstance(u_mask, str)
            norms += lam_d * sum(map(abs, m(row, d_mask))) * isinstance(d_mask, str)
        total += (math.log1p(math.exp(-beta * (u - d))) + norms) / 2
    return total


CASES = [("independent", "mask-u", "mask-d"), ("ones", 1.0, 1.0), ("reward", 1.0, 0.0)]


@pytest.mark.parametrize(("masks", "u", "d"), CASES)
def test_value_and_gradients(masks: str, u: str | float, d: str | float) -> None:
    """Values, and central differences of the equation in every log-probability, KL and mask."""
    beta, lam_u, lam_d = 0.9, 0.03, 0.02
    scores, rows = made(5)
    loss = o.sparsepo(beta, masks, lam_u, lam_d)(scores).mean(scores)
    assert float(loss) == pytest.approx(equation(rows, beta, lam_u, lam_d, u, d), abs=1e-12)
    leaves = {
        "logp": scores.logp_NT,
        **{k: scores.readings[k] for k in ("mask-u", "mask-d")},
        "kl": scores.readings["forward-kl"],
    }
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        gradient = torch.zeros_like(leaf) if gradient is None else gradient
        for n, row in enumerate(rows):
            for t in range(len(row["logp"])):
                ends = []
                for step in (1e-6, -1e-6):
                    row[name][t] += step
                    ends.append(equation(rows, beta, lam_u, lam_d, u, d))
                    row[name][t] -= step
                assert float(gradient[n, t]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7), (name, n, t)


def test_reward_masks_of_one_are_dpo_and_all_ones_token_level_dpo() -> None:
    scores, rows = made(6)
    a, b = (x(scores).mean(scores) for x in (o.sparsepo(0.4, "reward"), o.dpo(0.4)))
    assert float(a) == float(b)
    # TDPO1 (arXiv 2404.11999): -log s( beta [ratio_w - ratio_l] - beta [SeqKL_l - SeqKL_w] )
    ratio = [sum(x) - sum(y) for x, y in ((row["logp"], row["reference"]) for row in rows)]
    kl = [sum(row["kl"]) for row in rows]
    want = sum(math.log1p(math.exp(-0.4 * (ratio[w] - ratio[l] - (kl[l] - kl[w])))) for w, l in ((0, 1), (2, 3))) / 2
    assert float(o.sparsepo(0.4, "ones")(scores).mean(scores)) == pytest.approx(want, abs=1e-12)


def test_a_token_with_a_mask_of_zero_has_no_gradient() -> None:
    scores, _ = made(7)
    shut = scores.readings["mask-u"].detach().clone()
    shut[1, 0] = 0.0
    closed = Scores(**{**vars(scores), "readings": {**scores.readings, "mask-u": shut}})
    (gradient,) = torch.autograd.grad(o.sparsepo(0.4, "independent")(closed).mean(closed), scores.logp_NT)
    assert float(gradient[1, 0]) == 0.0 and float(gradient[1, 1]) != 0.0


# -- where masks come from


@pytest.mark.parametrize("net", ["all", "last", "two-layer"])
def test_a_learnt_mask_is_the_network_of_the_states_before_the_token(looked: Any, net: str) -> None:
    """ "all": ReLU( sum_l w_l ReLU(W_l LN(h^l) + b_l) ), h^l of the place before the token, embeddings left out."""
    model = looked.model
    torch.manual_seed(4)
    mask_net = MaskNet(net, 0.0, 0.1, 1.0, Size(16, 2)).double()
    with torch.no_grad():
        for p in mask_net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    view = looked.view(deep=True)
    got = mask_net(view)
    parameters = {n: p.detach() for n, p in mask_net.named_parameters()}
    for n, row in enumerate(looked.rows):
        states = model(torch.tensor([row.prompt + row.response]), output_hidden_states=True).hidden_states
        for t, counts in enumerate(row.mask):
            at = len(row.prompt) + t - 1
            used = [h[0, at] for h in states[1:]][-len(mask_net.heads) :]
            normed = [
                (h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt() * parameters["norm.weight"]
                + parameters["norm.bias"]
                for h in used
            ]
            heads = [parameters[f"heads.{k}.weight"] @ h + parameters[f"heads.{k}.bias"] for k, h in enumerate(normed)]
            value = torch.cat(heads)
            if net != "last":
                value = parameters["mixer.weight"] @ value.relu()
                value = value + parameters.get("mixer.bias", 0.0)
            assert float(got[n, t].detach()) == pytest.approx(float(value.relu()) * counts, abs=1e-10)
    got.sum().backward()
    assert all(p.grad is None for p in model.parameters())


def test_the_share_of_zeros_is_counted_over_tokens_that_count(looked: Any) -> None:
    net = MaskNet("last", 0.0, -100.0, 1.0, Size(16, 2)).double()
    net(looked.view(deep=True))
    assert net.figures() == {"mask/zeros": 1.0}
    assert net.figures() == {"mask/zeros": 0.0}  # asked again: nothing since


def test_networks_start_open(looked: Any) -> None:
    """The mixer begins as an average: of numbers >= 0 it is above 0 wherever any of them is."""
    net = MaskNet("all", 0.0, 0.5, 1.0, Size(16, 2)).double()
    mask = net(looked.view(deep=True))
    assert float((mask[looked.mask > 0] > 0).double().mean()) > 0.5


@pytest.mark.parametrize("net", ["all", "last", "two-layer"])
def test_with_a_bias_every_token_starts_with_that_mask(looked: Any, net: str) -> None:
    """Random weights shut some tokens before anything is learnt, and a mask that is shut has no gradient."""
    torch.manual_seed(0)
    mask_net = MaskNet(net, 0.0, 0.5, 1.0, Size(16, 2)).double()
    mask = mask_net(looked.view(deep=True))
    assert torch.allclose(mask, 0.5 * (looked.mask > 0).double(), atol=1e-12)
    mask[0, 0].backward()
    name = "mixer.weight" if net == "two-layer" else "heads.0.weight"
    assert float(dict(mask_net.named_parameters())[name].grad.abs().sum()) > 0  # type: ignore[union-attr]


def listen(model: Any) -> tuple[dict[str, list[torch.Tensor]], list[Any]]:
    """The means over features of every layer's attention and feed-forward, as they come."""
    heard: dict[str, list[torch.Tensor]] = {"self_attn": [], "mlp": []}

    def hear(kind: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            heard[kind].append((output[0] if isinstance(output, tuple) else output)[0].mean(-1))

        return hook

    parts = [(kind, getattr(layer, kind)) for layer in model.model.layers for kind in heard]
    return heard, [part.register_forward_hook(hear(kind)) for kind, part in parts]


@torch.no_grad()
def test_masks_from_activations(looked: Any) -> None:
    """MaPO: means over features, z-scores then least to greatest over the response's tokens, layers, kinds."""
    model = looked.model
    view = looked.view(deep=True)
    got = activity(view)
    for n, row in enumerate(looked.rows):
        heard, hooks = listen(model)
        out = model(torch.tensor([row.prompt + row.response]), output_hidden_states=True)
        for hook in hooks:
            hook.remove()
        heard["residual"] = [h[0].mean(-1) for h in out.hidden_states[1:]]
        heard["logits"] = [out.logits[0].mean(-1)]
        places = [len(row.prompt) + t - 1 for t, counts in enumerate(row.mask) if counts]
        kinds = []
        for found in heard.values():
            layers = []
            for x in found:
                x = x[places]
                z = (x - x.mean()) / x.std(unbiased=False)
                layers.append((z - z.min()) / (z.max() - z.min()))
            kinds.append(torch.stack(layers).mean(0))
        want = torch.stack(kinds).mean(0)
        counted = [t for t, counts in enumerate(row.mask) if counts]
        assert torch.allclose(got[n, counted], want, atol=1e-8)
        assert float(got[n].sum()) == pytest.approx(float(want.sum()), abs=1e-8)


def test_a_single_token_or_equal_activations_have_no_range() -> None:
    x = torch.tensor([[2.0, 2.0]])
    assert ranged(x, torch.tensor([[True, True]])).tolist() == [[0.0, 0.0]]
    assert ranged(x, torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]
