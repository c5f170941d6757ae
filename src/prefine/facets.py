"""Facets: what is varied, in the words of two surveys of direct preference optimisation. The catalogue's vocabulary.

``question`` is the scheme of Xiao et al. (arXiv 2410.15595): the one question a method answers first; "cost" is
ours, for systems that change what training takes and nothing of what is learnt. The others are the components
of Liu et al. (arXiv 2503.11701): data strategy, learning framework, constraint mechanism, model property. Every
component has a default and all the defaults together are DPO, so a system declares only what it changes:

    @system(98, "rdpo", "...", family="objective", question="implicit-reward", data="noisy-pairs")

Several values are written with commas ("offline, online"). An unknown facet or value is an error at import.

>>> filled({"data": "noisy-pairs", "learning": "offline, online"})["learning"]
('offline', 'online')
>>> filled({})["reference"]  # of DPO
('fixed',)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from prefine.errors import InputError


@dataclass(frozen=True)
class Facet:
    """One thing in which systems differ: the component it belongs to, its values in words, and DPO's."""

    component: str
    about: str
    values: Mapping[str, str]
    default: str | None = None
    single: bool = False


FACETS: Mapping[str, Facet] = {
    "question": Facet(
        "question",
        "the question it answers first",
        {
            "implicit-reward": "how the implicit reward is fitted, generalises, and stands up to wrong labels",
            "reference": "how closely to stay, with which divergence, and with what",
            "feedback": "from which form of feedback: labels, lists, tokens, steps, rationales",
            "online": "whose responses: sampled while it learns, explored, iterated",
            "reward-hacking": "how not to be rewarded for length or another flaw of the labels",
            "alignment-tax": "how not to lose what the model could do",
            "cost": "what training takes",
        },
        single=True,
    ),
    "data": Facet(
        "data strategy",
        "the data it is made for",
        {
            "pairs": "chosen and rejected responses, taken at their word",
            "noisy-pairs": "pairs of which a share is labelled wrongly",
            "graded-pairs": "pairs of unlike strength: margins, scores, levels, or the curriculum made of them",
            "diverse-pairs": "pairs from annotators or groups who do not agree, or of several dimensions",
            "labels": "single responses, good or bad",
            "lists": "more than two responses a prompt: ranked, scored, or sets",
            "rewards": "responses with numbers: scores of a reward model, checks",
            "demos": "good responses alone",
            "rationales": "pairs with the reason why",
        },
        "pairs",
    ),
    "granularity": Facet(
        "data strategy",
        "the unit that feedback or credit goes to",
        {
            "response": "whole responses",
            "token": "single tokens, or a mask or weight on them",
            "step": "steps or segments of a response",
            "turn": "turns of a conversation",
            "prompt": "across prompts: responses, or prompts, of unlike prompts are compared",
        },
        "response",
    ),
    "learning": Facet(
        "learning framework",
        "where the responses come from",
        {
            "offline": "a data set that is there",
            "online": "the policy, while it learns (in rounds, or every step)",
            "active": "what is worth a label is chosen",
        },
        "offline",
    ),
    "aim": Facet(
        "learning framework",
        "what is optimised",
        {
            "preference": "one reward behind the preferences",
            "multi-objective": "several rewards or dimensions",
            "self-play": "a preference without a reward behind it: a game against itself",
        },
        "preference",
    ),
    "loss": Facet(
        "learning framework",
        "the form of the loss",
        {
            "logistic": "the logistic link",
            "squared": "a regression on a target",
            "hinge": "a hinge",
            "likelihood": "a likelihood or an odds-ratio of responses",
            "divergence": "a divergence between two distributions over responses",
            "policy-gradient": "a score function with an advantage",
            "other": "another link",
        },
        "logistic",
    ),
    "reference": Facet(
        "constraint mechanism",
        "what the policy is held to",
        {
            "fixed": "one frozen reference",
            "moving": "a reference that changes while it trains, or between rounds",
            "guiding": "a policy trained for the purpose",
            "several": "more than one reference",
            "none": "no reference: nothing to store and no second forward",
        },
        "fixed",
    ),
    "divergence": Facet(
        "constraint mechanism",
        "how the distance is counted",
        {
            "reverse-kl": "KL(policy || reference)",
            "forward-kl": "KL(reference || policy)",
            "f-divergence": "another f-divergence",
            "none": "not at all",
        },
        "reverse-kl",
    ),
    "beta": Facet(
        "constraint mechanism",
        "the weight of the constraint",
        {
            "fixed": "one number",
            "adaptive": "by pair, token or time, as the data or the policy asks",
        },
        "fixed",
    ),
    "safety": Facet(
        "constraint mechanism",
        "what must hold besides the preference",
        {"none": "nothing", "constrained": "a constraint or penalty: safety, facts"},
        "none",
    ),
    "length": Facet(
        "model property",
        "what it does about length",
        {
            "free": "nothing: sums over tokens",
            "normalised": "means over tokens",
            "penalised": "a term against it",
        },
        "free",
    ),
    "likelihood": Facet(
        "model property",
        "what it does about the likelihood of the chosen, which pair losses can push down",
        {"free": "nothing", "guarded": "a term, weight or bound that keeps it up"},
        "free",
    ),
    "shift": Facet(
        "model property",
        "what it does about responses that the policy would not give",
        {
            "ignored": "nothing",
            "corrected": "weights, resamples, explores or adds own samples, towards the policy's distribution",
        },
        "ignored",
    ),
}
"""Facet -> what it is. A new value is a line here, with what it means."""

