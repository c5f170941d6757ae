"""A small OpenAI-compatible server around a causal language model: ``prefine serve DIR``.

``/v1/chat/completions`` and ``/v1/completions`` with n, temperature, top_p, max_tokens, stop, seed, logprobs and
usage, ``echo`` with ``max_tokens`` 0 to score a text, ``/v1/models``. Made for judging and sampling across
processes and for tests; for many users there are vLLM and its kin, which ``Endpoint`` talks to as well.

The same request with the same seed gets the same answer. Requests that wait together and ask for the same kind
of sampling are answered as one batch: each prompt has its own random numbers, so who else is in the batch does
not matter (``max_batch=1`` rules out even a difference in rounding).

It listens on this machine only, unless it is told otherwise and given a key to ask for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from prefine.errors import InputError
from prefine.policies.http import is_loopback

__all__ = ["serve"]

SERVED = ("causal-lm", "refining")
"""Kinds of policies that write text."""


def serve(
    path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    key_env: str | None = None,
    max_batch: int = 16,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the model in a directory (or of a hub name) until interrupted. Port 0 picks a free one.

    ``key_env`` names the environment variable with the key that clients must send; without one the server
    listens on this machine only.
    """
    from prefine.policies import kind_of, load_policy
    from prefine.serving.app import Served, application, server_package
    from prefine.serving.worker import Worker

    uvicorn = server_package("uvicorn")
    local = is_loopback(host)
    if key_env is not None and not os.environ.get(key_env, "").strip():
        raise InputError(
            f"the environment variable {key_env} holds no key to ask clients for",
            remedy=f"export {key_env}=... first, or leave --key-env out to serve this machine without a key",
        )
    if not local and key_env is None:
        raise InputError(
            f"serving on {host} opens the model to the network without a key",
            remedy="name an environment variable that holds a key with --key-env, or serve on 127.0.0.1",
        )
    kind = kind_of(path)
    if kind not in SERVED:
        raise InputError(f"a {kind} cannot be served", remedy="give a causal language model", file=path)
    listener = _listen(host, port)
    policy = load_policy(path, **({} if device is None else {"device": device}))
    served = Served(name or Path(path).resolve().name, Worker(policy, max_batch), key_env)
    hosts = ["localhost", "127.0.0.1", "[::1]", "::1", host] if local else ["*"]
    config = uvicorn.Config(application(served, hosts), log_level="warning", access_log=False)
    address, chosen = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    say(f"serving {served.name} at http://{shown}:{chosen}/v1")
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    problem = ""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        problem = str(error)
    if problem:
        raise InputError(f"cannot listen on {host}:{port}: {problem}", remedy="choose another --port (0: a free one)")
    return listener
