"""Run ablations at demo scale, and say what they show: accuracy of each row over seeds, and what it is ahead.

    python bench/ablations.py heads regularizers text_ratio [--seeds 0 1 2] [--steps N] [--folder runs/ablations]
    python bench/ablations.py --tables bench/ablations.json [--figure docs/figures/ablations.png]

Each row of `configs/ablations/AXIS` (or `AXIS/demo`, where the demo has rows of its own) is laid over
`configs/demo.yaml` and `configs/ablations/short.yaml`, trained by `fit` and tested by `test`, in a process of its own
(forked, so that imports are paid for once), one run at a time. Runs that have left their results are not run again;
where theirs are of another `--steps`, that is an error. Rows that change nothing of the demo share one run a seed. Then
tables are printed, and the figures written to `--json`.

An interval has two parts, since neither more seeds nor more test rows alone would narrow it: with S seeds and R rows,
V = (variance of the accuracy over seeds) / S + (variance of the mean over seeds, with rows as clusters). The second
also holds what rows and seeds have together, which is counted twice, so V is a little too large rather than too small.
The interval is the estimate +- t sqrt(V), with Satterthwaite's degrees of freedom; 2 seeds are the least. Differences
to the paper's choice are taken row by row and seed by seed before that. `all` is the mean over the sources.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from lit_basereward.cli import main
from lit_basereward.demo import Digits, Scenes, Sums
from lit_basereward.metrics import pair_accuracy_by_row

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "ablations"
PAPER = {  # the paper's choice on each axis, which the other rows are compared with
    "heads": "2_silu",
    "regularizers": "lambda_0",
    "text_ratio": "multimodal_0.80",
    "backbones": "qwen2_5_vl",
    "corpora": None,
}
DEFAULT = {("heads", "2_silu"), ("regularizers", "lambda_0"), ("backbones", "qwen2_5_vl")}  # the demo as it is
SOURCES = {"digits": Digits, "scenes": Scenes, "sums": Sums}
OPTIONS = "options.json"
"""File of a run: what it was given beside its row and seed."""
TITLES = {"heads": "reward head", "regularizers": "training strategy", "text_ratio": "rows with images"}


# ------------------------------------------------------------------------------------------------------ running
def rows(axis: str) -> list[Path]:
    """The overlays of an axis that lie over the demo."""
    folder = CONFIGS / axis / "demo"
    return sorted((folder if folder.is_dir() else CONFIGS / axis).glob("*.yaml"))


def place(folder: Path, axis: str, row: str, seed: int) -> Path:
    """Folder of a run."""
    name = Path("default") if (axis, row) in DEFAULT else Path(axis, row)
    return folder / name / f"seed_{seed}"


def is_done(target: Path, options: Sequence[str]) -> bool:
    """True where a run with these options has left its results; of other options they would not compare."""
    if not (target / "results.json").exists():
        return False
    file = target / OPTIONS
    if (found := json.loads(file.read_text()) if file.exists() else []) != list(options):
        said = " ".join(found) or "short.yaml's steps"
        raise SystemExit(f"error: {target} was run with {said}; give the same --steps, or another --folder")
    return True


def run(overlay: Path, target: Path, seed: int, options: Sequence[str]) -> None:
    """Train and test in a process of their own; what they print is kept in ``log.txt``."""
    common = [
        *("--config", "configs/demo.yaml", "--config", "configs/ablations/short.yaml", "--config", str(overlay)),
        *("--seed_everything", str(seed), "--data.seed", str(seed), *options),
        *("--trainer.default_root_dir", str(target), "--trainer.logger.save_dir", str(target)),
    ]
    test = ["test", *common, "--ckpt_path", str(target / "checkpoints" / "best.ckpt")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = multiprocessing.get_context("fork").Process(target=_both, args=(["fit", *common], test, target / "log.txt"))
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"error: {overlay.stem}, seed {seed}: {target / 'log.txt'} says why")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for file in (target / "checkpoints").glob("*.ckpt"):  # 36 MB a run, and nothing looks at them again
        file.unlink()
    print(f"{target}: {seconds:.0f} s of processor time", flush=True)


def _both(fit: list[str], test: list[str], log: Path) -> None:
    os.chdir(ROOT)
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    for command in (fit, test):
        main(command)


# ------------------------------------------------------------------------------------------------------ figures
@dataclass
class Figure:
    """An estimate, and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(correct: Sequence[np.ndarray], total: Sequence[np.ndarray]) -> Figure:
    """Mean over sources of an accuracy, or of a difference of two, with the interval described above.

    Args:
        correct: of each source, [seeds, rows] right comparisons, or one row's less another's.
        total: of each source, [rows] comparisons.
    """
    num_seeds, sources = len(correct[0]), len(correct)
    by_seed = np.mean([c.sum(1) / m.sum() for c, m in zip(correct, total, strict=True)], axis=0)  # [seeds]
    of_seeds = float(by_seed.var(ddof=1)) / num_seeds
    of_rows = sum(map(_clustered, correct, total)) / sources**2
    variance = of_seeds + of_rows
    freedom = variance**2 / (of_seeds**2 / (num_seeds - 1) + of_rows**2 / (sum(map(len, total)) - sources) or math.inf)
    half = float(student.ppf(0.975, max(freedom, 1))) * math.sqrt(variance) if variance else 0.0
    value = float(by_seed.mean())
    return Figure(value, value - half, value + half)


