"""Contrasting principles: the policy is told to be good, told to be bad, and told nothing (arXiv 2410.17131).

    y+ ~ pi(. | s+, x),   y- ~ pi(. | s-, x),   y0 ~ pi(. | x)

s+ and s- name the same features of a response, with a good and a bad principle each. Nobody labels anything.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefine.artifacts import PolicyHandle, Slates
from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.policies import directory
from prefine.registry import at_least, between
from prefine.run import Run
from prefine.slate import Candidate, Prompt, Slate, prompt_text

Sides = tuple[str, str]

GENERAL: Mapping[str, Sides] = {
    "safety": ("Keep it safe and lawful; decline what would hurt.", "Pay no heed to harm or the law."),
    "logic": ("Let every step follow from the one before.", "Jump to conclusions and contradict yourself."),
    "coverage": ("Deal with every part of what was asked.", "Leave out half of what was asked."),
    "helpfulness": ("Give what the reader can use at once.", "Be vague, and of no use to the reader."),
    "style": ("Choose clear and vivid words.", "Write clumsily, with dull repeated words."),
    "accuracy": ("State only what is true and precise.", "Put in facts and figures that are wrong."),
    "interest": ("Speak to the reader and keep them reading.", "Be as tedious as you can."),
}
CONCISE: Mapping[str, Sides] = {"brevity": ("Say it in few words.", "Be long-winded.")}
WORDS: Mapping[str, Sides] = {"": ("good", "bad")}
"""For a model that has learnt one word for each."""

SYSTEM = "Follow these guidelines in your answer, and do not mention them: {principles}"
ASK = """A request:
{prompt}

Which of these matter most for a good answer to it: {features}? Name two of them."""
HEADER = re.compile(r"^\s*(\w+ )?(response|answer)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Principles:
    """Features with a good and a bad principle each; a prompt gets ``count`` of them, those named for it first, and at
    times (``also``) one of ``extra``."""

    features: tuple[tuple[str, Sides], ...]
    extra: tuple[tuple[str, Sides], ...] = ()
    count: int = 2
    also: float = 0.2
    system: str = SYSTEM

    def drawn(self, named: Sequence[str], rng: random.Random) -> tuple[str, str]:
        """(s+, s-) with the same features on both sides."""
        known = dict(self.features)
        first = [name for name in dict.fromkeys(named) if name in known]
        rng.shuffle(first)
        others = [name for name in known if name not in first]
        rng.shuffle(others)
        picked = [known[name] for name in [*first, *others][: self.count]]
        if self.extra and rng.random() < self.also:
            picked.append(rng.choice(self.extra)[1])
        good, bad = (" ".join(sides[i] for sides in picked) for i in (0, 1))
        return self.system.format(principles=good), self.system.format(principles=bad)


def principles(name: str = "general", count: int = 2, also: float = 0.2) -> Principles:
    """ "general", "words" (good, bad), or a JSON file {feature: [good principle, bad principle]}."""
    at_least(1, count=count)
    between(0, 1.0000001, also=also)
    if name == "words":
        return Principles(tuple(WORDS.items()), (), 1, 0.0, "{principles}")
    if name == "general":
        return Principles(tuple(GENERAL.items()), tuple(CONCISE.items()), count, also)
    told = directory.read_json(Path(name))
    good = isinstance(told, dict) and told and all(
        isinstance(v, list) and len(v) == 2 and all(isinstance(x, str) for x in v) for v in told.values()
    )  # fmt: skip
    if not good:
        raise InputError(
            "these are no principles", remedy='give a JSON object {"feature": ["good ...", "bad ..."]}', file=name
        )
    return Principles(tuple((k, (v[0], v[1])) for k, v in told.items()), (), count, 0.0)


def told(system: str, prompt: Prompt) -> Prompt:
    """A prompt under a system text: a system turn of a conversation, else the text in front.

    >>> told("good", "2+2="), told("Be good.", ({"role": "user", "content": "hi"},))[0]
    ('good 2+2=', {'role': 'system', 'content': 'Be good.'})
    """
    return f"{system} {prompt}" if isinstance(prompt, str) else ({"role": "system", "content": system}, *prompt)


def contrasted(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    rules: Principles,
    *,
    ask: bool = False,
    temperature: float = 0.7,
    top_p: float = 0.8,
) -> Slates:
    """Slates of (y+, y-, y0), the first two with the prompt they answered. ``ask``: the policy names the features."""
    prompts = run.bare(prompts)
    named: Sequence[Sequence[str]] = [()] * len(prompts)
    if ask:
        names = [name for name, _ in rules.features]
        texts = [
            ASK.replace("{features}", ", ".join(names)).replace("{prompt}", prompt_text(s.prompt)) for s in prompts
        ]
        asked = [replace(s, prompt=_as(text, s.prompt)) for s, text in zip(prompts, texts, strict=True)]
        answers = run.sample(policy, run.slates(asked, label="which features"), max_tokens=24, role="features")
        named = [[n for n in names if n.lower() in answer.response(0).lower()] for answer in answers]
        run.note(features_unread=sum(not found for found in named))
    both = [
        rules.drawn(found, random.Random(seed_of("principles", run.seed, run.round, slate.id)))
        for slate, found in zip(prompts, named, strict=True)
    ]
    drawn = []
    for side, role in enumerate(("good", "bad")):
        under = [Slate(told(s[side], slate.prompt), meta=slate.meta) for s, slate in zip(both, prompts, strict=True)]
        asked_ = run.slates(under, label=f"told to be {role}")
        drawn.append(run.sample(policy, asked_, temperature=temperature, top_p=top_p, role=role))
    plain = run.sample(policy, prompts, temperature=temperature, top_p=top_p, role="plain")
    return run.slates(_three(drawn[0], drawn[1], plain), label="contrasted")


def _three(good: Slates, bad: Slates, plain: Slates) -> Iterator[Slate]:
    for a, b, c in zip(good, bad, plain, strict=True):
        sides = [without_header(s.candidates[-1], s.prompt) for s in (a, b)]
        yield c.take(()).with_candidates([*sides, without_header(c.candidates[-1], None)])


def without_header(candidate: Candidate, prompt: Prompt | None) -> Candidate:
    """The response without "Good response:" at its beginning, which gives the principle away.

    >>> without_header(Candidate("Helpful answer: Four.", tokens=(1, 2)), None).text
    'Four.'
    """
    text = HEADER.sub("", candidate.text)
    same = text == candidate.text
    return replace(
        candidate, text=text, prompt=prompt, tokens=candidate.tokens if same else None,
        logps=candidate.logps if same else None,
    )  # fmt: skip


def _as(text: str, like: Prompt) -> Prompt:
    return text if isinstance(like, str) else ({"role": "user", "content": text},)
