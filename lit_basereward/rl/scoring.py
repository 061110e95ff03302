"""Where a reward model's rewards come from: a model that is loaded here, or one that is served elsewhere."""

from __future__ import annotations

import base64
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

import torch
from torch import Tensor

from lit_basereward.data.types import ImagePart, ImageRef, Preference, RowError

TOKEN = "LIT_BASEREWARD_TOKEN"
"""Environment variable of the server's bearer token, the same as the server reads."""
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
        comparable_across_rows: False where a reward means something only beside others of its prompt. Of a served model
            it is not known before it is asked, and stands as True.
    """

    comparable_across_rows = True

    @abstractmethod
    def score(self, rows: Sequence[Preference]) -> list[GroupScores]:
        """Scores of each row's responses, in order.

        Raises:
            RowError: for a row that the model does not take.
        """


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
        module.cut_too_long()  # a long rollout must not end the run
        self.scorer = Scorer(module, device)
        self.comparable_across_rows = module.comparable_across_rows

    def score(self, rows: Sequence[Preference]) -> list[GroupScores]:
        """One forward for each row: prompt and images are computed once for all of its responses."""
        return [self._scores(self.scorer.score_rows([row])[0]) for row in rows]

    def _scores(self, rewards: Tensor) -> GroupScores:
        calibration = self.scorer.calibration
        if calibration is None or calibration.offset is None:
            return GroupScores(rewards, None)
        return GroupScores(rewards, (rewards - calibration.offset) / calibration.temperature)


class ServedModel(Model):
    """A model behind ``python -m lit_basereward serve``, asked at its ``/v1/score``; images travel as base64.

    A server that is busy, starting or out of reach is asked again for a while. The bearer token is taken from the
    environment, as LIT_BASEREWARD_TOKEN.

    Args:
        url: such as ``http://scorer:8000``.
        timeout: seconds for one answer.
        in_flight: groups asked for at a time; the server computes them together.
    """

    def __init__(self, url: str, timeout: float = 120.0, in_flight: int = 8) -> None:
        self.url, self.timeout, self.in_flight = url.rstrip("/"), timeout, in_flight

    def score(self, rows: Sequence[Preference]) -> list[GroupScores]:
        """One request for each row."""
        with ThreadPoolExecutor(self.in_flight) as pool:
            return list(pool.map(self._score, rows))

    def _score(self, row: Preference) -> GroupScores:
        answer = self._ask({**_prompt(row), "responses": list(row.responses)}, row)
        rewards, probabilities = answer.get("rewards"), answer.get("probabilities")
        if not isinstance(rewards, list) or len(rewards) != len(row.responses):
            raise ValueError(f"{self.url} answered without a reward for each of {len(row.responses)} responses")
        if probabilities is None:
            return GroupScores(torch.tensor(rewards), None)
        return GroupScores(torch.tensor(rewards), torch.logit(torch.tensor(probabilities), eps=1e-6))

    def _ask(self, question: dict[str, Any], row: Preference) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self.url}/v1/score", json.dumps(question).encode(), headers)
        problem = ""
        for attempt in range(ATTEMPTS):
            time.sleep(min(2**attempt / 4, 20) if attempt else 0)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problem = f"{error.code}: {_told(error)}"
                if error.code == 422:
                    raise row.error(f"was refused by {self.url}: {problem}") from error
                if error.code not in (429, 503, 504):
                    raise ValueError(f"{self.url} answered {problem}") from error
            except OSError as error:  # refused, reset, timed out
                problem = str(error)
        raise ValueError(f"{self.url} did not score a group in {ATTEMPTS} attempts; the last one: {problem}")


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
