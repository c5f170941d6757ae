"""The OpenAI protocol: reading a request, and the words for refusing one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from prefine.policies.base import Sampling
from prefine.slate import Candidate, Prompt


class Refused(Exception):
    """A request that cannot be answered, as the protocol says it."""

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "code": status}}


def sampling(body: Mapping[str, Any]) -> tuple[Sampling, int]:
    """How to sample, and the seed (a random one where none is given), from a request."""
    if body.get("stream"):
        raise Refused("stream: answers come whole here; leave it out")
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
        raise Refused("stop: a text, or a list of texts")
    most = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    how = Sampling(
        n=int(_number(body, "n", 1, 1, 256, whole=True)),
        temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
        top_p=_number(body, "top_p", 1.0, 1e-6, 1.0),
        max_tokens=int(_number(body, most, 256, 1, 1 << 20, whole=True)),
        stop=tuple(stop),
    )
    drawn = random.SystemRandom().randrange(1 << 31)
    return how, int(_number(body, "seed", drawn, -(1 << 63), (1 << 63) - 1, whole=True))


def _number(
    body: Mapping[str, Any], name: str, default: float, low: float, high: float, *, whole: bool = False
) -> float:
    value = body.get(name)
    if value is None:
        return default
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        raise Refused(f"{name}: a {'whole ' if whole else ''}number from {low} to {high}, not {value!r}")
    return value


def messages(body: Mapping[str, Any]) -> Prompt:
    """The turns of a conversation, from a request."""
    turns = body.get("messages")
    if not isinstance(turns, list) or not turns:
        raise Refused("messages: a list of {role, content}")
    return tuple(_message(turn) for turn in turns)


def _message(message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Refused("messages: each has a role and a content")
    content = message.get("content")
    if isinstance(content, list):  # parts; this server reads text
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        content = "".join(texts) if all(isinstance(t, str) for t in texts) else None  # type: ignore[arg-type]
    if not isinstance(content, str):
        raise Refused("messages: contents are texts")
    return {"role": message["role"], "content": content}


def asks_logprobs(body: Mapping[str, Any]) -> bool:
    asked = body.get("logprobs")
    return asked is not None and asked is not False


def cut(text: str, stops: Sequence[str]) -> str:
    """The text without what stopped it, as the protocol has it."""
    return text[: min([at for stop in stops if (at := text.find(stop)) >= 0], default=len(text))]


def reason(one: Candidate) -> str:
    return "length" if one.stop == "length" else "stop"
