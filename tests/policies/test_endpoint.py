"""An endpoint against a real server: another process that serves a tiny model over HTTP.

Between the two stands, where a test needs it, a proxy of the test's own that can misbehave before it passes a
request on, and that remembers what it saw. The model is loaded here as well, so what comes over the wire can be
compared with what it should be.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import torch

from prefine.errors import InputError, PrefineError, RunStopped
from prefine.policies import load_policy
from prefine.policies.base import Limits, Sampling
from prefine.policies.endpoint import Endpoint
from prefine.policies.http import Patience, retry_after
from prefine.run import Run
from prefine.slate import Candidate, Slate, point

KEY = "sk-test-0123456789abcdefKEY"
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})
QUICK = Patience(timeout=30.0, retries=6, first=0.01, longest=0.05)


# --- the model, its server, and the proxy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of a few thousand random weights over bytes, with a chat template; it ends soon and at random."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("served") / "tiny"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "<s>", "</s>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        ids = {"bos_token_id": vocabulary["<s>"], "eos_token_id": vocabulary["</s>"]}
        llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=256, **shape, **ids))
        llama.lm_head.weight.data.mul_(15)  # peaked, so temperature and top-p matter
        llama.lm_head.weight.data[:0x20] *= 0
    llama.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def local(model: Path):
    """The same model in this process: what the server should say."""
    return load_policy(model, device="cpu")


@dataclass
class Server:
    url: str
    log: Path
    first: Endpoint
    """Asked its first question while the server was still starting."""


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "server.log"
    source = f"from prefine.serving import serve; serve({str(model)!r}, port={port})"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", source],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        first = Endpoint(url, "tiny", patience=Patience(retries=400, first=0.1, longest=0.4))
        first.sample(["Hello"], Sampling(max_tokens=2), [0])
        yield Server(url, log, first)
    finally:
        process.kill()
        process.wait()


@dataclass
class Proxy:
    """Passes requests on, after misbehaving as told: one fault a request, in order."""

    upstream: str
    faults: list[object] = field(default_factory=list)
    slow: float = 0.0
    seen: list[dict[str, object]] = field(default_factory=list)
    most_in_flight: int = 0
    url: str = ""
    _in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, request: dict[str, object]) -> object | None:
        with self._lock:
            self.seen.append({**request, "time": time.monotonic()})
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            return self.faults.pop(0) if self.faults and request["method"] == "POST" else None

    def leave(self) -> None:
        with self._lock:
            self._in_flight -= 1


@dataclass(frozen=True)
class Says:
    """A fault: this answer in place of the server's."""

    status: int
    body: str = "{}"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Hangs:
    seconds: float


@dataclass(frozen=True)
class Drops:
    """A fault: the connection ends in the middle of the answer."""


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.url)
    outside = httpx.Client(timeout=60, trust_env=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
            fault = proxy.enter(request)
            left = False
            try:
                if isinstance(fault, Hangs):
                    time.sleep(fault.seconds)
                if isinstance(fault, Drops):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                    self.close_connection = True
                    return
                if isinstance(fault, Says):
                    status, headers, content = fault.status, fault.headers, fault.body.encode()
                else:
                    time.sleep(proxy.slow)
                    path = proxy.upstream.removesuffix("/v1") + self.path
                    answer = outside.request(self.command, path, content=body or None)
                    status, headers, content = answer.status_code, (), answer.content
                # What is answered is no longer in flight: the client may send its next at once.
                proxy.leave()
                left = True
                self.send_response(status)
                for name, value in (*headers, ("Content-Length", str(len(content)))):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True
            finally:
                if not left:
                    proxy.leave()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        proxy.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        yield proxy
        listening.shutdown()
        thread.join()
    outside.close()


@pytest.fixture
def endpoint(proxy: Proxy) -> Endpoint:
    return Endpoint(proxy.url, "tiny", patience=QUICK)


def same(ours: list[list[Candidate]], theirs: list[list[Candidate]]) -> None:
    """The same texts and endings, whoever drew them."""
    assert [[(c.text, c.stop) for c in row] for row in ours] == [[(c.text, c.stop) for c in row] for row in theirs]


# --- sampling


def test_it_waits_for_a_server_that_is_still_starting(server: Server) -> None:
    usage = server.first.usage()
    assert usage["retries"] >= 1 and usage["requests"] == usage["retries"] + 1
    assert usage["completion_tokens"] >= 1


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(n=3, max_tokens=12),
        Sampling(n=2, max_tokens=12, temperature=0.5),
        Sampling(n=2, max_tokens=12, top_p=0.3),
        Sampling(n=1, max_tokens=12, temperature=0),
    ],
    ids=["plain", "temperature", "top-p", "greedy"],
)
def test_samples_are_those_of_the_model_itself(server: Server, local, sampling: Sampling) -> None:
    prompts, seeds = ["Hello", CHAT, "", "Once upon a time"], [3, 4, 5, 6]
    got = Endpoint(server.url, "tiny").sample(prompts, sampling, seeds)
    same(got, local.sample(prompts, sampling, seeds))


