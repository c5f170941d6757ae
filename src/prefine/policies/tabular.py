"""An exact softmax over finitely many actions for each of finitely many prompts.

Two shapes of parameters, both float64:

    a table        pi(a | x) = exp(logits[x, a]) / Z(x)
    log-linear     pi(a | x) = pi_base(a | x) exp(theta . phi[x, a]) / Z(x)

Everything a language model does, it does exactly: probabilities, KL and expectations are sums, not
estimates. So objectives meet their closed-form minimisers here, and matrix games have their policies.

>>> rock = Tabular.uniform(["play"], ["rock", "paper", "scissors"])
>>> [round(p, 4) for p in rock.tilted([[0.0, 1.0, 0.0]], beta=1.0).probabilities("play").tolist()]
[0.2119, 0.5761, 0.2119]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefine.errors import InputError
from prefine.objectives.readings import Size
from prefine.policies import directory
from prefine.policies.base import Batch, Limits, Row, Sampling
from prefine.slate import Candidate, Contrast, Prompt, prompt_from_json, prompt_text, prompt_to_json

Numbers = Tensor | np.ndarray | Sequence[Sequence[float]]

SETS, NUMBERS = "tabular.json", "tabular.safetensors"


class Tabular:
    """A policy over named actions. ``actions`` is one list for all prompts, or one list a prompt.

    With ``features_PAD`` the trainable parameters are ``theta_D`` (0 at first) and ``logits_PA`` is the fixed
    base; without, they are ``logits_PA`` itself.
    """

    kind: ClassVar[str] = "tabular"
    module: nn.Module

    def __init__(
        self,
        prompts: Sequence[Prompt],
        actions: Sequence[str] | Sequence[Sequence[str]],
        logits_PA: Numbers | None = None,
        *,
        features_PAD: Tensor | np.ndarray | None = None,
        theta_D: Tensor | np.ndarray | None = None,
    ) -> None:
        self.prompts = tuple(prompts)
        shared = all(isinstance(a, str) for a in actions)
        lists: Sequence[Any] = [actions] * len(self.prompts) if shared else actions
        self.actions: tuple[tuple[str, ...], ...] = tuple(tuple(a) for a in lists)
        self._prompt_at = {_name(p): i for i, p in enumerate(self.prompts)}
        self._action_at = [{a: i for i, a in enumerate(here)} for here in self.actions]
        _check_sets(self.prompts, self.actions, self._prompt_at)
        self.module = Table(
            [len(a) for a in self.actions],
            None if logits_PA is None else _tensor(logits_PA),
            None if features_PAD is None else _tensor(features_PAD),
            None if theta_D is None else _tensor(theta_D),
        )

    @staticmethod
    def uniform(prompts: Sequence[Prompt], actions: Sequence[str] | Sequence[Sequence[str]]) -> Tabular:
        """Every action of a prompt equally likely."""
        return Tabular(prompts, actions)

    @staticmethod
    def of(
        prompts: Sequence[Prompt], actions: Sequence[str] | Sequence[Sequence[str]], probabilities_PA: Numbers
    ) -> Tabular:
        """The policy with these probabilities (each row is normalised; all must be above 0)."""
        probabilities = _tensor(probabilities_PA, fill=1.0)
        if not bool((probabilities > 0).all()):
            raise InputError("a softmax cannot give an action probability 0", remedy="give every action some")
        return Tabular(prompts, actions, probabilities.log())

    # -- the protocol --------------------------------------------------------------------------------

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        """One-token rows: the prompt's index, the action's index. Limits cannot matter."""
        rows = []
        for member, at in enumerate(contrast.members):
            prompt = self.prompt_index(contrast.prompt(member))
            action = self.action_index(prompt, contrast.response(member))
            rows.append(Row((prompt,), (action,), (float(contrast.slate.candidates[at].counts),)))
        return tuple(rows)

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        """(N, 1) log-probabilities in float64. Prompts are given, so their own is log 1 = 0."""
        logp_PA = self.module()
        at = torch.tensor([[row.prompt[0], row.response[0]] for row in batch.rows], device=logp_PA.device)
        logp_N = logp_PA[at[:, 0], at[:, 1]]
        prompt_logp_N = torch.zeros_like(logp_N.detach()) if with_prompt else None
        return logp_N[:, None] * batch.mask_NT.to(logp_N), prompt_logp_N

    def view(self, batch: Batch, *, deep: bool = False) -> TableView:
        """What ``objectives.readings`` see of a batch: the distributions over actions."""
        return TableView(self, batch)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        """n independent actions a prompt, by inverting the cumulative distribution."""
        return [
            self._draw(self.prompt_index(prompt), sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def _draw(self, prompt: int, sampling: Sampling, seed: int) -> list[Candidate]:
        drawn = _drawing_distribution(self.probabilities(prompt).numpy(), sampling)
        uniform = np.random.default_rng(seed % 2**64).random(sampling.n)
        edges = np.cumsum(drawn)
        # rounding may leave the last edge just below 1: such a draw belongs to the last action there is
        last = int(np.flatnonzero(drawn)[-1])
        picked = np.minimum(np.searchsorted(edges, uniform, side="right"), last)
        return [
            Candidate(self.actions[prompt][a], tokens=(int(a),), logps=(float(np.log(drawn[a])),), stop="end")
            for a in picked
        ]

    def save(self, path: Path) -> None:
        """``tabular.json`` (prompts, actions) and ``tabular.safetensors`` (parameters), float64."""
        path.mkdir(parents=True, exist_ok=True)
        about = {"prompts": [prompt_to_json(p) for p in self.prompts], "actions": [list(a) for a in self.actions]}
        (path / SETS).write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file({name: t.detach().cpu().contiguous() for name, t in self._tensors().items()}, path / NUMBERS)
        directory.write_meta(path, self.kind)

    @staticmethod
    def load(path: str | Path) -> Tabular:
        """What ``save`` wrote."""
        here = directory.find(path)
        try:
            about = directory.read_json(here / SETS)
            tensors = load_file(here / NUMBERS)
            prompts = [prompt_from_json(p) for p in about["prompts"]]
            return Tabular(prompts, about["actions"], **tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(
                f"is not a tabular policy ({type(error).__name__}: {error})",
                remedy=f"give a directory with {SETS} and {NUMBERS}, as Tabular.save writes it",
                file=path,
            ) from error

    @staticmethod
    def fingerprint(path: str | Path) -> str:
        """A hash of the directory's content."""
        return directory.fingerprint(path)

    def _tensors(self) -> dict[str, Tensor]:
        """What the constructor takes, by its names there."""
        return {name: t.detach() for name, t in self.module.state_dict().items()}

    # -- exact figures -------------------------------------------------------------------------------

    def prompt_index(self, prompt: Prompt) -> int:
        at = self._prompt_at.get(_name(prompt))
        if at is None:
            raise InputError(
                f"this tabular policy does not know the prompt {prompt_text(prompt)[:80]!r}",
                remedy=f"use one of its {len(self.prompts)} prompts",
            )
        return at

    def action_index(self, prompt: int, text: str) -> int:
        at = self._action_at[prompt].get(text)
        if at is None:
            raise InputError(
                f"{text[:80]!r} is not an action of the prompt {prompt_text(self.prompts[prompt])[:80]!r}",
                remedy=f"its actions are: {', '.join(self.actions[prompt][:12])}",
            )
        return at

    def probabilities(self, prompt: Prompt | int) -> Tensor:
        """(A,) probabilities of the prompt's actions, float64, without gradient. Prompts by name or number."""
        at = prompt if isinstance(prompt, int) else self.prompt_index(prompt)
        return self.probabilities_PA()[at, : len(self.actions[at])]

    def logp_PA(self) -> Tensor:
        """(P, A) log-probabilities, with gradient; -inf where a prompt has fewer actions."""
        return self.module()

    def probabilities_PA(self) -> Tensor:
        """(P, A) probabilities, without gradient; 0 where a prompt has fewer actions."""
        return self.logp_PA().detach().cpu().exp()

    def kl(self, other: Tabular) -> Tensor:
        """(P,) KL(self || other) = sum_a pi(a) log(pi(a) / other(a)), prompt by prompt."""
        if (self.prompts, self.actions) != (other.prompts, other.actions):
            raise ValueError("a KL needs two policies over the same prompts and actions")
        mine, theirs = self.logp_PA().detach().cpu(), other.logp_PA().detach().cpu()
        ratio = torch.where(mine.exp() > 0, mine - theirs, 0.0)
        return (mine.exp() * ratio).sum(-1)

    def expected(self, values_PA: Numbers) -> Tensor:
        """(P,) expectation of a value of the actions, under the policy."""
        return (self.probabilities_PA() * self._values(values_PA)).sum(-1)

    def tilted(self, values_PA: Numbers, beta: float) -> Tabular:
        """The maximiser of E[values] - beta KL(pi || self): pi(a) = self(a) exp(values(a) / beta) / Z."""
        logp_PA = self.logp_PA().detach().cpu()
        base_PA = torch.where(logp_PA.isfinite(), logp_PA, 0.0)
        return Tabular(self.prompts, self.actions, base_PA + self._values(values_PA) / beta)

    def _values(self, values_PA: Numbers) -> Tensor:
        values, shape = _tensor(values_PA), (len(self.prompts), max(len(a) for a in self.actions))
        if tuple(values.shape) != shape:  # broadcasting would be silent
            raise ValueError(f"values have the shape {tuple(values.shape)}; prompts x actions is {shape}")
        return values

    def copy(self) -> Tabular:
        """The same policy with parameters of its own."""
        return Tabular(self.prompts, self.actions, **self._tensors())  # the constructor copies


