"""Rewards files of several models as one ensemble: figures by hand, routes, fitting, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from lit_basereward.benchmarks.combine import COMBINERS, CombinerName, combine_files
from lit_basereward.benchmarks.rewards import read_rewards
from lit_basereward.benchmarks.vl_rewardbench import VLRewardBench
from lit_basereward.cli import main
from lit_basereward.ensemble import Mean
from lit_basereward.metrics import error_auroc

# Rows 0 to 2 prefer the first response, row 3, which has an image, the second.
ROWS = [
    {"id": "RLHF-1", "query": "q1", "response": ["long", "b"], "human_ranking": [0, 1]},
    {"id": "RLHF-2", "query": "q2", "response": ["long", "b"], "human_ranking": [0, 1]},
    {"id": "mmmu-3", "query": "q3", "response": ["b", "long"], "human_ranking": [0, 1]},
    {"id": "wildvision-4", "query": "q4", "response": ["long", "b"], "human_ranking": [1, 0], "image": "4.png"},
]
A = [[2, 1], [1, 0], [0, 1], [0, 1]]
B = [[0, 2], [3, 1], [1, 0], [0, 3]]
C = [[5, 0], [5, 0], [5, 0], None]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "vl.json").write_text(json.dumps(ROWS))
    for name, rewards in (("a", A), ("b", B), ("c", C)):
        write(tmp_path / f"{name}.jsonl", rewards)
    held = [{"id": str(i), "prompt": "p", "responses": ["x", "y"], "ratings": [1, 0]} for i in range(2)]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    write(tmp_path / "held_a.jsonl", [[3, 1], [1, 0]])
    write(tmp_path / "held_b.jsonl", [[1, 3], [0, 1]])
    return tmp_path


def write(path: Path, rewards: list) -> None:
    lines = [{"rewards": given} if given else {"rewards": None, "error": "has images"} for given in rewards]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def report(place: Path, members: str, *options: str) -> dict:
    files = [argument for name in members for argument in ("--rewards", str(place / f"{name}.jsonl"))]
    main(["report", "vl_rewardbench", "--data", str(place / "vl.json"), *files, "--output", str(place), *options])
    return json.loads((place / "report.json").read_text())


def test_mean_of_two_files(place: Path) -> None:
    """Means 1, 1.5 | 2, 0.5 | 0.5, 0.5 | 0, 2: wrong, right, a tie, right: 2/4, where a and b have 3/4 each.

    Margins of a: 1, 1, -1, 1; of b: -2, 2, 1, 3. The ensemble is wrong in the first and third. Half the distance of
    their margins is 1.5, 0.5, 1, 1: of the four (wrong, right) pairs three are in order and 1, 1 is a tie, 3.5 / 4. Of
    their probabilities (0.7311 and 0.1192, ...) it is 0.3059, 0.0749, 0.2311, 0.1108: all in order, 1. So do its own
    margins -0.5, 1.5, 0, 2. The members' errors 0010 and 1000 differ in 2/4, are never both, and correlate by
    (0 - 1/16) / (3/16) = -1/3.
    """
    found = report(place, "ab", "--combine", "mean")
    assert found["overall"] == 0.5 and found["ties"] == 1 and found["model"] == "mean of a, b"
    ensemble = found["ensemble"]
    for name in "ab":
        beside = ensemble["members"][name]
        assert (beside["entries"], beside["overall"], beside["ensemble"], beside["ahead"]) == (4, 0.75, 0.5, -0.25)
        assert beside["interval"][0] <= -0.25 <= beside["interval"][1]
    (pair,) = ensemble["pairs"]
    assert pair["members"] == ["a", "b"] and (pair["differ"], pair["both_wrong"]) == (0.5, 0.0)
    assert pair["correlation"] == pytest.approx(-1 / 3)
    spread = ensemble["disagreement"]
    assert [spread[key] for key in ("comparisons", "auroc", "auroc_of_std", "auroc_of_margin")] == [4, 1.0, 0.875, 1.0]
    assert spread["when_wrong"] == pytest.approx(0.26854, abs=1e-4)
    assert spread["when_right"] == pytest.approx(0.09285, abs=1e-4)
    assert "AUROC of disagreement" in (place / "report.html").read_text()


def test_order_of_files_does_not_matter(place: Path) -> None:
    assert report(place, "ba", "--combine", "mean")["groups"] == report(place, "ab", "--combine", "mean")["groups"]


def test_routes_keep_a_row_from_a_member(place: Path, capsys: pytest.CaptureFixture) -> None:
    """c has nothing to say on the row with an image: an error that names it, until a route keeps the row from c.

    Means with c: 7/3, 1 | 3, 1/3 | 2, 1/3, all right; the last stays 0, 2 as without c: 4/4.
    """
    with pytest.raises(SystemExit):
        report(place, "abc", "--combine", "mean")
    told = capsys.readouterr().err
    assert "c.jsonl has no rewards of" in told and "count as wrong" not in told
    found = report(place, "abc", "--combine", "mean", "--routes", "[{when: {modality: image}, members: [a, b]}]")
    assert found["overall"] == 1.0 and found["ensemble"]["members"]["c"]["entries"] == 3


def test_what_an_ensemble_costs_and_sees(place: Path) -> None:
    """2 forwards a row of a, and 4 in the three of four rows on which c votes: 2 + 4 * 3/4 = 5 a row.

    Where both ran on texts alone the route for images fits no row, so c votes on all four, as it would in one run.
    """
    routes = ["--routes", "[{when: {modality: image}, members: [a]}]"]
    for extra, forwards, entries in (({}, 5.0, 3), ({"text_only": True}, 6.0, 4)):
        for name, rewards, each in (("a", A, 2.0), ("c", [*C[:3], [1, 0]], 4.0)):
            cost = {"forwards": each, "generated_tokens": 0, "seconds": 0.5}
            lines = [{"rewards": given, "cost": cost, **extra} for given in rewards]
            (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = report(place, "ac", "--combine", "mean", *routes)
        assert found["cost"]["forwards"] == forwards
        assert found["ensemble"]["members"]["c"]["entries"] == entries


def test_weights_from_held_out_rows(place: Path, capsys: pytest.CaptureFixture) -> None:
    """On the held-out rows a is right twice and b never: weights 1 and 0, so the ensemble is a: 3/4.

    Without rows it is to be fitted; on the reported file it is refused, and with --force marked.
    """
    held = ["--fit_on", str(place / "held.jsonl")]
    given = [argument for name in "ab" for argument in ("--fit_rewards", str(place / f"held_{name}.jsonl"))]
    found = report(place, "ab", "--combine", "accuracy_weighted", *held, *given)
    assert found["overall"] == 0.75 and found["remarks"] == [r for r in found["remarks"] if "fitted" not in r]
    with pytest.raises(SystemExit):
        report(place, "ab", "--combine", "accuracy_weighted")
    assert "to be fitted first" in capsys.readouterr().err
    own = [
        "--fit_on",
        str(place / "vl.json"),
        "--fit_rewards",
        str(place / "a.jsonl"),
        "--fit_rewards",
        str(place / "b.jsonl"),
    ]
    with pytest.raises(SystemExit):
        report(place, "ab", "--combine", "accuracy_weighted", *own)
    assert "--fit_on is the file that is reported" in capsys.readouterr().err
    forced = report(place, "ab", "--combine", "accuracy_weighted", *own, "--force", "true")
    assert any("fitted on these very rows" in remark for remark in forced["remarks"])


def test_options_of_ensembles_need_one(place: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        report(place, "ab", "--fit_on", str(place / "held.jsonl"))
    assert "give --combine" in capsys.readouterr().err


def test_names_have_their_classes() -> None:
    from typing import get_args

    assert set(get_args(CombinerName)) == COMBINERS.keys()


def test_error_auroc_at_its_ends() -> None:
    """NaN where nothing is wrong; doubt that is everywhere the same is chance; NaN doubt is refused."""
    import math

    import torch

    assert math.isnan(error_auroc(torch.tensor([1.0, 2.0]), torch.tensor([True, True])))
    assert error_auroc(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([True, False, True])) == 0.5
    with pytest.raises(ValueError, match="NaN"):
        error_auroc(torch.tensor([math.nan]), torch.tensor([True]))


def test_rows_of_the_users_own(place: Path, capsys: pytest.CaptureFixture) -> None:
    """Held-out rows as the reported ones: a is right in both, b in neither; means (2, 2) and (0.5, 0.5) are ties.

    They are refused to be fitted on, too; --grouping is not theirs.
    """
    files = [argument for name in "ab" for argument in ("--rewards", str(place / f"held_{name}.jsonl"))]
    given = ["report", "rows", "--data", str(place / "held.jsonl"), *files, "--output", str(place)]
    main([*given, "--combine", "mean"])
    found = json.loads((place / "report.json").read_text())
    assert (found["overall"], found["ties"], found["model"]) == (0.0, 2, "mean of held_a, held_b")
    assert [found["ensemble"]["members"][f"held_{name}"]["overall"] for name in "ab"] == [1.0, 0.0]
    fit = ["--fit_on", str(place / "held.jsonl")]
    fit += [argument for name in "ab" for argument in ("--fit_rewards", str(place / f"held_{name}.jsonl"))]
    for wrong, message in (
        (["--combine", "accuracy_weighted", *fit], "is the file that is reported"),
        (["--combine", "mean", *fit], "Mean has nothing to fit"),
        (["--combine", "mean", *fit[2:]], "give these as --fit_on"),
        (["--grouping", "pre_fix"], "rows has one grouping only"),
    ):
        with pytest.raises(SystemExit):
            main([*given, *wrong])
        assert message in capsys.readouterr().err


def rows_report(place: Path, rows: list[dict], rewards: dict[str, list], *options: str) -> dict:
    """`report rows` of rows and of what each member gave them."""
    lines = [
        {"id": str(n), "prompt": "p", "responses": ["x", "y", "z"][: len(row["ratings"])], **row}
        for n, row in enumerate(rows)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, given in rewards.items():
        write(place / f"{name}.jsonl", given)
    files = [argument for name in rewards for argument in ("--rewards", str(place / f"{name}.jsonl"))]
    main(["report", "rows", "--data", str(place / "rows.jsonl"), *files, "--output", str(place), *options])
    return json.loads((place / "report.json").read_text())


def test_an_unrated_response_is_in_no_pair(place: Path, capsys: pytest.CaptureFixture) -> None:
    """Ratings [1, 0, null] ask one pair. a is right in all 4, b in 2: weights 4/6 and 2/6.

    Taken for the worst, the unrated response would make 4 pairs more, in which a is wrong and b right: 4/8 and 6/8, and
    weights 0.4 and 0.6. A row with one rating asks nothing: that b has no reward there does not matter. The combiner
    is marked with the file's digest.
    """
    held = [{"id": str(n), "prompt": "p", "responses": ["x", "y", "z"], "ratings": [1, 0, None]} for n in range(4)]
    held += [{"id": "4", "prompt": "p", "responses": ["x", "y"], "ratings": [1, None]}]
    (place / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    write(place / "held_a.jsonl", [[2, 1, 9]] * 4 + [[0, 1e6]])
    write(place / "held_b.jsonl", [[2, 1, -9]] * 2 + [[1, 2, -9]] * 2 + [None])
    fit = ["--fit_on", str(place / "held.jsonl")]
    fit += [argument for name in "ab" for argument in ("--fit_rewards", str(place / f"held_{name}.jsonl"))]
    report(place, "ab", "--combine", "accuracy_weighted", *fit)
    told = capsys.readouterr().out
    weights = re.search(r"weights={'a': ([\d.]+), 'b': ([\d.]+)}", told)
    assert weights and [float(each) for each in weights.groups()] == pytest.approx([2 / 3, 1 / 3])
    assert f"fitted_on={{'held': '{hashlib.sha256((place / 'held.jsonl').read_bytes()).hexdigest()}'}}" in told


def test_only_the_benchmarks_own_folder_is_a_folder_to_fit_on(place: Path, capsys: pytest.CaptureFixture) -> None:
    """Another folder is refused, forced or not; that of the benchmark, or a copy of its file, unless it is forced."""
    for name in ("own", "other"):
        (place / name).mkdir()
    (place / "own/test.json").write_bytes((place / "vl.json").read_bytes())
    (place / "other/x.jsonl").write_text("{}")
    rewards = [argument for name in "ab" for argument in ("--fit_rewards", str(place / f"{name}.jsonl"))]
    for name, force, message in (
        ("other", "false", "is a folder, and not that of VL-RewardBench"),
        ("other", "true", "is a folder, and not that of VL-RewardBench"),
        ("own", "false", "is the file that is reported"),
        ("own/test.json", "false", "is the file that is reported"),
    ):
        with pytest.raises(SystemExit):
            report(
                place, "ab", "--combine", "accuracy_weighted", "--fit_on", str(place / name), *rewards, "--force", force
            )
        assert message in capsys.readouterr().err
    found = report(
        place, "ab", "--combine", "accuracy_weighted", "--fit_on", f"{place}/own", *rewards, "--force", "true"
    )
    assert any("fitted on these very rows" in remark for remark in found["remarks"])


def test_routes_go_by_a_rows_own_category_and_source(place: Path, capsys: pytest.CaptureFixture) -> None:
    """The row without a category is no row of the category "rows", though the report's group is called that.

    a is right in both rows, b in none, and surer. By category "sums" a decides on the second alone; by source, on both.
    """
    rows = [{"ratings": [1, 0]}, {"ratings": [1, 0], "category": "sums"}]
    rewards = {"a": [[1, 0], [1, 0]], "b": [[0, 2], [0, 2]]}
    mean = ["--combine", "mean", "--routes"]
    assert rows_report(place, rows, rewards, *mean, "[{when: {category: sums}, members: [a]}]")["overall"] == 0.5
    found = rows_report(place, rows, rewards, *mean, "[{when: {source: rows}, members: [a]}]")
    assert found["overall"] == 1.0 and "member b votes on none of the rows" in found["remarks"]
    for when in ("category: rows", "category: [sum, add]", "source: row", "category: sums, source: row"):
        with pytest.raises(SystemExit):
            rows_report(place, rows, rewards, *mean, f"[{{when: {{{when}}}, members: [a]}}]")
        told = capsys.readouterr().err
        assert "fits no row; there are the categories: sums; and the sources: rows" in told


def test_what_is_wrong_with_a_file_is_said_of_it(place: Path, capsys: pytest.CaptureFixture) -> None:
    """A reward beyond float32, and one file as held-out rewards of two members."""
    fit = ["--fit_on", str(place / "held.jsonl"), *["--fit_rewards", str(place / "held_a.jsonl")] * 2]
    with pytest.raises(SystemExit):
        report(place, "ab", "--combine", "accuracy_weighted", *fit)
    assert "held_a.jsonl is given twice" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rows_report(place, [{"ratings": [1, 0]}], {"a": [[1e300, 0]], "b": [[1, 0]]}, "--combine", "mean")
    assert re.search(r"a\.jsonl has a reward of 1e\+300 for .*rows\.jsonl:1", capsys.readouterr().err)


@pytest.mark.parametrize(("rewards", "errs"), [([1, 0], "errs in none"), ([0, 1], "is wrong in all")])
def test_where_nothing_can_correlate_it_is_said(
    place: Path, rewards: list, errs: str, capsys: pytest.CaptureFixture
) -> None:
    """Members that are both right everywhere, or nowhere: no NaN among the figures that are told."""
    rows_report(place, [{"ratings": [1, 0]}] * 3, {"a": [rewards] * 3, "b": [rewards] * 3}, "--combine", "mean")
    told = capsys.readouterr().out
    assert f"the ensemble {errs} of 3 comparisons" in told and "have no correlation" in told and "nan" not in told


def test_a_judges_file_is_told_in_the_evidence(place: Path) -> None:
    """As by the ensemble that runs both: rewards of the mean are then comparable inside a row only."""
    lines = [{"rewards": given, "members": {"j": given}, "judges": ["j"]} for given in A]
    (place / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark = VLRewardBench(path=str(place / "vl.json"), images="optional")
    files = {name: read_rewards(place / f"{name}.jsonl", benchmark, member=True) for name in "ab"}
    found = combine_files(benchmark, files, Mean()).account
    assert found.evidence[0] == {"members": {"a": [2.0, 1.0], "b": [0.0, 2.0]}, "judges": ["a"]}
    assert not found.comparable_across_rows
