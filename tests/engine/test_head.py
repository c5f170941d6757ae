"""The output head in chunks: the numbers and gradients of the plain log-softmax, never all logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prefine.engine.head import LEAST_COLUMNS, OutputHead, chunked_logp

M, D, V = 23, 8, 3 * LEAST_COLUMNS + 5


def problem(
    dtype: torch.dtype = torch.float64, bias: bool = False, scale: float = 1.0, cap: float | None = None
) -> tuple[OutputHead, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(D, V, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    hidden = torch.randn(M, D, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(0, V, (M,), generator=generator)
    target[:2] = torch.tensor([0, V - 1])
    upstream = torch.randn(M, generator=generator, dtype=torch.float64)
    return OutputHead(linear, scale, cap), hidden, target, upstream


def by_hand(head: OutputHead, hidden: Tensor, target: Tensor) -> Tensor:
    return head(hidden).double().log_softmax(-1).gather(1, target[:, None])[:, 0]


def gradients(logp: Tensor, upstream: Tensor, *wanted: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((logp.double() * upstream).sum(), wanted))


WAYS = {
    "one chunk": {"chunk": 1 << 22},
    "chunks, kept": {"chunk": 1},
    "chunks, some kept": {"chunk": 1, "keep": 2 * M * LEAST_COLUMNS},
    "chunks, computed again": {"chunk": 1, "keep": 0},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", [{}, {"bias": True}, {"scale": 0.25}, {"cap": 3.0, "bias": True, "scale": 2.0}])
def test_numbers_and_gradients_are_those_of_the_log_softmax(way: str, form: dict[str, Any]) -> None:
    head, hidden, target, upstream = problem(**form)
    wanted = [hidden, *head.linear.parameters()]
    ours = chunked_logp(head, hidden, target, **WAYS[way])
    plain = by_hand(head, hidden, target)
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-12)
    for a, b in zip(gradients(ours, upstream, *wanted), gradients(plain, upstream, *wanted), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_frozen_head_gives_the_same_gradient_to_what_is_below(cap: float | None) -> None:
    head, hidden, target, upstream = problem(scale=0.5, cap=cap, bias=True)
    head.linear.requires_grad_(False)
    (ours,) = gradients(chunked_logp(head, hidden, target, chunk=1), upstream, hidden)
    (plain,) = gradients(by_hand(head, hidden, target), upstream, hidden)
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=1e-11)


def test_gradients_can_be_taken_twice_over() -> None:
    head, hidden, target, upstream = problem()
    logp = chunked_logp(head, hidden, target, chunk=1)
    first = torch.autograd.grad(logp, hidden, upstream, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(logp, hidden, upstream)[0], first, atol=0, rtol=0)


def test_logits_that_are_minus_infinity_or_huge_do_no_harm() -> None:
    """A model may forbid a token by its bias: a whole chunk of them, the first included."""
    head, hidden, target, upstream = problem(bias=True)
    with torch.no_grad():
        head.linear.bias[: LEAST_COLUMNS + 3] = -torch.inf  # type: ignore[union-attr,index,operator]
        head.linear.bias[-1] = 1e4  # type: ignore[union-attr,index,operator]
    target = target.clamp(min=LEAST_COLUMNS + 3)
    ours, plain = chunked_logp(head, hidden, target, chunk=1), by_hand(head, hidden, target)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(gradients(ours, upstream, hidden), gradients(plain, upstream, hidden), strict=True):
        torch.testing.assert_close(a, b)


def test_no_tokens_at_all() -> None:
    head, hidden, target, _ = problem()
    logp = chunked_logp(head, hidden[:0], target[:0])
    assert logp.shape == (0,)
    assert torch.autograd.grad(logp.sum(), hidden)[0].abs().sum() == 0


def test_float32_and_bfloat16_come_out_in_float32() -> None:
    for dtype, accuracy in ((torch.float32, 1e-5), (torch.bfloat16, 0.2)):
        head, hidden, target, upstream = problem(dtype)
        ours = chunked_logp(head, hidden, target, chunk=1, keep=0)
        assert ours.dtype == torch.float32
        plain = by_hand(head, hidden, target)
        torch.testing.assert_close(ours.double(), plain, atol=accuracy, rtol=accuracy)
        (gradient,) = gradients(ours, upstream, hidden)
        (expected,) = gradients(plain, upstream, hidden)
        assert gradient.dtype == dtype
        assert (gradient - expected).norm() <= max(accuracy / 4, 1e-5) * expected.norm()


def test_under_autocast_it_computes_as_the_layer_would() -> None:
    head, hidden, target, _ = problem(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = chunked_logp(head, hidden, target, chunk=1)
        assert head(hidden).dtype == torch.bfloat16
        plain = head(hidden).double().log_softmax(-1).gather(1, target[:, None])[:, 0]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), plain, atol=1e-3, rtol=1e-3)


def test_a_layer_that_is_more_than_its_weight_is_not_plain() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    assert OutputHead(nn.Linear(2, 3)).is_plain
    assert not OutputHead(Scaled(2, 3)).is_plain
    watched = nn.Linear(2, 3)
    watched.register_forward_hook(lambda *_: None)
    assert not OutputHead(watched).is_plain


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The most numbers that any tensor made inside had."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.numel())
        return out


@pytest.mark.parametrize("trained", [True, False])
def test_no_tensor_is_tokens_by_vocabulary_forward_or_backward(trained: bool) -> None:
    tokens, vocabulary = 512, 16 * LEAST_COLUMNS
    linear = nn.Linear(4, vocabulary, bias=False).requires_grad_(trained)
    hidden = torch.randn(tokens, 4, requires_grad=True)
    with Largest() as plain:
        by_hand(OutputHead(linear), hidden, torch.zeros(tokens, dtype=torch.long)).sum().backward()
    assert plain.numbers >= tokens * vocabulary, "nothing is measured: the test shows nothing"
    with Largest() as ours:
        target = torch.zeros(tokens, dtype=torch.long)
        chunked_logp(OutputHead(linear), hidden, target, chunk=1, keep=0).sum().backward()
    assert ours.numbers <= tokens * LEAST_COLUMNS
