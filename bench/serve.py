"""The server under load: each answer checked, memory over time, and what it costs beside collating and scoring.

    python bench/serve.py [--requests 5000] [--clients 64] [--rollouts 48] [--json FILE]

`load`: clients that each send their next request when the last is answered, over 500 different groups of an image of 56
to 112 px, a question and 2 to 4 answers, to the demo's tiny backbone with random weights. Each answer is held against
`Scorer.score_rows` of its own group, to 1e-5. `abuse`: what no client should do, under half the load. `SIGTERM`: what
the server accepted, by its own count, beside what clients were answered, and errors of their connections.
`rollouts`: 16 responses of 16 to 256 tokens to one prompt with a noise image, the model of `train_throughput.py`, over
HTTP and from Python, in the shared and the padded layout. `own` is the server's processor time outside
`Collator.prepare` and `Scorer.score_items`, over all its processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TOKEN = "secret"
WORDS = ["what", "is", "the", "number", "on", "this", "table", "small", "red", "cat", "and", "one", "dog", "under"]


# --------------------------------------------------------------------------------------------- the server's process
def build(folder: str, layout: str) -> Any:
    """A scorer with random weights, the same in every process."""
    import torch

    from lit_basereward import NaiveRM, Scorer
    from lit_basereward.nn.backbone import Backbone

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = NaiveRM(Backbone(folder, init="random", freeze=[], max_length=4096), layout=layout)  # type: ignore[arg-type]
    module.configure_model()
    assert module.model is not None
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)  # type: ignore[attr-defined]
    return Scorer(module, "cpu")


def serve_measured(folder: str, layout: str, pipe: Connection) -> None:
    """Serve until SIGTERM; answer every message on the pipe with figures so far, and leave them there at the end."""
    from lit_basereward.data.collator import Collator
    from lit_basereward.serving.app import Service
    from lit_basereward.serving.batching import Batcher
    from lit_basereward.serving.server import server

    warnings.filterwarnings("ignore")
    scorer, work = build(folder, layout), {"prepare": 0.0, "score": 0.0}
    sizes: list[int] = []
    served = Counter[str]()

    class Counting(Service):
        async def _answer(self, *request: Any) -> Any:
            served["accepted"] += 1
            return await super()._answer(*request)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args)
            finally:
                with lock:
                    work[name] += time.thread_time() - start

        return call

    lock = threading.Lock()
    Collator.prepare = timed("prepare", Collator.prepare)  # type: ignore[method-assign]
    score = timed("score", scorer.score_items)
    scorer.score_items = lambda items: (sizes.append(len(items)), score(items))[1]
    running = server(Counting(Batcher(scorer), token=TOKEN), "127.0.0.1", 0)

    def figures() -> dict[str, Any]:
        rss = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        threads = threading.active_count()
        files = len(os.listdir("/proc/self/fd"))
        mean = statistics.mean(sizes) if sizes else 0.0
        sizes.clear()
        found = {"cpu": time.process_time(), **work, "rss": int(rss.split()[1]) / 1024, "rows a batch": mean}
        return found | {"threads": threads, "files": files, "accepted": served["accepted"]}

    def report() -> None:
        while not running.started:
            time.sleep(0.05)
        pipe.send(running.servers[0].sockets[0].getsockname()[1])
        while pipe.poll(None):
            pipe.recv()
            pipe.send(figures())

    threading.Thread(target=report, daemon=True).start()
    running.run()
    pipe.send(figures())


class Served:
    """A server in a process of its own."""

    def __init__(self, folder: str, layout: str = "shared") -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_measured, args=(folder, layout, theirs))
        self.process.start()
        self.port = self.pipe.recv()

    def figures(self) -> dict[str, Any]:
        self.pipe.send(None)
        return self.pipe.recv()

    def stop(self) -> int:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.join(60)
        return -1 if self.process.exitcode is None else self.process.exitcode


def share(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Processor seconds between two reports."""
    spent = {key: after[key] - before[key] for key in ("cpu", "prepare", "score")}
    return spent | {"own": 1 - (spent["prepare"] + spent["score"]) / spent["cpu"]}


