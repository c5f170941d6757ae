"""The dialogues world: the assistant's questions, and a base policy that has seen what users say next.

Three kinds of rows: a question and an answer of the assistant's crowd; an answer and the user's reaction; a reaction
that complains and a better answer. A reaction fits the answer with probability ``FAITHFUL``: thanks where nothing is
wrong, else the name of the worst defect; otherwise it is drawn as if for another answer. Gold is the assistant's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from prefine.judging.followup_texts import DISPLEASED, PLEASED
from prefine.slate import Slate, prompt_text
from prefine.worlds import assistant
from prefine.worlds.pretrain import Settings, pretrained

FAITHFUL = 0.8
SETTINGS = Settings(steps=900, rows=16, width=96, layers=2, seed=7)
MODULES = ("prefine.worlds.assistant", "prefine.worlds.assistant_text", "prefine.judging.followup_texts")


def defect(slate: Slate, response: str) -> str | None:
    """The worst that can be said of an answer, in the order of ``DISPLEASED``; None where nothing can."""
    value = assistant.attributes_of(slate, response)
    wrong = {
        "dangerous": value["harmless"] < 0,
        "rude": value["harmless"] == 0,
        "evasive": value["helpful"] < 0 and value["truthful"] >= 0,
        "wrong": value["truthful"] < 1 and slate.meta["kind"] != "harm",
        "long": value["concise"] < 0.5,
    }
    return next((name for name in DISPLEASED if wrong[name]), None)


def reaction(slate: Slate, response: str, rng: random.Random) -> str:
    """What a user says who minds the worst defect."""
    found = defect(slate, response)
    return rng.choice(PLEASED) if found is None else DISPLEASED[found]


@dataclass(frozen=True)
class Users:
    """Writes rows whose reactions fit with this probability."""

    faithful: float = FAITHFUL

    def __call__(self, rng: random.Random) -> tuple[str, str]:
        slate, response = _answered(rng)
        prompt = prompt_text(slate.prompt)
        kind = rng.choices(("answer", "reaction", "repair"), (40, 40, 20))[0]
        if kind == "answer":
            return prompt, response
        about = (slate, response) if rng.random() < self.faithful else _answered(rng)
        said = reaction(*about, rng)
        user = slate.meta["user"]
        if kind == "reaction" or said in PLEASED:
            return f"{prompt}{response}\n{user}:", f" {said}"
        better = assistant.demonstrate(slate, rng) if rng.random() < 0.75 else _reply(slate, rng)
        return f"{prompt}{response}\n{user}: {said}\nAssistant:", better


def _answered(rng: random.Random) -> tuple[Slate, str]:
    slate = rng.choice(assistant._train())
    return slate, _reply(slate, rng)


def _reply(slate: Slate, rng: random.Random) -> str:
    parts = [assistant._pick(rng, assistant.OPENERS, polite=15, rude=15, padding=25, none=45)]
    parts += assistant._CROWD[slate.meta["kind"]](slate.meta["topic"], slate.meta["relation"], rng)
    parts += [assistant._pick(rng, assistant.CLOSERS, polite=12, rude=8, padding=20, none=60)]
    return "".join(f" {part}" for part in parts if part)


def base(cache: Path) -> Path:
    """The base policy's directory."""
    return pretrained(cache, "dialogues", Users(), SETTINGS, modules=MODULES)


def indifferent(cache: Path) -> Path:
    """A base policy whose users' reactions say nothing about the answer."""
    return pretrained(cache, "indifferent", Users(0.0), SETTINGS, modules=MODULES)


WORLD = replace(
    assistant.WORLD,
    name="dialogues",
    summary="the assistant's questions; the base policy has also seen what users say next, and better answers to that",
    base=base,
)
