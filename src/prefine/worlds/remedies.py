"""The remedies world: long answers about herbs, made of statements that can be checked one by one.

A prompt is one question, ``Ana: How do I use arnica?\\nAssistant:``; an answer has up to five statements, each of a
kind with its own beginning (``It helps with bruises.``, ``Use it twice a day.``). Three kinds are must-haves, two are
nice to have; a row has both lists, a reference answer, and a ``document``: what a user wrote about the herb, some of
the five. The base policy imitates a crowd that leaves statements out and gets some wrong. It has read two more kinds of
lines: a document and the question it answers, and a document, a question, and whether the one is enough for the other.

Gold is (true statements - false ones) / 5; a statement about the herb asked for, named in the prompt.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path

from prefine.errors import InputError
from prefine.judging.annotators import BradleyTerry, LengthBiased, Majority, Noisy, Perfect, Several
from prefine.judging.base import Scored
from prefine.judging.overlap import sentences_of
from prefine.slate import Slate, prompt_text
from prefine.worlds.base import World
from prefine.worlds.pretrain import Settings, pretrained
from prefine.worlds.splits import draw, part

SETTINGS = Settings(steps=800, rows=16, width=96, layers=2, seed=7)

HERBS = (
    "arnica", "basil", "borage", "caraway", "chervil", "clover", "comfrey", "cumin", "dill", "elder", "fennel",
    "feverfew", "garlic", "ginger", "hawthorn", "hyssop", "ivy", "lavender", "lovage", "mallow", "marjoram",
    "mint", "mugwort", "nettle", "oregano", "parsley", "plantain", "rosemary", "rue", "sage", "thyme",
    "yarrow",
)  # fmt: skip
KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "use": ("It helps with {v}.", ("bruises", "coughs", "burns", "headaches", "nausea", "fever", "cramps")),
    "dose": ("Use it {v}.", ("once a day", "twice a day", "every hour", "at night", "after meals")),
    "not": ("Never for {v}.", ("children", "drivers", "babies", "diabetics", "smokers")),
    "form": ("It comes as {v}.", ("tea", "cream", "drops", "powder", "syrup")),
    "with": ("Mix it with {v}.", ("water", "milk", "honey", "lemon", "oil")),
}
MUST, NICE = ("use", "dose", "not"), ("form", "with")
USERS = ("Ana", "Ben", "Cleo")
QUESTIONS = (
    "How do I use {h}?", "What is {h} good for?", "Tell me about {h}.", "What should I know about {h}?",
    "Should I take {h}?", "Who can use {h}?",
)  # fmt: skip
GREETINGS = ("", "Hello. ")
PROMPT = "{user}: {question}\nAssistant:"
ASK, CHECK = "{document}\nQuestion:", "{prompt}\nQuestion:{response}\nEnough?"
"""How the base policy is asked for the question a document answers, and whether it is enough for one."""


@cache
def truth(herb: str) -> Mapping[str, str]:
    """Kind -> what is true of a herb."""
    rng = random.Random(f"remedies {herb}")
    return {kind: rng.choice(values) for kind, (_, values) in KINDS.items()}


def state(herb: str, kind: str, value: str | None = None) -> str:
    """One statement, true unless a value is given."""
    return KINDS[kind][0].format(v=truth(herb)[kind] if value is None else value)


def document(herb: str, rng: random.Random, mixed_up: bool = False) -> str:
    """What a user wrote: three or four true statements. Mixed up: it names the herb and speaks of another."""
    other = rng.choice([h for h in HERBS if h != herb])
    kinds = rng.sample(list(KINDS), rng.choice((3, 4)))
    opening = f"I wanted {herb} but they had {other}." if mixed_up else f"My aunt swears by {herb}."
    return " ".join([opening, *(state(other if mixed_up else herb, kind) for kind in kinds)])


# ---------------------------------------------------------------- prompts


@cache
def _slates() -> tuple[Slate, ...]:
    return tuple(_slate(*each) for each in product(HERBS, QUESTIONS, USERS, GREETINGS))


def _slate(herb: str, question: str, user: str, hello: str) -> Slate:
    text = PROMPT.format(user=user, question=hello + question.format(h=herb))
    meta = {
        "id": text, "user": user, "herb": herb,
        "reference": " ".join(state(herb, kind) for kind in KINDS),
        "must_have": [state(herb, kind) for kind in MUST],
        "nice_to_have": [state(herb, kind) for kind in NICE],
        "document": document(herb, random.Random(f"document {text}")),
    }  # fmt: skip
    return Slate(text, meta=meta)


@cache
def _train() -> tuple[Slate, ...]:
    return tuple(part("remedies", _slates(), "train"))


def prompts(split: str, n: int, seed: int = 0) -> list[Slate]:
    """n different questions of a split."""
    return draw("remedies", _slates(), split, n, seed)


# ---------------------------------------------------------------- gold


def herb_of(slate: Slate) -> str:
    """The herb that is asked about: the row's, else the first that the prompt names."""
    herb = slate.meta.get("herb", named(prompt_text(slate.prompt)))
    if herb is None:
        raise InputError(
            f"the judges of world 'remedies' know only its own herbs; {slate.id!r} names none",
            remedy="take the prompts from the world (`prefine world prompts remedies`), or use another judge",
        )
    return str(herb)