class Table(nn.Module):
    """(P, A) log-probabilities from a table of logits, or from a base table and features."""

    logits_PA: Tensor
    there_PA: Tensor
    features_PAD: Tensor

    def __init__(
        self, sizes: Sequence[int], logits: Tensor | None, features: Tensor | None, theta: Tensor | None
    ) -> None:
        super().__init__()
        shape = (len(sizes), max(sizes))
        logits = torch.zeros(shape, dtype=torch.float64) if logits is None else logits.clone()
        if tuple(logits.shape) != shape:
            raise ValueError(f"logits have the shape {tuple(logits.shape)}; prompts x actions is {shape}")
        there = torch.arange(shape[1])[None] < torch.tensor(sizes)[:, None]
        self.register_buffer("there_PA", there, persistent=False)
        if features is None:
            self.logits_PA = nn.Parameter(logits)
            return
        if features.ndim != 3 or tuple(features.shape[:2]) != shape:
            raise ValueError(f"features have the shape {tuple(features.shape)}; they begin with {shape}")
        size = features.shape[2]
        theta = torch.zeros(size, dtype=torch.float64) if theta is None else theta.clone()
        if tuple(theta.shape) != (size,):
            raise ValueError(f"theta has the shape {tuple(theta.shape)}; features ask for ({size},)")
        self.register_buffer("logits_PA", logits)
        self.register_buffer("features_PAD", features.clone())
        self.theta_D = nn.Parameter(theta)

    def linear(self) -> tuple[Tensor, Tensor, Tensor]:
        """Base logits (P, A), features (P, A, D) and theta (D,): logits are base + features . theta. A plain table has
        a feature a cell."""
        if hasattr(self, "theta_D"):
            return self.logits_PA, self.features_PAD, self.theta_D
        one_PAD = torch.eye(self.logits_PA.numel(), dtype=torch.float64).reshape(*self.logits_PA.shape, -1)
        return torch.zeros_like(self.logits_PA), one_PAD.to(self.logits_PA.device), self.logits_PA.flatten()

    def forward(self) -> Tensor:
        logits_PA = self.logits_PA
        if hasattr(self, "theta_D"):
            logits_PA = logits_PA + self.features_PAD @ self.theta_D
        return logits_PA.masked_fill(~self.there_PA, -torch.inf).log_softmax(-1)


