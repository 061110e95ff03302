"""A real server on a free port, in a thread of the tests, and requests to it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from lit_basereward import Scorer
from lit_basereward.serving.app import Limits, Service
from lit_basereward.serving.batching import Batcher
from lit_basereward.serving.server import server


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    json: Any


class Running:
    """A server in a thread, and requests to it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.server: uvicorn.Server = server(service, "127.0.0.1", 0)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def request(self, path: str, body: Any = None, token: str | None = "secret", **headers: str) -> Reply:
        """POST where there is a body, given as JSON value or bytes; else GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        if token is not None:
            given.setdefault("Authorization", f"Bearer {token}")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request("GET" if data is None else "POST", path, data, given)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = response.headers["content-type"] == "application/json"
        return Reply(response.status, dict(response.headers), json.loads(content) if is_json else content.decode())

    def stop(self) -> None:
        self.server.handle_exit(15, None)
        self.thread.join()


@contextmanager
def running(scorer: Scorer, limits: Limits | None = None, max_tokens: int = 600) -> Iterator[Running]:
    """A server of its own for what would disturb others."""
    own = Running(Service(Batcher(scorer, max_tokens), limits, "secret"))
    try:
        yield own
    finally:
        own.stop()
