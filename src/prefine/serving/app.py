"""The routes: what the server answers."""

from __future__ import annotations

import hmac
import importlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from prefine.engine.score import logp_of
from prefine.errors import InputError
from prefine.policies.base import Row
from prefine.secrets import redact
from prefine.serving.protocol import Refused, asks_logprobs, cut, messages, reason, sampling
from prefine.serving.worker import Worker
from prefine.slate import Candidate, Prompt

MOST_BYTES = 16 << 20
"""Larger requests are refused."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What the routes need: the model's name, its worker, and the key to ask for (by the variable's name)."""

    name: str
    worker: Worker
    key_env: str | None = None

    async def chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """``/v1/chat/completions``."""
        how, seed = sampling(body)
        prompt = messages(body)
        (row,) = await self.worker.sample([prompt], how, [seed])
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": cut(one.text, how.stop)},
                "finish_reason": reason(one),
                "logprobs": self._chat_logprobs(one) if body.get("logprobs") else None,
            }
            for index, one in enumerate(row)
        ]
        return self._answer("chat.completion", choices, [prompt], row)

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """``/v1/completions``, of one prompt or a list of them."""
        given = body.get("prompt")
        prompts = [given] if isinstance(given, str) else given
        if not (isinstance(prompts, list) and prompts and all(isinstance(p, str) for p in prompts)):
            raise Refused("prompt: a text, or a list of texts")
        if body.get("echo"):
            return await self._echo(body, prompts)
        how, seed = sampling(body)
        seeds = [seed + i for i in range(len(prompts))]
        rows = await self.worker.sample(list(prompts), how, seeds)
        drawn = [one for row in rows for one in row]
        choices = [
            {
                "index": index,
                "text": cut(one.text, how.stop),
                "finish_reason": reason(one),
                "logprobs": self._text_logprobs(one) if asks_logprobs(body) else None,
            }
            for index, one in enumerate(drawn)
        ]
        return self._answer("text_completion", choices, prompts, drawn)

    async def _echo(self, body: Mapping[str, Any], prompts: Sequence[str]) -> dict[str, Any]:
        if body.get("max_tokens") != 0:
            raise Refused("echo: only with max_tokens 0, to score a text")
        scored = [await self.worker.call(partial(score_text, self.worker.policy, p)) for p in prompts]
        choices = [
            {"index": i, "text": text, "finish_reason": "length", "logprobs": record}
            for i, (text, record) in enumerate(zip(prompts, scored, strict=True))
        ]
        return self._answer("text_completion", choices, prompts, [])

    def _answer(
        self, what: str, choices: list[Any], prompts: Sequence[Prompt], drawn: Sequence[Candidate]
    ) -> dict[str, Any]:
        asked = sum(len(self.worker.policy.codec.prompt(prompt)) for prompt in prompts)
        given = sum(len(one.tokens or ()) for one in drawn)
        usage = {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}
        return {
            "id": f"{what}-{uuid.uuid4().hex[:16]}",
            "object": what,
            "created": int(time.time()),
            "model": self.name,
            "choices": choices,
            "usage": usage,
        }

    def _pieces(self, one: Candidate) -> list[str]:
        return self.worker.policy.codec.decode_all([[token] for token in one.tokens or ()])

    def _chat_logprobs(self, one: Candidate) -> dict[str, Any]:
        pairs = zip(self._pieces(one), one.logps or (), strict=True)
        return {
            "content": [{"token": t, "logprob": p, "bytes": list(t.encode()), "top_logprobs": []} for t, p in pairs]
        }

    def _text_logprobs(self, one: Candidate) -> dict[str, Any]:
        return {"tokens": self._pieces(one), "token_logprobs": list(one.logps or ()), "top_logprobs": None}


def score_text(policy: Any, text: str) -> dict[str, Any]:
    """Tokens of a text with their log-probabilities (None for the first) and where each begins in the text."""
    codec = policy.codec
    ids = codec.prompt(text)
    window = codec.window
    if window is not None and len(ids) > window:
        raise InputError(f"the text has {len(ids)} tokens and the model takes {window}", remedy="shorten it")
    found = policy.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before = len(ids) - len(found["input_ids"])
    if before < 0 or tuple(found["input_ids"]) != tuple(ids[before:]):
        raise InputError("this tokenizer does not say where its tokens begin", remedy="serve another model")
    offsets = [0] * before + [start for start, _ in found["offset_mapping"]]
    pieces = [""] * before + [text[start:end] for start, end in found["offset_mapping"]]
    row = Row(tuple(ids[:1]), tuple(ids[1:]), (1.0,) * (len(ids) - 1))
    logps: list[float | None] = [None]
    if len(ids) > 1:
        with torch.no_grad():
            logps += logp_of(policy.model, (row,), width=len(ids) - 1, with_prompt=False)[0][0].tolist()
    return {"tokens": pieces, "token_logprobs": logps, "text_offset": offsets, "top_logprobs": None}


def application(served: Served, hosts: Sequence[str] = ("*",)) -> Any:
    """The server as an ASGI application."""
    server_package("starlette")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def answer(function: Callable[[Mapping[str, Any]], Any]) -> Callable[[Request], Any]:
        async def route(request: Request) -> Response:
            try:
                _check_key(served.key_env, request.headers.get("authorization", ""))
                return JSONResponse(await function(await read(request)))
            except Refused as refused:
                return JSONResponse(refused.body, status_code=refused.status)
            except InputError as error:
                return JSONResponse(Refused(redact(str(error))).body, status_code=400)
            except Exception:
                log.exception("a request failed")
                return JSONResponse(Refused("the server failed; its log says why", 500).body, status_code=500)

        return route

    async def read(request: Request) -> Mapping[str, Any]:
        if request.method == "GET":
            return {}
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MOST_BYTES:
                raise Refused(f"a request has at most {MOST_BYTES} bytes", 413)
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Refused("the body is no JSON object")
        if body.get("model", served.name) != served.name:
            raise Refused(f"there is no model {body['model']!r} here, only {served.name!r}", 404, "not_found_error")
        return body

    async def models(body: Mapping[str, Any]) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": served.name, "object": "model", "owned_by": "prefine"}]}

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", answer(models)),
            Route("/v1/chat/completions", answer(served.chat), methods=["POST"]),
            Route("/v1/completions", answer(served.complete), methods=["POST"]),
        ],
        # A web page cannot make a browser speak to this server under a name of its own.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )


def _check_key(key_env: str | None, header: str) -> None:
    if key_env is None:
        return
    wanted = f"Bearer {os.environ.get(key_env, '').strip()}"
    if not hmac.compare_digest(header.encode(), wanted.encode()):
        raise Refused("a key is needed: Authorization: Bearer ...", 401, "authentication_error")


def server_package(name: str) -> Any:
    """A package of the extra ``serve``, or how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pass
    raise InputError(f"serving needs the package {name.split('.')[0]}", remedy="pip install 'prefine[serve]'")
