"""Who draws a policy's samples: the policy itself, or another engine that reads its directory.

Another engine gives other samples, so its name is a sampling setting (``Sampling.sampler``) and part of the key of
what was drawn. An engine is one function here: a handle in, something with ``sample`` out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from prefine.policies.base import Sampling
from prefine.slate import Candidate, Prompt

if TYPE_CHECKING:
    from prefine.artifacts import PolicyHandle


class Sampler(Protocol):
    """The part of a policy that sampling needs."""

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        """n candidates for every prompt, in order (see ``Policy.sample``)."""
        ...


def own(policy: PolicyHandle) -> Sampler:
    """The policy itself, whatever kind it is."""
    return policy.load()


def vllm(policy: PolicyHandle) -> Sampler:
    """vLLM, on the directory of a language model (``prefine[vllm]``)."""
    from prefine.policies.vllm import Vllm

    return Vllm.load(policy.path, trust_remote_code=bool(policy.placement.get("trust_remote_code")))


SAMPLERS: Mapping[str, Callable[[PolicyHandle], Sampler]] = {"own": own, "vllm": vllm}
"""Every engine that can be asked for."""


def sampler_of(policy: PolicyHandle, name: str) -> Sampler:
    """Who draws the samples of this policy when this engine is asked for."""
    return SAMPLERS[name](policy)


def release() -> None:
    """Shut what engine is open: its memory is needed."""
    engines = sys.modules.get("prefine.policies.vllm")
    if engines is not None:
        engines.close()


def need(name: str) -> None:
    """Say before anything starts that an engine is not installed."""
    if name == "vllm":
        from prefine.policies.vllm import need_vllm

        need_vllm()
