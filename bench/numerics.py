"""Prove that a change leaves the numbers as they were: train each paradigm for some steps before it and after it.

    git worktree add ../before main && (cd ../before && python bench/numerics.py runs/numerics)
    python bench/numerics.py runs/numerics --against ../before/runs/numerics

Each of the demo's configs trains for ten steps; the losses of all steps and the weights after the last are kept in the
folder. With `--against` both are compared with those of another folder: 0 is bit for bit, which a refactoring must
reach; a change of the order of summation may have 1e-6. Ends with 1 where a difference is larger than `--tolerance`.
Options behind `--` go to `fit`, such as `-- --model.layout padded`.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import torch

CONFIGS = ["demo", "demo_critic", "demo_generative", "demo_reasoning"]


def train(config: str, folder: Path, steps: int, options: list[str]) -> None:
    """Leave `last.ckpt` and `metrics.csv` in the folder."""
    settings = {
        "trainer.max_steps": steps,
        "trainer.limit_val_batches": 0,
        "trainer.log_every_n_steps": 1,
        "trainer.default_root_dir": folder,
        "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
        "trainer.logger.save_dir": folder,
        "trainer.logger.name": "",
        "trainer.logger.version": "",
        "trainer.callbacks": "lightning.pytorch.callbacks.ModelCheckpoint",
        "trainer.callbacks.dirpath": folder,
        "trainer.callbacks.filename": "last",
        "trainer.callbacks.enable_version_counter": "false",
        "data.num_workers": 0,
    }
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    command = [
        sys.executable,
        "-m",
        "lit_basereward",
        "fit",
        "--config",
        f"configs/{config}.yaml",
        *arguments,
        *options,
    ]
    with (folder / "fit.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def losses(folder: Path) -> torch.Tensor:
    """[steps] training loss."""
    with (folder / "metrics.csv").open() as file:
        return torch.tensor([float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors of the checkpoint."""
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Over all weights; infinite where they are other tensors."""
    if {name: w.shape for name, w in ours.items()} != {name: w.shape for name, w in theirs.items()}:
        return float("inf")
    return max(float((w.double() - theirs[name].double()).abs().max()) for name, w in ours.items())


def main() -> int:
    """Train, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where runs are kept")
    parser.add_argument("--against", type=Path, help="folder of an earlier run to compare with")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of each config")
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest difference that is no failure")
    parser.add_argument("options", nargs="*", help="more options of fit, behind --")
    args = parser.parse_args()

    worst = 0.0
    print(f"{'config':<16}  steps  last loss  {'losses differ by':>16}  {'weights differ by':>17}", flush=True)
    for config in CONFIGS:
        folder = args.folder / config
        folder.mkdir(parents=True, exist_ok=True)
        train(config, folder, args.steps, args.options)
        found = losses(folder)
        line = f"{config:<16}  {len(found):>5}  {found[-1]:>9.6f}"
        if args.against:
            before = losses(args.against / config)
            apart = float((found - before).abs().max()) if len(found) == len(before) else float("inf")
            moved = largest_difference(weights(folder), weights(args.against / config))
            worst = max(worst, apart, moved)
            line += f"  {apart:>16.3g}  {moved:>17.3g}"
        print(line, flush=True)
    return int(worst > args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
