"""What a policy is: something that samples responses, scores them, and can be trained and saved.

The engine works on this protocol alone. A policy turns contrasts into rows of ids (``encode``), a batch of
rows into log-probabilities of response tokens (``logp``), and prompts into candidates (``sample``).
``CausalLM`` (transformers), ``Tabular`` (exact softmax), ``RewardModel`` (a scalar head: its "log-probability"
is the reward, one number a response) and ``Endpoint`` (a chat server: sampling only) implement it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Prompt


@dataclass(frozen=True)
class Limits:
    """How long a row may be, in tokens. Prompts lose their beginning, responses keep at least one token.

    A response that had to be cut does not end with the end token. Both sides of a contrast keep the same
    prompt tokens (the cut is joint), and a truncated response is never empty: what cannot fit is an error.
    """

    max_length: int | None = None
    max_prompt: int | None = None


@dataclass(frozen=True)
class Row:
    """One response ready for the model: ids, and which response tokens count."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mask: tuple[float, ...]
    lost: int = 0
    """Response tokens that limits cut off."""


@dataclass(frozen=True)
class Batch:
    """N rows of G contrasts, with the tensors an objective needs. T is the longest response."""

    rows: tuple[Row, ...]
    role_N: Tensor
    group_N: Tensor
    mask_NT: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How to sample: n responses a prompt at a temperature (0: greedy), cut at top-p, up to max_tokens."""

    n: int = 1
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability."""
    max_tokens: int = 256
    """Tokens a response may have."""
    stop: tuple[str, ...] = ()
    """Texts that end a response."""
    sampler: str = "own"
    """Who draws: ``own`` (prefine) or ``vllm`` (on a GPU, with prefine[vllm])."""

    def __post_init__(self) -> None:
        from prefine.policies.samplers import SAMPLERS

        if self.sampler not in SAMPLERS:
            raise InputError(f"there is no sampler {self.sampler!r}", remedy=f"give one of {', '.join(SAMPLERS)}")


@runtime_checkable
class Policy(Protocol):
    """The protocol. ``module`` holds the trainable parameters (None: this policy cannot be trained)."""

    kind: ClassVar[str]
    module: nn.Module | None

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        """One row a member of the contrast."""
        ...

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        """((N, T) log-probabilities of response tokens in float32 or better, 0 where padded;
        (N,) summed log-probability of the prompt tokens when asked for, else None). Differentiable."""
        ...

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        """n candidates for every prompt. ``seeds[i]`` alone decides the randomness of prompt i, so the
        samples do not depend on how the prompts were batched."""
        ...

    def save(self, path: Path) -> None:
        """Write a directory that ``load_policy`` (and, for transformers models, plain transformers) reads."""
        ...
