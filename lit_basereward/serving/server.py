"""``serve``: a reward model over HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Literal

from lit_basereward.scorer import Scorer, load

if TYPE_CHECKING:
    import uvicorn

    from lit_basereward.serving.app import Service

TOKEN = "LIT_BASEREWARD_TOKEN"
HEAD_SECONDS = 10.0  # in which the head of a request has to come (our choice): each that hangs holds an open file


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    device: str | None = None,
    max_batch_tokens: int = 32_768,
    max_queue: int = 128,
    max_body: int = 33_554_432,
    max_pixels: int = 50_000_000,
    max_images: int = 64,
    timeout: float = 60.0,
    workers: int = 2,
    too_long: Literal["cut", "error"] = "cut",
    backbone: str | None = None,
    allow: list[str] | None = None,
) -> None:
    """Serve a trained reward model over HTTP: groups, OpenRLHF's remote reward model, and a page to try it.

    Answers /v1/score, /get_reward, /v1/model, /health and / as docs/serving.md says. SIGTERM and Ctrl-C end it once all
    that was accepted is answered; a second one at once.

    Args:
        model: a ``.ckpt`` file, a folder that ``export`` or ``ensemble`` has written, or the YAML of an ensemble.
        host: address to listen on. Others than this machine see the default, 127.0.0.1, not.
        port: to listen on; 0 takes a free one.
        token: that callers must show as bearer token. Others see the command line, so better give it in the
            environment, as LIT_BASEREWARD_TOKEN.
        device: where it computes. None is the first GPU, else the CPU.
        max_batch_tokens: most tokens that are computed at once: bounds the memory of the model. Larger groups are
            scored in parts, a judge's are answered with 422. Texts that a critic or judge writes come on top.
        max_queue: requests taken on at a time; more are answered with 429.
        max_body: bytes of a request; larger ones are answered with 413.
        max_pixels: of all images of a group; more are answered with 422 before any is decoded.
        max_images: of a group.
        timeout: seconds after which a request is answered with 504, or 408 if it has not come whole by then.
        workers: threads that decode images and tokenise.
        too_long: responses over the model's ``max_length`` lose their ends and are marked (``cut``), or are answered
            with 422 (``error``). A prompt over it always is.
        backbone: folder or hub id of the backbone, where it is not where it was in training.
        allow: modules of yours, such as ``my_pkg.heads``, whose classes the model may name.

    Raises:
        ValueError: if the model cannot be loaded, a number makes no sense, or uvicorn is not installed.
    """
    token = os.environ.get(TOKEN) if token is None else token
    numbers: dict[str, float] = {"max_batch_tokens": max_batch_tokens, "max_queue": max_queue, "max_body": max_body}
    numbers |= {"max_pixels": max_pixels, "max_images": max_images, "timeout": timeout, "workers": workers}
    for name, number in numbers.items():
        if number <= 0:
            raise ValueError(f"{name} is {number}; use a number above 0")
    if token is not None and not token.strip():
        raise ValueError(f"the token is empty; give one, or leave --token and {TOKEN} out")
    try:
        from lit_basereward.serving.app import Limits, Service
    except ImportError as error:
        raise ValueError('serve needs uvicorn and starlette: pip install "lit_basereward[serve]"') from error
    from lit_basereward.serving.batching import Batcher
    from lit_basereward.serving.protocol import ImageLimits

    module = load(model, device=device, allow=allow or [], backbone=backbone).module
    module.set_too_long(too_long)
    scorer = Scorer(module, device)
    limits = Limits(max_queue, max_body, ImageLimits(max_pixels, max_images), timeout)
    service = Service(Batcher(scorer, max_batch_tokens, workers), limits, token)
    if token is None and not _local(host):
        print(f"note: everybody who reaches {host}:{port} can use this model; --token or {TOKEN} asks for a token")
    server(service, host, port).run()


def server(service: Service, host: str, port: int) -> uvicorn.Server:
    """The server of a service, not yet running."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """Ends connections on which no whole head of a request comes, which uvicorn waits for without end."""

        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self.forget()
            super().connection_lost(exc)

        def wait(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self.forget()  # a request is being read or answered: that is the service's to end
            elif self.deadline is None:
                self.deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def forget(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    class Server(uvicorn.Server):
        """Stops in steps: it refuses what is new, listens no more when all else is answered, ends a moment later."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if service.stopping:
                self.force_exit = self.should_exit = True
            service.stopping = True

        async def on_tick(self, counter: int) -> bool:
            if service.stopping and service.in_flight == 0:
                self.should_exit |= not self.servers[0].is_serving()  # those who were let in last had their refusal
                for listener in self.servers:
                    await self.close(listener)
            return await super().on_tick(counter)

        async def close(self, listener: asyncio.Server) -> None:
            """Listen no more, and let in those whom the system has connected already: it would reset them."""
            doors = [socket.fromfd(each.fileno(), each.family, each.type) for each in listener.sockets]
            listener.close()
            connected = []
            for door in doors:
                with door, suppress(OSError):
                    for _ in range(self.config.backlog):
                        connected.append(door.accept()[0])
            for connection in connected:
                connection.setblocking(False)
                await asyncio.get_running_loop().connect_accepted_socket(self.protocol, connection)

        def protocol(self) -> Impatient:
            return Impatient(self.config, self.server_state, self.lifespan.state)

    return Server(
        uvicorn.Config(
            service.app(),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            lifespan="on",
            http=Impatient,
            ws="none",
            proxy_headers=False,
            server_header=False,
        )
    )


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
