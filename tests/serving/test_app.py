"""The server's answers, asked without a socket: the protocol's shapes, its refusals, its key, its batches.

What it says is checked against the model through ``Endpoint`` in ``tests/policies/test_endpoint.py``; here a
policy that echoes stands in for the model, so that every number is known.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefine.errors import InputError
from prefine.policies.base import Sampling
from prefine.serving import serve
from prefine.serving.app import MOST_BYTES, Served, application
from prefine.serving.worker import Worker
from prefine.slate import Candidate, Prompt, prompt_text


class Letters:
    """A codec with one token a character."""

    window = None

    def prompt(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(map(ord, prompt_text(prompt)))

    def decode_all(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(map(chr, row)) for row in rows]


class Parrot:
    """Says the prompt again, with the seed behind it; remembers how it was asked."""

    codec = Letters()

    def __init__(self) -> None:
        self.calls: list[tuple[list[Prompt], Sampling, list[int]]] = []
        self.hold = threading.Event()
        self.hold.set()

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        self.calls.append((list(prompts), sampling, list(seeds)))
        self.hold.wait(10)
        if "explode" in prompts:
            raise RuntimeError("a secret of the machine")
        if "too long" in prompts:
            raise InputError("the prompt is too long", remedy="shorten it")
        return [[self._say(p, s, k, sampling) for k in range(sampling.n)] for p, s in zip(prompts, seeds, strict=True)]

    def _say(self, prompt: Prompt, seed: int, k: int, sampling: Sampling) -> Candidate:
        text = f"{prompt_text(prompt)}|{seed}.{k}"[: sampling.max_tokens]
        stop = "length" if len(text) == sampling.max_tokens else "end"
        return Candidate(text, tokens=tuple(map(ord, text)), logps=(-0.5,) * len(text), stop=stop)


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(parrot: Parrot) -> Ask:
    return asker(Served("parrot", Worker(parrot, max_batch=4)), ["localhost"])


def asker(served: Served, hosts: Sequence[str] = ("*",)) -> Ask:
    app = application(served, hosts)

    def ask(path: str, body: Any = None, host: str = "localhost", **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
                if body is None and not options.get("content"):
                    return await client.get(path, **options)
                return await client.post(path, **({"json": body} if body is not None else {}), **options)

        return asyncio.run(once())

    return ask


def test_completions_have_the_protocols_shape(ask: Ask) -> None:
    body = {"model": "parrot", "prompt": "ab", "n": 2, "max_tokens": 50, "seed": 7, "logprobs": 1}
    answer = ask("/v1/completions", body).json()
    assert answer["object"] == "text_completion" and answer["model"] == "parrot"
    assert [c["text"] for c in answer["choices"]] == ["ab|7.0", "ab|7.1"]
    assert [c["index"] for c in answer["choices"]] == [0, 1]
    assert {c["finish_reason"] for c in answer["choices"]} == {"stop"}
    record = answer["choices"][0]["logprobs"]
    assert record["tokens"] == list("ab|7.0") and record["token_logprobs"] == [-0.5] * 6
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 12, "total_tokens": 14}


def test_chat_completions_have_theirs(ask: Ask) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    body = {"messages": messages, "max_completion_tokens": 5, "seed": 1, "logprobs": True}
    (choice,) = ask("/v1/chat/completions", body).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "user:"}
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["content"][0] == {"token": "u", "logprob": -0.5, "bytes": [117], "top_logprobs": []}


def test_settings_reach_the_model_as_they_were_sent(ask: Ask, parrot: Parrot) -> None:
    ask(
        "/v1/completions",
        {"prompt": "a", "temperature": 0, "top_p": 0.5, "max_tokens": 9, "n": 3, "stop": "x", "seed": -4},
    )
    ((prompts, sampling, seeds),) = parrot.calls
    assert (prompts, seeds) == (["a"], [-4])
    assert sampling == Sampling(n=3, temperature=0, top_p=0.5, max_tokens=9, stop=("x",))


def test_a_list_of_prompts_is_answered_in_order_with_seeds_of_their_own(ask: Ask) -> None:
    answer = ask("/v1/completions", {"prompt": ["a", "b"], "seed": 10, "n": 2}).json()
    assert [c["text"] for c in answer["choices"]] == ["a|10.0", "a|10.1", "b|11.0", "b|11.1"]


def test_without_a_seed_each_request_draws_its_own(ask: Ask, parrot: Parrot) -> None:
    for _ in range(3):
        ask("/v1/completions", {"prompt": "a"})
    assert len({seeds[0] for _, _, seeds in parrot.calls}) == 3


def test_what_stopped_an_answer_is_not_in_it(ask: Ask) -> None:
    (choice,) = ask("/v1/completions", {"prompt": "ab", "stop": ["|", "b"], "seed": 1}).json()["choices"]
    assert choice["text"] == "a"


def test_models_and_health(ask: Ask) -> None:
    assert [m["id"] for m in ask("/v1/models").json()["data"]] == ["parrot"]
    assert ask("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "body, words",
    [
        ({"prompt": 3}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "temperature": True}, "temperature"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "top_p": 1.5}, "top_p"),
        ({"prompt": "a", "n": 0}, "n:"),
        ({"prompt": "a", "n": 1.5}, "n:"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "seed": "one"}, "seed"),
        ({"prompt": "a", "seed": 2**70}, "seed"),
        ({"prompt": "a", "stop": 3}, "stop"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stream": True}, "stream"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "too long"}, "too long"),
    ],
    ids=str,
)
def test_a_bad_request_is_told_what_is_wrong(ask: Ask, body: dict, words: str) -> None:
    answer = ask("/v1/completions", body)
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hi",
        ["hi"],
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": "user", "content": [{"type": "image"}]}],
    ],
    ids=str,
)
def test_bad_messages_too(ask: Ask, messages: Any) -> None:
    answer = ask("/v1/chat/completions", {"messages": messages})
    assert answer.status_code == 400 and "messages" in answer.json()["error"]["message"]


def test_what_is_no_json_is_refused(ask: Ask) -> None:
    for content in (b"{", b"[1]", b"\xff", b"[" * 100_000):
        assert ask("/v1/completions", content=content).status_code == 400
    assert ask("/v1/completions", content=b" " * (MOST_BYTES + 1)).status_code == 413


def test_another_model_is_not_found(ask: Ask) -> None:
    answer = ask("/v1/completions", {"model": "other", "prompt": "a"})
    assert answer.status_code == 404 and "parrot" in answer.json()["error"]["message"]


def test_a_failure_inside_is_logged_and_not_told(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    answer = ask("/v1/completions", {"prompt": "explode"})
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "a secret of the machine" in caplog.text
    assert ask("/v1/completions", {"prompt": "a"}).status_code == 200, "and the server goes on"


def test_only_the_names_of_this_machine_are_answered(ask: Ask) -> None:
    assert ask("/v1/models", host="evil.example").status_code == 400


def test_a_key_is_asked_for_where_one_is_set(parrot: Parrot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_KEY", "open-sesame")
    ask = asker(Served("parrot", Worker(parrot, 1), "SERVE_KEY"))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "open-sesame"}):
        answer = ask("/v1/models", headers=headers)
        assert answer.status_code == 401 and "open-sesame" not in answer.text
    assert ask("/v1/models", headers={"Authorization": "Bearer open-sesame"}).status_code == 200


# --- batches


def gather(parrot: Parrot, jobs: list[tuple[str, Sampling, int]], max_batch: int = 4) -> list[Any]:
    """All jobs sent while the model is busy with a first one."""
    worker = Worker(parrot, max_batch)

    async def together() -> list[Any]:
        parrot.hold.clear()
        first = asyncio.create_task(worker.sample(["first"], Sampling(max_tokens=1), [0]))
        while not parrot.calls:
            await asyncio.sleep(0.005)
        rest = [asyncio.create_task(worker.sample([p], how, [s])) for p, how, s in jobs]
        await asyncio.sleep(0.05)
        parrot.hold.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)

    return asyncio.run(together())


def test_what_waits_together_is_one_batch_if_it_is_alike(parrot: Parrot) -> None:
    warm, cold = Sampling(), Sampling(temperature=0.5)
    answers = gather(parrot, [("a", warm, 1), ("b", cold, 2), ("c", warm, 3)])
    assert [row[0].text for (row,) in answers] == ["a|1.0", "b|2.0", "c|3.0"]
    assert [(prompts, seeds) for prompts, _, seeds in parrot.calls[1:]] == [(["a", "c"], [1, 3]), (["b"], [2])]


def test_a_batch_has_a_limit(parrot: Parrot) -> None:
    gather(parrot, [(str(i), Sampling(), i) for i in range(5)], max_batch=2)
    assert [len(prompts) for prompts, _, _ in parrot.calls[1:]] == [2, 2, 1]


def test_one_bad_prompt_does_not_spoil_the_batch(parrot: Parrot) -> None:
    good, bad, other = gather(parrot, [("a", Sampling(), 1), ("too long", Sampling(), 2), ("b", Sampling(), 3)])
    assert (good[0][0].text, other[0][0].text) == ("a|1.0", "b|3.0") and isinstance(bad, InputError)


def test_whoever_goes_away_is_not_answered(parrot: Parrot) -> None:
    worker = Worker(parrot, 4)

    async def leave() -> list[list[Candidate]]:
        parrot.hold.clear()
        first = asyncio.create_task(worker.sample(["first"], Sampling(), [0]))
        while not parrot.calls:
            await asyncio.sleep(0.005)
        gone = asyncio.create_task(worker.sample(["gone"], Sampling(), [1]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        parrot.hold.set()
        await first
        return await worker.sample(["next"], Sampling(), [2])

    assert asyncio.run(leave())[0][0].text == "next|2.0"
    assert [prompts for prompts, _, _ in parrot.calls] == [["first"], ["next"]]


# --- starting it


def test_the_network_is_not_served_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVE_KEY", raising=False)
    with pytest.raises(InputError, match=r"0\.0\.0\.0 opens the model[\s\S]*--key-env"):
        serve(tmp_path, host="0.0.0.0")
    with pytest.raises(InputError, match="holds no key"):
        serve(tmp_path, host="0.0.0.0", key_env="SERVE_KEY")


def test_what_is_no_language_model_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "endpoint.json").write_text("{}")
    with pytest.raises(InputError, match="endpoint cannot be served"):
        serve(tmp_path)


def test_a_port_that_is_taken_is_said_before_the_model_loads(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        started = time.monotonic()
        with pytest.raises(InputError, match="cannot listen"):
            serve(tmp_path, port=taken.getsockname()[1])
        assert time.monotonic() - started < 5
