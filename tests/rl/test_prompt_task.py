"""Prompt tasks: prompts, images and answers from JSONL and from preferences."""

from __future__ import annotations

import json
import math

import pytest

from lit_basereward.data.types import ImagePart, Message, Preference, RowError
from lit_basereward.rl import PromptTask
from lit_basereward.rl.task import demonstrated
from lit_basereward.testing import ListSource, random_image

PROMPT = (Message("user", ("Which?",)),)


def written(tmp_path, *records: dict) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def prepared(task: PromptTask) -> PromptTask:
    task.prepare()
    return task


def test_jsonl(tmp_path, capsys):
    """Images beside the file, answers as text or number; one without an answer is kept, and counted."""
    (tmp_path / "a.png").write_bytes(random_image().data)
    path = written(
        tmp_path,
        {"prompt": "How many?", "image": "a.png", "answer": 3},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}], "answer": "me"},
        {"prompt": "Why?"},
    )
    task = prepared(PromptTask(path, instruction="Use \\boxed{}.", system_prompt="Think."))
    first, second, third = (task[index] for index in range(3))
    assert first.prompt == (
        Message("system", ("Think.",)), Message("user", (ImagePart(), "How many?", "\nUse \\boxed{}.")),
    )  # fmt: skip
    assert first.images[0].path.endswith("a.png") and first.answer == "3" and first.where == f"{path}:1"
    assert second.prompt[0] == Message("system", ("Be brief.",)) and second.answer == "me"
    assert third.answer == "" and not any(sample.demonstration for sample in (first, second, third))
    assert "prompts: 3 prompts, 2 with an answer" in capsys.readouterr().out


def test_preferences():
    """The best-rated response, the first of equals, NaN left out, is answer and demonstration."""
    rows = [
        Preference("a", PROMPT, ("x", "y", "z", "w"), (0.0, 2.0, 2.0, math.nan)),
        Preference("b", PROMPT, ("x", "y")),
    ]
    task = prepared(PromptTask([ListSource(rows)]))
    assert [task[index].answer for index in range(2)] == ["y", ""]
    assert [sample.demonstration for sample in demonstrated(task)] == ["y"]


def test_limit_draws():
    """Two of ten, others by another seed; all of them in order without a limit."""
    rows = [Preference(str(n), PROMPT, (str(n),), (1.0,)) for n in range(10)]
    drawn = [prepared(PromptTask([ListSource(rows)], limit=2, seed=seed)) for seed in (0, 1)]
    assert [len(task) for task in drawn] == [2, 2]
    assert [drawn[0][n].answer for n in range(2)] != [drawn[1][n].answer for n in range(2)]
    every = prepared(PromptTask([ListSource(rows)]))
    assert [every[n].answer for n in range(len(every))] == [str(n) for n in range(10)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prompt": "a", "responses": ["x"]},
            ":1 has `responses`, as preferences have; give the file as a JSONLSource",
        ),
        ({"prompt": "a", "answer": True}, ":1 has an `answer` that is no text or number"),
        ({"prompt": "a", "answer": ["x"]}, ":1 has an `answer` that is no text or number"),
        ({"prompt": "a", "image": "none.png"}, "there is no such file"),
        ({"prompt": "a", "image": "../a.png"}, "outside image_root|there is no such file"),
        ({"prompt": "a", "image": "http://x/a.png"}, "no URL is fetched"),
        ({"prompt": "a", "image": "broken.png"}, "is corrupt or none of"),
    ],
)
def test_bad_rows(tmp_path, capsys, record, message):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(RowError, match=message):
        prepared(PromptTask(written(tmp_path, record)))
    task = prepared(PromptTask(written(tmp_path, {"prompt": "good"}, record), on_bad_row="skip"))
    assert len(task) == 1 and "1 bad rows left out, the first:" in capsys.readouterr().out


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="no prompt"):
        prepared(PromptTask([]))
    with pytest.raises(ValueError, match="limit is 0"):
        PromptTask([], limit=0)
    with pytest.raises(ValueError, match="image_root is for a JSONL file"):
        PromptTask([], image_root="x")
