"""``serve``: a reward model over HTTP."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Literal

from lit_basereward.scorer import Scorer, load
from lit_basereward.serving import TOKEN

if TYPE_CHECKING:
    import uvicorn

    from lit_basereward.serving.app import Service


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
    from lit_basereward.serving.reading import ImageLimits

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
    from lit_basereward.serving.listening import Server

    return Server(service, host, port)


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
