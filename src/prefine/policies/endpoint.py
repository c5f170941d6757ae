"""A chat server as a policy: it samples and, where the server can, scores; it cannot be trained.

Any server that speaks the OpenAI protocol will do: ``prefine serve``, vLLM, SGLang, llama.cpp, Ollama or a
hosted one. Message prompts go to ``/chat/completions`` (the server applies the chat template), plain text to
``/completions``.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from torch import Tensor, nn

from prefine.errors import InputError
from prefine.policies.base import Batch, Limits, Row, Sampling
from prefine.policies.http import Client, Malformed, Patience, patience_to_json
from prefine.secrets import is_clean
from prefine.slate import Candidate, Contrast, Prompt, prompt_to_json

FILE = "endpoint.json"
STOPS: Mapping[str, str] = {"stop": "end", "eos": "end", "length": "length", "content_filter": "length"}
"""The protocol's ``finish_reason`` as a candidate's ``stop``; what is not named here was cut short."""
SEEDS = 2**31
"""Servers take seeds of different widths; all of them take 31 bits."""


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible server.

    ``key_env`` is the *name* of the environment variable that holds the key. The key itself is read for each
    request and is never a part of this object: not in ``repr``, ``save``, logs or errors.

    >>> Endpoint("http://127.0.0.1:8000/v1", "tiny").key_env
    'OPENAI_API_KEY'
    """

    kind: ClassVar[str] = "endpoint"

    base_url: str
    model: str
    key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = 8
    """Requests under way at any moment, over all threads that use this object."""
    patience: Patience = field(default_factory=Patience)
    logprobs: bool = False
    """Ask for the log-probabilities of the sampled tokens. They become ``Candidate.logps`` only at
    temperature 1 and top-p 1: servers report the model's distribution, and only there it drew them."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the request, as the server names them; None takes a field out (``{"seed": None}``)."""
    module: nn.Module | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        _check_settings(self)
        client = Client(self.base_url, self.key_env, self.patience, self.concurrency)
        object.__setattr__(self, "_client", client)

    @property
    def key(self) -> str:
        """What a run knows this policy by: what can change its answers, so not patience, concurrency or the
        variable's name."""
        parts = [self.kind, self.base_url, self.model, self.logprobs, sorted(self.extra.items())]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        """n candidates for every prompt, in the order of the prompts.

        ``seeds[i]`` goes along with prompt i; whether the same seed gives the same text is up to the server
        (``prefine serve`` keeps it). A prompt that fails for good ends the call, and what waits is not sent.
        """
        stop = threading.Event()

        def one(prompt: Prompt, seed: int) -> list[Candidate]:
            if stop.is_set():
                return []  # never looked at: another prompt's error is on its way out
            try:
                return self._sample_one(prompt, sampling, seed, stop)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(max_workers=max(1, min(self.concurrency, len(prompts)))) as pool:
            futures = [pool.submit(one, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
            try:
                return [future.result() for future in futures]
            except BaseException:  # an interrupt too
                stop.set()
                raise

    def response_logps(self, prompt: str, response: str) -> tuple[float, ...]:
        """Log-probability of every token of a response after a plain-text prompt (servers with ``echo``).

        A token that straddles the boundary counts as response.
        """
        if not isinstance(prompt, str):
            raise InputError(
                "a server scores plain text only: it does not say where a chat template ends",
                remedy="render the messages with the tokenizer's chat template, or load the model itself",
            )
        body = {
            "model": self.model,
            "prompt": prompt + response,
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
        }
        return self._live.post("/completions", body, lambda answer: _read_echo(answer, len(prompt)))

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        raise self._untrainable()

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        raise self._untrainable()

    def save(self, path: Path) -> None:
        """Write ``endpoint.json``: where the model is and how to ask, never the key."""
        path.mkdir(parents=True, exist_ok=True)
        whole = json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n"
        part = path / f".{FILE}.part"
        part.write_text(whole)
        part.replace(path / FILE)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "base_url": self.base_url,
            "model": self.model,
            "key_env": self.key_env,
            "concurrency": self.concurrency,
            "patience": patience_to_json(self.patience),
            "logprobs": self.logprobs,
            "extra": dict(self.extra),
        }

    @staticmethod
    def load(path: Path) -> Endpoint:
        """Read what ``save`` wrote (a directory, or the file)."""
        file = path / FILE if path.is_dir() else path
        try:
            row = json.loads(file.read_text())
            kind = row.pop("kind")
            if kind != Endpoint.kind:
                raise ValueError(f"its kind is {kind!r}")
            return Endpoint(**{**row, "patience": Patience(**row.get("patience", {}))})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            problem = str(error)
        raise InputError(
            f"cannot be read as an endpoint: {problem}",
            remedy='write {"kind": "endpoint", "base_url": "http://host:port/v1", "model": "name"}',
            file=file,
        )

    def usage(self) -> dict[str, int]:
        """What was asked for so far: requests, retries, prompt_tokens, completion_tokens, unmetered."""
        return self._live.usage.snapshot()

    def models(self) -> list[str]:
        """The models the server says it has (empty when it does not say)."""
        return self._live.models()

    def close(self) -> None:
        self._live.close()

    @property
    def _live(self) -> Client:
        client: Client = self.__dict__["_client"]
        return client

    def _sample_one(self, prompt: Prompt, sampling: Sampling, seed: int, stop: threading.Event) -> list[Candidate]:
        """The candidates of one prompt: one request, and more where a server gave fewer than n."""
        greedy = sampling.temperature == 0
        wanted = 1 if greedy else sampling.n  # n greedy answers are one; some servers refuse to give n
        got: list[Candidate] = []
        while len(got) < wanted:
            own_seed = (seed + 1_000_003 * len(got)) % SEEDS
            path, body = self._request(prompt, sampling, wanted - len(got), own_seed)
            got += self._live.post(path, body, lambda answer: _read_choices(answer, sampling), stop)
        return got * sampling.n if greedy else got[:wanted]

    def _request(self, prompt: Prompt, sampling: Sampling, n: int, seed: int) -> tuple[str, dict[str, Any]]:
        chat = not isinstance(prompt, str)
        body: dict[str, Any] = {
            "model": self.model,
            ("messages" if chat else "prompt"): prompt_to_json(prompt),
            "n": n,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.logprobs:
            body["logprobs"] = True if chat else 1
        body = {name: value for name, value in {**body, **self.extra}.items() if value is not None}
        return ("/chat/completions" if chat else "/completions"), body

    def _untrainable(self) -> InputError:
        return InputError(
            f"{self.model!r} is behind a server ({self.base_url}): it can be sampled, not trained or scored",
            remedy="give the model's directory or hub name where a policy is trained or scored, and keep the "
            "endpoint for sampling and judging",
        )


def _read_choices(answer: Any, sampling: Sampling) -> list[Candidate]:
    """The candidates of an answer, in the order of their index."""
    choices = answer["choices"]
    if not isinstance(choices, list) or not choices:
        raise Malformed("it has no choices")
    choices = sorted(choices, key=lambda choice: choice.get("index", 0))
    return [_read_choice(choice, answer, sampling) for choice in choices]


def _read_choice(choice: Mapping[str, Any], answer: Mapping[str, Any], sampling: Sampling) -> Candidate:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if text is not None and not isinstance(text, str):
        raise Malformed(f"the text of a choice is {type(text).__name__}")
    reason = choice.get("finish_reason")
    origin: dict[str, Any] = {"server_model": str(answer.get("model", ""))}
    if reason not in ("stop", "length"):
        origin["finish_reason"] = reason
    logps = _read_logps(choice.get("logprobs"))
    drawn_from_model = sampling.temperature == 1 and sampling.top_p >= 1
    if logps is not None and not drawn_from_model:
        origin["server_logps"] = list(logps)
    return Candidate(
        text=text or "",
        logps=logps if drawn_from_model else None,
        stop=STOPS.get(str(reason), "length"),
        origin=origin,
    )


def _read_logps(record: Any) -> tuple[float, ...] | None:
    """Both shapes: ``{"content": [{"logprob": x}]}`` (chat) and ``{"token_logprobs": [x]}`` (completions)."""
    if not isinstance(record, dict):
        return None
    if isinstance(record.get("content"), list):
        return tuple(float(token["logprob"]) for token in record["content"])
    if isinstance(record.get("token_logprobs"), list):
        return tuple(float(x) for x in record["token_logprobs"])
    return None


def _read_echo(answer: Any, boundary: int) -> tuple[float, ...]:
    record = answer["choices"][0].get("logprobs") or {}
    logps, offsets, tokens = (record.get(name) for name in ("token_logprobs", "text_offset", "tokens"))
    if not logps or not offsets or not tokens or not len(logps) == len(offsets) == len(tokens):
        raise InputError(
            "this server does not score text (no log-probabilities came back for `echo`)",
            remedy="use one that does `echo` with `logprobs` (`prefine serve`, vLLM), or load the model",
        )
    ends = [*offsets[1:], offsets[-1] + len(tokens[-1])]
    return tuple(float(x) for x, end in zip(logps, ends, strict=True) if end > boundary and x is not None)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError("the address of an endpoint is no http(s) URL", remedy="for example http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise InputError(
            "the address of an endpoint holds a login or a query: it is written to disk and to reports",
            remedy="put the key into an environment variable and name it with key_env",
        )
    cut = re.sub(r"/(chat/completions|completions|models)/?$", "", parts.path).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{cut}"


def _check_settings(endpoint: Endpoint) -> None:
    """Settings that cannot work, and keys in the wrong place. No message repeats a suspected key."""
    if not isinstance(endpoint.model, str) or not endpoint.model:
        raise InputError("an endpoint needs a model's name", remedy="the server lists them at /v1/models")
    name = endpoint.key_env
    if name is not None and (not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or not is_clean(name)):
        raise InputError(
            "key_env is the name of an environment variable, and what was given is none",
            remedy="export the key in a variable (usually OPENAI_API_KEY) and give the variable's name",
        )
    if not is_clean(json.dumps(dict(endpoint.extra), default=str)):
        raise InputError(
            "the extra fields of an endpoint hold a secret: they would be written to disk",
            remedy="put the key into an environment variable and name it with key_env",
        )
    patience = endpoint.patience
    if endpoint.concurrency < 1 or patience.retries < 0 or min(patience.timeout, patience.connect) <= 0:
        raise InputError(
            "an endpoint needs a concurrency of at least 1, retries of at least 0 and timeouts above 0",
            remedy="leave them out to get the defaults",
        )
