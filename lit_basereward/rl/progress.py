"""What happens during reinforcement: lines of metrics as they come, and their curves."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

NAMES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "equal_groups",  # share of groups whose rewards are all the same: no gradient
    "completions/mean_length": "length",  # tokens
    "completions/clipped_ratio": "unfinished",  # share of completions that max_completion_length ended
    "entropy": "entropy",
    "kl": "kl",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}
"""TRL's names of metrics, and ours."""
_SHOWN = ("reward", "accuracy", "model", "probability", "format", "consistency", "length")


class Progress(TrainerCallback):
    """Writes a JSON line for each of TRL's logs, and tells it in one short line.

    Args:
        path: ``metrics.jsonl``: step, split (``train`` or ``held_out``) and metrics.
        parts: names of the rewards' own parts; it may grow.
    """

    def __init__(self, path: Path, parts: Collection[str]) -> None:
        self.path, self.parts = path, parts
        self.lines: list[dict[str, Any]] = []

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Called by the trainer with everything that it logs."""
        logs = logs or {}
        held_out = "eval_reward" in logs
        if not held_out and "reward" not in logs:
            return  # the summary of the whole run
        prefix = "eval_" if held_out else ""
        names = NAMES | {part: part for part in sorted(self.parts)}
        values = {ours: logs.get(prefix + theirs) for theirs, ours in names.items()}
        line = {"step": state.global_step, "split": "held_out" if held_out else "train"}
        line |= {name: value for name, value in values.items() if value is not None}
        self.lines.append(line)
        if not state.is_world_process_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(told(line), flush=True)

    @property
    def last_evaluated(self) -> int | None:
        """The step after which held-out prompts were last answered."""
        return max((line["step"] for line in self.lines if line["split"] == "held_out"), default=None)

    def summary(self) -> str:
        """Held-out figures before and after; without held-out prompts, the first and the last of training."""
        lines = [line for line in self.lines if line["split"] == "held_out"] or self.lines
        return "\n".join(["before and after:", told(lines[0]), told(lines[-1])]) if lines else "no step was made"


def told(line: dict[str, Any]) -> str:
    """A line of metrics for people."""
    figures = "  ".join(f"{name} {line[name]:.3f}" for name in _SHOWN if name in line)
    return f"step {line['step']:>5}  {line['split']:<8}  {figures}"


def draw_curves(path: Path, lines: Sequence[dict[str, Any]], parts: Collection[str]) -> None:
    """One panel each for the reward, its parts and the length: training as lines, held-out rows as dots.

    Args:
        path: PNG to write.
        lines: as :class:`Progress` has them.
        parts: names of the reward's parts.
    """
    from matplotlib.figure import Figure

    panels = ["reward", *sorted(parts), "length"]
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for panel in axes:
        panel.set_visible(False)
    for panel, name in zip(figure.axes, panels, strict=False):
        panel.set_visible(True)
        for split, colour, marker in (("train", "#2b6cb0", ""), ("held_out", "#c05621", "o")):
            points = [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
            steps, values = zip(*points, strict=True) if points else ((), ())
            panel.plot(steps, values, color=colour, marker=marker, linewidth=1, label=split.replace("_", " "))
        panel.set(title=name, xlabel="step")
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)