# -------------------------------------------------------------------------------------------------------- the clients
def head(path: str, token: str, length: int) -> bytes:
    """The lines above a body."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, body: bytes, path: str = "/v1/score", token: str = TOKEN) -> tuple[int, Any]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(head(path, token, len(body)) + body)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
        content = json.loads(await self.reader.readexactly(length))
        if "connection: close" in lines:
            self.close()
        return int(lines[0].split()[1]), content

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


@dataclass
class Load:
    """Groups to send, what they are worth, and what came back."""

    bodies: list[bytes]
    expected: list[list[float]]
    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    wrong: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0

    async def client(self, port: int, numbers: Any) -> None:
        """Send the next of ``numbers`` whenever the last is answered."""
        client = Client(port)
        for n in numbers:
            which = n % len(self.bodies)
            start = time.perf_counter()
            try:
                status, answer = await client.post(b'{"id": "%d", ' % n + self.bodies[which])
            except ConnectionRefusedError:  # it listens no more
                return
            except (OSError, EOFError) as error:
                self.lost[type(error).__name__] += 1
                return
            self.seconds.append(time.perf_counter() - start)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 200:
                pairs = zip(answer["rewards"], self.expected[which], strict=True)
                difference = max(abs(one - other) for one, other in pairs)
                self.worst = max(self.worst, difference)
                self.wrong += answer["id"] != str(n) or difference > 1e-5
        client.close()


def groups(scorer: Any, number: int, seed: int = 0) -> Load:
    """Different groups without their opening brace, and their rewards from Python, each alone."""
    from lit_basereward.testing import random_image

    rng = random.Random(seed)
    load = Load([], [])
    for n in range(number):
        image = random_image((rng.randint(56, 112), rng.randint(56, 112)), n).data
        prompt = " ".join(rng.choices(WORDS, k=rng.randint(4, 12)))
        responses = [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(rng.randint(2, 4))]
        body = {"prompt": prompt, "images": [base64.b64encode(image).decode()], "responses": responses}
        load.bodies.append(json.dumps(body)[1:].encode())
        load.expected.append(scorer.score(prompt, responses, [image]).tolist())
    return load


async def under_load(served: Served, load: Load, requests: int, clients: int) -> dict[str, Any]:
    """Send them all; memory at ten moments."""
    numbers, memory = iter(range(requests)), []

    def counted() -> Any:
        for n in numbers:
            if n % (requests // 10) == 0:
                memory.append(round(served.figures()["rss"]))
            yield n

    before, start = served.figures(), time.perf_counter()
    shared = counted()
    await asyncio.gather(*(load.client(served.port, shared) for _ in range(clients)))
    seconds, after = time.perf_counter() - start, served.figures()
    ordered = sorted(load.seconds)
    return {
        "requests": len(ordered), "statuses": load.statuses, "wrong": load.wrong, "lost": load.lost.total(),
        "worst difference": load.worst, "per second": len(ordered) / seconds,
        "p50 ms": 1000 * ordered[len(ordered) // 2], "p95 ms": 1000 * ordered[len(ordered) * 95 // 100],
        "rows a batch": after["rows a batch"], "MiB over time": memory, **share(before, after),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- the abuse
def png(width: int, height: int) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


async def vanish(port: int, body: bytes, sent: int, times: int) -> str:
    """Go away in the middle of a request, again and again."""
    for _ in range(times):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("/v1/score", TOKEN, len(body)) + body[:sent])
        await writer.drain()
        writer.close()
    return f"{times} times"


async def abuse(served: Served, load: Load, clients: int) -> dict[str, Any]:
    """Everything that no client should do while others are served."""
    stop, found = False, {}

    def endless() -> Any:
        n = 0
        while not stop:
            yield n
            n += 1

    shared = endless()
    tasks = [asyncio.create_task(load.client(served.port, shared)) for _ in range(clients)]
    await asyncio.sleep(1)

    def image(value: Any) -> bytes:
        return json.dumps({"prompt": "x", "images": [value], "responses": ["a"]}).encode()

    good = b"{" + load.bodies[0]
    cases = {
        "broken JSON": (good[:-1], TOKEN),
        "100 MB body": (b" " * 100_000_000, TOKEN),
        "16,000 x 16,000 px image": (image(png(16_000, 16_000)), TOKEN),
        "64 images of 49 megapixels": (
            json.dumps({"prompt": "x", "images": [png(7_000, 7_000)] * 64, "responses": ["a"]}).encode(),
            TOKEN,
        ),
        "path as image": (image("/etc/passwd"), TOKEN),
        "URL as image": (image("http://127.0.0.1/a.png"), TOKEN),
        "wrong token": (good, "other"),
    }
    for name, (body, token) in cases.items():
        found[name] = str((await Client(served.port).post(body, token=token))[0])
    slow = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(100)]
    for _, writer in slow:
        writer.write(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-")
    found["gone while sending"] = await vanish(served.port, good, len(good) // 2, 200)
    found["gone while waiting"] = await vanish(served.port, good, len(good), 200)
    before, start = len(load.seconds), time.perf_counter()
    while len(load.seconds) < before + 4 * clients:
        await asyncio.sleep(0.05)
    rate = (len(load.seconds) - before) / (time.perf_counter() - start)
    found["answered a second, 100 clients stuck"] = f"{rate:.0f}"
    for _, writer in slow:
        writer.close()
    stop = True
    await asyncio.gather(*tasks)
    await asyncio.sleep(1)
    after = served.figures()
    found["after it"] = {key: after[key] for key in ("rss", "threads", "files")}
    found["statuses of the others"] = load.statuses
    found["wrong answers"], found["without an answer"] = load.wrong, load.lost
    return found


async def stopped(served: Served, load: Load, clients: int) -> dict[str, Any]:
    """SIGTERM while clients ask on and on."""
    before, numbers = served.figures()["accepted"], itertools.count()
    tasks = [asyncio.create_task(load.client(served.port, numbers)) for _ in range(clients)]
    await asyncio.sleep(2)
    code = await asyncio.to_thread(served.stop)
    await asyncio.gather(*tasks)
    refused = load.statuses.get(503, 0)
    return {
        "exit": code, "accepted": served.pipe.recv()["accepted"] - before, "wrong": load.wrong,
        "answered": sum(load.statuses.values()) - refused, "refused": refused, "without an answer": load.lost,
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------- 16 rollouts
def rollouts(folder: str, pixels: int, number: int, clients: int) -> dict[str, Any]:
    """Responses per processor second of both layouts, from Python and through the server."""
    from train_throughput import make_rows

    rows = make_rows(8 * 120, 16, pixels, ranked=True)
    found: dict[str, Any] = {}
    for layout in ("shared", "padded"):
        scorer = build(folder, layout)
        load = Load([], [])
        scorer.score_rows(rows[:1])
        start = time.process_time()
        for row in rows:
            load.expected.append(scorer.score_rows([row])[0].tolist())
        python = len(rows) * 16 / (time.process_time() - start)
        for row in rows:
            prompt = [{"type": "image"}, {"type": "text", "text": row.prompt[0].content[1]}]
            images = [base64.b64encode(row.images[0].data).decode()]
            body = {"prompt": [{"role": "user", "content": prompt}], "images": images, "responses": row.responses}
            load.bodies.append(json.dumps(body)[1:].encode())
        served = Served(folder, layout)
        requests = number if layout == "shared" else max(10, number // 8)
        result = asyncio.run(under_load(served, load, requests, clients))
        served.stop()
        keys = ("own", "cpu", "prepare", "score", "wrong", "lost", "worst difference", "rows a batch")
        found[layout] = {"python": python, "server": requests * 16 / result["cpu"]} | {key: result[key] for key in keys}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=48, help="requests of 16 responses; 0 leaves them out")
    parser.add_argument("--pixels", type=int, nargs="+", default=[280, 560])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    from train_throughput import write_backbone

    from lit_basereward.demo.tiny import demo_folder

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = demo_folder(scratch)
        load = groups(build(folder, "shared"), 500)
        served = Served(folder)
        results["load"] = asyncio.run(under_load(served, load, args.requests, args.clients))
        print("load", json.dumps(results["load"], indent=1), flush=True)
        for name, part in (("abuse", abuse), ("SIGTERM", stopped)):
            results[name] = asyncio.run(part(served, Load(load.bodies, load.expected), args.clients // 2))
            print(name, json.dumps(results[name], indent=1), flush=True)
        write_backbone(Path(scratch, "large"))
        for pixels in args.pixels if args.rollouts else []:
            results[f"rollouts {pixels}"] = rollouts(str(Path(scratch, "large")), pixels, args.rollouts, 8)
            print(f"rollouts {pixels} px", json.dumps(results[f"rollouts {pixels}"], indent=1), flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
