"""Judges by name: what stands after ``--judge`` on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from prefine import registry
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.judging.checks import LENGTHS, Keywords, Length, verifier, votes
from prefine.judging.language import LanguageJudge, SelfJudge, YesProbability, language_judge, yes_judge
from prefine.judging.models import OnDisk, implicit_reward, process_reward, reward_model
from prefine.judging.tagged import Tagged
from prefine.judging.users import user_judge


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


def _directory(name: str, argument: str) -> OnDisk:
    path = Path(_needed(name, argument))
    if not path.is_dir():
        raise InputError(f"there is no model directory {path}", remedy=f"see: {HELP[name]}", file=path)
    return OnDisk(path)


def _reward_model(argument: str) -> Judge:
    return reward_model(_directory("reward-model", argument))


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
    return yes_judge(_directory("yes", argument))


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
    "reward-model": _reward_model,
    "process-reward": _process_reward,
    "implicit-reward": _implicit_reward,
    "language": _language,
    "yes": _yes,
    "self": _self,
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
    "reward-model": "reward-model:DIR, a model fitted by `prefine`",
    "process-reward": "process-reward:DIR, the lowest reward over the lines of the response",
    "implicit-reward": "implicit-reward:POLICY_DIR,REFERENCE_DIR, the log-ratio of two models",
    "language": "language:DIR, a model that writes a grade",
    "yes": "yes:DIR, a model's probability that the answer is good",
    "self": "self[:grade|yes], the policy of the moment judges its own responses",
    "endpoint": "endpoint:URL#MODEL, a model behind an OpenAI-compatible server that writes a grade",
    "python": "python:FILE.py:FUNCTION, a function of (prompt, response) of your own",
}
"""One line a name, for the command line."""
