"""From rewards to figures, by hand."""

from __future__ import annotations

import json
import math

import lightning.pytorch as pl
import pytest
import torch

from lit_basereward.callbacks.results import evaluate, format_table, results_table
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.sources import BlankImages
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource, preferences


def test_figures_by_hand():
    """Rows 3: (1 > 0 right), 7: ratings 2, 1, 0 with rewards 5, 5, 6: a tie and two wrong; NaN is in nothing.

    Four comparisons, one right: 0.25; margins 1 | 0, -1, -1: mean -0.25; better 1 | 5, 5, 5: mean 4, spread sqrt 3.
    """
    index = torch.tensor([3, 3, 7, 7, 7, 7])
    rewards = torch.tensor([1.0, 0.0, 5.0, 5.0, 6.0, 9.0])
    ratings = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, math.nan])
    result = evaluate(index, rewards, ratings, torch.tensor([1, 2, 3, 4, 5, 6]))
    assert (result.rows, result.comparisons) == (2, 4)
    assert result.accuracy == 0.25 and result.reward_ties == 0.25
    assert result.margin == pytest.approx(-0.25)
    assert result.better_reward == 4 and result.better_reward_std == pytest.approx(math.sqrt(3))
    assert result.low < 0.25 < result.high


def test_rewards_that_are_comparable_inside_a_row_only():
    """Means over rows and the correlation with length are not there, and are not logged; margin and accuracy are."""
    given = [torch.tensor(values) for values in ([0, 0], [1.0, 0.0], [1.0, 0.0], [5.0, 3.0])]
    result = evaluate(*given, comparable_across_rows=False)
    assert (result.better_reward, result.worse_reward_std, result.reward_length_correlation) == (None, None, None)
    assert (result.margin, result.accuracy) == (1, 1)
    left_out = evaluate(*given).logs().keys() - result.logs().keys()
    assert left_out == {
        "better_reward", "better_reward_std", "worse_reward", "worse_reward_std", "reward_length_correlation",
    }  # fmt: skip


def test_rows_are_evaluated_once_whatever_the_batches(backbone_folder, tmp_path):
    """Batch size and order of evaluation change no figure; results.json holds what the table shows."""
    torch.manual_seed(0)
    module = NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048))
    rows = [row for seed in range(3) for row in preferences(seed, responses=(2, 5, 3, 2))]
    figures = []
    for size in (1, 5, 100):
        source = ListSource(rows, "pairs")
        data = PreferenceDataModule(test=[source, BlankImages(source)], eval_batch_size=size)
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        figures.append(trainer.test(module, data, verbose=False)[0])
    for other in figures[1:]:
        assert other.keys() == figures[0].keys()
        for key, value in figures[0].items():
            assert other[key] == pytest.approx(value, abs=1e-4), key
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written) == ["pairs"]
    assert set(written["pairs"]) == {"rows", "accuracy", "low", "high", "accuracy_blank_image", "cost"}
    assert written["pairs"]["rows"] == 12
    assert written["pairs"]["accuracy"] == pytest.approx(figures[0]["test/pairs/accuracy"])
    assert written["pairs"]["accuracy_blank_image"] == pytest.approx(figures[0]["test/pairs_blank/accuracy"])
    assert figures[0]["test/pairs/comparisons"] == 3 * (1 + 10 + 3 + 1)


def test_table():
    """A blanked source stands beside its own, not in a line of its own."""
    one = evaluate(torch.tensor([0, 0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), torch.ones(2))
    two = evaluate(torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.ones(2))
    table = results_table({"digits": one, "digits_blank": two, "sums": one}, {}, {"digits_blank": "digits"})
    assert list(table) == ["digits", "sums"]
    assert table["digits"]["accuracy"] == 1 and table["digits"]["accuracy_blank_image"] == 0
    assert table["sums"]["accuracy_blank_image"] is None
    assert "1.000" in format_table(table).splitlines()[1]
    one.cost = {"forwards": 2.5, "generated_tokens": 120.0, "seconds": 0.0125}
    one.evidence = {"position_consistency": 0.75}
    head, line = format_table(results_table({"digits": one}, {}, {})).splitlines()
    assert head.split()[-6:] == ["forwards", "tokens", "seconds", "both", "orders", "agree"]
    assert line.split()[-4:] == ["2.5", "120", "0.0125", "0.750"]
    one.evidence |= {"votes": 4, "unparsed": 3, "critiques": 1200, "empty": 0, "unfinished": 1100}
    _, _, *below = format_table(results_table({"digits": one}, {}, {})).splitlines()
    assert below == ["digits: 3 of 4 votes are unparsed", "digits: 1,100 of 1,200 critiques are unfinished"]


def test_the_picture_is_drawn(tmp_path):
    """A PNG of some size, with blanked images and without."""
    pytest.importorskip("matplotlib")
    from PIL import Image

    from lit_basereward.callbacks.plot import draw_margins

    margins = {"a": torch.randn(50), "a_blank": torch.randn(50), "b": torch.zeros(3)}
    draw_margins(tmp_path / "plot.png", margins, {"a_blank": "a"})
    assert Image.open(tmp_path / "plot.png").size == (960, 384)
