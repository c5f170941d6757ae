"""An address at which a web server has nothing: one message with a remedy, whatever is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prefine.errors import InputError
from prefine.policies.base import Sampling
from prefine.policies.endpoint import Endpoint


class Nothing(BaseHTTPRequestHandler):
    """404 for everything, the list of models too (as when /v1 is left out of an address)."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_without_v1_is_explained(address: str) -> None:
    with pytest.raises(InputError) as raised:
        Endpoint(address, "tiny").sample(["hello"], Sampling(max_tokens=2), [0])
    assert "404" in raised.value.message and "/v1" in raised.value.remedy
