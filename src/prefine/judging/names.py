"""Judges by name: what stands after ``--judge`` on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from prefine import registry
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.judging.checks import LENGTHS, Keywords, Length, verifier, votes
from prefine.judging.choices import choices
from prefine.judging.citations import Citations, legal_truth, read_statutes, statute_relevance
from prefine.judging.classifier import classifier
from prefine.judging.composite import read_composite
from prefine.judging.dropout import dropout
from prefine.judging.estimates import estimate
from prefine.judging.followups import follow_ups
from prefine.judging.language import LanguageJudge, SelfJudge, YesProbability, language_judge, yes_judge
from prefine.judging.models import OnDisk, implicit_reward, process_reward, reward_model
from prefine.judging.options import option_choice, option_score
from prefine.judging.overlap import Words
from prefine.judging.pairwise import pairwise_reward
from prefine.judging.people import people
from prefine.judging.programs import programs
from prefine.judging.statements import Alike, Asked, Statements
from prefine.judging.tagged import Tagged
from prefine.judging.teachers import likelihood
from prefine.judging.thoughts import consistent
from prefine.judging.users import user_judge
from prefine.judging.verdicts import verdicts


def find(spec: str) -> Judge:
    """The judge of that name: "length", "keywords:thanks,-sorry", "reward-model:DIR", "python:my.py:score".

    >>> find("length:words")
    Length(unit='words', factor=1.0, name='score')
    """
    name, colon, argument = spec.partition(":")
    factory: Callable[[str], Judge] = registry.look_up("judge", JUDGES, name)
    if colon and not argument:
        raise InputError(f"judge {spec!r} ends with a colon", remedy=f"see: {HELP[name]}")
    return factory(argument)


def _length(argument: str) -> Judge:
    unit = argument or "characters"
    registry.one_of("length", unit, LENGTHS)
    return Length(unit)


def _brevity(argument: str) -> Judge:
    unit = argument or "characters"
    registry.one_of("brevity", unit, LENGTHS)
    return Length(unit, factor=-1.0)


def _keywords(argument: str) -> Judge:
    words = [w.strip() for w in _needed("keywords", argument).split(",") if w.strip()]
    return Keywords(tuple(w for w in words if not w.startswith("-")), tuple(w[1:] for w in words if w.startswith("-")))


def _verifier(argument: str) -> Judge:
    return verifier(argument or "auto", name="score")


def _votes(argument: str) -> Judge:
    return votes(argument or "auto", name="score")


def _tagged(argument: str) -> Judge:
    return Tagged(gold=argument or "answer", name="score")


def _self(argument: str) -> Judge:
    return SelfJudge(registry.one_of("self", argument or "grade", SELVES))


SELVES: Mapping[str, LanguageJudge | YesProbability] = {"grade": language_judge(None), "yes": yes_judge(None)}


def _spoken(name: str, factory: Callable[..., Judge]) -> Callable[[str], Judge]:
    """A judge whose model is in a directory, or the policy of the moment: "self"."""
    return lambda argument: factory(None if argument == "self" else _directory(name, argument))


def _composite(argument: str) -> Judge:
    return read_composite(_needed("composite", argument), find)


def _people(argument: str) -> Judge:
    asks, _, options = argument.partition(",")
    return registry.make(
        "people", people, "people", {"asks": asks or "pairs", **registry.read(f"x({options})").options}
    )


def _directory(name: str, argument: str) -> OnDisk:
    path = Path(_needed(name, argument))
    if not path.is_dir():
        raise InputError(f"there is no model directory {path}", remedy=f"see: {HELP[name]}", file=path)
    return OnDisk(path)


def _reward_model(argument: str) -> Judge:
    return reward_model(_directory("reward-model", argument))


def _dropout(argument: str) -> Judge:
    return dropout(_directory("dropout", argument))


def _pairwise_reward(argument: str) -> Judge:
    return pairwise_reward(_directory("pairwise-reward", argument))


def _unit_tests(argument: str) -> Judge:
    try:
        return programs(float(argument or 5), name="score")
    except ValueError:
        raise InputError(f"{argument!r} is no number of seconds", remedy=f"see: {HELP['unit-tests']}") from None


def _process_reward(argument: str) -> Judge:
    return process_reward(_directory("process-reward", argument))


def _implicit_reward(argument: str) -> Judge:
    policy, comma, reference = _needed("implicit-reward", argument).partition(",")
    if not comma:
        raise InputError("implicit-reward needs two models", remedy=f"see: {HELP['implicit-reward']}")
    first, second = (_directory("implicit-reward", directory) for directory in (policy, reference))
    return implicit_reward(first, second, name="score")


def _language(argument: str) -> Judge:
    return language_judge(_directory("language", argument))


def _yes(argument: str) -> Judge:
    return SelfJudge(SELVES["yes"]) if argument == "self" else yes_judge(_directory("yes", argument))


def _classifier(argument: str) -> Judge:
    return classifier(None if argument in ("", "self") else _directory("classifier", argument))


def _estimate(argument: str) -> Judge:
    return estimate(argument or "auto", name="score")


def _consistent(argument: str) -> Judge:
    return consistent(argument or "tags")


def _likelihood(argument: str) -> Judge:
    return likelihood(_directory("likelihood", argument))


def _follow_ups(argument: str) -> Judge:
    place, _, named = argument.partition(",")
    model = None if place in ("", "self") else _directory("follow-ups", place)
    return follow_ups(model, named or "helpfulness")


def _citations(argument: str) -> Judge:
    return Citations(read_statutes(_needed("citations", argument)), name="score")


def _statute_relevance(argument: str) -> Judge:
    return statute_relevance(_directory("statute-relevance", argument), name="score")


def _legal_truth(argument: str) -> Judge:
    return legal_truth(_directory("legal-truth", argument), name="score")


def _overlap(argument: str) -> Judge:
    return Words(argument or "reference", name="score")


def _statements(argument: str) -> Judge:
    return Statements(Asked(_directory("statements", argument)) if argument else Alike())


def _endpoint(argument: str) -> Judge:
    url, _, model = _needed("endpoint", argument).partition("#")
    if not model or not url.startswith(("http://", "https://")):
        raise InputError(f"endpoint:{argument} is not URL#MODEL", remedy=f"see: {HELP['endpoint']}")
    from prefine.policies.endpoint import Endpoint

    return language_judge(Endpoint(url, model), chat=True)


def _needed(name: str, argument: str) -> str:
    if not argument:
        raise InputError(f"the judge {name!r} needs more than its name", remedy=f"see: {HELP[name]}")
    return argument


JUDGES: Mapping[str, Callable[[str], Judge]] = {
    "length": _length,
    "brevity": _brevity,
    "keywords": _keywords,
    "verifier": _verifier,
    "votes": _votes,
    "tagged": _tagged,
    "estimate": _estimate,
    "consistent": _consistent,
    "unit-tests": _unit_tests,
    "reward-model": _reward_model,
    "pairwise-reward": _pairwise_reward,
    "dropout": _dropout,
    "process-reward": _process_reward,
    "implicit-reward": _implicit_reward,
    "language": _language,
    "verdict": _spoken("verdict", verdicts),
    "yes": _yes,
    "classifier": _classifier,
    "choice": _spoken("choice", choices),
    "likelihood": _likelihood,
    "best": _spoken("best", option_choice),
    "rating": _spoken("rating", option_score),
    "self": _self,
    "composite": _composite,
    "follow-ups": _follow_ups,
    "people": _people,
    "citations": _citations,
    "statute-relevance": _statute_relevance,
    "legal-truth": _legal_truth,
    "overlap": _overlap,
    "statements": _statements,
    "endpoint": _endpoint,
    "python": user_judge,
}
"""Name -> (what follows the first colon) -> judge."""

HELP: Mapping[str, str] = {
    "length": "length[:characters|words|tokens], longer is better",
    "brevity": "brevity[:characters|words|tokens], shorter is better",
    "keywords": "keywords:good,words,-bad,-words",
    "verifier": "verifier[:auto|boxed|number|MARKER], against the answer in the prompt's meta",
    "votes": "votes[:auto|boxed|number|MARKER], how many responses agree with this one",
    "tagged": "tagged[:META], right, wrong, unreadable, or out of form: <think> and <answer> tags, against the answer",
    "estimate": "estimate[:auto|boxed|number|MARKER], how near a number is to the answer in the prompt's meta",
    "consistent": "consistent[:tags|MARKER], whether the answer is the last number of the thought before it",
    "unit-tests": "unit-tests[:SECONDS], the share of the prompt's tests that the program passes, in a sandbox",
    "reward-model": "reward-model:DIR, a model fitted by `prefine`",
    "pairwise-reward": "pairwise-reward:DIR, a reward model that reads two responses at once, in both orders",
    "dropout": "dropout:DIR, a model fitted by `prefine` asked 10 times with dropout on: means and how far they agree",
    "process-reward": "process-reward:DIR, the lowest reward over the lines of the response",
    "implicit-reward": "implicit-reward:POLICY_DIR,REFERENCE_DIR, the log-ratio of two models",
    "language": "language:DIR, a model that writes a grade",
    "verdict": "verdict:DIR|self, a model that writes which of two is better, in both orders",
    "classifier": "classifier[:DIR|self], the share of yes against no, the question by the category of the prompt",
    "yes": "yes:DIR|self, a model's probability that the answer is good",
    "choice": "choice:DIR|self, a model's probability of A over B for every two answers, asked in both orders",
    "likelihood": "likelihood:DIR, a model's mean log-likelihood of the answer's tokens",
    "best": "best:DIR|self, a model's probability that a response is the best of all, each in each place once",
    "rating": "rating:DIR|self, a grade from 1 to 5 as the mean of a model's probabilities, none is sampled",
    "self": "self[:grade|yes], the policy of the moment judges its own responses",
    "composite": "composite:1*JUDGE + 0.2*JUDGE, a weighted sum; on a common scale within z(...) or rank(...)",
    "follow-ups": "follow-ups[:DIR|self[,helpfulness|short|FILE.json]], how much likelier pleased users are than "
    "displeased ones to speak next, under a model or the policy of the moment",
    "people": "people[:pairs|rating|thumbs][,votes=N], people who answer with `prefine label`; the run stops for them",
    "citations": "citations:FILE.jsonl, the share of cited statutes that a database of {law, article, content} has",
    "statute-relevance": "statute-relevance:DIR, a model grades from 0 to 10 how relevant the cited statutes are",
    "legal-truth": "legal-truth:DIR, a model grades from 0 to 10 how true the claims are, given the row's laws",
    "overlap": "overlap[:COLUMN], words in common (ROUGE-1, 2 and L, each of 100) with the row's reference",
    "statements": "statements[:DIR], the row's must_have statements made, less those of must_have and nice_to_have "
    "contradicted, by words in common or asking a model",
    "endpoint": "endpoint:URL#MODEL, a model behind an OpenAI-compatible server that writes a grade",
    "python": "python:FILE.py:FUNCTION, a function of (prompt, response) of your own",
}
"""One line a name, for the command line."""
