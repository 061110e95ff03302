"""Pictures of a training run, from the lines of its ``metrics.jsonl``.

Shape legend: P points in time, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from lit_basereward.benchmarks.plots import BETTER, WORSE

Line = dict[str, Any]

_TRAIN, _FAINT = "#718096", "#d5dce5"
_COLOURS = (
    "#2b6cb0", "#c05621", "#2f855a", "#b83280", "#b7791f", "#0987a0", "#6b46c1", "#4fd1c5", "#9b2c2c", "#68a000",
)  # fmt: skip
_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))  # of the first, second and third ten sources
_DOTS = 30  # most points that get dots


# ----------------------------------------------------------------------------------------------------------- series
def points(lines: Sequence[Line], key: str, source: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Steps [P] and values [P] of a figure, or [P, Q] of quantiles; where there was nothing to measure, no point.

    Args:
        lines: of ``metrics.jsonl``.
        key: name of the figure.
        source: of validation; None is training.
    """
    found = []
    for line in lines:
        figures = line.get("train") if source is None else line.get("val", {}).get(source)
        if figures and figures.get(key) is not None:
            found.append((line["step"], figures[key]))
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, dtype=int), np.array(values, dtype=float)


def mean_accuracy(lines: Sequence[Line]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [P] and the mean over all sources [P], by which checkpoints are chosen."""
    values = {
        line["step"]: [figures["accuracy"] for figures in line["val"].values() if figures["accuracy"] is not None]
        for line in lines
        if "val" in line
    }
    means = {step: np.mean(each) for step, each in values.items() if each}
    return np.array([*means], dtype=int), np.array([*means.values()], dtype=float)


def smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Means over windows of a 25th of the points, at the windows' middles: noisy steps are read by them.

    Returns:
        steps, values, and the points of a window; 1 where there are too few to smooth.
    """
    window = max(1, len(values) // 25)
    kernel = np.full(window, 1 / window)
    if window == 1:
        return steps, values, window
    return np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid"), window


def source_names(lines: Sequence[Line]) -> list[str]:
    """Sources of validation, in their order."""
    return list(dict.fromkeys(name for line in lines for name in line.get("val", ())))


# --------------------------------------------------------------------------------------------- loss, accuracy, margin
def draw_curves(path: Path, lines: Sequence[Line]) -> Path | None:
    """Loss, accuracy and margin over steps: training dark, each source of validation in its colour.

    Args:
        path: PNG to write.
        lines: of ``metrics.jsonl``.

    Returns:
        the path; None if there is nothing to draw.
    """
    from matplotlib.figure import Figure

    if not lines:
        return None
    sources = source_names(lines)
    figure = Figure(figsize=(14, max(3.6, 1.4 + 0.2 * len(sources))), layout="constrained")
    panels = figure.subplots(1, 3)
    kinds = (
        ("loss", "log_loss", "loss in nats (validation: log loss)", np.log(2)),
        ("accuracy", "accuracy", "accuracy (share of comparisons)", 0.5),
        ("margin", "margin", "margin of rewards (log-odds)", 0.0),
    )
    for panel, (in_training, in_validation, title, chance) in zip(panels, kinds, strict=True):
        panel.axhline(chance, color="#a0aec0", linewidth=1, linestyle=":", zorder=0, label="chance")
        _training(panel, lines, in_training)
        for name, style in zip(sources, _styles(), strict=False):
            steps, values = points(lines, in_validation, name)
            panel.plot(steps, values, linewidth=1.3, markersize=3.5, marker=_marker(steps), label=name, **style)
        panel.set_title(title, fontsize=11)
        _by_step(panel)
    if len(sources) > 1:
        steps, means = mean_accuracy(lines)
        panels[1].plot(
            steps, means, color="black", linewidth=2.2, marker=_marker(steps), markersize=5, label="mean", zorder=3
        )
    _legend(figure, panels, lines)
    figure.savefig(path, dpi=120)
    return path


def _training(panel: Any, lines: Sequence[Line], key: str) -> None:
    """A figure of training, faint where its steps are many, with a running mean; of a loss its parts too."""
    parts = (
        {name for line in lines for name in line.get("train", ()) if name.endswith("_loss")} if key == "loss" else ()
    )
    for name, style in zip((key, *sorted(parts)), ("-", "--", ":", "-."), strict=False):
        steps, values = points(lines, name)
        middles, means, window = smooth(steps, values)
        if window > 1:
            panel.plot(steps, values, color=_FAINT, linewidth=0.6, zorder=1)
        told = "train" if name == key else f"train: {name.replace('_', ' ')}"
        label = f"{told}, mean of {window}" if window > 1 else told
        panel.plot(middles, means, style, color=_TRAIN, linewidth=1.4, marker=_marker(steps), markersize=2, label=label)


def _legend(figure: Any, panels: Sequence[Any], lines: Sequence[Line]) -> None:
    """Beside the panels: the lines of training, then those of validation with their last accuracy."""
    loss, accuracy = (dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True)) for panel in panels[:2])
    shown = {label: line for label, line in loss.items() if label.startswith(("train", "chance"))}
    if "mean" in accuracy:
        shown[f"mean  {mean_accuracy(lines)[1][-1]:.3f}"] = accuracy["mean"]
    for name in source_names(lines):
        _, values = points(lines, "accuracy", name)
        shown[f"{_cut(name)}  {values[-1]:.3f}" if len(values) else _cut(name)] = accuracy[name]
    title = "validation: its last accuracy" if source_names(lines) else None
    figure.legend(
        [*shown.values()], [*shown], loc="outside right center", frameon=False, fontsize=8.5, title=title,
        alignment="left",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- rewards
def draw_rewards(path: Path, lines: Sequence[Line]) -> Path | None:
    """How rewards are spread over time: of better and of worse responses, in training and source by source.

    Where rewards are comparable inside a row only, the spread of margins.

    Args:
        path: PNG to write.
        lines: of ``metrics.jsonl``.

    Returns:
        the path; None if there is nothing to draw.
    """
    from matplotlib.figure import Figure

    trained = any("better_reward_std" in line.get("train", ()) for line in lines)
    shown = [*(["train"] if trained else []), *source_names(lines)]
    if not shown:
        return None
    columns = min((4, 5, 3), key=lambda n: -len(shown) % n) if len(shown) > 5 else len(shown)  # the least gaps
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.4 * max(2, columns), 2.4 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for panel in grid.flat[len(shown) :]:
        panel.set_visible(False)
    for number, (panel, name) in enumerate(zip(grid.flat, shown, strict=False)):
        panel.set_title(_cut(name), fontsize=10)
        _by_step(panel, labelled=number + columns >= len(shown))
    for panel, name in zip(grid.flat[int(trained) :], source_names(lines), strict=False):
        for kind, colour in (("better", BETTER), ("worse", WORSE)) if trained else (("margin", BETTER),):
            _quantiles(panel, *points(lines, f"{kind}_quantiles", name), colour)
    if trained:
        for kind, colour in (("better", BETTER), ("worse", WORSE)):
            _mean_and_spread(grid.flat[0], lines, kind, colour)
    figure.supylabel("reward (log-odds)" if trained else "margin (log-odds)", fontsize=10)
    _spread_legend(figure, trained)
    figure.savefig(path, dpi=120)
    return path


def _quantiles(panel: Any, steps: np.ndarray, values: np.ndarray, colour: str) -> None:
    """Bands of the middle half and of nine tenths, and the median; [P, 5] of 5, 25, 50, 75 and 95 %."""
    if not len(steps):
        return
    low, quarter, median, three_quarters, high = values.T
    if len(steps) == 1:  # bands would have no width
        panel.vlines(steps, low, high, color=colour, alpha=0.35, linewidth=2)
        panel.vlines(steps, quarter, three_quarters, color=colour, alpha=0.5, linewidth=5)
    panel.fill_between(steps, low, high, color=colour, alpha=0.13, linewidth=0)
    panel.fill_between(steps, quarter, three_quarters, color=colour, alpha=0.28, linewidth=0)
    panel.plot(steps, median, color=colour, linewidth=1.4, marker=_marker(steps), markersize=3.5)


def _mean_and_spread(panel: Any, lines: Sequence[Line], kind: str, colour: str) -> None:
    """Of training steps, mean and standard deviation."""
    steps, mean, _ = smooth(*points(lines, f"{kind}_reward"))
    _, spread, _ = smooth(*points(lines, f"{kind}_reward_std"))
    panel.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    panel.plot(steps, mean, color=colour, linewidth=1.4, marker=_marker(steps), markersize=3)


def _spread_legend(figure: Any, trained: bool) -> None:
    from matplotlib.patches import Patch

    kinds = {"better responses": BETTER, "worse responses": WORSE} if trained else {"better - worse": BETTER}
    patches = [Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    how = "median, middle 50 % and 90 %" + ("; train: mean and standard deviation" if trained else "")
    figure.legend(handles=patches, loc="outside upper center", ncols=2, frameon=False, fontsize=9, title=how)


# ------------------------------------------------------------------------------------------------------------ shape
def _styles() -> Iterator[dict[str, Any]]:
    """Colour and dashes of one source after the other."""
    return cycle([{"color": colour, "linestyle": style} for style in _STYLES for colour in _COLOURS])


def _marker(steps: np.ndarray) -> str:
    return "o" if len(steps) <= _DOTS else ""


def _by_step(panel: Any, labelled: bool = True) -> None:
    panel.set_xlabel("step" if labelled else "")
    panel.tick_params(labelbottom=labelled)
    panel.locator_params(axis="y", nbins=5)
    panel.xaxis.get_major_locator().set_params(integer=True, nbins=4, min_n_ticks=1)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.spines[["top", "right"]].set_visible(False)


def _cut(name: str) -> str:
    """A long name without its middle: of similar ones the ends differ."""
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"
