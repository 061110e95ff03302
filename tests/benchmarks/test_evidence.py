"""Critiques, verdicts and cost beside rewards: figures by hand, files, and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_basereward.benchmarks.evidence import entry_evidence, evidence_figures, judgements
from lit_basereward.benchmarks.html import MAX_TEXT, MAX_WRITTEN
from lit_basereward.benchmarks.mm_rlhf_rewardbench import MMRLHFRewardBench
from lit_basereward.benchmarks.report import format_section, report, section, write_report
from lit_basereward.benchmarks.rewards import read_rewards
from lit_basereward.benchmarks.vl_rewardbench import VLRewardBench

HOSTILE = "</div></details><script>alert(1)</script>"


@pytest.fixture
def pairs(tmp_path: Path) -> VLRewardBench:
    """Two pairs, the first response better in both."""
    rows = [
        {"id": f"RLHF-{n}", "query": f"q{n}", "response": ["x", "y"], "human_ranking": [0, 1], "image": f"{n}.png"}
        for n in range(2)
    ]
    (tmp_path / "vl.json").write_text(json.dumps(rows))
    return VLRewardBench(str(tmp_path / "vl.json"), images="optional")


@pytest.fixture
def rankings(tmp_path: Path) -> MMRLHFRewardBench:
    """Id "a" ranks A, B, C in three pairs; id "b" is the pair D, E."""
    rows = [
        {"id": i, "image": f"mcq/{i}.png", "prompt": "q", "chosen": chosen, "rejected": rejected}
        for i, chosen, rejected in (("a", "A", "B"), ("a", "A", "C"), ("a", "B", "C"), ("b", "D", "E"))
    ]
    (tmp_path / "mm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return MMRLHFRewardBench(str(tmp_path / "mm.jsonl"), images="optional")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def lines(*values: Any, name: str = "rewards.jsonl") -> Path:
        (tmp_path / name).write_text("".join(json.dumps(value) + "\n" for value in values))
        return tmp_path / name

    return lines


def test_position_consistency_of_log_odds() -> None:
    """Four pairs. 0-1 of row one: 0 wins by 2 and, presented second, by 1: agree. 0-2: whoever is first wins: not. 1-2:
    a tie in both orders: agree. Row two: a tie in one order: not. So 2 of 4.

    The first of the two wins in the orders (0, 1), (0, 2), (2, 0), (1, 0 of row two), half in the two ties of 1-2 and
    the one of row two; not in (1, 0): 4 + 1.5 of 8.
    """
    one = {"log_odds": [[0, 1, 2.0], [1, 0, -1.0], [0, 2, 1.0], [2, 0, 1.0], [1, 2, 0.0], [2, 1, 0.0]]}
    two = {"log_odds": [[0, 1, 0.0], [1, 0, 3.0]]}
    assert evidence_figures([one, two]) == {"position_consistency": 0.5, "first_wins": 5.5 / 8}
    # rows of one distinct response have no pair: nothing is said of them
    assert math.isnan(evidence_figures([{"log_odds": []}])["position_consistency"])
    assert evidence_figures([{}, {}]) == {}


def test_votes() -> None:
    """Two pairs, of which one agrees.

    Row one: 3 : 1 for response 0 when it is first, 1 : 0 with one unparsed when it is second: agree. Row two: nothing
    parsed in one order, which agrees with nothing. Row three was asked in one order, and is no pair. 11 votes, 4 of
    them unparsed. The first wins in one order of row one and in row two, of three: 2/3.
    """
    rows = [
        {"votes": [[0, 1, 3, 1, 0], [1, 0, 0, 1, 1]]},
        {"votes": [[0, 1, 2, 0, 0], [1, 0, 0, 0, 2]]},
        {"votes": [[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]},
    ]
    found = evidence_figures(rows)
    assert (found["votes"], found["unparsed"]) == (11, 4)
    assert found["position_consistency"] == 1 / 2 and found["first_wins"] == pytest.approx(2 / 3)


def test_counts_of_critiques() -> None:
    """Two responses with two critiques each, and one with one: 5; a row without evidence adds nothing."""
    rows = [
        {"critiques": [["a", ""], ["b", "c"]], "empty": 1, "unfinished": 0},
        {},
        {"critiques": [["d"]], "empty": 0, "unfinished": 1},
    ]
    assert evidence_figures(rows) == {"critiques": 5, "empty": 1, "unfinished": 1}


def test_judgements_know_their_orders_where_votes_tell() -> None:
    """Two texts on (0, 1), one of them unparsed, and one on (1, 0); without the counts no order is told."""
    votes = [[0, 1, 1, 0, 1], [1, 0, 0, 1, 0]]
    evidence = {"votes": votes, "judgements": ["a", "b", "c"]}
    assert judgements(evidence) == [((0, 1), "a"), ((0, 1), "b"), ((1, 0), "c")]
    assert judgements({"judgements": ["a", "b"], "votes": votes}) == [(None, "a"), (None, "b")]


def test_evidence_of_rankings_is_dealt_to_their_pairs(rankings: MMRLHFRewardBench) -> None:
    """The pair B, C of "a" is the responses 1 and 2 of its row; what is about A is not about it. Row "b" has none."""
    row = {
        "critiques": [["of A"], ["of B"], ["of C", "of C again"]],
        "empty": 3,
        "votes": [[0, 1, 1, 0, 0], [1, 2, 2, 0, 0], [2, 1, 0, 1, 0]],
        "judgements": ["A, B", "B, C", "B, C again", "C, B"],
    }
    found = entry_evidence(rankings, {0: row}, {0: 3, 1: 2})
    assert found[2] == {
        "critiques": [["of B"], ["of C", "of C again"]],
        "votes": [[0, 1, 2, 0, 0], [1, 0, 0, 1, 0]],
        "judgements": ["B, C", "B, C again", "C, B"],
    }
    assert found[1]["critiques"] == [["of A"], ["of C", "of C again"]] and found[1]["votes"] == []
    assert found[3] == {}


COST = {"forwards": 2, "generated_tokens": 30, "seconds": 0.5}
BAD = {
    "critiques of one response": ({"critiques": [["a"]]}, "as `critiques`; beside `rewards` give a list of texts for"),
    "bare critiques": ({"critiques": ["a", "b"]}, "as `critiques`"),
    "negative": ({"empty": -1}, "as `empty`; beside `rewards` give a count"),
    "true": ({"unfinished": True}, "as `unfinished`"),
    "no such response": ({"votes": [[0, 2, 1, 0, 0]]}, r"as `votes`; beside `rewards` give \[\[i, j, wins of i"),
    "with itself": ({"log_odds": [[1, 1, 0.5]]}, "as `log_odds`"),
    "odds in words": ({"log_odds": [[0, 1, "2"]]}, "as `log_odds`"),
    "one judgement": ({"judgements": "text"}, "as `judgements`; beside `rewards` give a list of texts"),
    "a price": ({"cost": 0.002}, "as `cost`; give forwards, generated_tokens, seconds, each a number from 0 on"),
    "half a cost": ({"cost": {"forwards": 1}}, "as `cost`"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_evidence(case: str, pairs: VLRewardBench, write: Callable[..., Path]) -> None:
    extra, message = BAD[case]
    path = write({"rewards": [1, 0]}, {"rewards": [1, 0]} | extra)
    with pytest.raises(ValueError, match=f"rewards.jsonl:2 has .*{message}"):
        read_rewards(path, pairs)


def test_files_of_all_paradigms(
    pairs: VLRewardBench, rankings: MMRLHFRewardBench, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Cost is the mean over lines, of which one that failed has none; judges are told by their verdicts."""
    critic = read_rewards(
        write(
            {"rewards": [1, 0], "critiques": [["a"], [""]], "empty": 1, "unfinished": 0, "cost": COST},
            {"rewards": None, "error": "too long"},
        ),
        pairs,
    ).account
    assert critic.figures == {"critiques": 2, "empty": 1, "unfinished": 0} and critic.cost == COST
    assert critic.evidence[0]["critiques"] == [["a"], [""]] and critic.evidence[1] == {}
    assert critic.comparable_across_rows
    lines = [
        {"rewards": [1, 0, -1], "log_odds": [[0, 1, 1.0], [1, 0, None]], "cost": COST},
        {"rewards": [0, 1], "log_odds": [[0, 1, -1], [1, 0, 1]], "cost": COST | {"seconds": 1.5}},
    ]
    judge = read_rewards(write(*lines), rankings).account  # a line for each id, not for each pair
    assert not judge.comparable_across_rows and judge.figures["position_consistency"] == 0.5
    assert judge.cost == COST | {"seconds": 1.0}
    assert [len(each["log_odds"]) for each in judge.evidence] == [2, 0, 0, 2]
    plain = read_rewards(write({"rewards": [1, 0]}, {"rewards": [1, 0]}), pairs).account
    assert (plain.evidence, plain.figures, plain.cost, plain.comparable_across_rows) == ((), {}, {}, True)
    assert not read_rewards(write({"votes": [0]}, {"votes": [1]}), pairs).account.comparable_across_rows