def test_the_seed_decides_and_nothing_else(server: Server) -> None:
    endpoint, sampling = Endpoint(server.url, "tiny"), Sampling(n=2, max_tokens=16)
    both = endpoint.sample(["Hello", CHAT], sampling, [1, 2])
    same(both, [endpoint.sample([p], sampling, [s])[0] for p, s in (("Hello", 1), (CHAT, 2))])
    (other,) = endpoint.sample(["Hello"], sampling, [9])
    assert other != both[0] and both[0][0].text != both[0][1].text


def test_seeds_may_be_as_wide_as_a_run_makes_them(server: Server) -> None:
    endpoint, sampling = Endpoint(server.url, "tiny"), Sampling(max_tokens=8)
    wide = 2**63 - 5
    same(endpoint.sample(["Hello"], sampling, [wide]), endpoint.sample(["Hello"], sampling, [wide]))


def test_the_stop_reason_says_whether_the_model_ended(server: Server, local) -> None:
    sampling = Sampling(n=12, max_tokens=60)
    (ours,) = local.sample(["Hello"], sampling, [11])
    assert {c.stop for c in ours} == {"end", "length"}, "the tiny model must do both for this test to mean anything"
    (got,) = Endpoint(server.url, "tiny").sample(["Hello"], sampling, [11])
    same([got], [ours])


def test_a_stop_string_ends_the_answer_and_is_not_in_it(server: Server, local) -> None:
    ((whole,),) = local.sample(["Hello"], Sampling(max_tokens=12), [21])
    stop = next(c for c in whole.text[3:] if c.isascii() and c.isprintable() and c not in whole.text[:3])
    ((got,),) = Endpoint(server.url, "tiny").sample(["Hello"], Sampling(max_tokens=12, stop=(stop,)), [21])
    assert (got.text, got.stop) == (whole.text.split(stop)[0], "end")


def test_log_probabilities_are_kept_where_they_are_those_that_drew(server: Server, local) -> None:
    endpoint = Endpoint(server.url, "tiny", logprobs=True)
    for prompt in ("Hello", CHAT):
        ((got,),) = endpoint.sample([prompt], Sampling(max_tokens=12), [31])
        ((ours,),) = local.sample([prompt], Sampling(max_tokens=12), [31])
        assert got.logps == pytest.approx(ours.logps, abs=1e-4)
        ((cooler,),) = endpoint.sample([prompt], Sampling(max_tokens=12, temperature=0.7), [31])
        assert cooler.logps is None and len(cooler.origin["server_logps"]) >= 1
    ((plain,),) = Endpoint(server.url, "tiny").sample(["Hello"], Sampling(max_tokens=4), [31])
    assert plain.logps is None


def test_a_text_is_scored_as_the_model_itself_scores_it(server: Server, local) -> None:
    prompt, response = "Once upon", " a time"
    slate = Slate(prompt, (Candidate(response, stop="length"),))
    (row,) = local.encode(point(slate, 0, True), Limits())
    from prefine.engine.score import logp_of

    with torch.no_grad():
        ours = logp_of(local.model, (row,), width=len(row.response), with_prompt=False)[0][0].tolist()
    got = Endpoint(server.url, "tiny").response_logps(prompt, response)
    assert len(got) == len(response) and got == pytest.approx(ours, abs=1e-4)


