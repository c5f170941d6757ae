"""Weights, gradients and optimiser state divided over the processes (FSDP2), for models the engine cuts in two.

    with P processes every matrix W (rows x columns) lies as P slices of rows; a layer's slices are gathered
    when the layer runs, forward and backward, and its gradient is summed straight into slices

The engine calls a model's backbone and its output head, never the model itself, so the groups are: every layer;
the backbone with what is left in it (embeddings); the head, where it has a weight of its own. A head that is
tied to the embeddings reads them out of the backbone's group, which stays gathered from forward to backward.
Vectors (norms, biases) stay whole in every process: they are few, and matrices alone can then be gathered in
bfloat16 without a number changing under autocast, which casts exactly them.

Gathering takes all processes at once, and they need not have equal work: ``Lockstep`` lets those with less
stand in. A module is sharded in place and is afterwards what it was before, with new weights (``gather``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prefine.engine import processes, score
from prefine.engine.head import OutputHead
from prefine.errors import InputError

ELEMENTWISE = frozenset({"adamw", "adam", "rmsprop", "sgd"})
"""Optimisers for which a slice of a matrix is as good as the matrix."""


def wanted(
    module: nn.Module, choice: str, optimizer: str = "adamw", follows: bool = False, looked_into: bool = False
) -> bool:
    """Whether to shard this module. Asked for where it cannot be is an InputError.

    ``follows``: the policy lends itself to references that move along with it. ``looked_into``: the objective reads
    more of it than log-probabilities.
    """
    if not processes.together() or choice == "whole":
        return False
    obstacles = {
        f"{type(module).__name__} has no list of layers": _layers(module) is None,
        f"{optimizer} needs whole matrices": optimizer not in ELEMENTWISE,
        "a moving reference needs the policy's whole weights": follows,
        "the objective looks into the model": looked_into,
    }
    why = next((reason for reason, is_so in obstacles.items() if is_so), None)
    if choice == "sharded" and why is not None:
        raise InputError(
            f"this training cannot be sharded: {why}",
            remedy="leave out shard (every process then holds the whole model)",
        )
    return why is None and (choice == "sharded" or next(module.parameters()).device.type == "cuda")


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a slice of it."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This process's slice, sharing its memory; the tensor itself where it is whole."""
    there: Any = tensor
    return there.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it, put together from every process's slice (all must ask)."""
    there: Any = tensor
    return there.full_tensor() if is_sharded(tensor) else tensor


def whole_on_first(tensor: Tensor) -> Tensor:
    """All of it, on the first process's CPU; the others help and keep nothing of it."""
    full = whole(tensor.detach())
    return full.cpu() if processes.rank() == 0 else full.new_empty(0)


def slice_like(full: Tensor, like: Tensor) -> Tensor:
    """This process's slice of a whole tensor, laid out as ``like`` is."""
    if not is_sharded(like):
        return full.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    there: Any = like
    return distribute_tensor(full.to(like.device), there.device_mesh, there.placements, src_data_rank=None)


# -- a module, sharded and whole again


@dataclass
class _Sharded:
    """What a module was before, and what keeps its processes in step."""

    lockstep: Lockstep
    before: list[tuple[nn.Module, type, dict[str, Any]]]
    originals: dict[str, nn.Parameter]


_SHARDED: WeakKeyDictionary[nn.Module, _Sharded] = WeakKeyDictionary()