def page_of(path: Path, benchmark: VLRewardBench, folder: Path) -> str:
    file = read_rewards(path, benchmark)
    part = section(benchmark, {"m": file.rewards}, accounts={"m": file.account})
    return write_report([part], folder)[0].read_text()


def test_page_folds_cuts_and_escapes_critiques(
    pairs: VLRewardBench, write: Callable[..., Path], tmp_path: Path
) -> None:
    """Row 0 is wrong: its critiques are shown, at most MAX_WRITTEN of a response, each folded and as text."""
    many = [HOSTILE, "x" * (MAX_TEXT + 12), *(f"number {n}" for n in range(2, MAX_WRITTEN + 3))]
    path = write(
        {"rewards": [0, 1], "critiques": [["better one"], many], "empty": 0, "unfinished": 2, "cost": COST},
        {
            "rewards": [1, 0],
            "critiques": [["not shown"], ["as it is right"]],
            "empty": 0,
            "unfinished": 0,
            "cost": COST,
        },
    )
    page = page_of(path, pairs, tmp_path)
    assert "<script" not in page and "&lt;/div&gt;&lt;/details&gt;&lt;script&gt;" in page
    assert "12 more characters" in page and "better one" in page and "not shown" not in page
    assert f"critiques ({MAX_WRITTEN + 3})" in page and "and 3 more" in page
    assert f"number {MAX_WRITTEN - 1}<" in page and f"number {MAX_WRITTEN}<" not in page
    assert page.count("<details") == page.count("</details>") == 1 + 2  # an error with two folds
    assert f"0 empty and 2 unfinished of {1 + len(many) + 2} critiques" in page
    assert "per row: 2 forwards, 30 generated tokens, 0.5 s" in page