class TableView:
    """A table on the rows of a batch (see ``objectives.readings.View``): it has distributions and no states."""

    def __init__(self, policy: Tabular, batch: Batch) -> None:
        self.table: Any = policy.module
        self.logp_PA = policy.module()
        self.mask_NT = batch.mask_NT.to(self.logp_PA.device)
        self.row_M, self.slot_M = self.mask_NT.nonzero(as_tuple=True)
        at = torch.tensor([[row.prompt[0], row.response[0]] for row in batch.rows], device=self.logp_PA.device)
        self.prompt_N, self.action_N = at[:, 0], at[:, 1]
        self.length_N = torch.ones_like(self.prompt_N)
        self.vocabulary = self.logp_PA.shape[1]

    def logp(self) -> Tensor:
        logp_N = self.logp_PA[self.prompt_N, self.action_N]
        return logp_N[:, None] * self.mask_NT.to(logp_N)

    def logp_MV(self, start: int, stop: int) -> Tensor:
        return self.logp_PA[self.prompt_N[self.row_M[start:stop]]]

    logits_MV = logp_MV

    @property
    def states_NSD(self) -> Tensor:
        return torch.empty(0, Size().needed().hidden)

    layers_NSLD = states_NSD
    means_NS: Mapping[str, list[Tensor]] = {}


def _drawing_distribution(probabilities_A: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution that draws: pi^(1/T) normalised, then the likeliest actions up to top_p; T = 0: greedy."""
    if sampling.temperature == 0:
        return np.eye(len(probabilities_A))[int(probabilities_A.argmax())]
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities_A) / sampling.temperature
    drawn = np.exp(logits - logits.max())
    drawn /= drawn.sum()
    if sampling.top_p < 1.0:
        order = np.argsort(-drawn, kind="stable")
        before = np.cumsum(drawn[order]) - drawn[order]
        drawn[order[before >= sampling.top_p]] = 0.0  # keeps the action that crosses top_p, as usual
        drawn /= drawn.sum()
    return drawn


def _check_sets(prompts: Sequence[Prompt], actions: Sequence[Sequence[str]], prompt_at: dict[str, int]) -> None:
    if not prompts or len(actions) != len(prompts) or not all(actions):
        raise ValueError("a tabular policy needs prompts, and at least one action for each")
    if len(prompt_at) != len(prompts) or any(len(set(a)) != len(a) for a in actions):
        raise ValueError("a tabular policy has every prompt once, and every action of a prompt once")


def _name(prompt: Prompt) -> str:
    return json.dumps(prompt_to_json(prompt), sort_keys=True)


def _tensor(values: Any, fill: float = 0.0) -> Tensor:
    """Float64, without gradient. Lists of unequal length are filled up: what is there is never read."""
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple):
        width = max(len(row) for row in values)
        values = [[*row, *[fill] * (width - len(row))] for row in values]
    return torch.as_tensor(values, dtype=torch.float64).detach()