COMPONENTS = ("data strategy", "learning framework", "constraint mechanism", "model property")


def words(value: str | Iterable[str]) -> tuple[str, ...]:
    """The values of a facet as they are written down: ``"a, b"`` or several.

    >>> words("offline, online"), words(("pairs",))
    (('offline', 'online'), ('pairs',))
    """
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts)


def check(owner: str, facets: Mapping[str, str], *, several: bool = False) -> None:
    """Every facet known, every value one of its values, and only one where there can be only one (``several``: in a
    query that does not matter)."""
    for name, value in facets.items():
        if name not in FACETS:
            raise InputError(f"{owner}: there is no facet {name!r}", remedy=_near(name, FACETS, "facets"))
        facet = FACETS[name]
        for word in words(value):
            if word not in facet.values:
                raise InputError(
                    f"{owner}: {name}={word!r} is not a value of that facet", remedy=_near(word, facet.values, name)
                )
        if facet.single and not several and len(words(value)) != 1:
            raise InputError(f"{owner} has {len(words(value))} values of {name!r}", remedy="there can be only one")


def filled(facets: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """All facets of a system: what it declares, and DPO's where it declares nothing."""
    found = {name: words(facets[name]) for name in FACETS if name in facets}
    usual = {name: (facet.default,) for name, facet in FACETS.items() if facet.default is not None}
    return {name: found.get(name) or usual[name] for name in FACETS if name in found or name in usual}


def fits(facets: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a system has every facet that is asked for; of several values wanted, one is enough.

    >>> fits({"data": "noisy-pairs"}, {"data": "noisy-pairs", "reference": "fixed"}), fits({}, {"reference": "none"})
    (True, False)
    """
    have = filled(facets)
    return all(set(words(value)) & set(have.get(name, ())) for name, value in wanted.items())


def coverage(systems: Iterable[tuple[str, Mapping[str, str]]], name: str = "question") -> dict[str, list[str]]:
    """Value of a facet -> the systems that have it, empty ones too: where there is nothing yet.

    >>> coverage([("dpo", {"question": "implicit-reward"})])["online"]
    []
    """
    table: dict[str, list[str]] = {value: [] for value in FACETS[name].values}
    for key, facets in systems:
        for value in filled(facets).get(name, ()):
            table[value].append(key)
    return table


def untagged(systems: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Those that say not what question they answer."""
    return [key for key, facets in systems if "question" not in facets]


def _near(word: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    close = get_close_matches(word, names, n=2, cutoff=0.6)
    return (f"did you mean {' or '.join(close)}? " if close else "") + f"{what}: {', '.join(names)}"
