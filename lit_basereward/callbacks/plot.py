"""Draw what a test found: how far the better response of each comparison is ahead, source by source."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def draw_margins(path: Path, margins: dict[str, Tensor], blank_of: dict[str, str]) -> Path | None:
    """One panel per source: a histogram of reward differences, right of zero is right; blanked images behind it.

    Args:
        path: PNG to write.
        margins: per source, [comparisons] reward of the better response less that of the worse.
        blank_of: name of a source with blanked images -> name of the source itself.

    Returns:
        the path; None where there is no comparison to draw.
    """
    from matplotlib.figure import Figure

    margins = {name: values[values.isfinite()] for name, values in margins.items()}
    margins = {name: values for name, values in margins.items() if len(values)}
    blanks = {blank_of[name]: values for name, values in margins.items() if name in blank_of}
    shown = [name for name in margins if blank_of.get(name) not in margins]
    if not shown:
        return None
    figure = Figure(figsize=(4 * len(shown), 3.2), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        values = margins[name]
        reach = max(float(values.abs().quantile(0.995)), 1e-3)
        settings = {"bins": 40, "range": (-reach, reach)}
        share = float((values > 0).float().mean())
        panel.hist(values.clamp(-reach, reach).numpy(), color="#2b6cb0", label=f"{share:.1%} right", **settings)
        if name in blanks:
            blank = blanks[name]
            share = float((blank > 0).float().mean())
            panel.hist(
                blank.clamp(-reach, reach).numpy(), histtype="step", color="#c05621", label=f"blanked: {share:.1%}",
                **settings,
            )  # fmt: skip
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set(title=name, xlabel="reward of better - worse", yticks=[])
        panel.legend(fontsize="small", frameon=False)
        panel.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return path
