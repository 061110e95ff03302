"""The demo's other paradigms run through the command line: trained, tested, with their evidence and their cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_basereward.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"


def few(rows: int, judged: bool = False) -> str:
    """Some sums as sources in JSON: text only, and no scikit-learn, so that little is made and written."""
    source = {"class_path": "lit_basereward.demo.Sums", "init_args": {"split": "val", "rows": rows}}
    if judged:
        source = {"class_path": "lit_basereward.data.sources.JudgedRows", "init_args": {"source": source}}
    return json.dumps([source])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "forwards", "evidence"),
    [
        # By hand, of a row of two: a critic reads each to write and once more to score, a judge reads both orders.
        ("demo_critic.yaml", 4, {"critiques", "unfinished", "empty"}),
        ("demo_generative.yaml", 2, {"log_odds"}),
        ("demo_reasoning.yaml", 2, {"votes", "judgements"}),
    ],
)
def test_trains_and_tests(config: str, forwards: int, evidence: set[str], tmp_path: Path) -> None:
    common = [
        "--config", str(CONFIGS / config), "--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false",
        "--trainer.callbacks", "[]", "--trainer.accelerator", "cpu", "--data.num_workers", "0",
        *(["--model.max_new_tokens", "4"] if "log_odds" not in evidence else []),
    ]  # fmt: skip
    data = ["--data.train", few(40, judged=config == "demo_reasoning.yaml"), "--data.val", few(4)]
    main(["fit", *common, *data, "--trainer.max_epochs", "1", "--trainer.max_steps", "1"])
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    main(["test", *common, "--data.test", few(4), "--ckpt_path", str(checkpoint)])
    (results,) = (json.loads(file.read_text()) for file in tmp_path.rglob("results.json"))
    assert results["sums"]["cost"]["forwards"] == forwards
    lines = [json.loads(line) for line in (tmp_path / "rewards" / "sums.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(evidence <= line.keys() for line in lines)
