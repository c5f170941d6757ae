"""What the trainer's models show to the readings of an objective (``objectives.readings``): views of a batch.

A view is made by one padded forward pass and gives the log-probabilities of the tokens too, so a policy that is
looked into is not run twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from prefine.engine.score import accepted, backbone, head_logp, output_head, pad_rows
from prefine.errors import InputError
from prefine.objectives.readings import Reading, Size, View, gathered
from prefine.policies.base import Batch, Policy, Row


class TokenView:
    """A transformers causal model on some rows (see ``objectives.readings.View`` for the names)."""

    def __init__(self, model: nn.Module, rows: Sequence[Row], mask_NT: Tensor, *, deep: bool = False) -> None:
        head = output_head(model)
        if head is None or not all(row.prompt for row in rows):
            raise InputError(
                f"{type(model).__name__} cannot be looked into: only its whole forward pass knows its logits",
                remedy="use an objective that reads log-probabilities alone",
            )
        self.head = head
        # The head is applied later, when gradients may be on again: a frozen model's view stays without.
        self.learns = torch.is_grad_enabled()
        device = next(model.parameters()).device
        self.mask_NT = mask_NT.to(device)
        padded = pad_rows([row.prompt + row.response for row in rows], device=device)
        inner = backbone(model)
        inputs = {"attention_mask": padded.real_NL, "position_ids": padded.position_NL, "use_cache": False}
        known = {name: value for name, value in inputs.items() if name in accepted(inner)}
        means: dict[str, list[Tensor]] = {}
        with _listening(inner, means) if deep else nullcontext():
            out = inner(padded.ids_NL, **known, **({"output_hidden_states": True} if deep else {}))
        first_N = torch.tensor([len(row.prompt) - 1 for row in rows], device=device)
        self.length_N = torch.tensor([len(row.response) for row in rows], device=device)
        width = self.mask_NT.shape[1]
        place_NS = first_N[:, None] + torch.arange(width + 1, device=device).minimum(self.length_N[:, None])
        all_N1 = torch.arange(len(rows), device=device)[:, None]
        self.states_NSD: Tensor = out.last_hidden_state[all_N1, place_NS]
        if deep:
            self.layers_NSLD: Tensor = torch.stack([h[all_N1, place_NS] for h in out.hidden_states[1:]], 2)
            means["residual"] = [h.mean(-1) for h in out.hidden_states[1:]]
            self.means_NS = {kind: [x[all_N1, place_NS] for x in found] for kind, found in means.items()}
        self.row_M, self.slot_M = self.mask_NT.nonzero(as_tuple=True)
        self.target_M = padded.ids_NL[self.row_M, place_NS[self.row_M, self.slot_M + 1]]
        config: Any = model.config
        self.vocabulary = int(config.get_text_config().vocab_size)

    def logp(self) -> Tensor:
        """(N, T) log-probability of every response token that counts."""
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            logp_M = head_logp(self.head, self.states_NSD[self.row_M, self.slot_M], self.target_M)
        return logp_M.new_zeros(self.mask_NT.shape).index_put((self.row_M, self.slot_M), logp_M)

    def logits_MV(self, start: int, stop: int) -> Tensor:
        here = slice(start, stop)
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            logits_MV = self.head(self.states_NSD[self.row_M[here], self.slot_M[here]])
        return logits_MV.float() if logits_MV.dtype in (torch.float16, torch.bfloat16) else logits_MV

    def logp_MV(self, start: int, stop: int) -> Tensor:
        return self.logits_MV(start, stop).log_softmax(-1)


@contextmanager
def _listening(inner: nn.Module, means: dict[str, list[Tensor]]) -> Iterator[None]:
    """The mean over features of what every part of every layer gives (attention, feed-forward), by its name.

    Means, not activations: of a large model nothing else would fit.
    """
    layers = max((m for m in inner.modules() if isinstance(m, nn.ModuleList)), key=len, default=None)

    def hear(kind: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output
            if isinstance(whole, Tensor) and whole.ndim == 3:
                means.setdefault(kind, []).append(whole.detach().mean(-1))

        return hook

    parts = [(name, part) for layer in layers or () for name, part in layer.named_children() if "norm" not in name]
    hooks = [part.register_forward_hook(hear(name)) for name, part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Readers:
    """The readings of an objective, built for a policy, and how to take them."""

    def __init__(self, objective: Any, policy: Policy, seed: int) -> None:
        self.readings: Mapping[str, Reading] = gathered(objective)
        self.looked_at = {name for reading in self.readings.values() for name in reading.of}
        self.deep = {name for reading in self.readings.values() if reading.deep for name in reading.of}
        if self.looked_at and not hasattr(policy, "view"):
            raise InputError(
                f"the objective looks into the model, which a policy of kind {policy.kind!r} does not let it",
                remedy="train a causal language model with it",
            )
        size: Size = getattr(policy, "size", Size())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.made = {name: reading.made(size) for name, reading in self.readings.items()}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Those that are trained along, by name."""
        return {name: made for name, made in self.made.items() if isinstance(made, nn.Module)}

    def views(self, policy: Policy, references: Mapping[str, Any], batch: Batch) -> dict[str, View]:
        """One view a model that is looked at."""
        views: dict[str, View] = {}
        for name in sorted(self.looked_at):
            shown: Any = policy if name == "policy" else references.get(name)
            if not hasattr(shown, "view"):
                raise InputError(
                    f"the objective looks into the reference {name!r}, which is not there as a model",
                    remedy="give it as a policy, frozen: stored numbers and references that move cannot be looked into",
                )
            views[name] = shown.view(batch, deep=name in self.deep)
        return views

    def __call__(self, views: Mapping[str, View], **like: Any) -> dict[str, Tensor]:
        """What every reading gives, by name."""
        return {
            name: made(*(views[of] for of in self.readings[name].of)).to(**like) for name, made in self.made.items()
        }