def named(text: str) -> str | None:
    """The first herb in a text."""
    return next((word for word in re.findall(r"[a-z]+", text) if word in HERBS), None)


def counted(herb: str, response: str) -> tuple[int, int]:
    """(kinds stated right, kinds stated wrong); a kind stated both ways is wrong."""
    said = {f"{sentence}." for sentence in sentences_of(response)}
    right = {kind for kind in KINDS if state(herb, kind) in said}
    wrong = {k for k, (_, vs) in KINDS.items() if any(state(herb, k, v) in said and v != truth(herb)[k] for v in vs)}
    return len(right - wrong), len(wrong)


def gold(slate: Slate) -> list[float]:
    """(right - wrong) / 5."""
    found = [counted(herb_of(slate), slate.response(i)) for i in range(len(slate))]
    return [(right - wrong) / len(KINDS) for right, wrong in found]


def recall(slate: Slate) -> list[float]:
    return [counted(herb_of(slate), slate.response(i))[0] / len(KINDS) for i in range(len(slate))]


def precision(slate: Slate) -> list[float]:
    """Right / (right + wrong), 1 where nothing is stated."""
    found = [counted(herb_of(slate), slate.response(i)) for i in range(len(slate))]
    return [right / (right + wrong) if right + wrong else 1.0 for right, wrong in found]


def brevity(slate: Slate) -> list[float]:
    return [-float(len(slate.response(i).split())) for i in range(len(slate))]


# ---------------------------------------------------------------- writers


def demonstrate(slate: Slate, rng: random.Random) -> str:
    """All five, right."""
    return f" {slate.meta['reference']}"


def write(rng: random.Random) -> tuple[str, str]:
    """An answer of the crowd, or one of the two other kinds of lines."""
    slate = rng.choice(_train())
    herb = slate.meta["herb"]
    kind = rng.choices(("answer", "question", "enough"), (50, 30, 20))[0]
    if kind == "answer":
        return prompt_text(slate.prompt), _reply(herb, rng)
    mixed_up = rng.random() < 0.5
    text, asked = document(herb, rng, mixed_up), rng.choice(QUESTIONS).format(h=herb)
    if kind == "question":
        return ASK.format(document=text), f" {asked}"
    return CHECK.format(prompt=text, response=f" {asked}"), " No" if mixed_up else " Yes"


def _reply(herb: str, rng: random.Random) -> str:
    said = []
    for kind, (_, values) in KINDS.items():
        how = rng.choices(("right", "wrong", "left out"), (50, 20, 30))[0]
        if how != "left out":
            said.append(state(herb, kind, None if how == "right" else rng.choice(values)))
    return f" {' '.join(said)}" if said else " I am not sure."


def base(cache: Path) -> Path:
    """The base policy's directory."""
    return pretrained(cache, "remedies", write, SETTINGS)


_GOLD = Scored(gold, "gold")
_RECALL, _PRECISION = Scored(recall, "recall"), Scored(precision, "precision")

WORLD = World(
    name="remedies",
    summary="long answers about herbs; true statements made, and false ones",
    prompts=prompts,
    gold=_GOLD,
    annotators={
        "perfect": Perfect(_GOLD),
        "noisy": Noisy(_GOLD, rate=0.2),
        "length-biased": LengthBiased(_GOLD, per_word=0.03),
        "several": Several((("eager", _RECALL), ("strict", _PRECISION))),
        "cyclic": Majority((_RECALL, _PRECISION, Scored(brevity, "brevity"))),
    },
    base=base,
    demonstrate=demonstrate,
    preference=BradleyTerry(_GOLD, scale=4.0),
    attributes={"recall": _RECALL, "precision": _PRECISION},
    max_tokens=48,
)
