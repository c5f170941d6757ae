"""Asking a server with patience: retries, waits, a limit on what is under way, and a count of what it cost.

The key is read from the environment for each request and lives in that request's header alone: it is in no
object, file, log or error. What the server says is redacted before it is shown.
"""

from __future__ import annotations

import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from prefine.errors import InputError, PrefineError, RunStopped
from prefine.secrets import redact

T = TypeVar("T")

TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes that may be gone a moment later."""

_draw = random.SystemRandom().random  # not the global generator: waiting must not move any seed


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to ask again.

    The wait before attempt k+1 is uniform on [0, min(longest, first * 2^k)] ("full jitter", so that many
    clients do not come back together), and at least what the server asks for in Retry-After.
    """

    timeout: float = 300.0
    """Seconds for an answer; a long generation needs long."""
    connect: float = 10.0
    retries: int = 6
    first: float = 0.5
    longest: float = 30.0
    longest_asked: float = 300.0
    """A server that asks (Retry-After) for more than this stops the run instead: it can go on later."""

    def wait(self, attempt: int, asked: float | None, draw: Callable[[], float] = _draw) -> float:
        """Seconds before attempt ``attempt + 1``."""
        jitter = draw() * min(self.longest, self.first * 2.0**attempt)
        return jitter if asked is None else max(jitter, asked)


@dataclass
class Usage:
    """What a server was asked for so far."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmetered: int = 0
    """Answers that did not say how many tokens they took."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def meter(self, payload: Any) -> None:
        """Count the ``usage`` record of an answer."""
        record = payload.get("usage") if isinstance(payload, dict) else None
        if not isinstance(record, dict):
            self.add(unmetered=1)
            return
        self.add(**{n: int(record.get(n) or 0) for n in ("prompt_tokens", "completion_tokens")})

    def snapshot(self) -> dict[str, int]:
        with self._lock:
            names = ("requests", "retries", "prompt_tokens", "completion_tokens", "unmetered")
            return {name: getattr(self, name) for name in names}


class Malformed(Exception):
    """An answer with status 200 that cannot be used: worth asking again, then an error."""


@dataclass(frozen=True)
class Trouble:
    """Why an attempt gave nothing: the error, and whether to try again (not sooner than ``after``)."""

    error: PrefineError
    again: bool = False
    after: float | None = None


@dataclass(frozen=True)
class Answer(Generic[T]):
    value: T