def test_scoring_says_so_where_a_server_cannot(proxy: Proxy, endpoint: Endpoint) -> None:
    proxy.faults = [Says(200, json.dumps({"choices": [{"text": "ab", "logprobs": None}]}))]
    with pytest.raises(InputError, match="does not score text"):
        endpoint.response_logps("a", "b")
    with pytest.raises(InputError, match="chat template"):
        endpoint.response_logps(CHAT, "b")  # type: ignore[arg-type]


def test_a_server_that_gives_fewer_than_n_is_asked_again(proxy: Proxy, endpoint: Endpoint) -> None:
    two = {"choices": [{"index": 1, "text": "b", "finish_reason": "stop"}, {"index": 0, "text": "a"}]}
    proxy.faults = [Says(200, json.dumps(two))]
    (got,) = endpoint.sample(["Hello"], Sampling(n=3, max_tokens=4), [5])
    assert [c.text for c in got[:2]] == ["a", "b"] and len(got) == 3
    first, second = (json.loads(request["body"]) for request in proxy.seen)
    assert (first["n"], second["n"]) == (3, 1) and first["seed"] != second["seed"]


def test_greedy_answers_are_asked_for_once(proxy: Proxy, endpoint: Endpoint) -> None:
    (got,) = endpoint.sample(["Hello"], Sampling(n=4, max_tokens=4, temperature=0), [5])
    assert len(proxy.seen) == 1 and len(got) == 4 and len({c.text for c in got}) == 1


def test_fields_can_be_added_and_taken_out(proxy: Proxy) -> None:
    extra = {"seed": None, "top_k": 5}
    Endpoint(proxy.url, "tiny", patience=QUICK, extra=extra).sample(["Hello"], Sampling(max_tokens=2), [5])
    body = json.loads(proxy.seen[0]["body"])
    assert "seed" not in body and body["top_k"] == 5


def test_usage_is_counted(server: Server) -> None:
    endpoint = Endpoint(server.url, "tiny")
    assert set(endpoint.usage().values()) == {0}
    rows = endpoint.sample(["abc", "de"], Sampling(n=2, max_tokens=5, temperature=0.01), [1, 2])
    usage = endpoint.usage()
    assert (usage["requests"], usage["retries"], usage["prompt_tokens"]) == (2, 0, 5)
    assert 0 < usage["completion_tokens"] <= sum(5 for row in rows for _ in row)


# --- concurrency


def test_no_more_requests_are_under_way_than_allowed(proxy: Proxy) -> None:
    proxy.slow = 0.05
    endpoint = Endpoint(proxy.url, "tiny", patience=QUICK, concurrency=3)
    sampling, prompts = Sampling(max_tokens=2), [str(i) for i in range(8)]
    with ThreadPoolExecutor(2) as pool:  # the limit holds over threads
        parts = list(pool.map(lambda part: endpoint.sample(part, sampling, range(4)), (prompts[:4], prompts[4:])))
    assert proxy.most_in_flight == 3 and len(proxy.seen) == 8
    alone = [endpoint.sample([p], sampling, [i % 4])[0] for i, p in enumerate(prompts)]
    same([*parts[0], *parts[1]], alone)


# --- faults that pass


