"""Pictures of a training run: their series by hand, and what lies where in them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_basereward.callbacks.curve_plot import draw_curves, draw_rewards, mean_accuracy, points, smooth


def test_series_of_a_picture_by_hand():
    """A step without a figure, or with null for NaN, has no point; the mean is over sources that have one."""
    found = [
        {"step": 1, "train": {"loss": 0.7}},
        {"step": 2, "train": {"loss": None}},
        {"step": 2, "val": {"a": {"accuracy": 0.5}, "b": {"accuracy": 0.7}}},
        {"step": 4, "val": {"a": {"accuracy": 0.6}, "b": {"accuracy": None}}},
    ]
    assert [each.tolist() for each in points(found, "loss")] == [[1], [0.7]]
    assert [each.tolist() for each in points(found, "accuracy", "b")] == [[2], [0.7]]
    steps, means = mean_accuracy(found)
    assert steps.tolist() == [2, 4] and means == pytest.approx([0.6, 0.6])


def test_smoothing_by_hand():
    """50 points: windows of 2, so means of neighbours at the middles between them; 49 are left as they are."""
    steps = np.arange(50)
    middles, means, window = smooth(steps, 2.0 * steps)
    assert window == 2 and middles == pytest.approx(steps[:-1] + 0.5) and means == pytest.approx(2 * steps[:-1] + 1.0)
    assert smooth(steps[1:], steps[1:])[2] == 1


def made_up(sources: int, steps: int, judge: bool = False) -> list[dict[str, Any]]:
    """Lines of a run; a judge's have margins alone."""
    found: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        found.append({"step": step, "train": {"loss": 1 / step, "critique_loss": 0.1, "accuracy": 0.9, "margin": 1.0}})
        if not judge:
            found[-1]["train"] |= {f"{kind}_reward{end}": 1.0 for kind in ("better", "worse") for end in ("", "_std")}
        if step % max(1, steps // 5) == 0:
            figures = {"accuracy": 0.8, "margin": 1.0, "log_loss": 0.5, "margin_quantiles": [0, 1, 2, 3, 4]}
            figures |= {} if judge else {"better_quantiles": [0, 1, 2, 3, 4], "worse_quantiles": [-1] * 5}
            found.append({"step": step, "val": {f"source {n}": figures for n in range(sources)}})
    return json.loads(json.dumps(found))


@pytest.mark.parametrize(
    ("sources", "steps", "judge"), [(0, 1, False), (1, 1, False), (2, 5, True), (6, 60, False), (0, 3, True)]
)
def test_pictures_of_all_sizes_are_drawn(sources, steps, judge, tmp_path):
    """A judge without validation has no spread to show."""
    pytest.importorskip("matplotlib")
    found = made_up(sources, steps, judge)
    assert draw_curves(tmp_path / "curves.png", found) == tmp_path / "curves.png"
    drawn = draw_rewards(tmp_path / "rewards.png", found)
    assert (drawn is None) == (judge and not sources) == (not (tmp_path / "rewards.png").exists())


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert draw_curves(tmp_path / "a.png", []) is None and draw_rewards(tmp_path / "b.png", []) is None


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they were saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *given, **named: (figures.append(figure), save(figure, *given))
    )
    return figures


def test_label_and_ticks_of_small_rewards_do_not_overlap(tmp_path, drawn):
    """Ticks such as -0.025 are the widest: a run's first steps."""
    figures = {"better_reward": -0.02, "worse_reward": -0.04, "better_reward_std": 0.02, "worse_reward_std": 0.01}
    assert draw_rewards(tmp_path / "rewards.png", [{"step": step, "train": figures} for step in (1, 2)])
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    label = next(text for text in figure.texts if text.get_text().startswith("reward"))
    ticks = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels() if tick.get_text()]
    assert max(box.width for box in ticks) > 30 and label.get_window_extent().x1 < min(box.x0 for box in ticks)
    assert label.get_window_extent().x0 > 0


@pytest.mark.parametrize(("steps", "margin"), [(40, 0.0025), (20_000, 2.0)])
def test_panels_do_not_lie_over_each_other(steps, margin, tmp_path, drawn):
    """With their titles, the widest ticks of small margins, and the last of 20,000 steps; nor over the legend."""
    found = []
    for step in (steps // 2, steps):
        each = {"loss": 0.7, "accuracy": 0.5, "margin": step / steps * margin - 0.7 * margin}
        spread = {f"{kind}_reward{end}": each["margin"] for kind in ("better", "worse") for end in ("", "_std")}
        quantiles = {f"{kind}_quantiles": [n * margin for n in range(5)] for kind in ("better", "worse")}
        val = each | quantiles | {"log_loss": 0.7}
        found += [{"step": step, "train": each | spread}, {"step": step, "val": {"a" * 40: val, "b" * 9: val}}]
    draw_curves(tmp_path / "curves.png", found)
    draw_rewards(tmp_path / "rewards.png", found)
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        boxes = [each.get_tightbbox() for each in (*figure.axes, *figure.legends)]
        assert len(boxes) == 4 and all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
        assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_names_that_differ_at_their_ends_do_so_in_pictures(tmp_path, drawn):
    figures = {"accuracy": 0.5, "margin": 1.0, "log_loss": 0.5}
    names = ["wildchat_reused_on_policy_8b", "wildchat_reused_on_policy_70b", "digits"]
    draw_curves(tmp_path / "curves.png", [{"step": 1, "val": dict.fromkeys(names, figures)}])
    shown = [text.get_text().split()[0] for text in drawn[0].legends[0].get_texts()][-3:]
    assert shown == ["wildchat_reu…_on_policy_8b", "wildchat_reu…on_policy_70b", "digits"]
