"""Pictures of a model on a benchmark: reward distributions, reliability and risk-coverage, side by side."""

from __future__ import annotations

import base64
from importlib.util import find_spec
from io import BytesIO
from typing import Any

HOW_TO_DRAW = 'for pictures: pip install "lit_basereward[demo]"'
"""What to say where matplotlib is missing."""
BETTER, WORSE, GREY = "#2b6cb0", "#c05621", "#718096"
# Text stays text, which keeps the files small; the salt makes two runs give the same bytes.
_SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "lit_basereward", "font.size": 9, "font.family": "sans-serif"}


def can_draw() -> bool:
    """True if matplotlib is there; it comes with the extra ``demo``."""
    return find_spec("matplotlib") is not None


def picture(
    diagnostics: dict[str, Any], calibration: dict[str, Any], by_agreement: dict[str, Any] | None = None
) -> str:
    """The plots of a model as a data URI of an SVG: three, or two where its rewards have no distribution over rows.

    Args:
        diagnostics: of :func:`lit_basereward.benchmarks.diagnosis.diagnose`.
        calibration: of :func:`lit_basereward.benchmarks.diagnosis.calibrate`.
        by_agreement: the risk-coverage curve of an ensemble that answers first where its members agree.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SVG):
        figure = Figure(figsize=(10.5, 2.9))  # a layout engine would take longer than the drawing
        figure.subplots_adjust(left=0.06, right=0.99, bottom=0.18, top=0.9, wspace=0.24)
        distribution = diagnostics["distribution"]
        panels = figure.subplots(1, 3 if distribution else 2)
        if distribution:
            _distributions(panels[0], distribution["histogram"])
        _reliability(panels[-2], calibration)
        _risk_coverage(panels[-1], diagnostics["risk_coverage"], by_agreement)
        for panel in panels:
            panel.spines[["top", "right"]].set_visible(False)
            panel.locator_params(nbins=5)
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _distributions(panel: Any, histogram: dict[str, list[float]]) -> None:
    panel.stairs(histogram["better"], histogram["edges"], fill=True, alpha=0.45, color=BETTER, label="better")
    panel.stairs(histogram["worse"], histogram["edges"], color=WORSE, linewidth=1.4, label="worse")
    panel.set(title="Rewards of better and worse responses", ylabel="comparisons")
    panel.set_xlabel("reward (outermost 1 % at the edges)")
    panel.legend(frameon=False)


def _reliability(panel: Any, calibration: dict[str, Any]) -> None:
    panel.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=0.8, linestyle="--")
    for key, color, label in (("before", GREY, "T = 1"), ("after", BETTER, "calibrated")):
        scores = calibration[key]
        if scores is None:
            continue
        bins = scores["bins"]
        largest = max([1, *bins["count"]])
        sizes = [6 + 50 * count / largest for count in bins["count"]]
        panel.scatter(bins["confidence"], bins["accuracy"], sizes, color=color, alpha=0.7, label=label)
    panel.set(title="Reliability", xlabel="confidence", ylabel="accuracy", xlim=(0.49, 1.01), ylim=(-0.02, 1.02))
    panel.legend(frameon=False, loc="lower right")


def _risk_coverage(panel: Any, curve: dict[str, Any], by_agreement: dict[str, Any] | None) -> None:
    panel.plot(curve["coverage"], curve["risk"], color=BETTER, label="by margin")
    top = max([0.05, *curve["risk"]]) * 1.1
    if by_agreement:
        panel.plot(by_agreement["coverage"], by_agreement["risk"], color=WORSE, label="by the members' agreement")
        top = max([top, *(1.1 * risk for risk in by_agreement["risk"])])
        panel.legend(frameon=False)
    panel.set(title="Error among the most confident", xlabel="share answered", ylabel="error rate", ylim=(0, top))
