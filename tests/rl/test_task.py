"""Judge tasks: which comparisons, in which order, with which answer."""

from __future__ import annotations

import math

import pytest

from lit_basereward.data.types import Message, Preference, RowError
from lit_basereward.rl import JudgeTask, Sample
from lit_basereward.rl.task import demonstrated
from lit_basereward.testing import ListSource


def row(name: str, ratings: tuple[float, ...], judgement: str = "") -> Preference:
    responses = tuple(f"{name}{number}" for number in range(len(ratings)))
    return Preference(name, (Message("user", (f"question {name}",)),), responses, ratings, judgement=judgement)


ROWS = [
    row("a", (1.0, 0.0), "It is <answer>1</answer>"),
    row("b", (1.0, 3.0, 2.0)),
    row("c", (1.0, 1.0)),
    row("d", (1.0,)),
]


def task(rows: list[Preference], **settings) -> JudgeTask:
    made = JudgeTask([ListSource(rows)], **settings)
    made.prepare()
    return made


def shown(sample: Sample) -> tuple[str, str]:
    """What is called 1 and what 2: the template's pieces and the texts take turns."""
    texts = sample.prompt[-1].content
    return str(texts[3]), str(texts[5])


def test_both_orders():
    """One comparison of a and three of b, twice each; the answer names the better one, in either order."""
    found = task(ROWS, orders="both")
    pairs = [(*shown(sample), sample.answer) for sample in map(found.__getitem__, range(len(found)))]
    better = [("a0", "a1"), ("b1", "b0"), ("b1", "b2"), ("b2", "b0")]
    assert sorted(pairs) == sorted([(x, y, "1") for x, y in better] + [(y, x, "2") for x, y in better])


def test_template_and_question_stand_in_place():
    sample = task(ROWS[:1], orders="both", system_prompt="Judge.")[0]
    system, user = sample.prompt
    assert system == Message("system", ("Judge.",)) and user.content[1] == "question a"
    assert "[Question]" in user.content[0] and "[Answer 1]" in user.content[2] and "[Answer 2]" in user.content[4]


@pytest.mark.parametrize("seed", range(3))
def test_balanced(seed):
    """Each comparison once; of 4 answers two are 1. Another seed draws another order."""
    found = task(ROWS, seed=seed)
    samples = [found[index] for index in range(len(found))]
    assert sorted(sample.answer for sample in samples) == ["1", "1", "2", "2"]
    assert len({frozenset(shown(sample)) for sample in samples}) == 4


def test_balance_is_no_pattern_of_the_rows():
    """In 200 rows whose first response is always better, the answer does not follow the place in the source."""
    found = task([row(f"r{number}", (1.0, 0.0)) for number in range(200)])
    answers = {str(found[index].prompt[-1].content[1]): found[index].answer for index in range(200)}
    even = [answers[f"question r{number}"] for number in range(0, 200, 2)]
    assert 30 < even.count("1") < 70


def test_demonstrations_keep_their_order():
    """A judgement is about responses 0 and 1 in this order, so it is not shown where they are swapped."""
    found = task(ROWS, orders="both")
    assert [(shown(sample), sample.demonstration) for sample in demonstrated(found)] == [
        (("a0", "a1"), "It is <answer>1</answer>")
    ]
    with pytest.raises(ValueError, match="no demonstration to imitate"):
        demonstrated(task(ROWS[1:]))


def test_what_is_left_out_is_told(capsys):
    task([*ROWS, row("e", (math.nan, 1.0))])
    told = capsys.readouterr().out
    assert "list: 2 rows, 4 comparisons" in told
    assert "1 rows left out: all ratings equal" in told and "1 rows left out: one response" in told
    assert "1 rows left out: one rating" in told


def test_limit_draws():
    assert len(task(ROWS, limit=3)) == 3 and len(task(ROWS, orders="both", limit=3)) == 6


def test_errors():
    with pytest.raises(ValueError, match="no comparison"):
        task(ROWS[2:])
    with pytest.raises(ValueError, match="limit is 0"):
        JudgeTask([], limit=0)
    with pytest.raises(ValueError, match="no template"):
        JudgeTask([], template="nowhere")


def test_bad_rows():
    class Broken(ListSource):
        def __getitem__(self, index: int) -> Preference:
            if index == 1:
                raise RowError("line 2 is broken")
            return super().__getitem__(index)

    with pytest.raises(RowError, match="line 2"):
        JudgeTask([Broken(ROWS)]).prepare()
    kept = JudgeTask([Broken(ROWS)], on_bad_row="skip")
    kept.prepare()
    assert len(kept) == 1