class Client:
    """JSON requests to one server, at most ``concurrency`` at a time, from any number of threads."""

    def __init__(self, base_url: str, key_env: str | None, patience: Patience, concurrency: int) -> None:
        self.base_url, self.key_env, self.patience = base_url, key_env, patience
        self.usage = Usage()
        self._slots = threading.BoundedSemaphore(concurrency)
        self._http = httpx.Client(
            timeout=httpx.Timeout(patience.timeout, connect=patience.connect),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            # A proxy from the environment is for the outside: a server on this machine is asked directly.
            trust_env=not is_loopback(urlsplit(base_url).hostname or ""),
            follow_redirects=False,  # the key goes to the server it was meant for and to no other
        )

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        stop: threading.Event | None = None,
    ) -> T:
        """``read`` of the server's JSON answer, asked for as often as patience allows.

        ``read`` raises ``Malformed`` for an answer it cannot use. ``stop`` ends the waits between attempts.
        """
        stop = stop or threading.Event()
        content = json.dumps(body, ensure_ascii=True).encode()
        for attempt in range(self.patience.retries + 1):
            outcome = self._attempt("POST", path, content, read)
            if isinstance(outcome, Answer):
                return outcome.value
            trouble = outcome
            patient = outcome.again and attempt < self.patience.retries and not stop.is_set()
            if not patient or (outcome.after or 0.0) > self.patience.longest_asked:
                break
            self.usage.add(retries=1)
            if stop.wait(self.patience.wait(attempt, outcome.after)):
                break
        raise trouble.error

    def models(self) -> list[str]:
        """The names of the models the server says it has; empty when it does not say."""
        outcome = self._attempt("GET", "/models", None, lambda answer: [str(m["id"]) for m in answer["data"]])
        return outcome.value if isinstance(outcome, Answer) else []

    def close(self) -> None:
        self._http.close()

    def _attempt(self, method: str, path: str, content: bytes | None, read: Callable[[Any], T]) -> Answer[T] | Trouble:
        """One request. Errors are made outside of ``except``, so none drags a request (and its key) along."""
        response, failure = None, ""
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._authorization()}
        with self._slots:
            self.usage.add(requests=1)
            try:
                response = self._http.request(method, self.base_url + path, content=content, headers=headers)
            except httpx.TimeoutException as error:
                failure = f"no answer in time ({type(error).__name__})"
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__}: {redact(str(error))}"
        if response is None:
            return Trouble(self._unreachable(failure), again=True)
        if response.status_code != 200:
            return self._refused(response)
        malformed = ""
        try:
            payload = response.json()
            value = read(payload)
        except Malformed as error:
            malformed = str(error)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            malformed = f"{type(error).__name__} in {_excerpt(response.text)}"
        if malformed:
            return Trouble(self._unusable(malformed), again=True)
        if method == "POST":
            self.usage.meter(payload)
        return Answer(value)

    def _authorization(self) -> dict[str, str]:
        key = (os.environ.get(self.key_env, "") if self.key_env else "").strip()
        if not key:
            return {}
        if key.isascii() and key.isprintable() and " " not in key:
            return {"Authorization": f"Bearer {key}"}
        del key  # not even in the locals of a traceback
        raise InputError(
            f"the environment variable {self.key_env} holds characters that no key has",
            remedy=f"set {self.key_env} to the key alone, without quotes, spaces or line ends",
        )

    def _refused(self, response: httpx.Response) -> Trouble:
        """A status other than 200, as an error with a remedy."""
        status, said = response.status_code, redact(_said(response))
        text = f"{self.base_url} answered {status}" + (f": {said}" if said else "")
        if status in TRY_AGAIN:
            if status == 429 and "insufficient_quota" in response.text:
                return Trouble(RunStopped(text, remedy="the account has no credit left: add some and run again"))
            after = retry_after(response.headers.get("Retry-After"))
            remedy = "run the same command again later: what is done is kept; or lower the concurrency"
            return Trouble(RunStopped(text, remedy=remedy), again=True, after=after)
        return Trouble(InputError(text, remedy=_REMEDIES.get(status, _other)(self, response)))

    def _unreachable(self, failure: str) -> RunStopped:
        return RunStopped(
            f"{self.base_url} cannot be reached: {failure}",
            remedy="check the address, start the server (`prefine serve DIR` serves a model here) and run the "
            "same command again: what is done is kept",
        )

    def _unusable(self, reason: str) -> RunStopped:
        return RunStopped(
            f"{self.base_url} gave an answer that cannot be used: {redact(reason)}",
            remedy="check that it is an OpenAI-compatible server (the address usually ends in /v1), and its log",
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def retry_after(header: str | None) -> float | None:
    """Seconds asked for by a Retry-After header: a number, or a date.

    >>> retry_after("2"), retry_after("soon"), retry_after(None)
    (2.0, None, None)
    """
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _said(response: httpx.Response) -> str:
    """The server's own words, short."""
    try:
        error = response.json()
        error = error.get("error", error.get("detail", error.get("message", error)))
        return _excerpt(str(error.get("message", error) if isinstance(error, dict) else error))
    except (ValueError, AttributeError):
        return _excerpt(response.text)


def _excerpt(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + "..."


def _key_remedy(client: Client, response: httpx.Response) -> str:
    if not client.key_env:
        return "name the environment variable that holds the key (key_env)"
    if not os.environ.get(client.key_env):
        return f"set the environment variable {client.key_env} to your key"
    return f"the key in the environment variable {client.key_env} was not accepted: check it and its rights"


def _missing_remedy(client: Client, response: httpx.Response) -> str:
    listing = response.request.url.path.endswith("/models")  # asking for the list is what found nothing
    there = [] if listing else client.models()
    if there:
        return f"name a model the server has: {', '.join(there[:8])}{', ...' if len(there) > 8 else ''}"
    return "check the model's name and the address (it usually ends in /v1)"


def _request_remedy(client: Client, response: httpx.Response) -> str:
    return (
        "the server did not take the request: shorten the prompt or max_tokens, or set options in `extra` "
        '({"seed": null} leaves the seed out)'
    )


def _other(client: Client, response: httpx.Response) -> str:
    if response.is_redirect:
        where = redact(response.headers.get("Location", "somewhere else"))
        return f"the server moved to {where}: give that address (a key is never sent along to another one)"
    return "look at the server's log"


_REMEDIES: dict[int, Callable[[Client, httpx.Response], str]] = {
    400: _request_remedy,
    401: _key_remedy,
    403: _key_remedy,
    404: _missing_remedy,
    413: _request_remedy,
    422: _request_remedy,
}


def patience_to_json(patience: Patience) -> dict[str, float]:
    return asdict(patience)