def _clustered(correct: np.ndarray, total: np.ndarray) -> float:
    """Variance of a ratio of sums over rows (Cochran, "Sampling Techniques", ch. 6), of the mean over seeds."""
    mean, num_rows = correct.mean(0), len(total)
    ratio = mean.sum() / total.sum()
    return float(num_rows / (num_rows - 1) * ((mean - ratio * total) ** 2).sum() / total.sum() ** 2)


@cache
def ratings(source: str) -> torch.Tensor:
    """[responses] of the test split; reading a row draws its image, so once."""
    given = SOURCES[source]("test")
    return torch.tensor([rating for n in range(len(given)) for rating in given[n].ratings])


def right(folder: Path, source: str) -> tuple[np.ndarray, np.ndarray]:
    """[rows] right comparisons, and [rows] comparisons, of a tested run."""
    lines = [json.loads(line) for line in (folder / "rewards" / f"{source}.jsonl").read_text().splitlines()]
    sizes = torch.tensor([len(line["rewards"]) for line in lines])
    rewards = torch.tensor([reward for line in lines for reward in line["rewards"]])
    row = torch.arange(len(lines)).repeat_interleave(sizes)
    correct, _, total = pair_accuracy_by_row(rewards, row, ratings(source))
    return correct.numpy(), total.numpy()


def figures(folder: Path, axis: str, seeds: Sequence[int]) -> dict[str, dict[str, Any]]:
    """``{row: {source: {value, low, high, seeds, ahead}}}``; ``ahead`` is the difference to the paper's choice."""
    names = [overlay.stem for overlay in rows(axis)]
    read: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in names:
        runs = [place(folder, axis, name, seed) for seed in seeds]
        sources = [source for source in SOURCES if (runs[0] / "rewards" / f"{source}.jsonl").exists()]
        each = {source: [right(run, source) for run in runs] for source in sources}
        read[name] = {source: (np.stack([c for c, _ in found]), found[0][1]) for source, found in each.items()}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = {}
        groups = {source: [source] for source in read[name]} | ({"all": list(SOURCES)} if len(read[name]) > 1 else {})
        for group, sources in groups.items():
            correct, total = zip(*(read[name][source] for source in sources), strict=True)
            by_seed = np.mean([c.sum(1) / m.sum() for c, m in zip(correct, total, strict=True)], axis=0)
            found[name][group] = asdict(estimate(correct, total)) | {"seeds": by_seed.round(4).tolist()}
            if (paper := PAPER[axis]) and name != paper:
                ahead = [c - read[paper][source][0] for c, source in zip(correct, sources, strict=True)]
                found[name][group]["ahead"] = asdict(estimate(ahead, total))
    return found


