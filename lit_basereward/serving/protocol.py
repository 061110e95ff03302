"""What requests say and what is answered: JSON to rows, rewards to JSON. Nothing here opens a path or fetches a URL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch

from lit_basereward.callbacks.reward_log import plain
from lit_basereward.data.types import Preference, RowError
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.serving.batching import Scored
from lit_basereward.serving.reading import MOST_PARTS, ImageLimits, read_group, read_object

MOST_QUERIES = 10_000
"""Of a request to /get_reward (our choice): with a prompt of its own each is a row."""


class Group:
    """``POST /v1/score``: one prompt and its K responses, as a row of docs/data_format.md.

    ``messages`` is another name of ``prompt``. Images are base64 or data URIs.

    Args:
        body: of the request.
        limits: on its images.
        comparable: whether the model's rewards mean something outside their row.

    Raises:
        BadRequest: if the body is no JSON object.
        RowError: if it is no row that can be scored.
    """

    def __init__(self, body: bytes | bytearray, limits: ImageLimits, comparable: bool) -> None:
        record = read_object(body)
        if record.get("responses") is None:
            raise RowError(f"the group has no `responses`; give a list of texts. It has {list(record)}")
        if record.get("messages") is not None:
            if record.get("prompt") is not None:
                raise RowError("the group has both `prompt` and `messages`; give one of them")
            record["prompt"] = record.pop("messages")
        row = read_group(record, "the group", limits)
        if not comparable and len(row.responses) < 2:
            raise row.error("has one response, and this model only compares: give at least two")
        self.rows, self.comparable = [row], comparable

    def answer(self, scored: Sequence[Scored], calibration: Calibration | None) -> dict[str, Any]:
        """Rewards, what they mean, and what was read."""
        (group,) = scored
        answer: dict[str, Any] = {"rewards": plain(group.rewards)}
        if self.rows[0].id:
            answer = {"id": self.rows[0].id, **answer}
        if len(group.rewards) > 1:
            answer["p_best"] = plain(torch.softmax(group.rewards.double(), 0))
        if self.comparable and (probabilities := probability(group, calibration)) is not None:
            answer["probabilities"] = probabilities
        return answer | {
            "prompt_tokens": group.prompt_tokens,
            "tokens": group.tokens,
            "truncated": group.truncated,
        }


class Rollouts:
    """``POST /get_reward``: OpenRLHF's remote reward model (``remote_rm_utils.py``; ``agent.py`` from 0.9 on).

    ``{"query": [...], "prompts": [...], "labels": [...]}``: ``query`` is a prompt with its response behind it,
    ``prompts`` the prompt alone. ``labels`` are not used. Prompts rendered as ChatML (Qwen's template) are taken apart
    into their turns; others are one user turn each. The response is text whatever it says, and begins with what the
    template wrote of it, such as ``<think>``. As in OpenRLHF's own server
    an end-of-turn token behind it is taken off, and the reward is read at the one that our template writes.
    Ours besides: ``images``, a list of base64 images per query. Queries of equal prompt and images are one row, and
    share its computation.

    Args:
        body: of the request.
        limits: on its images.
        comparable: whether the model's rewards mean something outside their row.

    Raises:
        BadRequest: if the body is no JSON object.
        RowError: if it is of another form, or the model's rewards are not comparable.
    """

    def __init__(self, body: bytes | bytearray, limits: ImageLimits, comparable: bool) -> None:
        if not comparable:
            raise RowError(
                "this model only compares the responses of one prompt, and its rewards mean nothing across prompts; "
                "send groups to /v1/score, or serve another model"
            )
        record = read_object(body)
        queries, prompts = (_column(record, key, None) for key in ("query", "prompts"))
        images = _column(record, "images", [[]] * len(queries))
        if not len(queries) == len(prompts) == len(images):
            lengths = f"{len(queries)} queries, {len(prompts)} prompts and {len(images)} lists of images"
            raise RowError(f"there are {lengths}; give one of each per query")
        if len(queries) > MOST_QUERIES:
            raise RowError(f"there are {len(queries)} queries, over the limit of {MOST_QUERIES}; send fewer at a time")
        groups: dict[str, list[int]] = {}
        for n, (prompt, own) in enumerate(zip(prompts, images, strict=True)):
            groups.setdefault(json.dumps([prompt, own]), []).append(n)
        self.members = list(groups.values())
        self.rows = _rows(self.members, queries, prompts, images, limits)

    def answer(self, scored: Sequence[Scored], calibration: Calibration | None) -> dict[str, Any]:
        """``rewards``, and as ``scores`` their probabilities where the model has a calibration, else the same."""
        rewards = [0.0] * sum(map(len, self.members))
        scores = list(rewards)
        for group, members in zip(scored, self.members, strict=True):
            own = plain(group.rewards)
            for n, reward, score in zip(members, own, probability(group, calibration) or own, strict=True):
                rewards[n], scores[n] = reward, score
        return {"rewards": rewards, "scores": scores, "extra_logs": {}}


Form: TypeAlias = type[Group] | type[Rollouts]
"""What a body may be: it has ``rows`` to score and writes the ``answer``."""


def probability(group: Scored, calibration: Calibration | None) -> list[float] | None:
    """Calibrated probabilities that the responses are good; None without a calibration that says so."""
    if calibration is None or calibration.offset is None:
        return None
    return plain(calibration.probability(group.rewards))


# ------------------------------------------------------------------------------------------------ OpenRLHF's texts
_TURN = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)<\|im_end\|>\n?", re.DOTALL)
_ASKED = re.compile(r"<\|im_start\|>assistant\n")
_IMAGE = re.compile(r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>")
_MARKER = re.compile(r"<\|[a-z_]+\|>|\[INST\]|<start_of_turn>|<\uff5c")
_ENDS = re.compile(r"(?:(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|</s>|<eos>|<end_of_turn>)\s*+)++")


def _rows(
    groups: list[list[int]], queries: list[str], prompts: list[str], images: list[Any], limits: ImageLimits
) -> Iterator[Preference]:
    """One row for each group of queries, made when it is asked for: while others are read somebody may go away."""
    for members in groups:
        first = members[0]
        messages, begun = _messages(prompts[first], f"prompt {first}")
        responses = [begun + _response(queries[n], prompts[n], f"query {n}") for n in members]
        record = {"prompt": messages, "images": images[first], "responses": responses}
        yield read_group(record, f"query {first}", limits)


def _column(record: dict[str, Any], key: str, default: list[Any] | None) -> list[Any]:
    value = record.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, list) or (default is None and not all(isinstance(each, str) for each in value)):
        raise RowError(f"`{key}` is no list of {'texts' if default is None else 'lists'}, one per query")
    if not value:
        raise RowError(f"`{key}` is empty")
    return value


def _messages(prompt: str, where: str) -> tuple[Any, str]:
    """The turns of a prompt in ChatML, and what the response begins with, as some templates open its thoughts.

    A prompt without any template's marks is one user turn.
    """
    if (places := prompt.count("<|im_start|>") + prompt.count("<|vision_start|>")) > MOST_PARTS:
        raise RowError(f"{where} has {places} turns and images, over the limit of {MOST_PARTS}; send fewer")
    turns, end = [], 0
    while turn := _TURN.match(prompt, end):
        turns.append({"role": turn[1], "content": _content(turn[2])})
        end = turn.end()
    if turns and (asked := _ASKED.match(prompt, end)):
        return turns, prompt[asked.end() :]
    if mark := _MARKER.search(prompt):
        raise RowError(
            f"{where} is rendered, as {mark[0]!r} in it shows, but not as ChatML that ends with <|im_start|>assistant; "
            "send prompts without a chat template, or groups of messages to /v1/score"
        )
    return prompt, ""


def _content(text: str) -> Any:
    """A turn's text, with images where Qwen-VL's placeholders stand."""
    texts = _IMAGE.split(text)
    if len(texts) == 1:
        return text
    parts: list[dict[str, str]] = []
    for n, piece in enumerate(texts):
        parts += [{"type": "image"}] * bool(n) + [{"type": "text", "text": piece}]
    return parts


def _response(query: str, prompt: str, where: str) -> str:
    """What a query says behind its prompt, without the marks that end its turn and pad it."""
    # A policy repeats the placeholder for each token of an image, the prompt has it once.
    query, prompt = (_IMAGE.sub("<|vision_start|><|image_pad|><|vision_end|>", text) for text in (query, prompt))
    if not query.startswith(prompt):
        raise RowError(f"{where} does not begin with its prompt; send both as they were rendered")
    answer = query[len(prompt) :]
    return _ENDS.sub(lambda marks: "" if marks.end() == len(answer) else marks[0], answer)