PASSING = {
    "too many requests": [Says(429)],
    "server error": [Says(500), Says(502), Says(503)],
    "overloaded": [Says(529)],
    "garbage": [Says(200, "<html>gateway</html>")],
    "no object": [Says(200, "[1, 2]")],
    "no choices": [Says(200, '{"choices": []}')],
    "a choice without text": [Says(200, '{"choices": [{}]}')],
    "a text that is none": [Says(200, '{"choices": [{"text": {"a": 1}}]}')],
    "a dropped connection": [Drops()],
    "all at once": [Says(500), Drops(), Says(200, "{"), Says(429)],
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_waited_out(proxy: Proxy, endpoint: Endpoint, local, fault: str) -> None:
    proxy.faults = list(PASSING[fault])
    got = endpoint.sample(["Hello"], Sampling(max_tokens=6), [41])
    same(got, local.sample(["Hello"], Sampling(max_tokens=6), [41]))
    assert endpoint.usage()["retries"] == len(PASSING[fault])
    assert len({request["body"] for request in proxy.seen}) == 1, "the same question, seed included"


def test_an_answer_that_takes_too_long_is_asked_for_again(proxy: Proxy) -> None:
    proxy.faults = [Hangs(4.0)]
    patience = replace(QUICK, timeout=2.0)
    endpoint = Endpoint(proxy.url, "tiny", patience=patience)
    started = time.monotonic()
    assert len(endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])) == 1
    assert endpoint.usage()["retries"] >= 1 and time.monotonic() - started >= 2.0


def test_the_server_says_how_long_to_wait(proxy: Proxy, endpoint: Endpoint) -> None:
    proxy.faults = [Says(429, headers=(("Retry-After", "1"),))]
    endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    first, second = (request["time"] for request in proxy.seen)
    assert second - first >= 1.0


