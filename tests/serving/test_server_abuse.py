"""Serving under abuse: the right status, nothing left behind, and the next request answered."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import pytest
from server_runs import Running, running
from starlette.requests import Request

from lit_basereward import Scorer
from lit_basereward.data.types import RowError
from lit_basereward.serving import app, listening
from lit_basereward.serving.app import Limits, Service
from lit_basereward.serving.batching import Batcher

BODY = {"prompt": "x", "responses": ["yes", "no"]}


@contextmanager
def held(batcher: Batcher) -> Iterator[list[int]]:
    """The model busy with an earlier batch: what it takes meanwhile waits. Gives the sizes of batches taken."""
    scorer, go = batcher.scorer, threading.Event()
    score, sizes = scorer.score_items, []

    def wait(items: Any) -> Any:
        sizes.append(len(items))
        assert go.wait(60)
        return score(items)

    scorer.score_items = wait  # type: ignore[method-assign]
    try:
        yield sizes
        go.set()
        until(lambda: not batcher._waiting)
    finally:
        go.set()
        del scorer.score_items  # type: ignore[misc]  # the method is there again


def until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def raw(api: Running, body: bytes, length: int | None = None, *headers: str) -> socket.socket:
    """A connection on which a request was begun."""
    connection = socket.create_connection(("127.0.0.1", api.port), timeout=20)
    length_line = [] if length is None else [f"Content-Length: {length}"]
    lines = ["POST /v1/score HTTP/1.1", "Host: x", "Authorization: Bearer secret", "Content-Type: application/json"]
    connection.sendall("\r\n".join([*lines, *length_line, *headers, "", ""]).encode() + body)
    return connection


def answer(connection: socket.socket) -> bytes:
    """A whole one, of which the connection may be kept."""
    found = b""
    while not found.endswith(b"}"):
        found += connection.recv(65_536)
    return found


def status(connection: socket.socket) -> int:
    with connection, connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


def test_a_full_queue(scorer: Scorer) -> None:
    """Two requests are taken on, the third is told to come back, and after them the next is taken."""
    with running(scorer, Limits(max_queue=2)) as api, ThreadPoolExecutor(2) as clients:
        with held(api.service.batcher):
            first = [clients.submit(api.request, "/v1/score", BODY) for _ in range(2)]
            until(lambda: api.service.in_flight == 2)
            third = api.request("/v1/score", BODY)
            assert third.status == 429 and int(third.headers["retry-after"]) >= 1
            assert api.request("/health").json == {"status": "ready", "in_flight": 2}
        assert [each.result().status for each in first] == [200, 200]
        assert api.request("/v1/score", BODY).status == 200


def test_a_deadline(scorer: Scorer) -> None:
    """504 while the model is busy; what nobody waits for is not computed when it is free again."""
    with running(scorer, Limits(timeout=0.3)) as api:
        with held(api.service.batcher) as computed:
            reply = api.request("/v1/score", BODY)
            assert reply.status == 504 and "within 0.3 seconds" in reply.json["error"]
            assert api.request("/v1/score", BODY).status == 504
            assert api.service.in_flight == 0
        assert computed == [1]
        assert api.request("/v1/score", BODY).status == 200


def test_a_slow_client(scorer: Scorer) -> None:
    """A body that does not come in time is 408, and its place is free again; others are answered meanwhile."""
    with running(scorer, Limits(timeout=0.5, max_queue=2)) as api:
        slow = raw(api, b'{"prompt"', 1000)
        until(lambda: api.service.in_flight == 1)
        assert api.request("/v1/score", BODY).status == 200
        assert status(slow) == 408
        until(lambda: api.service.in_flight == 0)


def test_a_head_that_never_comes(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are silent, or stop inside a head, the first or a later one, are ended; one on which a request
    waits for its answer, or the next begins in time, is not."""
    monkeypatch.setattr(listening, "HEAD_SECONDS", 0.5)
    with running(scorer) as api:
        whole = json.dumps(BODY).encode()
        silent = socket.create_connection(("127.0.0.1", api.port), timeout=20)
        stuck = socket.create_connection(("127.0.0.1", api.port), timeout=20)
        stuck.sendall(b"POST /v1/score HTTP/1.1\r\nContent-")
        later = raw(api, whole, len(whole))
        assert answer(later).startswith(b"HTTP/1.1 200 OK")
        later.sendall(b"POST /v1/sc")
        assert silent.recv(1) == stuck.recv(1) == later.recv(1) == b""
        with held(api.service.batcher):
            busy = raw(api, whole, len(whole))
            time.sleep(1.0)
        assert answer(busy).startswith(b"HTTP/1.1 200 OK")
        for connection in (silent, stuck, later, busy):
            connection.close()


