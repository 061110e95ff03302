"""Where a reward model's rewards come from: a model that is loaded here, or one that is served elsewhere."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from lit_basereward.data.types import ImagePart, ImageRef, Preference, RowError
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.serving import TOKEN

ATTEMPTS = 8
"""Times that a busy server is asked (our choice: with its waits about a minute)."""


@dataclass(frozen=True)
class GroupScores:
    """What a model says of the responses to one prompt.

    Args:
        rewards: [K] raw.
        log_odds: [K] ``(r - offset) / T`` of being good, by the model's calibration; None without one.
    """

    rewards: Tensor
    log_odds: Tensor | None


class Model(ABC):
    """A source of rewards, one pass for each group.

    Attributes:
        comparable_across_rows: False where a reward means something only beside others of its prompt.
        calibration: how rewards become probabilities; None where the model has none.
    """

    comparable_across_rows: bool
    calibration: Calibration | None

    @abstractmethod
    def rewards(self, rows: Sequence[Preference]) -> list[Tensor]:
        """Raw rewards [K] of each row's responses, in order.

        Raises:
            RowError: for a row that the model does not take.
        """

    def score(self, rows: Sequence[Preference]) -> list[GroupScores]:
        """Scores of each row's responses, in order.

        Raises:
            RowError: for a row that the model does not take, or gives NaN or infinity: trainers take NaN for no reward.
        """
        found = self.rewards(rows)
        for row, rewards in zip(rows, found, strict=True):
            if not bool(rewards.isfinite().all()):
                raise row.error(f"was given rewards that are no numbers, {rewards.tolist()}; look at the reward model")
        return [GroupScores(rewards, self._log_odds(rewards)) for rewards in found]

    def _log_odds(self, rewards: Tensor) -> Tensor | None:
        if self.calibration is None or self.calibration.offset is None:
            return None
        return (rewards - self.calibration.offset) / self.calibration.temperature


class LoadedModel(Model):
    """A checkpoint, export or ensemble in this process. Responses over its ``max_length`` are cut, not refused.

    Args:
        path: as in :func:`lit_basereward.load`.
        device: where it computes; None is this process's GPU, else the CPU.
        allow: modules whose classes the checkpoint may name.

    Raises:
        ValueError: if it cannot be loaded.
    """

    def __init__(self, path: str, device: str | None = None, allow: Sequence[str] = ()) -> None:
        from lit_basereward.scorer import Scorer, load  # which brings Lightning: rules and served models do without

        module = load(path, device=device, allow=allow).module
        module.set_too_long("cut")  # a long rollout must not end the run
        self.scorer = Scorer(module, device)
        self.comparable_across_rows, self.calibration = module.comparable_across_rows, module.calibration

    def rewards(self, rows: Sequence[Preference]) -> list[Tensor]:
        """One forward for each row: prompt and images are computed once for all of its responses."""
        return [self.scorer.score_rows([row])[0] for row in rows]


class ServedModel(Model):
    """A model behind ``python -m lit_basereward serve``, asked at its ``/v1/score``; images travel as base64.

    It is asked first, at ``/v1/model``, what its rewards mean. A server that is busy, starting or out of reach is asked
    again for a while. The bearer token is that of the URL, ``http://:TOKEN@scorer:8000``, or else is taken from the
    environment, as LIT_BASEREWARD_TOKEN, which nobody sees in logs.

    Args:
        url: such as ``http://scorer:8000``.
        timeout: seconds for one answer.
        in_flight: groups asked for at a time; the server computes them together.

    Raises:
        ValueError: if there is no such server.
    """

    def __init__(self, url: str, timeout: float = 120.0, in_flight: int = 8) -> None:
        parts = urlsplit(url)
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self.timeout, self.in_flight = timeout, in_flight
        self._headers = {"Content-Type": "application/json"}
        if token := parts.password or os.environ.get(TOKEN):
            self._headers["Authorization"] = f"Bearer {token}"
        model = self._ask("v1/model", None, None)
        calibration = model.get("calibration")
        if not isinstance(model.get("comparable_across_rows"), bool) or not isinstance(calibration, dict | None):
            raise ValueError(f"{self.url}/v1/model does not say what its rewards mean; serve the model by this version")
        self.comparable_across_rows = model["comparable_across_rows"]
        self.calibration = None if calibration is None else Calibration.from_dict(calibration)

    def rewards(self, rows: Sequence[Preference]) -> list[Tensor]:
        """One request for each row."""
        with ThreadPoolExecutor(self.in_flight) as pool:
            return list(pool.map(self._rewards, rows))

    def _rewards(self, row: Preference) -> Tensor:
        rewards = self._ask("v1/score", {**_prompt(row), "responses": list(row.responses)}, row).get("rewards")
        if not isinstance(rewards, list) or len(rewards) != len(row.responses):
            raise ValueError(f"{self.url} answered without a reward for each of {len(row.responses)} responses")
        return torch.tensor(rewards)

    def _ask(self, path: str, question: dict[str, Any] | None, row: Preference | None) -> dict[str, Any]:
        body = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(f"{self.url}/{path}", body, self._headers)
        problem = ""
        for attempt in range(ATTEMPTS):
            time.sleep(min(2**attempt / 4, 20) if attempt else 0)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    answer = json.load(response)
            except urllib.error.HTTPError as error:
                problem = f"{error.code}: {_told(error)}"
                if error.code == 422 and row is not None:
                    raise row.error(f"was refused by {self.url}: {problem}") from error
                if error.code not in (429, 503, 504):
                    raise ValueError(f"{request.full_url} answered {problem}") from error
            except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut off
                problem = str(error) or type(error).__name__
            except ValueError as error:
                raise ValueError(f"{request.full_url} answered no JSON; give the URL of `serve`") from error
            else:
                if isinstance(answer, dict):
                    return answer
                raise ValueError(f"{request.full_url} answered no JSON object; give the URL of `serve`")
        raise ValueError(f"{request.full_url} did not answer in {ATTEMPTS} attempts; the last one: {problem}")


def open_model(model: str, device: str | None = None, allow: Sequence[str] = ()) -> Model:
    """The model at a path or, where it begins with ``http://`` or ``https://``, at a URL.

    Raises:
        ValueError: if there is nothing at the path, or it cannot be loaded.
    """
    if model.startswith(("http://", "https://")):
        return ServedModel(model)
    if not Path(model).exists():
        raise ValueError(
            f"there is no reward model at {model!r}; give a checkpoint, an export or the URL of a served one. That of "
            "the demo is made by `python -m lit_basereward fit --config configs/demo.yaml`"
        )
    return LoadedModel(model, device, allow)


def _prompt(row: Preference) -> dict[str, Any]:
    """Prompt and images in the server's JSON."""
    messages = [
        {
            "role": turn.role,
            "content": [
                {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part}
                for part in turn.content
            ],
        }
        for turn in row.prompt
    ]
    return {"prompt": messages, "images": [_encoded(ref, row) for ref in row.images]}


def _encoded(ref: ImageRef, row: Preference) -> str:
    try:
        return base64.b64encode(ref.data or Path(ref.path).read_bytes()).decode()
    except OSError as error:
        raise RowError(f"{row.where} has the image {ref.path!r}, which cannot be read: {error}") from error


def _told(error: urllib.error.HTTPError) -> str:
    """The server's own words, where it has some."""
    text = error.read(2000).decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text or error.reason