def shard(module: nn.Module, autocast: Callable[[], AbstractContextManager[Any]], *, half: bool) -> Lockstep:
    """Divide the module's matrices over all processes, in place.

    ``autocast`` is the forward's context; ``half``: matrices are gathered in bfloat16, as it would cast them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    layers = _layers(module)
    assert layers is not None, "wanted() says so first"
    _settle(module)
    backbone, head = score.backbone(module), _head(module)
    before = _snapshot(module)
    originals = {name: p for name, p in module.named_parameters(remove_duplicate=False) if p.ndim >= 2}
    homes = {id(p): name for name, p in backbone.named_parameters()}
    borrowed = [
        (part, name, homes[id(p)])
        for part in _outside(module, backbone)
        for name, p in part.named_parameters(recurse=False)
        if id(p) in homes
    ]
    has_own = head is not None and not any(id(p) in homes for p in head.parameters())
    plain_head = head if isinstance(head, nn.Linear) and OutputHead(head).is_plain else None

    vectors = {p for p in module.parameters() if p.ndim < 2}
    mesh = init_device_mesh(next(module.parameters()).device.type, (processes.size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    low: dict[str, Any] = {"mp_policy": policy} if half else {}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=vectors, **low)
    # Kept from forward to backward: a tied head reads the embeddings after the backbone is done.
    fully_shard(backbone, mesh=mesh, ignored_params=vectors, reshard_after_forward=False)
    own_head = head if has_own else None
    if own_head is not None:
        fully_shard(own_head, mesh=mesh, ignored_params=vectors, reshard_after_forward=False, **low)
    for part, name, home in borrowed:
        _borrow(part, name, backbone, home)
    if plain_head is not None:
        _run_inside(plain_head)

    originals = {name: originals[name] for name, p in module.named_parameters() if is_sharded(p)}
    for original in originals.values():
        original.data = original.data.new_empty(0)  # the slices are copies
    lockstep = Lockstep(module, backbone, own_head, autocast)
    _SHARDED[module] = _Sharded(lockstep, before, originals)
    return lockstep


@torch.no_grad()
def gather(module: nn.Module) -> None:
    """The module as it was before ``shard``, with the weights of now, in every process."""
    if module not in _SHARDED:
        return
    was = _SHARDED.pop(module)
    slices = dict(module.named_parameters())
    for name, original in was.originals.items():
        original.data = whole(slices[name].detach()).contiguous()
    _restore(was.before)


class Lockstep:
    """Keeps the processes' passes through the model in step.

    A pass gathers weights layer by layer, which every process must do at the same time; but one may have fewer
    micro-batches than another, or cut them into another number of trees. So before each forward pass, before
    each backward pass and at the end of a step every process says what it wants to do, and the most anyone wants
    is done by all: a forward, else a backward, else the end. Those with nothing to pass stand in with one token
    whose part in the loss is zero.
    """

    END, BACKWARD, FORWARD = 0, 1, 2

    def __init__(
        self,
        module: nn.Module,
        backbone: nn.Module,
        head: nn.Module | None,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.module, self.head, self.autocast = module, head, autocast
        self.kept: list[Tensor] = []
        """What stand-ins gave and no backward pass has gone through yet: zeros with a gradient."""
        self.standing_in = False
        backbone.register_forward_pre_hook(self._before_forward, prepend=True)

    def backward(self, loss: Tensor) -> None:
        """The backward pass, once everybody is ready for one."""
        self._until(self.BACKWARD)
        parts, self.kept = [loss, *self.kept], []
        torch.stack([part.to(loss) for part in parts]).sum().backward()

    def end(self) -> None:
        """All are done with the step."""
        self._until(self.END)

    def _before_forward(self, *_: Any) -> None:
        if self.standing_in:
            return
        if not torch.is_grad_enabled():
            raise RuntimeError("a sharded model is only passed through to train it")
        self._until(self.FORWARD)

    def _until(self, wish: int) -> None:
        while (now := processes.highest(wish)) > wish:
            if now == self.FORWARD:
                self.kept.append(self._stand_in())
            elif self.kept:
                parts, self.kept = self.kept, []
                torch.stack(parts).sum().backward()

    def _stand_in(self) -> Tensor:
        self.standing_in = True
        try:
            device = next(self.module.parameters()).device
            with torch.enable_grad(), self.autocast():
                given = score.forward_hidden(self.module, score.pad_rows([[0]], device=device))
                given = given if self.head is None else self.head(given)
                return given.float().sum() * 0.0
        finally:
            self.standing_in = False


# -- gradients


def clip(parameters: Iterable[Tensor], limit: float | None) -> float:
    """The length of the gradients of whole and sliced parameters together; they are cut to ``limit``.

    FSDP gives the mean of the processes' gradients; the trainer's losses are parts of one sum.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    sliced = [local(g) for g in gradients if is_sharded(g)]
    plain = [g for g in gradients if not is_sharded(g)]
    if sliced:
        torch._foreach_mul_(sliced, float(processes.size()))
    norm = (_squares(plain) + processes.summed([_squares(sliced)])[0]) ** 0.5
    if limit is not None:
        torch._foreach_mul_([*sliced, *plain], min(1.0, limit / (norm + 1e-6)))
    return norm


