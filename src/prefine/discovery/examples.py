"""Replies of a scripted proposer: half of them losses, half not, each wrong in its own way."""

from __future__ import annotations

import json

HEAD = (
    "def {name}(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):\n"
    "    h = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps\n"
    "    z = self.beta * h\n"
)


def proposal(name: str, body: str) -> str:
    """A reply of the scripted proposer."""
    return json.dumps({"thought": "scripted", "name": name, "code": HEAD.format(name=name) + body})


PROPOSALS = {
    "turned": proposal("turned", "    return F.softplus(z)\n"),  # valid, and wrong
    "no return": proposal("no_return", "    torch.exp(-z)\n"),
    "logistic": proposal("logistic", "    return -F.logsigmoid(z)\n"),
    "one number": proposal("one_number", "    return -F.logsigmoid(z).mean()\n"),
    "not code": json.dumps({"thought": "", "name": "x", "code": "def loss(:"}),
    "flat": proposal("flat", "    return torch.sigmoid(-z) * 0.01\n"),
    "not a number": proposal("not_a_number", "    return torch.log(-torch.exp(z))\n"),
    "exponential": proposal("exponential", "    return torch.exp(-z)\n"),
    "not json": "I propose the logistic loss.",
    "lrml": proposal(
        "lrml",
        "    g = torch.sigmoid(z / 0.05)\n    return (1 - g) * -F.logsigmoid(z) + g * torch.exp(-z)\n",
    ),
}
VALID = {"turned", "logistic", "flat", "exponential", "lrml"}
