"""Rewards of any model, read from a file, on MM-RLHF-RewardBench: two ids, four pairs, five responses.

Id "a": A beats B and C, and B beats C (three pairs, a ranking of A, B, C). Id "b": D beats E.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_basereward.benchmarks.mm_rlhf_rewardbench import MMRLHFRewardBench
from lit_basereward.benchmarks.rewards import read_rewards
from lit_basereward.benchmarks.score import score
from lit_basereward.benchmarks.vl_rewardbench import VLRewardBench

PAIRS = [("a", "A", "B"), ("a", "A", "C"), ("a", "B", "C"), ("b", "D", "E")]


@pytest.fixture
def benchmark(tmp_path: Path) -> MMRLHFRewardBench:
    rows = [
        {"id": i, "image": f"mcq/{i}.png", "prompt": "q", "chosen": chosen, "rejected": rejected}
        for i, chosen, rejected in PAIRS
    ]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return MMRLHFRewardBench(str(tmp_path / "bench.jsonl"), images="optional")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[Any]], Path]:
    """Writes lines, strings as they are, to ``rewards.jsonl``."""

    def lines(values: list[Any]) -> Path:
        path = tmp_path / "rewards.jsonl"
        path.write_text("".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values))
        return path

    return lines


GOOD = [
    {"rewards": [1.5, -1]},
    {"id": "a", "rewards": [0, 0.5], "p_best": [0.4, 0.6]},
    {"rewards": [2, 1]},
    {"rewards": [0, 0]},
]


def test_one_line_a_pair(benchmark: MMRLHFRewardBench, write: Callable[[list[Any]], Path]) -> None:
    """Right are the first and the third of four pairs: 2/4; no id has all of its pairs right: Acc+ 0/2."""
    file = read_rewards(write(GOOD), benchmark)
    assert [given.tolist() for given in file.rewards] == [[1.5, -1], [0, 0.5], [2, 1], [0, 0]]
    assert (file.text_only, file.failed, file.votes) == (False, 0, None)
    result = score(benchmark, file.rewards)
    assert (result.figures["overall"].correct, result.figures["acc_plus"].correct) == (2, 0)


def test_one_line_a_ranking(benchmark: MMRLHFRewardBench, write: Callable[[list[Any]], Path]) -> None:
    """A, B, C get 3, 1, 2: pairs AB (3, 1), AC (3, 2), BC (1, 2)."""
    lines = [{"id": "a", "rewards": [3, 1, 2]}, {"id": "b", "rewards": [1, 0], "text_only": True}]
    file = read_rewards(write(lines), benchmark)
    assert [given.tolist() for given in file.rewards] == [[3, 1], [3, 2], [1, 2], [1, 0]]
    assert file.text_only


def test_a_row_that_failed_is_counted_warned_of_and_wrong(
    benchmark: MMRLHFRewardBench, write: Callable[[list[Any]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three pairs right and one without rewards: 3/4, not 3/3."""
    lines = [{"rewards": [1, 0]}] * 3 + [{"id": "b", "rewards": None, "error": "no image"}]
    file = read_rewards(write(lines), benchmark)
    assert file.failed == 1
    assert "no rewards in 1 of 4 lines; they count as wrong" in capsys.readouterr().err
    assert np.isnan(file.rewards[3]).all()
    overall = score(benchmark, file.rewards).figures["overall"]
    assert (overall.correct, overall.total) == (3, 4)