def _squares(tensors: list[Tensor]) -> float:
    there = [t for t in tensors if t.numel()]  # a matrix of few rows leaves some processes without any
    return float(torch.stack([n.double() for n in torch._foreach_norm(there)]).square().sum()) if there else 0.0


# -- what a module is made of


def _layers(module: nn.Module) -> list[nn.Module] | None:
    """The repeated blocks of a transformers model: the list in its backbone that holds the most."""
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module  # type: ignore[operator]
    if not isinstance(getattr(inner, "base_model", None), nn.Module) or not hasattr(inner, "config"):
        return None
    lists = [m for m in score.backbone(module).modules() if isinstance(m, nn.ModuleList) and len(m)]
    sizes = [_weight(m) for m in lists]
    return list(lists[sizes.index(max(sizes))]) if lists else None


def _weight(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _head(module: nn.Module) -> nn.Module | None:
    """The output layer of a language model."""
    inner: Any = module.get_base_model() if hasattr(module, "get_base_model") else module  # type: ignore[operator]
    return inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None


def _outside(module: nn.Module, backbone: nn.Module) -> list[nn.Module]:
    inside = set(backbone.modules())
    return [part for part in module.modules() if part not in inside]


def _settle(module: nn.Module) -> None:
    """Find out what is found out by trying (how this model's logits come about, whether it can go in trees) while
    every process can still try for itself."""
    from prefine.engine.trees import route as tree_route

    has_head = score.output_head(module) is not None
    if tree_route.refusal(module, head=has_head) is None:
        tree_route.can_narrow(module)


def _run_inside(linear: nn.Module) -> None:
    """``linear(hidden, inside=f)`` is f(hidden) while the weights are gathered (see ``score.head_logp``)."""
    plain = linear.forward

    def forward(hidden: Tensor, inside: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return plain(hidden) if inside is None else inside(hidden)

    linear.forward = forward  # type: ignore[method-assign]
    linear.runs_inside = True  # type: ignore[assignment]


def _borrow(part: nn.Module, name: str, backbone: nn.Module, home: str) -> None:
    """Let a module outside the backbone use a parameter inside it while it runs."""
    path, _, own = home.rpartition(".")
    owner = backbone.get_submodule(path)

    def take(*_: Any) -> None:
        part._parameters[name] = owner._parameters[own]

    def leave(*_: Any) -> None:
        part._parameters.pop(name, None)

    leave()
    part.register_forward_pre_hook(take)
    part.register_forward_hook(leave)


def _snapshot(module: nn.Module) -> list[tuple[nn.Module, type, dict[str, Any]]]:
    """Every submodule's class and attributes, its dictionaries (parameters, hooks) copied."""
    return [
        (part, type(part), {k: copy.copy(v) if isinstance(v, dict) else v for k, v in vars(part).items()})
        for part in module.modules()
    ]


def _restore(before: list[tuple[nn.Module, type, dict[str, Any]]]) -> None:
    from torch.distributed import _composable_state

    for part, kind, attributes in before:
        part.__class__ = kind
        vars(part).clear()
        vars(part).update(attributes)
        # torch remembers what it has sharded, and would refuse to do so again
        getattr(_composable_state, "_module_state_mapping", {}).pop(part, None)
