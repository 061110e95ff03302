"""`predict`: JSONL in, JSONL out, in order, resumable."""

from __future__ import annotations

import json
import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from lit_basereward.callbacks.predictions import PredictionWriter
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone

ANSWERS = ["yes", "no it is not", "maybe", "a cat"]
ROWS = [
    {"id": f"q{i}", "prompt": f"is it {'very ' * i}red", "responses": ANSWERS[: 1 + i % 4]} for i in range(11)
]  # fmt: skip


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class StopAfter(pl.Callback):
    """Ends the run in the middle, as a crash would."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx + 1 == self.batches:
            raise RuntimeError("crash")


def predict(module, source: str, output: Path, callbacks=(), on_bad_row="raise", **options) -> list[dict]:
    data = PreferenceDataModule(predict=source, eval_batch_size=2, on_bad_row=on_bad_row)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=output.parent,
        callbacks=[PredictionWriter(str(output), **options), *callbacks],
    )  # fmt: skip
    trainer.predict(module, data, return_predictions=False)
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.fixture(scope="module")
def module(backbone_folder) -> NaiveRM:
    torch.manual_seed(0)
    module = NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048))
    module.configure_model()
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    return module


def test_order_rewards_and_probabilities(module, tmp_path):
    """One line a row, in the input's order; p_best is the softmax of the rewards and missing for one response."""
    lines = predict(module, write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == [row["id"] for row in ROWS]
    for line, row in zip(lines, ROWS, strict=True):
        assert len(line["rewards"]) == len(row["responses"])
        assert ("p_best" in line) == (len(row["responses"]) > 1)
        if "p_best" in line:
            weights = [math.exp(reward) for reward in line["rewards"]]
            assert line["p_best"] == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out.jsonl"]


def test_a_stopped_run_goes_on(module, tmp_path):
    """After a crash, and with half a line at the end, the second run computes only what is missing."""
    source = write(tmp_path / "in.jsonl", ROWS)
    whole = predict(module, source, tmp_path / "whole.jsonl")
    with pytest.raises(RuntimeError, match="crash"):
        predict(module, source, tmp_path / "out.jsonl", [StopAfter(2)])
    part = tmp_path / "out.jsonl.part-0"
    assert len(part.read_text().splitlines()) == 4
    part.write_text(part.read_text() + '{"row": 4, "rew')
    seen = []

    class Count(pl.Callback):
        def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            seen.extend(batch.row_index.tolist())

    again = predict(module, source, tmp_path / "out.jsonl", [Count()])
    assert sorted(seen) == list(range(4, 11))
    assert [line["id"] for line in again] == [line["id"] for line in whole]
    for one, two in zip(whole, again, strict=True):
        assert one["rewards"] == pytest.approx(two["rewards"], abs=1e-5)


def test_another_input_is_not_mixed_in(module, tmp_path):
    """The input's hash is checked before anything is continued; overwrite starts anew."""
    source = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(RuntimeError, match="crash"):
        predict(module, source, tmp_path / "out.jsonl", [StopAfter(2)])
    write(tmp_path / "in.jsonl", ROWS[1:])
    with pytest.raises(ValueError, match="begun with another input or model"):
        predict(module, source, tmp_path / "out.jsonl")
    lines = predict(module, source, tmp_path / "out.jsonl", overwrite=True)
    assert [line["id"] for line in lines] == [row["id"] for row in ROWS[1:]]


def test_bad_rows_keep_their_place(module, tmp_path):
    """Under skip a row that cannot be scored has rewards null and an error, so that lines stay aligned."""
    rows = [ROWS[1], {"id": "bad", "prompt": "x", "responses": []}, ROWS[2]]
    lines = predict(module, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", on_bad_row="skip")
    assert [line["rewards"] is None for line in lines] == [False, True, False]
    assert "has no response" in lines[1]["error"]
    with pytest.raises(ValueError, match="exists; give another path"):
        predict(module, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", on_bad_row="skip")
