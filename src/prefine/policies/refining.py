"""A policy that refines its own answers before it gives one: another policy and a template, as a directory of its own.

Asked for a response it answers, shows itself the answer in the template, and answers again, ``turns`` times in all; the
last answer is the response. Scoring and training are those of the policy inside, on the plain prompt. So a directory of
this kind can be evaluated, sampled from and served like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.policies import directory
from prefine.policies.base import Batch, Limits, Row, Sampling
from prefine.registry import at_least
from prefine.slate import Candidate, Contrast, Prompt, prompt_text

REFINE = """{prompt}

An earlier answer:
{previous}

Give a better answer:
"""
"""What a model is shown that is to improve on an answer, or on several."""

SETTINGS, INSIDE = "refining.json", "policy"


class Refining:
    """``policy`` with ``turns - 1`` refinements of every answer."""

    kind: ClassVar[str] = "refining"

    def __init__(self, policy: Any, turns: int = 2, template: str = REFINE) -> None:
        at_least(1, turns=turns)
        self.policy, self.turns, self.template = policy, turns, showing(template)

    @property
    def module(self) -> nn.Module | None:
        module: nn.Module | None = self.policy.module
        return module

    @property
    def model(self) -> Any:
        return self.policy.model

    @property
    def codec(self) -> Any:
        return self.policy.codec

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        rows: tuple[Row, ...] = self.policy.encode(contrast, limits)
        return rows

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        """Of the policy inside: what a chain of turns gives has no likelihood of its own."""
        found: tuple[Tensor, Tensor | None] = self.policy.logp(batch, with_prompt=with_prompt)
        return found

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        """The last of ``turns`` answers, n times a prompt, each chain on its own."""
        drawn = self.policy.sample(prompts, sampling, seeds)
        asked = [prompt for prompt in prompts for _ in range(sampling.n)]
        chains = [seed_of("chain", seed, i) for seed in seeds for i in range(sampling.n)]
        said: list[Candidate] = [candidate for row in drawn for candidate in row]
        for turn in range(1, self.turns):
            again = [refine_prompt(p, [c.text], self.template) for p, c in zip(asked, said, strict=True)]
            rows = self.policy.sample(again, replace(sampling, n=1), [seed_of(turn, seed) for seed in chains])
            said = [row[0] for row in rows]
        return [said[i : i + sampling.n] for i in range(0, len(said), sampling.n)]

    def save(self, path: Path) -> None:
        """The policy inside in a folder of its own, and the settings."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        self.policy.save(path / INSIDE)
        (path / SETTINGS).write_text(json.dumps({"turns": self.turns, "template": self.template}) + "\n")
        directory.write_meta(path, self.kind)

    @staticmethod
    def load(
        path: str | Path,
        *,
        dtype: torch.dtype | str = "float32",
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
    ) -> Refining:
        """What ``save`` wrote."""
        from prefine.policies import load_policy

        try:
            settings = directory.read_json(Path(path) / SETTINGS)
            turns, template = int(settings["turns"]), str(settings["template"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"this is not a refining policy ({type(error).__name__}: {error})",
                remedy=f"give a directory with {SETTINGS} and the policy in {INSIDE}/",
                file=path,
            ) from error
        inside = load_policy(Path(path) / INSIDE, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return Refining(inside, turns, template)


def refine_prompt(prompt: Prompt, previous: Sequence[str], template: str = REFINE) -> Prompt:
    """The prompt that shows earlier answers, one user turn where the prompt is a conversation.

    >>> refine_prompt("2+2=", ["{prompt}"], "{prompt}{previous} better:")
    '2+2={prompt} better:'
    """
    parts = {"prompt": prompt_text(prompt), "previous": "\n\n".join(previous)}
    text = re.sub(r"\{(prompt|previous)\}", lambda match: parts[match[1]], template)
    return text if isinstance(prompt, str) else ({"role": "user", "content": text},)


def showing(template: str) -> str:
    """The template, if it shows the prompt and the previous answer."""
    missing = [place for place in ("{prompt}", "{previous}") if place not in template]
    if missing:
        raise InputError(
            f"the template {template!r} does not show {missing[0]}", remedy="write {prompt} and {previous} in it"
        )
    return template