def test_a_wait_of_hours_stops_the_run_instead(proxy: Proxy, endpoint: Endpoint) -> None:
    proxy.faults = [Says(429, headers=(("Retry-After", "7200"),))]
    with pytest.raises(RunStopped, match="429"):
        endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    assert len(proxy.seen) == 1


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("3") == 3.0 and retry_after("-1") == 0.0
    assert retry_after(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0.0
    assert retry_after("soon") is None and retry_after("nan") is None and retry_after(None) is None


def test_waits_double_up_to_a_limit_with_jitter() -> None:
    patience = Patience(first=0.5, longest=4.0)
    assert [patience.wait(k, None, lambda: 1.0) for k in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert patience.wait(3, None, lambda: 0.25) == 1.0
    assert patience.wait(0, 7.0, lambda: 1.0) == 7.0, "never sooner than asked"
    assert len({patience.wait(4, None) for _ in range(8)}) == 8


def test_waiting_does_not_touch_the_random_numbers_of_a_run(proxy: Proxy, endpoint: Endpoint) -> None:
    import random

    before = random.getstate()
    proxy.faults = [Says(500)]
    endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    assert random.getstate() == before


# --- faults that stay


STAYING = {
    "server error": (Says(500, '{"error": {"message": "out of memory"}}'), RunStopped, "500: out of memory"),
    "too many requests": (Says(429), RunStopped, "429"),
    "garbage": (Says(200, "<html>"), RunStopped, "cannot be used"),
    "no choices": (Says(200, '{"choices": []}'), RunStopped, "no choices"),
    "a dropped connection": (Drops(), RunStopped, "cannot be reached"),
    "no key": (Says(401, '{"error": {"message": "no key"}}'), InputError, "set the environment variable SOME_KEY"),
    "not allowed": (Says(403), InputError, "SOME_KEY"),
    "an unknown model": (Says(404), InputError, "name a model the server has: tiny"),
    "a bad request": (Says(400, '{"error": "too long"}'), InputError, "400: too long"),
    "an unprocessable request": (Says(422, '{"detail": "no seed"}'), InputError, "422: no seed"),
    "a moved server": (Says(308, headers=(("Location", "http://elsewhere/v1"),)), InputError, "elsewhere"),
    "something else": (Says(418, "teapot"), InputError, "418: teapot"),
}
ASKED_ONCE = ("no key", "not allowed", "an unknown model", "a bad request", "an unprocessable request",
              "a moved server", "something else")  # fmt: skip


@pytest.mark.parametrize("fault", STAYING)
def test_what_stays_is_one_clear_error(proxy: Proxy, monkeypatch, fault: str) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    says, error, words = STAYING[fault]
    proxy.faults = [says] * 50
    endpoint = Endpoint(proxy.url, "tiny", "SOME_KEY", patience=replace(QUICK, retries=2))
    with pytest.raises(error) as caught:
        endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    assert words in str(caught.value) and caught.value.remedy
    asked = [request for request in proxy.seen if request["method"] == "POST"]
    assert len(asked) == (1 if fault in ASKED_ONCE else 3)


def test_no_credit_is_not_waited_for(proxy: Proxy, endpoint: Endpoint) -> None:
    proxy.faults = [Says(429, '{"error": {"message": "no", "code": "insufficient_quota"}}')] * 9
    with pytest.raises(RunStopped, match="credit"):
        endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    assert len(proxy.seen) == 1


def test_a_model_the_real_server_does_not_have(server: Server) -> None:
    with pytest.raises(InputError, match=r"'other'[\s\S]*name a model the server has: tiny"):
        Endpoint(server.url, "other").sample(["Hello"], Sampling(), [1])


def test_an_address_where_nobody_is() -> None:
    with socket.socket() as taken:  # bound but not listening: refused, whoever else is on this machine
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(RunStopped, match=r"cannot be reached[\s\S]*start the server"):
            Endpoint(url, "tiny", patience=replace(QUICK, retries=1)).sample(["Hello"], Sampling(), [1])


def test_the_first_error_ends_the_rest(proxy: Proxy) -> None:
    proxy.faults = [Says(400)] * 100
    endpoint = Endpoint(proxy.url, "tiny", patience=QUICK, concurrency=1)
    with pytest.raises(InputError):
        endpoint.sample(["Hello"] * 50, Sampling(max_tokens=2), range(50))
    assert len(proxy.seen) == 1


# --- in a run


def test_a_run_stops_when_the_server_goes_and_goes_on_when_it_is_back(
    proxy: Proxy, local, key: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("prefine.run.CHUNK", 4)
    sampling, prompts = Sampling(max_tokens=6), [Slate(f"prompt {i}") for i in range(12)]

    def sampled(place: Path) -> list[Slate]:
        folder = place / "far-away"
        # One request at a time, so the faults meet the prompts in the middle.
        Endpoint(proxy.url, "tiny", key, 1, patience=replace(QUICK, retries=0)).save(folder)
        with Run(place / "run", sampling=sampling) as run:
            return list(run.sample(run.policy(folder), run.slates(prompts), n=1))

    whole = sampled(tmp_path / "whole")
    assert [s.prompt for s in whole] == [s.prompt for s in prompts] and all(len(s) == 1 for s in whole)
    proxy.seen.clear()
    proxy.faults = [None, None, None, None, None, Says(503)]
    with pytest.raises(RunStopped, match="503"):
        sampled(tmp_path / "broken")
    assert sampled(tmp_path / "broken") == whole
    assert len(proxy.seen) == 6 + 8, "the first four were not asked for again"
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 5 and not any(KEY.encode() in file.read_bytes() for file in files)


# --- the key


@pytest.fixture
def key(monkeypatch) -> str:
    monkeypatch.setenv("TEST_API_KEY", KEY)
    return "TEST_API_KEY"


def test_the_key_goes_to_the_server_as_a_bearer_token(proxy: Proxy, key: str, monkeypatch) -> None:
    endpoint = Endpoint(proxy.url, "tiny", key, patience=QUICK)
    endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    monkeypatch.setenv(key, "rotated-while-it-ran")
    endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    monkeypatch.delenv(key)
    endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    sent = [request["headers"].get("Authorization") for request in proxy.seen]
    assert sent == [f"Bearer {KEY}", "Bearer rotated-while-it-ran", None]


def test_the_key_is_in_no_file_no_log_and_no_words(proxy: Proxy, key: str, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint(proxy.url, "tiny", key, patience=replace(QUICK, retries=1))
    endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
    endpoint.save(tmp_path / "policy")
    written = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    told = [repr(endpoint), str(endpoint.to_json()), endpoint.key, str(endpoint.usage()), written]
    for fault in (Says(401, f"bad key {KEY}"), Says(500, KEY), Says(200, KEY), Says(302), Drops(), Says(404, KEY)):
        proxy.faults = [fault] * 3
        with pytest.raises(PrefineError) as caught:
            endpoint.sample(["Hello"], Sampling(max_tokens=2), [1])
        error: BaseException | None = caught.value
        while error is not None:  # and what it came from, with every variable on the way
            lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
            # The locals of this test and its frames hold the faults themselves, which spell the key out.
            told.append(str(error))
            told += [line for line in lines if __file__ not in line]
            error = error.__cause__ or error.__context__
    assert all(KEY not in text for text in told)
    assert "httpcore" in caplog.text and KEY not in caplog.text
    assert sum(f"Bearer {KEY}" in str(request["headers"]) for request in proxy.seen) >= 7, "it was sent"


def test_a_key_that_no_header_can_carry_is_named_but_not_shown(proxy: Proxy, key: str, monkeypatch) -> None:
    monkeypatch.setenv(key, "hidden\nvalue")
    with pytest.raises(InputError, match="TEST_API_KEY holds characters") as caught:
        Endpoint(proxy.url, "tiny", key).sample(["Hello"], Sampling(), [1])
    assert "hidden" not in "".join(traceback.format_exception(caught.value)) and not proxy.seen


@pytest.mark.parametrize(
    "arguments",
    [
        {"key_env": KEY},
        {"key_env": "hf_abcdefghijklmnopqrstuvwx"},
        {"base_url": f"http://user:{KEY}@127.0.0.1/v1"},
        {"base_url": f"http://127.0.0.1/v1?api_key={KEY}"},
        {"extra": {"headers": f"Bearer {KEY}"}},
    ],
    ids=["as the variable's name", "as a name that could be one", "in the address", "in the query", "in a field"],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(arguments: dict) -> None:
    with pytest.raises(InputError) as caught:
        Endpoint(**{"base_url": "http://127.0.0.1:1/v1", "model": "tiny", **arguments})
    assert KEY not in str(caught.value) and "hf_abc" not in str(caught.value) and caught.value.remedy


# --- the policy


def test_it_is_saved_and_loaded_like_any_policy(tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1/", "tiny", None, 3, Patience(retries=1), True, {"top_k": 5})
    endpoint.save(tmp_path / "policy")
    assert json.loads((tmp_path / "policy" / "endpoint.json").read_text())["kind"] == "endpoint"
    loaded = load_policy(tmp_path / "policy")
    assert loaded == endpoint and loaded.key == endpoint.key and loaded.base_url == "http://127.0.0.1:9/v1"


def test_what_cannot_change_an_answer_does_not_change_its_key() -> None:
    one = Endpoint("http://127.0.0.1:9/v1", "tiny")
    assert one.key == replace(one, concurrency=2, patience=QUICK, key_env="OTHER_KEY").key
    assert len({one.key, replace(one, model="b").key, replace(one, extra={"top_k": 1}).key}) == 3


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "tabular"}', '{"kind": "endpoint"}', '{"kind": "endpoint", "colour": 1}']
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoint.json").write_text(text)
    with pytest.raises(InputError, match=r"endpoint\.json"):
        Endpoint.load(tmp_path)


def test_it_cannot_be_trained_and_says_what_can() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "tiny")
    assert endpoint.module is None and endpoint.kind == "endpoint"
    with pytest.raises(InputError, match=r"not trained or scored[\s\S]*directory"):
        endpoint.encode(point(Slate("a", (Candidate("b"),)), 0, True), Limits())
    with pytest.raises(InputError, match="not trained"):
        endpoint.logp(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "ftp://host/v1"},
        {"base_url": "http://host:99999/v1"},
        {"base_url": ""},
        {"model": ""},
        {"concurrency": 0},
        {"patience": Patience(timeout=0)},
        {"patience": Patience(retries=-1)},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(arguments: dict) -> None:
    with pytest.raises(InputError) as caught:
        Endpoint(**{"base_url": "http://127.0.0.1:1/v1", "model": "tiny", **arguments})
    assert caught.value.remedy


def test_an_address_copied_from_a_manual_is_understood() -> None:
    for url in ("http://h/v1/", "http://h/v1/chat/completions", "http://h/v1/completions/", "http://h/v1/models"):
        assert Endpoint(url, "tiny").base_url == "http://h/v1"