def test_page_shows_a_judge_in_both_orders(pairs: VLRewardBench, write: Callable[..., Path], tmp_path: Path) -> None:
    """Row 1: response 0, the better one, is 1 vote ahead when it is first, and 2 behind when it is second."""
    path = write(
        {"rewards": [1, 0], "votes": [[0, 1, 1, 0, 0], [1, 0, 0, 1, 0]], "judgements": ["u", "v"]},
        {"rewards": [0, 1], "votes": [[0, 1, 2, 1, 0], [1, 0, 2, 0, 1]], "judgements": [HOSTILE, "2nd", "3rd", *"456"]},
    )
    page = page_of(path, pairs, tmp_path)
    assert "votes for the better response: better response first +1.00, worse response first -2.00" in page
    assert page.count("judgement, better response first") == page.count("judgement, worse response first") == 3
    assert "<script" not in page and "alert(1)" in page
    assert "position consistency 0.5000" in page and "1 of 8 votes were not parsed" in page
    assert "comparable inside a row only" in page and "correlation of reward and length</td>" not in page


def test_two_models_and_their_cost(
    pairs: VLRewardBench, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line's report: a critic, with what it cost, beside a model of rewards alone."""
    critic = write(
        *[{"rewards": [0, 1], "critiques": [["good"], ["bad"]], "empty": 0, "unfinished": 0, "cost": COST}] * 2,
        name="critic.jsonl",
    )
    naive = write(*[{"rewards": [1, 0]}] * 2, name="naive.jsonl")
    report("vl_rewardbench", str(tmp_path / "vl.json"), [str(critic), str(naive)], str(tmp_path / "out"))
    told = capsys.readouterr().out
    assert "VL-RewardBench, critic: 2 rows; per row: 2 forwards, 30 generated tokens, 0.5 s\n" in told
    assert "naive: 2 rows\n" in told
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["models"]["critic"]["cost"] == COST and found["models"]["naive"]["cost"] is None
    assert found["models"]["critic"]["evidence"] == {"critiques": 4, "empty": 0, "unfinished": 0}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<summary>critic: critique</summary>") == 4 and "naive: critique" not in page


def test_text_table_names_the_cost(pairs: VLRewardBench, write: Callable[..., Path]) -> None:
    file = read_rewards(write(*[{"rewards": [1, 0], "cost": COST}] * 2), pairs)
    told = format_section(section(pairs, {"m": file.rewards}, accounts={"m": file.account}))
    assert told.splitlines()[0].endswith("2 rows; per row: 2 forwards, 30 generated tokens, 0.5 s")
