"""Linear layers for a few rows: weights laid out once for the kernel, while a model decodes on a CPU.

A step of decoding multiplies a few rows with every weight of the model. The ordinary multiply lays each weight out
for its kernel every time, which for a few rows costs more than the multiply itself. Here a plain layer's weight is
laid out once, and the layer uses that for as long as ``Packed.used`` lasts; its rounding differs, nothing else.

Layers that are not plain (quantised, sharded, watched by hooks, not in float32) stay as they are. An adapter's layer
(LoRA) is a module of its own around a plain one, which is packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MOST_ROWS = 256
"""For more rows the ordinary multiply is as fast."""

LEAST_STEPS = 16
"""Packing costs about as much as it saves in so many steps."""

MOST_BYTES = 1 << 30
"""Packed weights are a second copy: a model that is larger than that keeps one."""

LEAST_NUMBERS = 1 << 14
"""Smaller weights gain nothing."""


class Packed:
    """The plain linear layers of ``modules``, if it pays for batches of ``rows`` in so many steps."""

    def __init__(self, modules: list[nn.Module], rows: int, steps: int) -> None:
        self.forwards: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = []
        if rows > MOST_ROWS or steps < LEAST_STEPS or not torch.backends.mkldnn.is_available():
            return
        found = {id(m): m for module in modules for m in module.modules() if _is_plain(m)}
        layers = [m for m in found.values() if isinstance(m, nn.Linear)]
        if sum(m.weight.nbytes for m in layers) <= MOST_BYTES:
            self.forwards = [(m, _packed(m, rows)) for m in layers]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the layers multiply with their packed weights."""
        for layer, forward in self.forwards:
            vars(layer)["forward"] = forward
        try:
            yield
        finally:
            for layer, _ in self.forwards:
                vars(layer).pop("forward", None)


def _is_plain(m: nn.Module) -> bool:
    """Whether weight and bias say all of it."""
    if type(m) is not nn.Linear or type(m.weight) is not nn.Parameter or "forward" in vars(m):
        return False
    fits = m.weight.is_cpu and m.weight.dtype == torch.float32 and m.weight.numel() >= LEAST_NUMBERS
    return fits and not (m._forward_hooks or m._forward_pre_hooks)


def _packed(layer: nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    """The layer's forward pass. With gradients (another thread's) it is the layer's own."""
    ops = torch.ops.mkldnn
    weight = ops._reorder_linear_weight(layer.weight.detach(), rows)
    multiply, bias = ops._linear_pointwise.default, None if layer.bias is None else layer.bias.detach()

    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.dtype != torch.float32:
            return nn.Linear.forward(layer, x)
        return multiply(x, weight, bias, "none", [], "")

    return forward
