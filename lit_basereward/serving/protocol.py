"""What requests say and what is answered: JSON to rows, rewards to JSON. Nothing here opens a path or fetches a URL."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from lit_basereward.callbacks.reward_log import plain
from lit_basereward.data.images import image_size
from lit_basereward.data.records.lines import json_kind
from lit_basereward.data.sources.record import read_row
from lit_basereward.data.types import Preference, RowError
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.serving.batching import Scored

MOST_KEYS = 100
"""Of a body (our choice): each is compared with the names that are known, and a million of them took minutes."""


class BadRequest(ValueError):
    """A body that is no JSON object."""


@dataclass(frozen=True)
class ImageLimits:
    """How much a row's images may be, decided by their headers before any pixel is decoded.

    Args:
        max_pixels: width times height, summed over the images of a row.
        max_images: of a row.
    """

    max_pixels: int = 50_000_000
    max_images: int = 64

    def check(self, row: Preference) -> None:
        """Raise ``RowError`` where a row has more, or an image that is none."""
        if len(row.images) > self.max_images:
            raise row.error(f"has {len(row.images)} images, over max_images {self.max_images}; send fewer")
        sizes = [image_size(ref, row.where, self.max_pixels) for ref in row.images]
        pixels = sum(width * height for width, height in sizes)
        if pixels > self.max_pixels:
            raise row.error(f"has images of {pixels} pixels, over max_pixels {self.max_pixels}; scale them down")


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
        if "responses" not in record:
            raise RowError(f"the group has no `responses`; give a list of texts. It has {list(record)}")
        if "messages" in record:
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
        groups: dict[str, list[int]] = {}
        for n, (prompt, own) in enumerate(zip(prompts, images, strict=True)):
            groups.setdefault(json.dumps([prompt, own]), []).append(n)
        self.members = list(groups.values())
        self.rows = []
        for members in self.members:
            first = members[0]
            messages, begun = _messages(prompts[first], f"prompt {first}")
            responses = [begun + _response(queries[n], prompts[n], f"query {n}") for n in members]
            record = {"prompt": messages, "images": images[first], "responses": responses}
            self.rows.append(read_group(record, f"query {first}", limits))

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


def read_object(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        BadRequest: if it is none.
    """
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and numbers of thousands of digits are ValueErrors
        raise BadRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise BadRequest(f"the body is a JSON {json_kind(record)}; send an object")
    if len(record) > MOST_KEYS:
        raise BadRequest(f"the body is an object of {len(record)} keys; send one of at most {MOST_KEYS}")
    return record


def read_group(record: dict[str, Any], where: str, limits: ImageLimits) -> Preference:
    """A row whose images all came with it.

    Raises:
        RowError: if it is none, or over the limits.
    """
    for key in ("images", "image"):
        if isinstance(record.get(key), list):
            record[key] = [decode_image(image, where) for image in record[key]]
        elif record.get(key) is not None:
            record[key] = decode_image(record[key], where)
    if isinstance(record.get("prompt"), list):
        record["prompt"] = [_decode_turn(turn, where) for turn in record["prompt"]]
    for key in ("chosen_images", "rejected_images"):
        if record.get(key):
            raise RowError(f"{where} has `{key}`; give its `images`")
    # Paths would be opened relative to anything: but all images are bytes by now.
    row = read_row(record, where, root=None, allow_empty=True)
    assert not any(ref.path for ref in row.images)
    limits.check(row)
    return row


def _decode_turn(turn: Any, where: str) -> Any:
    """A chat message whose image parts carry bytes; what is no message is left for ``read_prompt`` to refuse."""
    if not isinstance(turn, dict) or not isinstance(turn.get("content"), list):
        return turn
    keys = ("image", "path", "url", "base64")
    return turn | {
        "content": [
            part | {key: decode_image(part[key], where) for key in keys if part.get(key) is not None}
            if isinstance(part, dict) and part.get("type") == "image"
            else part
            for part in turn["content"]
        ]
    }


def decode_image(value: Any, where: str) -> bytes:
    """Encoded bytes of an image that is base64, a data URI, or ``{"bytes": base64}``.

    Raises:
        RowError: if it is anything else, such as a path or a URL.
    """
    given = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(given, str):
        head, comma, rest = given.partition(",")
        uri = given[:5].lower() == "data:" and comma and head.lower().endswith(";base64")
        try:
            if data := base64.b64decode("".join((rest if uri else given).split()), validate=True):
                return data
        except (binascii.Error, ValueError):
            pass
    shown = repr(value)
    raise RowError(
        f"{where} has an image that is no base64 of a file: {shown[:60]}{'...' if len(shown) > 60 else ''}; no path is "
        "opened and no URL fetched here: send the file's bytes as base64"
    )


# ------------------------------------------------------------------------------------------------ OpenRLHF's texts
_TURN = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)<\|im_end\|>\n?", re.DOTALL)
_ASKED = re.compile(r"<\|im_start\|>assistant\n")
_IMAGE = re.compile(r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>")
_MARKER = re.compile(r"<\|[a-z_]+\|>|\[INST\]|<start_of_turn>|<\uff5c")
_END = re.compile(r"(?:<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|</s>|<eos>|<end_of_turn>)\s*\Z")


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
    """What a query says behind its prompt, without the end of its turn."""
    # A policy repeats the placeholder for each token of an image, the prompt has it once.
    query, prompt = (_IMAGE.sub("<|vision_start|><|image_pad|><|vision_end|>", text) for text in (query, prompt))
    if not query.startswith(prompt):
        raise RowError(f"{where} does not begin with its prompt; send both as they were rendered")
    return _END.sub("", query[len(prompt) :])
