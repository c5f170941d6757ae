"""Who proposes losses: a model in a conversation, a script of replies, or a grammar of random formulas."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefine import registry
from prefine.discovery.dialogue import Conversation
from prefine.discovery.search import Propose
from prefine.errors import InputError
from prefine.run import Run
from prefine.slate import Slate

MAX_TOKENS = 2048


@dataclass(frozen=True)
class Scripted:
    """Replies in order, from the first again when they are used up."""

    replies: tuple[str, ...]

    def __call__(self, conversation: Conversation) -> str:
        return self.replies[_turn(conversation) % len(self.replies)]


@dataclass(frozen=True)
class Grammar:
    """Random mixtures of two links with a gate: c f(z) + (1 - c) g(z). Nothing is learnt from the fitnesses."""

    seed: int = 0

    def __call__(self, conversation: Conversation) -> str:
        turn = _turn(conversation)
        rng = random.Random(f"losses {self.seed} {turn}")
        first, second = rng.sample(LINKS, 2)
        gate = rng.choice(GATES).format(t=rng.choice(("0.05", "0.1", "0.5", "1.0")))
        name = f"mixture_{turn}"
        code = (
            f"def {name}(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, "
            f"reference_rejected_logps):\n"
            f"    h = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps\n"
            f"    z = self.beta * h\n"
            f"    gate = {gate}\n"
            f"    return gate * ({first}) + (1 - gate) * ({second})\n"
        )
        return json.dumps({"thought": "two links, mixed by a gate", "name": name, "code": code})


LINKS = (
    "-F.logsigmoid(z)", "torch.exp(-z)", "F.relu(1 - z)", "torch.sigmoid(-z)", "F.softplus(1 - z)", "(z - 1) ** 2",
    "-torch.tanh(z)",
)  # fmt: skip
GATES = ("torch.sigmoid(z / {t})", "torch.sigmoid(-z / {t})", "0.5", "torch.exp(-(z / {t}) ** 2)")


@dataclass(frozen=True)
class Spoken:
    """A model that continues the conversation; its replies are artifacts, so a run that was killed hears them again."""

    run: Run
    path: Path
    temperature: float = 1.0

    def __call__(self, conversation: Conversation) -> str:
        asked = self.run.slates([Slate(conversation)], label="ask for a loss")
        handle = self.run.policy(self.path)
        told = self.run.sample(handle, asked, temperature=self.temperature, max_tokens=MAX_TOKENS, role="proposer")
        return told[0].response(0)


def _turn(conversation: Conversation) -> int:
    return sum(message["role"] == "assistant" for message in conversation)


def find(spec: str, run: Run) -> Propose:
    """The proposer of that name: grammar[:SEED], script:FILE, model:DIR, endpoint:URL#MODEL."""
    name, _, argument = spec.partition(":")
    make: Callable[[str, Run], Propose] = registry.look_up("proposer", PROPOSERS, name)
    return make(argument, run)


def _grammar(argument: str, run: Run) -> Propose:
    if argument and not argument.isdigit():
        raise InputError(f"grammar:{argument} has no number as its seed", remedy="write grammar or grammar:7")
    return Grammar(int(argument or "0"))


def _script(argument: str, run: Run) -> Propose:
    file = Path(argument)
    if not argument or not file.is_file():
        raise InputError(f"there is no script {argument!r}", remedy="give script:FILE, a JSON object a line")
    replies = tuple(line for line in file.read_text().splitlines() if line.strip())
    if not replies:
        raise InputError(
            "the script is empty", remedy="write one JSON object with thought, name, code a line", file=file
        )
    return Scripted(replies)


def _model(argument: str, run: Run) -> Propose:
    if not argument or not Path(argument).is_dir():
        raise InputError(f"there is no model directory {argument!r}", remedy="give model:DIR")
    return Spoken(run, Path(argument))


def _endpoint(argument: str, run: Run) -> Propose:
    from prefine.policies.endpoint import Endpoint

    url, _, model = argument.partition("#")
    if not model or not url.startswith(("http://", "https://")):
        raise InputError(f"endpoint:{argument} is not URL#MODEL", remedy="give endpoint:https://HOST/v1#NAME")
    place = Path(run.dir) / "proposer"
    Endpoint(url, model).save(place)  # where it is and how to ask, never its key
    return Spoken(run, place)


PROPOSERS: Mapping[str, Callable[[str, Run], Propose]] = {
    "grammar": _grammar, "script": _script, "model": _model, "endpoint": _endpoint,
}  # fmt: skip