# What is put in the place of the second line, and what the message says behind the file and ":2 ".
BAD_LINES = {
    "NaN": ('{"rewards": [NaN, 1]}', "has NaN, which is no number of JSON"),
    "Infinity": ('{"rewards": [1, -Infinity]}', "has -Infinity, which is no number of JSON"),
    "overflow": ('{"rewards": [1e999, 1]}', "too large for a number"),
    "huge integer": ('{"rewards": [1' + "0" * 400 + ", 1]}", "too large for a number"),
    "string": ({"rewards": ["1", 0]}, "a reward that is a JSON string; give a number"),
    "boolean": ({"rewards": [True, 0]}, "a reward that is a JSON boolean; give a number"),
    "null inside": ({"rewards": [None, 0]}, "a reward that is a JSON null; give a number"),
    "null without reason": ({"rewards": None}, "`rewards` that are a JSON null; give a list of numbers, or null with"),
    "one number": ({"rewards": 1.0}, "`rewards` that are a JSON number; give a list of numbers"),
    "too few": ({"rewards": [1]}, "has 1 rewards, but row 'a' has 2 responses; give one for each"),
    "too many": ({"rewards": [1, 2, 3]}, "has 3 rewards, but row 'a' has 2 responses; give one for each"),
    "another key": ({"reward": [1, 2]}, "has no `rewards`, but reward; give a list of numbers"),
    "nothing": ({}, "has no `rewards`, but nothing"),
    "a list": ([1, 2], 'is a JSON list; give an object such as {"rewards": [1.5, -0.2]}'),
    "not JSON": ("rewards: 1", "is not JSON (Expecting value); give one object a line"),
    "empty line": ("", "is not JSON (Expecting value); give one object a line"),
    "deep": ("[" * 100_000, "is nested too deep"),
    "id of another row": (
        {"id": "b", "rewards": [1, 2]},
        "has the id 'b', which is that of its row 4, where the benchmark has 'a'",
    ),
    "unknown id": (
        {"id": "z", "rewards": [1, 2]},
        "has the id 'z', which the benchmark does not have, where the benchmark has 'a'",
    ),
    "text_only": ({"rewards": [1, 2], "text_only": "no"}, "has `text_only` that is a JSON string; give true or false"),
    "votes and rewards": ({"rewards": [1, 2], "votes": [1]}, "or `votes` alone in all"),
    "votes in between": ({"votes": [1]}, "give `votes` alone in all"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_with_the_mend(
    case: str, benchmark: MMRLHFRewardBench, write: Callable[[list[Any]], Path]
) -> None:
    line, message = BAD_LINES[case]
    path = write([GOOD[0], line, *GOOD[2:]])
    with pytest.raises(ValueError) as error:
        read_rewards(path, benchmark)
    # a line among votes makes the others the wrong ones
    assert str(error.value).startswith(f"{path}:{1 if case == 'votes in between' else 2} ")
    assert message in str(error.value)


@pytest.mark.parametrize("num", [1, 3, 5])
def test_another_number_of_lines(num: int, benchmark: MMRLHFRewardBench, write: Callable[[list[Any]], Path]) -> None:
    path = write([{"rewards": [1, 0]}] * num)
    with pytest.raises(ValueError, match=rf"ends at line {num}, but mm_rlhf_rewardbench has 4 rows \(or 2, its rows"):
        read_rewards(path, benchmark)


def test_no_file_an_empty_file_and_a_file_that_is_no_text(tmp_path: Path, benchmark: MMRLHFRewardBench) -> None:
    for content, message in ((b"", "is empty"), (b"\n \n", "is empty"), (b"\xff\xfe", "is not UTF-8 text")):
        (tmp_path / "rewards.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_rewards(tmp_path / "rewards.jsonl", benchmark)
    with pytest.raises(ValueError, match=r"there is no .*nope.jsonl; give the file"):
        read_rewards(tmp_path / "nope.jsonl", benchmark)


def test_ids_are_compared_as_text_and_may_repeat(tmp_path: Path, write: Callable[[list[Any]], Path]) -> None:
    rows = [{"id": "7", "query": "q", "response": [r, "y"], "human_ranking": [0, 1]} for r in ("u", "v")]
    (tmp_path / "vl.json").write_text(json.dumps(rows))
    benchmark = VLRewardBench(str(tmp_path / "vl.json"), images="optional")
    file = read_rewards(write([{"id": 7, "rewards": [1, 0]}, {"id": "7", "rewards": [0, 1]}]), benchmark)
    assert [given.tolist() for given in file.rewards] == [[1, 0], [0, 1]]


def test_a_key_that_stands_twice_is_refused(benchmark: MMRLHFRewardBench, write: Callable[[list[Any]], Path]) -> None:
    path = write([{"rewards": [1, 0]}] * len(benchmark.entries))
    path.write_text(path.read_text().replace('{"rewards": [1, 0]}', '{"rewards": [1, 0], "rewards": [0, 1]}', 1))
    with pytest.raises(ValueError, match=r":1 has a key twice"):
        read_rewards(path, benchmark)
