"""``python -m lit_basereward.demo``: train the demo, test it on held-out rows, and say where everything lies."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from lit_basereward.callbacks.closing import tensorboard
from lit_basereward.callbacks.evaluation import format_table
from lit_basereward.cli import main
from lit_basereward.demo.data import Digits

CONFIG = "configs/demo.yaml"


def run(folder: Path, seed: int) -> None:
    """Train, test and predict through the command line, one command after the other."""
    best = folder / "checkpoints" / "best.ckpt"
    place = [
        "--config", CONFIG, "--seed_everything", str(seed), "--data.seed", str(seed),
        "--trainer.default_root_dir", str(folder), "--trainer.logger.save_dir", str(folder),
    ]  # fmt: skip
    started = time.perf_counter()
    step(f"training (under 4 minutes on 2 cores): python -m lit_basereward fit {' '.join(place)}")
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # else the curves of earlier runs would be among them
    main(["fit", *place])
    trained = time.perf_counter() - started

    step("testing on held-out rows, as they are and with their images blanked")
    main(["test", *place, "--ckpt_path", str(best)])

    (folder / "digit.png").write_bytes(Digits("test")[0].images[0].data)  # a one, unseen in training; README scores it
    questions = folder / "questions.jsonl"
    step(f"scoring {questions}, rows of 1 to 4 responses without labels")
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    predictions = folder / "predictions.jsonl"
    main([
        "predict", *place, "--ckpt_path", str(best), "--data.predict", str(questions),
        "--predictions.path", str(predictions), "--predictions.overwrite", "true",
    ])  # fmt: skip

    table = format_table(json.loads((folder / "results.json").read_text()))
    print(f"\nDone; training took {trained:.0f} s.\n\n{table}")
    print("\nWhere things are:")
    for what, path in (
        ("checkpoint", best),
        ("curves", best.with_name("curves.png")),
        ("rewards", best.with_name("rewards.png")),
        ("results", folder / "results.json"),
        ("margins", folder / "results.png"),
        ("report", folder / "report.html"),
        ("predictions", predictions),
        ("TensorBoard", f"{tensorboard()} --logdir {folder / 'tensorboard'}"),
    ):
        print(f"  {what:<12} {path}")


QUESTIONS = (
    {"id": "sum", "prompt": "3 + 4 = ?", "responses": ["7", "9"]},
    {"id": "in words", "prompt": "What is 2 + 6?", "responses": ["It is 8.", "It is 5.", "It is 11.", "It is 4."]},
    {"id": "alone", "prompt": "1 + 1 = ?", "responses": ["2"]},
)


def step(text: str) -> None:
    print(f"\n==> {text}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m lit_basereward.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder of the run")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order of rows")
    arguments = parser.parse_args()
    run(arguments.output, arguments.seed)
