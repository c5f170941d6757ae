"""What a proposer is told, and what is read from its replies.

The form is that of DiscoPOP (arXiv 2406.08414): a system prompt with the interface, an archive of known losses with
their fitness, then for every proposal either its fitness or what is wrong with it. The conversation is the memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefine.discovery.program import NotValid
from prefine.discovery.tracing import BETA

Conversation = tuple[Mapping[str, str], ...]

SYSTEM = f"""You are a researcher in machine learning who designs loss functions for learning from preferences.
Your answer is one JSON object with three keys: "thought" (the idea behind the loss, in a few sentences), "name"
(a short name) and "code" (Python). Nothing stands before or after the object.

The code defines one function and nothing else:

def loss(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
    ...
    return losses

Each argument is a torch tensor of shape (B,) with the log-probabilities of whole responses; so is what it returns,
one loss a pair, to be minimised by gradient descent on its mean. torch and torch.nn.functional (as F) are there.
self.beta is {BETA}. Any other hyperparameter is a constant in the code. Values of tensors cannot be looked at:
use torch.where for cases. Do not repeat a loss that was tried; use what the fitnesses tell."""

_RATIOS = """def {name}(
    self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
):
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    return {formula}
"""


@dataclass(frozen=True)
class Known:
    """A loss with its fitness."""

    name: str
    code: str
    fitness: float


ARCHIVE = (
    Known("DPO", _RATIOS.format(name="logistic", formula="-F.logsigmoid(self.beta * (chosen - rejected))"), 7.8875),
    Known("SLiC", _RATIOS.format(name="hinge", formula="F.relu(1 - self.beta * (chosen - rejected))"), 7.88125),
    Known("IPO", _RATIOS.format(name="ipo", formula="(chosen - rejected - 1 / (2 * self.beta)) ** 2"), 7.84),
    Known(
        "KTO on pairs",
        _RATIOS.format(
            name="kto_pair",
            formula="1 - 0.5 * torch.sigmoid(self.beta * (chosen - rejected.mean().clamp(min=0)))"
            " - 0.5 * torch.sigmoid(self.beta * (chosen.mean().clamp(min=0) - rejected))",
        ),
        7.603125,
    ),
)
"""The four losses a search starts from, with the fitness they had in the paper's search (MT-Bench, a 7B model)."""


@dataclass(frozen=True)
class Idea:
    """A reply, read."""

    thought: str
    name: str
    code: str


def opening(archive: Sequence[Known] = ARCHIVE) -> Conversation:
    """System prompt, and the archive with the request for a first proposal."""
    known = "\n".join(json.dumps({"name": k.name, "code": k.code, "fitness": k.fitness}) for k in archive)
    ask = f"These losses have been tried, with their fitness (higher is better):\n{known}\nPlease propose the next one."
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": ask})


def heard(conversation: Conversation, reply: str, answer: str) -> Conversation:
    """The conversation with one more reply and what is answered to it."""
    return (*conversation, {"role": "assistant", "content": reply}, {"role": "user", "content": answer})


def idea_of(reply: str) -> Idea:
    """The JSON object in a reply; NotValid where there is none or a key is missing.

    >>> idea_of('{"thought": "t", "name": "n", "code": "def f(a, b, c, d): ..."}').name
    'n'
    """
    start, end = reply.find("{"), reply.rfind("}")
    try:
        found = json.loads(reply[start : end + 1], strict=False)
        return Idea(*(str(found[key]) for key in ("thought", "name", "code")))
    except (ValueError, KeyError, TypeError) as error:
        raise NotValid(f"the reply is not one JSON object with thought, name and code ({error})") from None


def worth(fitness: float) -> str:
    return f"Fitness: {fitness:.6g}. Please generate the next one."


def wrong(error: str) -> str:
    return f"Code not valid. Error:\n{error}\nPlease generate the next one."
