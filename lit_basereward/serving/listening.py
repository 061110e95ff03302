"""The server's sockets: connections that are silent are ended, and a stop loses no request that has come."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lit_basereward.serving.app import Service

HEAD_SECONDS = 10.0  # in which the head of a request has to come (our choice): each that hangs holds an open file


class Impatient(H11Protocol):
    """Ends connections on which no whole head of a request comes, which uvicorn waits for without end."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The wait for the first head begins."""
        super().connection_made(transport)
        self.wait()

    def data_received(self, data: bytes) -> None:
        """The wait ends with a whole head; behind an answer the next one begins."""
        super().data_received(data)
        self.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for."""
        self.forget()
        super().connection_lost(exc)

    def wait(self) -> None:
        """Let the time run, but while a request is in work."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.forget()  # a request is being read or answered: that is the service's to end
        elif self.deadline is None:
            self.deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def forget(self) -> None:
        """No time runs."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


class Server(uvicorn.Server):
    """Stops in steps: it refuses what is new, listens no more when all else is answered, ends a moment later.

    Args:
        service: what it serves.
        host: address to listen on.
        port: to listen on; 0 takes a free one.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        config = uvicorn.Config(
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
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops the service, the second ends the process."""
        if self.service.stopping:
            self.force_exit = self.should_exit = True
        self.service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: the next step of a stop, where one is due."""
        if self.service.stopping and self.service.in_flight == 0:
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
        """Of one connection."""
        return Impatient(self.config, self.server_state, self.lifespan.state)