def test_a_body_without_a_length(api: Running) -> None:
    """Chunks are counted while they come: 413 at the limit, long before their end."""
    connection = raw(api, b"", None, "Transfer-Encoding: chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(5):
        connection.sendall(chunk)
    assert status(connection) == 413
    whole = json.dumps(BODY).encode()
    connection = raw(api, f"{len(whole):x}\r\n".encode() + whole + b"\r\n0\r\n\r\n", None, "Transfer-Encoding: chunked")
    assert status(connection) == 200


def test_clients_that_go_away(scorer: Scorer) -> None:
    """While they send, and while they wait: their places are free at once, and their rows are not computed."""
    with running(scorer) as api, ThreadPoolExecutor(1) as clients, held(api.service.batcher) as taken:
        busy = clients.submit(api.request, "/v1/score", BODY)
        until(lambda: taken)
        whole = json.dumps(BODY).encode()
        half, waiting = raw(api, whole[:5], len(whole)), raw(api, whole, len(whole))
        until(lambda: len(api.service.batcher._waiting) == 1 and api.service.in_flight == 3)
        (job,) = api.service.batcher._waiting
        half.close()
        waiting.close()
        until(lambda: api.service.in_flight == 1)
        assert job.gone.is_set() and not busy.done()


def test_a_stopping_server(scorer: Scorer) -> None:
    """After the signal: what was accepted is answered, what is new is 503, and the server ends."""
    with running(scorer) as api, ThreadPoolExecutor(4) as clients:
        with held(api.service.batcher):
            accepted: list[Future] = [clients.submit(api.request, "/v1/score", BODY) for _ in range(4)]
            until(lambda: api.service.in_flight == 4)
            api.server.handle_exit(signal.SIGTERM, None)
            new = api.request("/v1/score", BODY)
            assert new.status == 503 and "stopping" in new.json["error"]
            assert api.request("/health").status == 503
        assert [each.result().status for each in accepted] == [200] * 4
        api.thread.join(20)
        assert not api.thread.is_alive() and not api.service.batcher._thread.is_alive()


def test_the_last_to_connect(scorer: Scorer) -> None:
    """One that the system has connected when the server closes, and the server has not seen yet, gets its refusal."""
    whole = json.dumps(BODY).encode()
    with running(scorer) as api:

        async def connect_and_close() -> socket.socket:
            late = raw(api, whole, len(whole))
            api.server.handle_exit(signal.SIGTERM, None)
            await api.server.on_tick(0)
            return late

        loop = api.server.servers[0].get_loop()
        late = asyncio.run_coroutine_threadsafe(connect_and_close(), loop).result(20)
        assert not api.server.servers[0].is_serving() and status(late) == 503


def test_a_failing_row_does_not_fail_its_neighbours(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in which the model fails at one row: that row is 500, or 422 where it says why; the others are scored."""
    score = scorer.score_items

    def fail(items: Any) -> Any:
        if any(len(item.branches) == 3 for item in items):
            raise RuntimeError("no memory")
        if any(len(item.branches) == 4 for item in items):
            raise RowError("the group does not please the model")
        return score(items)

    monkeypatch.setattr(scorer, "score_items", fail)
    with running(scorer) as api, ThreadPoolExecutor(8) as clients:
        bodies = [{"prompt": "x", "responses": ["yes", "no", "a", "b"][: 1 + n % 4]} for n in range(16)]
        replies = list(clients.map(lambda body: api.request("/v1/score", body), bodies))
    assert [reply.status for reply in replies] == [200, 200, 500, 422] * 4
    assert "no memory" not in replies[2].json["error"] and "does not please" in replies[3].json["error"]


def test_nothing_is_kept_of_a_request(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body is free with its answer, whatever that is, and not only when Python looks for circles."""

    class Body(bytearray):
        pass

    bodies: list[weakref.ref[Body]] = []
    read, score = Service._body, scorer.score_items

    async def watched(service: Service, request: Request) -> Body:
        body = Body(await read(service, request))
        bodies.append(weakref.ref(body))
        return body

    monkeypatch.setattr(Service, "_body", watched)
    monkeypatch.setattr(app.LOG, "exception", lambda message: None)  # pytest keeps what is logged
    too_long, bad = {**BODY, "prompt": "cat " * 300}, {**BODY, "images": ["AAAA"]}
    with running(scorer) as api:
        gc.disable()
        try:
            asked = [api.request("/v1/score", body).status for body in (BODY, b"{", bad, too_long)]
            monkeypatch.setattr(scorer, "score_items", lambda items: 1 / 0)
            asked.append(api.request("/v1/score", BODY).status)
            api.service.limits = Limits(timeout=0.2)
            monkeypatch.setattr(scorer, "score_items", lambda items: time.sleep(0.5) or score(items))
            asked.append(api.request("/v1/score", BODY).status)
            assert asked == [200, 400, 422, 422, 500, 504]
            until(lambda: [body() for body in bodies] == [None] * 6)
        finally:
            gc.enable()


def test_rewards_that_are_no_numbers(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN is no JSON and no reward: 500."""
    score = scorer.score_items
    monkeypatch.setattr(scorer, "score_items", lambda items: [rewards * float("nan") for rewards in score(items)])
    with running(scorer) as api:
        assert api.request("/v1/score", BODY).status == 500


def test_rows_before_a_bad_one_are_not_computed(scorer: Scorer) -> None:
    """Of a request of several rows of which the last is bad: it fails as a whole, and the others are dropped."""
    good, bad = scorer.row("x", ["yes"]), scorer.row("cat " * 300, ["yes"])
    batcher = Batcher(scorer)
    with held(batcher) as computed:
        first = batcher._pool.submit(batcher._prepare, iter([good]), threading.Event()).result()
        until(lambda: not batcher._waiting)
        with pytest.raises(RowError, match="max_length 256"):
            asyncio.run(batcher.score(lambda: [good, good, bad]))
        assert len(batcher._waiting) == 2
    assert len(first[0].result(20).rewards) == 1
    batcher.close()
    assert computed == [1]


def test_many_rows_of_one_keep_nobody_waiting(scorer: Scorer) -> None:
    """Two requests of 400 prompts each for one thread: a small one between them is answered long before they are."""
    texts = [f"x {n}" for n in range(400)]
    with running(scorer, max_tokens=60) as api, ThreadPoolExecutor(2) as clients:
        many = [clients.submit(api.request, "/get_reward", {"query": texts, "prompts": texts}) for _ in range(2)]
        until(lambda: len(api.service.batcher._waiting) > 2)
        assert api.request("/v1/score", BODY).status == 200
        assert not any(each.done() for each in many)
        assert [each.result().status for each in many] == [200, 200]


def test_batches_hold_what_waits_up_to_the_tokens(scorer: Scorer) -> None:
    """While the model is busy with one row, nine more come; with room for the tokens of four, 1 + 4 + 4 + 1 are
    computed. Reading ahead ends at two batches, so that the last is prepared when the first four are taken."""
    row = scorer.row("is it red", ["yes", "no"])
    tokens = scorer.collator.num_tokens(scorer.collator.prepare(0, row))
    batcher = Batcher(scorer, max_tokens=4 * tokens, workers=1)
    with held(batcher) as sizes:
        jobs = [batcher._pool.submit(batcher._prepare, iter([row]), threading.Event())]
        until(lambda: jobs[0].done() and not batcher._waiting)
        jobs += [batcher._pool.submit(batcher._prepare, iter([row]), threading.Event()) for _ in range(9)]
        until(lambda: len(batcher._waiting) == 8)
        time.sleep(0.1)
        assert len(batcher._waiting) == 8 and not jobs[-1].done()
    for job in jobs:
        assert len(job.result()[0].result(20).rewards) == 2
    batcher.close()
    assert sizes == [1, 4, 4, 1]


@pytest.mark.slow
def test_the_command_line_and_sigterm_under_load(scorer: Scorer, tmp_path: Any) -> None:
    """``serve`` of a checkpoint answers a load of requests; at SIGTERM each one is either answered or refused, none is
    lost, and the process ends with 0."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    trainer.strategy.connect(scorer.module)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    command = [sys.executable, "-m", "lit_basereward", "serve", "--model", str(tmp_path / "model.ckpt"), "--port", "0"]
    command += ["--too_long", "error"]
    environment = os.environ | {"LIT_BASEREWARD_TOKEN": "secret"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    statuses: list[int | str] = []
    stopped = threading.Event()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving on http://127.0.0.1:"), line
        api = Running.__new__(Running)
        api.port = int(line.strip().rpartition(":")[2])
        assert api.request("/v1/score", BODY, token="wrong").status == 401
        long = api.request("/v1/score", {"prompt": "x", "responses": ["cat " * 400]})
        assert long.status == 422 and "over max_length 256" in long.json["error"]

        def client() -> None:
            while not stopped.is_set():
                try:
                    statuses.append(api.request("/v1/score", BODY).status)
                except ConnectionRefusedError:  # it listens no more
                    return
                except OSError as error:
                    statuses.append(repr(error))
                    return

        clients = [threading.Thread(target=client, daemon=True) for _ in range(8)]
        for thread in clients:
            thread.start()
        until(lambda: len(statuses) > 16)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        stopped.set()
        for thread in clients:
            thread.join()
    finally:
        stopped.set()
        process.kill()
        process.wait()
    assert set(statuses) <= {200, 503}, set(statuses)
