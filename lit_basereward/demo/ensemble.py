"""``python -m lit_basereward.demo.ensemble``: three small members and their ensemble, tested on held-out rows."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from lit_basereward.cli import main
from lit_basereward.demo.__main__ import CONFIG, step

ENSEMBLE = "configs/demo_ensemble.yaml"
SUMS = "[{class_path: lit_basereward.demo.Sums, init_args: {split: %s}}]"
MEMBERS: dict[str, list[str]] = {
    "qwen2_5_vl": ["--model.backbone", "lit_basereward.demo.TinyQwen2_5VL", "--trainer.max_epochs", "3"],
    "qwen2_vl": ["--model.backbone", "lit_basereward.demo.TinyQwen2VL", "--trainer.max_epochs", "3"],
    # Text only, and trained on text only, as the paper's Qwen3-8B.
    "qwen2": [
        *("--model.backbone", "lit_basereward.demo.TinyQwen2", "--trainer.max_epochs", "6"),
        *("--data.train", SUMS % "train", "--data.val", SUMS % "val"),
    ],
}
"""What sets each member's training apart from the demo's."""


def run(folder: Path) -> None:
    """Train the members, fit nothing, and test the mean: the commands of docs/ensembles.md, one after the other."""
    for seed, (name, settings) in enumerate(MEMBERS.items()):
        place = ["--trainer.default_root_dir", str(folder / name), "--trainer.logger.save_dir", str(folder / name)]
        given = ["--config", CONFIG, "--seed_everything", str(seed), *settings, *place]
        done = folder / name / "trained"  # a run that was interrupted has checkpoints, too
        if done.exists():
            step(f"member {name} is trained already: {folder / name}")
            continue
        step(f"training member {name}: python -m lit_basereward fit {' '.join(given)}")
        main(["fit", *given])
        done.touch()
    members = {name: str(folder / name / "checkpoints" / "best.ckpt") for name in MEMBERS}
    test = ["--config", ENSEMBLE, "--model.members", json.dumps(members), "--trainer.default_root_dir", str(folder)]
    step(f"testing the ensemble on held-out rows: python -m lit_basereward test {' '.join(test)}")
    shutil.rmtree(folder / "rewards", ignore_errors=True)
    main(["test", *test])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m lit_basereward.demo.ensemble", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo_ensemble"), help="folder of the runs")
    run(parser.parse_args().output)
