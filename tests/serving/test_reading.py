"""How much a body may ask: counted before any work on it, and honest bodies are let pass."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from server_runs import running

from lit_basereward import Scorer
from lit_basereward.data.sources import record
from lit_basereward.data.types import Message, RowError
from lit_basereward.serving import protocol, reading
from lit_basereward.serving.app import MOST_TOLD, Limits, _told
from lit_basereward.serving.protocol import MOST_QUERIES, Group, Rollouts
from lit_basereward.serving.reading import MOST_PARTS, MOST_VALUES, BadRequest, ImageLimits, read_object

TURN = {"role": "user", "content": "a"}


@pytest.mark.parametrize("value", ["[]", "{}", "1", '""', r'"\\"', r'"\""', '{"a":"b"}'])
def test_many_values_are_refused_before_they_are_parsed(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing holds up every thread: a list of a hundred thousand values of any kind is not begun."""
    body = bytearray(f'{{"x":[{",".join([value] * (MOST_VALUES + 2))}]}}', "ascii")
    assert json.loads(body)
    monkeypatch.setattr(reading.json, "loads", None)
    with pytest.raises(RowError, match="over 100000 commas and brackets outside of its texts"):
        read_object(body)


def test_no_other_encoding_hides_them() -> None:
    """In UTF-16 the marks would be counted wrongly; JSON is UTF-8, with or without a mark of it."""
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(BadRequest, match="not valid JSON"):
            read_object('{"a": "\\""}'.encode(encoding))
    assert read_object('{"a": "é"}'.encode("utf-8-sig")) == {"a": "é"}


def test_honest_bodies_are_let_pass() -> None:
    """Texts of more commas, brackets, quotes and backslashes than there may be values; the largest /get_reward."""
    hard = '{"a": [1, 2, "b\\\\"], } \\' * MOST_VALUES
    for text in (hard, "a, [b], " * MOST_VALUES, "\\" * 999_999, '"' * 999_999):
        body = {"prompt": text, "responses": [text + "\\"] * 3}
        assert read_object(json.dumps(body).encode()) == body
    many = ["x, y"] * MOST_QUERIES
    assert read_object(
        json.dumps({"query": many, "prompts": many, "labels": many, "images": [["a"]] * len(many)}).encode()
    )


@pytest.mark.parametrize(
    ("form", "body", "message"),
    [
        (Group, {"prompt": [TURN] * (MOST_PARTS + 1)}, "1001 turns and parts"),
        (
            Group,
            {"prompt": [{"role": "user", "content": [{"type": "image", "image": "AAAA"}] * MOST_PARTS}]},
            "1001 turns",
        ),
        (Group, {"images": ["AAAA"] * 65}, "65 images, over max_images 64"),
        (Group, {"image": ["AAAA"] * 65}, "65 images, over max_images 64"),
        (Rollouts, {"images": [["AAAA"] * 65]}, "65 images, over max_images 64"),
        (Rollouts, {"query": ["a"] * 10_001, "prompts": ["a"] * 10_001}, "10001 queries, over the limit of 10000"),
        (Rollouts, {"prompts": ["<|im_start|>user\na<|im_end|>\n" * 1001]}, "1001 turns and images"),
        (Rollouts, {"prompts": ["<|vision_start|><|image_pad|><|vision_end|>" * 1001]}, "1001 turns and images"),
    ],
)
def test_numbers_are_checked_before_any_image_is_decoded(form: Any, body: dict, message: str, monkeypatch) -> None:
    monkeypatch.setattr(reading, "decode_image", None)
    shared = {"prompt": "a", "responses": ["a"]} if form is Group else {"query": ["a"], "prompts": ["a"]}
    with pytest.raises(RowError, match=message):
        list(form(json.dumps(shared | body).encode(), ImageLimits(), True).rows)


def test_rows_are_read_only_while_somebody_waits(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests of 300 prompts, each of which takes 20 ms to read: after the deadline their threads are free."""
    read, group = [], protocol.read_group

    def slow(*args: Any) -> Any:
        read.append(time.sleep(0.02))
        return group(*args)

    monkeypatch.setattr(protocol, "read_group", slow)
    texts = [f"x {n}" for n in range(300)]
    with running(scorer, Limits(timeout=0.5)) as api:
        assert api.request("/get_reward", {"query": texts, "prompts": texts}).status == 504
        assert api.request("/get_reward", {"query": texts, "prompts": texts}).status == 504
        assert api.request("/v1/score", {"prompt": "x", "responses": ["yes"]}).status == 200
    assert 2 <= len(read) < 200


def test_large_shapes_are_not_kept(scorer: Scorer) -> None:
    """Of prompts that differ in their number of turns: a thousand, each refused as too long, filled a server."""
    chat = scorer.module.collator(training=False).chat
    for turns in (1, 3, 49, 51, 999):
        chat.prompt([Message("user", ("a",))] * turns)
    assert sorted(map(len, chat._shapes)) == [1, 3, 49]


def test_long_keys_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """With names of a few letters; and what was compared is remembered."""
    monkeypatch.setattr(record, "_closest", None)
    assert Group(json.dumps({"prompt": "a", "responses": ["a"], "k" * 41: 1}).encode(), ImageLimits(), True).rows
    with pytest.raises(TypeError):
        Group(json.dumps({"prompt": "a", "responses": ["a"], "k" * 40: 1}).encode(), ImageLimits(), True)


def test_what_is_told_can_be_sent() -> None:
    """Half a character is escaped, and what repeats a long body is cut in its middle."""
    assert _told(RowError("é \ud800")) == "é \\ud800"
    told = _told(RowError("a" * MOST_TOLD + "b" * MOST_TOLD))
    assert len(told) < MOST_TOLD + 10 and "a ... b" in told
