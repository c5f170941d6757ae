"""The statutes world: legal questions, answered by citing the article that decides them.

A prompt is one question, ``Client: I have a question about the deposit.\\nLawyer:``; a good answer cites and concludes,
``Under Article 12 of the Tenancy Act, the deposit is paid back in a month. So you are right.`` The base policy imitates
lawyers who invent articles, misquote them, cite another one, or cite none. On a third of the questions most of them
share one popular mistake, so there are problems that it hardly ever solves.

Gold is the mean of the three metrics of legal answers (``judging.citations``), each from 0 to 1 and exact here:
the share of citations that are real; how relevant they are (1 the deciding article, 1/2 another of that law); and the
share of claims (what is quoted, who is right) that are true.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path

from prefine.judging.annotators import BradleyTerry, LengthBiased, Majority, Noisy, Perfect, Several
from prefine.judging.base import Scored
from prefine.judging.citations import Citations, Statute, cited
from prefine.slate import Slate, prompt_text
from prefine.worlds.base import World
from prefine.worlds.pretrain import Settings, pretrained
from prefine.worlds.splits import draw, fact, part

SETTINGS = Settings(steps=500, rows=16, width=96, layers=2, seed=7)

_LAWS: Mapping[str, str] = {
    "Tenancy Act": "the deposit:is paid back in a month|the rent:rises once a year|the heating:works from October|"
    "the keys:are handed over in person|the pets:need a written consent|the garden:belongs to the ground floor",
    "Labour Code": "the overtime:is paid double|the notice:takes eight weeks|the break:lasts half an hour|"
    "the holiday:counts thirty days|the uniform:is paid by the firm|the night shift:ends at six",
    "Traffic Act": "the helmet:is worn by every rider|the parking:is free on Sunday|the lights:are on at dusk|"
    "the tram:goes before cars|the licence:is renewed at seventy|the trailer:has a limit of fifty",
    "Sales Act": "the refund:is owed for two years|the receipt:proves the purchase|the delivery:is free over forty|"
    "the repair:comes before exchange|the auction:binds the highest bidder|the discount:is shown on the tag",
    "Family Act": "the adoption:needs three hearings|the heir:accepts in ninety days|the wedding:wants two witnesses|"
    "the alimony:follows the income|the surname:is chosen together|the guardian:reports every spring",
    "Water Act": "the well:is tested in March|the ditch:is cleared by neighbours|the dam:is watched by the county|"
    "the pond:may hold no carp|the boat:is marked at the bow|the pier:stays open to all",
}
STATUTES: Mapping[str, Statute] = {
    topic: Statute(law, str(3 + 7 * n + (5 * k) % 7), f"{topic} {rule}")
    for k, (law, text) in enumerate(_LAWS.items())
    for n, (topic, rule) in enumerate(entry.split(":") for entry in text.split("|"))
}
"""Topic of a question -> the statute that decides it."""

TOPICS = tuple(STATUTES)
DATABASE = tuple(STATUTES.values())
RIGHT = {topic: n % 2 == 0 for n, topic in enumerate(TOPICS)}
"""Who wins: the client (True), or the other side."""
VERDICTS = {True: "So you are right.", False: "So you are wrong."}

QUESTIONS = (
    "I have a question about {t}.",
    "What does the law say about {t}?",
    "Who is right about {t}?",
    "Please advise me on {t}.",
    "We disagree over {t}.",
    "Which article covers {t}?",
)
GREETINGS = ("", "Hello. ", "Good morning. ", "Quick one. ", "Please help. ")
DODGES = ("That depends on the case.", "A court would have to say.", "I would need to see the papers.")

HARD = 3
"""Every so manyth topic has a popular mistake."""


def popular(topic: str) -> Statute:
    """The mistake that most lawyers share: another article's number, with this one's words."""
    own = STATUTES[topic]
    others = [s.article for s in DATABASE if s.law == own.law and s != own]
    return Statute(own.law, others[TOPICS.index(topic) % len(others)], own.content)


# ---------------------------------------------------------------- prompts


@cache
def _slates() -> tuple[Slate, ...]:
    return tuple(_slate(*each) for each in product(TOPICS, QUESTIONS, GREETINGS))


def _slate(topic: str, question: str, hello: str) -> Slate:
    text = f"Client: {hello}{question.format(t=topic)}\nLawyer:"
    own = STATUTES[topic]
    laws = [{"law": own.law, "article": own.article, "content": own.content}]
    return Slate(text, meta={"id": text, "user": "Client", "topic": topic, "laws": laws})


@cache
def _train() -> tuple[Slate, ...]:
    return tuple(part("statutes", _slates(), "train"))


def prompts(split: str, n: int, seed: int = 0) -> list[Slate]:
    """n different questions of a split."""
    return draw("statutes", _slates(), split, n, seed)


# ---------------------------------------------------------------- gold


def relevance(slate: Slate) -> list[float]:
    """Mean over citations: 1 the deciding article, 1/2 another article of that law, 0 else; 0 without a citation."""
    own = STATUTES[fact("statutes", slate, "topic")]

    def of(statute: Statute) -> float:
        law, article, _ = statute.normal
        return (0.5 + 0.5 * (article == own.normal[1])) * (law == own.normal[0])

    found = [cited(slate.response(i)) for i in range(len(slate))]
    return [sum(map(of, each)) / len(each) if each else 0.0 for each in found]


def claims(slate: Slate) -> list[float]:
    """Share of true claims: what is quoted is what the deciding article says, and who is right is right. 0 without."""
    topic = fact("statutes", slate, "topic")
    shares = []
    for i in range(len(slate)):
        text = slate.response(i)
        true = [c.normal[2] == STATUTES[topic].normal[2] for c in cited(text) if c.content]
        true += [right == RIGHT[topic] for right, verdict in VERDICTS.items() if verdict in text]
        shares.append(sum(true) / len(true) if true else 0.0)
    return shares


NHSR = Citations(DATABASE)


def gold(slate: Slate) -> list[float]:
    """The mean of the three."""
    rates = NHSR([slate])[0]["nhsr"].values
    return [(a + b + c) / 3 for a, b, c in zip(rates, relevance(slate), claims(slate), strict=True)]


def brevity(slate: Slate) -> list[float]:
    return [-float(len(slate.response(i).split())) for i in range(len(slate))]


# ---------------------------------------------------------------- writers


def answer(statute: Statute, right: bool) -> str:
    """An answer that cites a statute."""
    return f" Under Article {statute.article} of the {statute.law}, {statute.content}. {VERDICTS[right]}"


def demonstrate(slate: Slate, rng: random.Random) -> str:
    """The right answer."""
    return answer(STATUTES[slate.meta["topic"]], RIGHT[slate.meta["topic"]])


def write(rng: random.Random) -> tuple[str, str]:
    """One answer of the crowd."""
    slate = rng.choice(_train())
    topic = slate.meta["topic"]
    hard = TOPICS.index(topic) % HARD == 0
    kind = rng.choices(list(_CROWD), (15, 55, 8, 8, 4, 10) if hard else (60, 0, 12, 12, 6, 10))[0]
    return prompt_text(slate.prompt), _CROWD[kind](topic, rng)


def _cites(change: Callable[[str, random.Random], Statute]) -> Callable[[str, random.Random], str]:
    return lambda topic, rng: answer(change(topic, rng), RIGHT[topic] if rng.random() < 0.8 else not RIGHT[topic])


def _invented(topic: str, rng: random.Random) -> Statute:
    own = STATUTES[topic]
    return Statute(own.law, str(rng.choice([a for a in range(3, 45) if str(a) != own.article])), own.content)


def _misquoted(topic: str, rng: random.Random) -> Statute:
    own, other = STATUTES[topic], STATUTES[rng.choice(TOPICS)]
    return Statute(own.law, own.article, f"{topic} {other.content.split(' ', 2)[2]}")


_CROWD: Mapping[str, Callable[[str, random.Random], str]] = {
    "right": _cites(lambda topic, rng: STATUTES[topic]),
    "popular": _cites(lambda topic, rng: popular(topic)),
    "invented": _cites(_invented),
    "misquoted": _cites(_misquoted),
    "other": _cites(lambda topic, rng: STATUTES[rng.choice(TOPICS)]),
    "none": lambda topic, rng: f" {rng.choice(DODGES)}",
}


def base(cache: Path) -> Path:
    """The base policy's directory."""
    return pretrained(cache, "statutes", write, SETTINGS, modules=("prefine.judging.citations",))


_GOLD = Scored(gold, "gold")
_RELEVANCE, _CLAIMS = Scored(relevance, "relevance"), Scored(claims, "claims")

WORLD = World(
    name="statutes",
    summary="legal questions; real citations, relevant ones, and true claims",
    prompts=prompts,
    gold=_GOLD,
    annotators={
        "perfect": Perfect(_GOLD),
        "noisy": Noisy(_GOLD, rate=0.2),
        "length-biased": LengthBiased(_GOLD, per_word=0.03),
        "several": Several((("clerk", NHSR), ("judge", _RELEVANCE), ("client", _CLAIMS))),
        "cyclic": Majority((NHSR, _CLAIMS, Scored(brevity, "brevity"))),
    },
    base=base,
    demonstrate=demonstrate,
    preference=BradleyTerry(_GOLD, scale=4.0),
    attributes={"nhsr": NHSR, "relevance": _RELEVANCE, "claims": _CLAIMS},
    max_tokens=40,
)
