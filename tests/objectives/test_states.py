"""What is read of a model's states after training: values, probes, networks that were learnt along."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.engine.views import TokenView
from prefine.objectives.readings import Size, gathered, restored
from prefine.policies.base import Batch, Limits, Row
from prefine.policies.probing import last_states, probe
from prefine.policies.q_values import state_values
from prefine.slate import Candidate, Contrast, Slate, pair

torch.set_num_threads(1)
CONTRAST = pair(Slate("x", (Candidate("a"), Candidate("b"))), 0, 1)


class Spelled:
    """A model that knows the ids of its two responses."""

    def __init__(self, module: Any, rows: tuple[Row, ...]) -> None:
        self.module, self.rows = module, rows

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        return self.rows

    def view(self, batch: Batch, *, deep: bool = False) -> TokenView:
        return TokenView(self.module, batch.rows, batch.mask_NT, deep=deep)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_rewards_of_tokens_add_up_to_the_log_probability_and_the_end_values(looked: Any, beta: float) -> None:
    members = state_values(Spelled(looked.model, looked.rows[:2]), CONTRAST, beta)
    for row, (value, reward) in zip(looked.rows, members, strict=False):
        with torch.no_grad():
            logits = looked.model(torch.tensor([row.prompt + row.response])).logits[0]
        at = range(len(row.prompt) - 1, len(row.prompt) + len(row.response))
        want = [beta * float(np.log(np.exp(logits[t].numpy()).sum())) for t in at]
        assert value.tolist() == pytest.approx(want, abs=1e-5)
        logp = sum(float(logits[t].log_softmax(-1)[i]) for t, i in zip(at, row.response, strict=False))
        assert float(reward.sum()) == pytest.approx(beta * logp + want[0] - want[-1], abs=1e-5)


def test_last_states_are_those_at_the_last_tokens_however_they_are_batched(looked: Any) -> None:
    policy = Spelled(looked.model, looked.rows[:2])
    got = last_states(policy, [CONTRAST] * 3, chunk=2)
    for n, row in enumerate(looked.rows[:2]):
        with torch.no_grad():
            out = looked.model(torch.tensor([row.prompt + row.response]), output_hidden_states=True)
        for again in range(3):
            assert got[2 * again + n] == pytest.approx(out.hidden_states[-1][0, -1].numpy(), abs=1e-5)


def test_a_probe_tells_what_is_linear_in_the_states_and_no_more() -> None:
    rng = np.random.default_rng(0)
    x, kind = rng.normal(size=(400, 5)), rng.integers(3, size=400)
    assert probe(x, kind, 200) < 0.5
    x[:, :3] += 4 * np.eye(3)[kind]
    assert probe(x, kind, 200) > 0.95


def test_networks_learnt_along_come_back_as_they_were(looked: Any) -> None:
    objective, size = o.sparsepo(masks="independent", net="last", dropout=0.5), Size(16, 2)
    torch.manual_seed(1)
    before = {name: reading.made(size) for name, reading in gathered(objective).items() if "mask" in name}
    saved = {f"{n}.{k}": t for n, net in before.items() for k, t in net.state_dict().items()}  # type: ignore[attr-defined]
    found = restored(objective, saved, size)
    assert set(found) == {"mask-u", "mask-d"} and not any(net.training for net in found.values())
    for name, net in found.items():
        for key, tensor in net.state_dict().items():
            assert torch.equal(tensor, saved[f"{name}.{key}"])
