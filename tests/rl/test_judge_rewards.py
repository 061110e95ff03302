"""Rewards of judges, against a table made by hand."""

from __future__ import annotations

import pytest

from lit_basereward.data.types import Message
from lit_basereward.rl import JudgeReward, Sample
from lit_basereward.rl.judge_rewards import consistency, favoured, format_kept, reasoning, result

GOOD = "<think>Shows six. 1: right. 2: wrong digit.</think><answer>1</answer>"


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (GOOD, "1", 1.0),
        (GOOD, "2", 0.0),
        ("<think>...</think><answer>3</answer>", "1", 0.0),  # not one of the two
        ("I prefer 2.", "2", 1.0),  # no tag: the last 1 or 2
        ("Both are good.", "1", 0.0),  # nothing to parse
        ("", "1", 0.0),
    ],
)
def test_result(completion, answer, expected):
    assert result(completion, answer) == expected


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        (GOOD, True),
        ("\n<think>a\nb</think>\n\n<answer> 2 </answer>\n", True),
        ("<think>a</think><answer>2</answer> So it is 2.", False),  # text behind
        ("Well. <think>a</think><answer>2</answer>", False),  # text before
        ("<think>a</think><answer>3</answer>", False),
        ("<think>a</think><answer>2", False),  # cut off
        ("<answer>2</answer>", False),
        ("<think> \n</think><answer>2</answer>", False),  # no thoughts
        ("<think>a</think><think>b</think><answer>2</answer>", False),  # tags twice
        ("<think>a <answer>1</answer></think><answer>2</answer>", False),
    ],
)
def test_format(completion, kept):
    assert format_kept(completion) == float(kept)


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("Response 2 is better.", 2),
        ("The first answer is clearly the better one.", 1),
        ("Answer 1 is worse than answer 2.", 2),
        ("**Response 1** is more accurate and detailed.", 1),
        ("Response 1 is less helpful.", 2),
        ("Answer 2 is not better.", 1),
        ("I therefore prefer the second response.", 2),
        ("I find answer 1 better, since it names the cat.", 1),
        ("The better answer is 2", 2),
        ("Winner: 1", 1),
        ("So 2 is better.", 2),
        ("Response 2 outperforms Response 1.", 2),
        ("Response 1 is superior.\nBut in all, the latter is better.", 2),  # the last comparison decides
        ("Response 1 is correct.\nResponse 2 is wrong.", 1),  # both point to 1
        ("1: wrong digit. 2: right.", 2),
        ("1: wrong count. 2: wrong count and colour.", None),  # one points to 2, the other to 1
        ("Answer 1 is right. Answer 2 is right.", None),
        ("Answer 1 is accurate. Still, I choose answer 2.", 2),  # comparisons count more
        ("Response 1 is more misleading.", None),  # not a virtue
        ("Step 1: wrong turn.", None),  # not about a response
        ("The picture shows 2 cats. It is better lit.", None),
        ("Response 1 is better.\na\nb\nc", None),  # more than three lines from the end
        ("Response 1 is better.\n\na\n\nb", 1),  # blank lines do not count
        ("", None),
    ],
)
def test_favoured(text, response):
    assert favoured(text) == response


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GOOD, 1.0),
        ("<think>Answer 2 is better.</think><answer>1</answer>", -1.0),
        ("<think>Hard to say.</think><answer>1</answer>", 0.0),
        ("<think>Answer 2 is better.</think><answer>both</answer>", 0.0),
        ("Answer 2 is better. <answer>2</answer>", 1.0),  # reasoning without its tags
        ("<answer>2</answer>", 0.0),
    ],
)
def test_consistency(completion, expected):
    assert consistency(completion) == expected


def test_reasoning_that_never_ends():
    assert reasoning("<think>Answer 2 is better.") == "Answer 2 is better."


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        # result * (1 + 0.5 * consistency) + 0.5 * format
        (GOOD, "1", 1 * (1 + 0.5) + 0.5),
        (GOOD, "2", 0 * (1 + 0.5) + 0.5),  # agreement is worth nothing where the verdict is wrong
        ("<think>Answer 2 is better.</think><answer>1</answer>", "1", 1 * (1 - 0.5) + 0.5),
        ("<think>Hard to say.</think><answer>1</answer>", "1", 1 * (1 + 0) + 0.5),
        ("I prefer 2.", "2", 1 * (1 + 0) + 0),  # no <answer>: there is no reasoning before it either
        ("Nothing.", "2", 0.0),
    ],
)
def test_judge_reward(completion, answer, reward):
    found = JudgeReward()([completion], [Sample((Message("user", ("?",)),), answer=answer)])
    assert found["reward"] == [reward]
    assert found["accuracy"] == [result(completion, answer)] and found["format"] == [format_kept(completion)]


def test_weights_and_parts():
    """Weights 1 and 2: 1 * (1 + 1 * 1) + 2 * 1 = 4; of two verdicts one is for the first."""
    samples = [Sample((Message("user", ("?",)),), answer=answer) for answer in "12"]
    found = JudgeReward(1.0, 2.0)([GOOD, "<think>I prefer 2.</think><answer>2</answer>"], samples)
    assert found["reward"] == [4.0, 4.0]
    assert found["says_first"] == [1.0, 0.0] and found["consistency"] == [1.0, 1.0]
