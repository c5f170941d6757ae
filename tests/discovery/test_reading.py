"""Proposed losses: what is read of them, what is refused, and that nothing of them runs outside the sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine import objectives as o
from prefine.discovery import NotValid, Proposed, check, read
from prefine.discovery.dialogue import ARCHIVE
from prefine.discovery.program import Step, Value
from prefine.discovery.tracing import _program
from prefine.fingerprint import key_of
from prefine.objectives.scores import Objective, Scores, traits

torch.set_num_threads(1)
F64 = torch.float64
HEAD = "def loss(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):\n"
HEAD += "    h = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps\n"
HEAD += "    z = self.beta * h\n"


def of(body: str, before: str = "") -> Proposed:
    return check(read(before + HEAD + "".join(f"    {line}\n" for line in body.split("\n"))))


def four(seed: int = 0, n: int = 7) -> Scores:
    g = torch.Generator().manual_seed(seed)
    leaves = [-8 * torch.rand(n, generator=g, dtype=F64) for _ in range(4)]
    leaves[0].requires_grad_()
    leaves[1].requires_grad_()
    return Scores.of_pairs(*leaves)


def same(a: Objective, b: Objective, atol: float = 1e-12) -> None:
    scores = four()
    torch.testing.assert_close(a(scores).per_contrast, b(scores).per_contrast, rtol=0, atol=atol)


KNOWN: dict[str, Objective] = {
    "DPO": o.dpo(0.05), "SLiC": o.Pairs(link=o.hinge, beta=0.05), "IPO": o.ipo(0.05, mean=False),
}  # fmt: skip


@pytest.mark.parametrize("known", ARCHIVE, ids=lambda k: k.name)
def test_the_archive_can_be_read_and_is_what_its_names_say(known) -> None:  # type: ignore[no-untyped-def]
    proposed = check(read(known.code))
    if known.name in KNOWN:
        same(proposed, KNOWN[known.name])


FOUND = {
    "lrml": "g = torch.sigmoid(z / 0.05)\nreturn (1 - g) * -F.logsigmoid(z) + g * torch.exp(-z)",
    "padll": "return 0.9 * (1 - 0.5 * (z < 0).float()) * -F.logsigmoid(z)",
    "dbaql": "c = torch.sigmoid((z / 0.05).var())\n"
    "return c * -F.logsigmoid(z / 0.9) + (1 - c) * torch.exp(-0.9 * z)",
    "aqfl": "S = z / 0.05\nq = S.std() * torch.sigmoid(-S).mean()\nq = q + 0.05 * (torch.sigmoid(S.mean()) - q)\n"
    "b = torch.sigmoid(0.1 * torch.abs(S - q))\nreturn b * -F.logsigmoid(z) + (1 - b) * F.relu(1 - z)",
    "pfl": "return torch.where(policy_chosen_logps > policy_rejected_logps, -F.logsigmoid(z) / 2, 2 * F.relu(1 - z))",
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_losses_written_as_code_are_those_of_the_catalogue(name: str) -> None:
    """Value and gradient, through the sandbox and back."""
    proposed, ours = of(FOUND[name]), o.discovered(name)
    same(proposed, ours)
    assert traits(proposed)[2] == traits(ours)[2], "batch statistics make the step one batch"
    a, b = four(1), four(1)
    (x,) = torch.autograd.grad(proposed(a).mean(a), a.logp_NT, allow_unused=True) if a.logp_NT.is_leaf else (None,)
    assert x is None or torch.isfinite(x).all()
    leaves = [torch.randn(5, dtype=F64, requires_grad=True) for _ in range(2)]
    fixed = [torch.randn(5, dtype=F64) for _ in range(2)]
    for loss in (proposed, ours):
        scores = Scores.of_pairs(*leaves, *fixed)
        leaves[0].grad = None
        loss(scores).mean(scores).backward()
        b = leaves[0].grad if loss is proposed else b  # type: ignore[assignment]
    torch.testing.assert_close(b, leaves[0].grad, rtol=0, atol=1e-12)


def test_ways_of_writing_the_same() -> None:
    logistic = o.dpo(0.05)
    same(of("return -torch.nn.functional.logsigmoid(z)", "import torch\n"), logistic)
    same(of("return G.softplus(-z)", "import torch.nn.functional as G\n"), logistic)
    same(of("return z.neg().exp().log1p()", "from typing import Tuple\nimport torch\n"), logistic)
    same(of("half = torch.tensor(0.5)\nreturn (half + half) * torch.log(1 + (-z).exp())"), logistic)
    same(read("def f(a: torch.Tensor, b, c, d) -> torch.FloatTensor:\n    return F.softplus(-0.05 * (a - b - c + d))"),
         logistic)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:", "SyntaxError"),
        ("x = 1", "defines 0 things"),
        ("def f(a, b, c, d): return a\ndef g(a, b, c, d): return a", "defines 2 things"),
        ("class Loss:\n    pass", "one function"),
        ("def f(a): return a", "takes 1 arguments"),
        ("def f(a, b, c, d): return 1.0", "gives float"),
        ("def f(a, b, c, d): return a.mean()", "one number a pair"),
        ("def f(a, b, c, d): return torch.log(a - b - 100)", "not a number"),
        ("def f(a, b, c, d): return c - d", "does not depend on the policy"),
        ("def f(a, b, c, d): return a.detach()", "does not depend on the policy"),
        ("def f(a, b, c, d): return torch.where(a > 0, a, torch.sqrt(a - a))", "gradient is not a number"),
        ("def f(a, b, c, d):\n    if (a > b).all(): return a\n    return b", "not among the operations"),
        ("def f(a, b, c, d):\n    return a if a > b else b", "torch.where"),
        ("def f(a, b, c, d): return a * a.mean().item()", "is not there"),
        ("def f(a, b, c, d): return a[0]", "indexed"),
        ("def f(a, b, c, d): return torch.load('x')", "not among the operations"),
        ("def f(a, b, c, d):\n    while True: pass", "stopped: time"),
        ("import numpy\ndef f(a, b, c, d): return a", "numpy"),
        (
            "import socket\nsocket.create_connection(('1.1.1.1', 80), 1)\ndef f(a, b, c, d): return a",
            "not allowed|Errno|Permission",
        ),
    ],
)
def test_what_is_no_loss_is_refused_with_a_reason(code: str, said: str) -> None:
    from prefine.sandbox import Bounds

    with pytest.raises(NotValid, match=said):
        check(read(code, bounds=Bounds(seconds=2.0)))


def test_a_proposal_cannot_touch_files_or_this_process(tmp_path: Path) -> None:
    there = tmp_path / "touched"
    with pytest.raises(NotValid):
        read(f"open({str(there)!r}, 'w').write('x')\ndef f(a, b, c, d): return a - b")
    assert not there.exists()


@pytest.mark.parametrize(
    "told",
    [
        {"name": "f", "steps": [["__import__", ["os"], {}]], "output": 4},
        {"name": "f", "steps": [["pow", [10**9, 10**9], {}]], "output": 4},
        {"name": "f", "steps": [["add", [{"at": 9}, 1], {}]], "output": 4},
        {"name": "f", "steps": [["add", [{"at": 0}, "x"], {}]], "output": 4},
        {"name": "f", "steps": [], "output": 7},
        {"name": "f", "steps": [["neg", [{"at": 0}], {}]] * 501, "output": 4},
        {"steps": "x"},
        [],
    ],
)
def test_what_comes_out_of_the_sandbox_is_not_believed(told: object) -> None:
    """A proposal can print what it likes: a forged program is refused."""
    with pytest.raises(NotValid):
        check(_program(json.loads(json.dumps(told))))


def test_a_program_is_plain_data_with_a_key() -> None:
    steps = (Step("sub", (Value(0), Value(1))), Step("mul", (Value(4), 0.5)))
    assert key_of(x=Proposed("a", steps, 5)) == key_of(x=Proposed("a", steps, 5))
    assert key_of(x=Proposed("a", steps, 5)) != key_of(x=Proposed("a", steps, 4))
    values = Proposed("a", steps, 5).loss(*(torch.tensor(np.arange(3.0) * k) for k in range(4)))
    assert values.tolist() == [0.0, -0.5, -1.0]
