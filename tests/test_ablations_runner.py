"""bench/ablations.py: intervals over seeds and rows by hand, what is run again, and the tables of the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import t as student

from lit_basereward.demo import Sums

ROOT = Path(__file__).parents[1]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import ablations

    return ablations


def half(figure) -> float:
    assert figure.value - figure.low == pytest.approx(figure.high - figure.value)
    return figure.high - figure.value


def test_interval_of_seeds_and_rows(runner: ModuleType) -> None:
    """Two seeds, four rows of one comparison: right are 1 1 0 0 and 1 1 1 0.

    Seeds: 0.5 and 0.75, mean 0.625, variance 0.03125, by 2: 1/64. Rows: means over seeds 1, 1, 0.5, 0 less 0.625 are
    0.375, 0.375, -0.125, -0.625, squares add up to 0.6875, times 4 / 3 / 16: 0.6875 / 12. Freedom by Satterthwaite,
    with 1 and 3: (V1 + V2)^2 / (V1^2 / 1 + V2^2 / 3).
    """
    figure = runner.estimate([np.array([[1, 1, 0, 0], [1, 1, 1, 0]])], [np.ones(4)])
    seeds, rows = 1 / 64, 0.6875 / 12
    freedom = (seeds + rows) ** 2 / (seeds**2 + rows**2 / 3)
    assert figure.value == 0.625
    assert half(figure) == pytest.approx(student.ppf(0.975, freedom) * (seeds + rows) ** 0.5)


def test_interval_of_a_mean_over_sources(runner: ModuleType) -> None:
    """A second source that is always right adds no variance and halves the first's standard deviation of rows; the
    seeds' means are (0.5 + 1) / 2 and (0.75 + 1) / 2: variance 1/128, by 2 1/256."""
    first = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
    figure = runner.estimate([first, np.full((2, 3), 2)], [np.ones(4), np.full(3, 2)])
    seeds, rows = 1 / 256, 0.6875 / 12 / 4
    freedom = (seeds + rows) ** 2 / (seeds**2 + rows**2 / 5)
    assert figure.value == 0.8125
    assert half(figure) == pytest.approx(student.ppf(0.975, freedom) * (seeds + rows) ** 0.5)


def test_no_variance_is_no_width(runner: ModuleType) -> None:
    """A row less itself."""
    figure = runner.estimate([np.zeros((3, 5))], [np.ones(5)])
    assert (figure.value, figure.low, figure.high) == (0, 0, 0)


def test_figures_of_runs(runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards equal to the ratings are right everywhere, with the sign changed nowhere: 1 and 0, and 0 is 1 behind.
    The paper's choice is the demo as it is, whose runs lie in a folder of their own."""
    monkeypatch.setattr(runner, "SOURCES", {"sums": Sums})  # of one source there is no mean over sources
    test = Sums("test")
    ratings = [test[n].ratings for n in range(len(test))]
    for overlay in runner.rows("heads"):
        sign = 1 if overlay.stem == "2_silu" else -1
        for seed in (0, 1):
            run = runner.place(tmp_path, "heads", overlay.stem, seed) / "rewards"
            run.mkdir(parents=True)
            lines = [{"rewards": [sign * rating for rating in row]} for row in ratings]
            (run / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (tmp_path / "default" / "seed_1").is_dir() and not (tmp_path / "heads" / "2_silu").exists()
    found = runner.figures(tmp_path, "heads", [0, 1])
    assert found["2_silu"] == {"sums": {"value": 1, "low": 1, "high": 1, "seeds": [1, 1]}}
    ahead = {"value": -1, "low": -1, "high": -1}
    assert found["5_silu"] == {"sums": {"value": 0, "low": 0, "high": 0, "seeds": [0, 0], "ahead": ahead}}
    assert "| 2_silu | 1.000 (1.000 to 1.000) |" in runner.table("heads", found)


def test_rows_are_those_of_the_demo(runner: ModuleType) -> None:
    """An axis whose rows need other data or weights has a folder for the demo."""
    assert [path.stem for path in runner.rows("corpora")] == ["digits", "scenes", "sums"]
    assert len(runner.rows("heads")) == 7 and set(runner.PAPER) >= {"heads", "regularizers", "text_ratio"}
    for axis, paper in runner.PAPER.items():
        assert paper is None or paper in [path.stem for path in runner.rows(axis)]


@pytest.fixture
def study(runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``study("heads", "--seeds", ...)``: the command."""

    def called(*args: str | Path) -> None:
        monkeypatch.setattr(sys, "argv", ["ablations.py", *map(str, args)])
        runner.study()

    return called


def test_goes_on_where_it_was_stopped(
    runner: ModuleType, study: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the ninth of 14 runs of 7 heads and 2 seeds, it runs 6 more: that one anew, and the 5 behind it.
    Lambda 0 shares a run with 2_silu, so of the 5 regularizers 8 are to be run, not 10. Other steps are refused."""
    runs: list[tuple[str, int]] = []
    allowed = 8

    def run(overlay: Path, target: Path, seed: int, options: list[str]) -> None:
        if len(runs) == allowed:
            raise KeyboardInterrupt
        runs.append((overlay.stem, seed))
        (target / "results.json").write_text("{}")

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(runner, "figures", lambda *_: {})
    given = ("--seeds", "0", "1", "--folder", tmp_path, "--steps", "3")
    with pytest.raises(KeyboardInterrupt):
        study("heads", *given)
    assert len(runs) == 8 and runs[7] == ("1_layer", 1)  # seed by seed
    allowed = 99
    study("heads", *given)
    assert len(runs) == 14 == len(set(runs)) and runs[8] == ("2_none", 1)
    study("heads", "regularizers", *given)
    assert len(runs) == 14 + 8
    with pytest.raises(SystemExit, match=r"was run with --trainer\.max_steps=3 --trainer\.val_check_interval=3; give"):
        study("heads", *given[:-2])
    assert len(runs) == 14 + 8


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "name axes to run, or a file of --tables"),
        (["heads", "--tables", "x.json"], "name axes to run, or a file of --tables"),
        (["ensembles"], "ensembles is not run here; there are heads,"),
        (["heads", "--seeds", "0"], "2 seeds or more"),
        (["heads", "--seeds", "0", "0"], "each of them once"),  # its variance would be 0
    ],
)
def test_commands_that_mean_nothing(
    study: Callable[..., None], args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        study(*args)
    assert said in capsys.readouterr().err


def test_page_has_the_stored_figures(study: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """Each row of the printed tables stands in docs/ablations.md, to the last digit, behind the paper's numbers."""
    study("--tables", ROOT / "bench" / "ablations.json")
    printed = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if " to " in line]
    page = [line.strip("| ").split(" | ") for line in (ROOT / "docs" / "ablations.md").read_text().splitlines()]
    assert len(printed) == 7 + 5 + 5
    for name, *cells in printed:
        (found,) = [row for row in page if row[0].strip("*") == name and " to " in row[-1]]
        assert found[-len(cells) :] == cells