# ------------------------------------------------------------------------------------------------------- output
def table(axis: str, found: dict[str, dict[str, Any]]) -> str:
    """Markdown: accuracy of each source, their mean, and its difference to the paper's choice."""
    groups = [group for group in (*SOURCES, "all") if any(group in row for row in found.values())]
    lines = [
        f"| {axis} | {' | '.join(groups)} | all, ahead of the paper's choice |",
        "| --- " * (len(groups) + 2) + "|",
    ]
    for name, row in found.items():
        cells = [
            f"{row[g]['value']:.3f} ({row[g]['low']:.3f} to {row[g]['high']:.3f})" if g in row else "" for g in groups
        ]
        ahead = row.get("all", {}).get("ahead")
        cells.append(f"{ahead['value']:+.3f} ({ahead['low']:+.3f} to {ahead['high']:+.3f})" if ahead else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(axes: dict[str, Any], path: Path) -> None:
    """Differences to the paper's choice with their intervals, a panel an axis."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    if not (shown := [axis for axis in axes if PAPER[axis]]):
        raise SystemExit("error: no axis here has a row to compare with, so there is nothing to draw")
    picture, panels = plt.subplots(1, len(shown), figsize=(3.6 * len(shown), 2.9), squeeze=False)
    drawn: dict[str, Any] = {}  # one of each colour, for the legend
    for axis, panel in zip(shown, panels[0], strict=True):
        names = list(axes[axis])
        for n, name in enumerate(names):
            for k, (group, colour) in enumerate({"all": "black", "digits": "C0", "scenes": "C1", "sums": "C2"}.items()):
                ahead = axes[axis][name].get(group, {}).get("ahead")
                if ahead is None:
                    continue
                reach = [[ahead["value"] - ahead["low"]], [ahead["high"] - ahead["value"]]]
                place = n + 0.18 * (k - 1.5)
                drawn[group] = panel.errorbar(ahead["value"], place, xerr=reach, fmt="o", ms=3, color=colour)
        panel.axvline(0, color="grey", lw=0.8)
        panel.set_yticks(range(len(names)), names, fontsize=7)
        panel.invert_yaxis()
        panel.tick_params(axis="x", labelsize=7)
        panel.set_title(TITLES.get(axis, axis), fontsize=9)
    picture.legend(list(drawn.values()), list(drawn), fontsize=7, loc="lower right", ncols=4)
    picture.supxlabel("accuracy, ahead of the paper's choice", fontsize=8)
    picture.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=110)


def study() -> None:
    """Run what is missing, then print, store and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"folders of configs/ablations: {', '.join(PAPER)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of weights, order and mixture")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run, in the place of short.yaml's")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablations"), help="of the runs; one for each --steps")
    parser.add_argument("--json", type=Path, help="file to write figures to")
    parser.add_argument("--tables", type=Path, help="print the tables of such a file instead of running")
    parser.add_argument("--figure", type=Path, help="PNG to draw")
    args = parser.parse_args()
    if unknown := [axis for axis in args.axes if axis not in PAPER]:
        parser.error(f"{unknown[0]} is not run here; there are {', '.join(PAPER)}")
    if bool(args.axes) == bool(args.tables):
        parser.error("name axes to run, or a file of --tables")
    if len(args.seeds) < 2 or len(set(args.seeds)) < len(args.seeds):
        parser.error("an interval takes 2 seeds or more, each of them once")
    if args.tables:
        axes = json.loads(args.tables.read_text())
    else:
        folder = args.folder.resolve()
        steps = [f"--trainer.{key}={args.steps}" for key in ("max_steps", "val_check_interval")] if args.steps else []
        wanted = [(axis, overlay) for axis in args.axes for overlay in rows(axis)]
        for seed in args.seeds:  # seed by seed, so that an early end leaves all rows of some seeds
            for axis, overlay in wanted:
                target = place(folder, axis, overlay.stem, seed)
                if not is_done(target, steps):
                    target.mkdir(parents=True, exist_ok=True)
                    (target / OPTIONS).write_text(json.dumps(steps))
                    run(overlay, target, seed, steps)
        axes = {axis: figures(folder, axis, args.seeds) for axis in args.axes}
    for axis, found in axes.items():
        print(f"\n{table(axis, found)}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(axes, indent=1) + "\n")
    if args.figure:
        draw(axes, args.figure)


if __name__ == "__main__":
    study()
