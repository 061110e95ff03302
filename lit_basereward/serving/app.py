"""The HTTP side of serving: who may ask, how much, for how long, and what is answered when it cannot be."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lit_basereward.data.types import RowError
from lit_basereward.serving.batching import Batcher
from lit_basereward.serving.protocol import Form, Group, Rollouts
from lit_basereward.serving.reading import BadRequest, ImageLimits

T = TypeVar("T")
LOG = logging.getLogger(__name__)
MOST_TOLD = 2_000  # characters of an error, which may repeat what was sent
LINGER = 5.0  # seconds in which the rest of a refused body is read and forgotten, so that its sender sees the answer
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    Args:
        max_queue: requests that are read, prepared, scored at a time; others are told to come back (429).
        max_body: bytes of a request (413).
        images: of a row (422).
        timeout: seconds from a request's beginning to its answer (408 while it is read, then 504).
    """

    max_queue: int = 128
    max_body: int = 32 * 2**20
    images: ImageLimits = field(default_factory=ImageLimits)
    timeout: float = 60.0


class Refusal(Exception):
    """A request that is not taken, with its status."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class Service:
    """Endpoints around a :class:`Batcher`.

    Args:
        batcher: scores rows.
        limits: what is taken on.
        token: that callers must show; None lets everybody in.
    """

    def __init__(self, batcher: Batcher, limits: Limits | None = None, token: str | None = None) -> None:
        self.batcher, self.limits = batcher, limits or Limits()
        self.token = None if token is None else token.strip().encode()
        self.in_flight = 0
        self.stopping = False  # no new requests; those that are in flight are answered

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/v1/model", self.model),
            Route("/v1/score", self.endpoint(Group), methods=["POST"]),
            Route("/get_reward", self.endpoint(Rollouts), methods=["POST"]),
        ]

        async def unknown(request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            return Unread({"error": error.detail}, error.status_code, error.headers)

        @asynccontextmanager
        async def lifespan(app: Starlette) -> Any:
            yield
            await asyncio.to_thread(self.batcher.close)

        app = Starlette(routes=routes, exception_handlers={HTTPException: unknown}, lifespan=lifespan)
        app.router.redirect_slashes = False  # it would send callers behind a proxy to http://
        return app

    async def page(self, request: Request) -> Response:
        """A page on which a person ranks responses."""
        page = files("lit_basereward.serving").joinpath("page.html").read_text("utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY, "Referrer-Policy": "no-referrer"})

    async def health(self, request: Request) -> Response:
        """200 as long as requests are taken; the server listens once the model is loaded."""
        if self.stopping:
            return JSONResponse({"status": "stopping", "in_flight": self.in_flight}, 503)
        return JSONResponse({"status": "ready", "in_flight": self.in_flight})

    async def model(self, request: Request) -> Response:
        """What the rewards mean: whether they compare across prompts, and how they become probabilities."""
        try:
            self._check_token(request)
        except Refusal as refusal:
            return Unread({"error": str(refusal)}, refusal.status, refusal.headers)
        module = self.batcher.scorer.module
        calibration = module.calibration.to_dict() if module.calibration else None
        return JSONResponse({"comparable_across_rows": module.comparable_across_rows, "calibration": calibration})

    def endpoint(self, form: Form) -> Callable[[Request], Awaitable[Response]]:
        """The function that answers requests of one form."""

        async def answer(request: Request) -> Response:
            try:
                self._admit(request)
            except Refusal as refusal:
                return Unread({"error": str(refusal)}, refusal.status, refusal.headers)
            self.in_flight += 1
            try:
                response = await self._answer(request, form)
            finally:
                self.in_flight -= 1
            if self.stopping:  # so that no further request is on its way when the connection ends
                response.headers["Connection"] = "close"
            return response

        return answer

    def _admit(self, request: Request) -> None:
        """Refuse, by its headers alone, a request that will not be taken.

        Raises:
            Refusal: with 401, 413, 415, 429 or 503.
        """
        self._check_token(request)
        if self.stopping:
            raise Refusal(503, "the server is stopping", {"Retry-After": "10"})
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send JSON, with Content-Type: application/json")
        if (packed := request.headers.get("content-encoding", "").strip()).lower() not in ("", "identity"):
            raise Refusal(415, f"the body is packed ({packed[:20]}); send it as it is, without Content-Encoding")
        if int(request.headers.get("content-length", 0)) > self.limits.max_body:
            raise self._too_large()
        if self.in_flight >= self.limits.max_queue:
            raise Refusal(429, f"{self.in_flight} requests are waiting already; come back later", {"Retry-After": "1"})

    def _check_token(self, request: Request) -> None:
        if self.token is not None and not self._authorized(request.headers.get("authorization", "")):
            raise Refusal(401, "the bearer token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is over max_body, {self.limits.max_body} bytes")

    def _authorized(self, header: str) -> bool:
        """Bearer, or Basic with the token as password: ``http://:TOKEN@host``, for clients that are told but a URL."""
        assert self.token is not None
        scheme, _, shown = header.encode("latin-1").partition(b" ")
        if scheme.lower() == b"basic":
            try:
                shown = base64.b64decode(shown, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(shown.strip(), self.token)

    async def _answer(self, request: Request, form: Form) -> Response:
        body = None
        try:
            async with asyncio.timeout(self.limits.timeout):
                body = await self._body(request)
                return JSONResponse(await _while_there(request, self._score(form, body)))
        except Refusal as refusal:
            return Unread({"error": str(refusal)}, refusal.status)
        except TimeoutError:
            if body is None:
                return JSONResponse({"error": f"the body took over {self.limits.timeout:g} seconds"}, 408)
            return JSONResponse({"error": f"not scored within {self.limits.timeout:g} seconds"}, 504)
        except BadRequest as error:
            return JSONResponse({"error": _told(error)}, 400)
        except RowError as error:
            return JSONResponse({"error": _told(error)}, 422)
        except ClientDisconnect:
            return Response(status_code=499)  # is sent to nobody
        except Exception as error:
            LOG.exception("a request could not be scored")
            error.with_traceback(None)
            return JSONResponse({"error": "scoring failed; the server's log says why"}, 500)

    async def _body(self, request: Request) -> bytearray:
        """All of the body, if it is not too large; what says nothing about its length is counted while it comes."""
        body = bytearray()
        async for chunk in request.stream():
            if len(body) + len(chunk) > self.limits.max_body:
                raise self._too_large()
            body += chunk
        return body

    async def _score(self, form: Form, body: bytearray) -> dict[str, Any]:
        module = self.batcher.scorer.module
        asked: list[Group | Rollouts] = []

        def read() -> Any:
            asked.append(form(body, self.limits.images, module.comparable_across_rows))
            return asked[0].rows

        scored = await self.batcher.score(read)
        return asked[0].answer(scored, module.calibration)


class Unread(JSONResponse):
    """An answer to a request whose body was not read: sent at once, then the body is let pass for a while, then closed.

    A connection that is closed on a sender makes its system throw away the answer that has arrived already.
    """

    def __init__(self, content: Any, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status, {**(headers or {}), "Connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, wait for the sender, end it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})


def _told(error: Exception) -> str:
    """What an error says, in UTF-8 and of readable length whatever of the body it repeats; its traceback is dropped.

    That holds the body in a circle, which Python finds late: those of a hundred refused requests filled the memory.
    """
    error.with_traceback(None)
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MOST_TOLD else f"{text[: MOST_TOLD // 2]} ... {text[-MOST_TOLD // 2 :]}"


async def _while_there(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when its client goes away.

    Raises:
        ClientDisconnect: if it does.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # behind a body nothing comes but the end of the connection
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
