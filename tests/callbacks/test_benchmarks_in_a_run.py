"""Benchmarks and ordinary sources in `test` and `validate`: figures, files, resuming, several devices, calibration."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lit_basereward.benchmarks import MMRLHFRewardBench, VLRewardBench, score
from lit_basereward.benchmarks.rewards import read_rewards
from lit_basereward.callbacks.gathering import Gathered, benchmark_rewards
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.metrics import Calibration, fit_temperature
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.scorer import load
from lit_basereward.testing import ListSource, preferences

IDS = ("RLAIF-1", "hallucination_pair-2", "mathverse_3", "wildvision-4", "mmmu_5", "RLHF-6", "svit_7")
ANSWERS = ("It is red.", "A small blue boat on a lake.", "No.", "Two cats and a dog.", "I do not know that.")


def pairs_file(folder: Path) -> str:
    """VL-RewardBench in R1-Reward's form: two rows of each id, texts alone."""
    rows = [
        {
            "id": name,
            "prompt": f"What is in picture {n}?",
            "chosen": ANSWERS[n % 5],
            "rejected": ANSWERS[(n + 1 + n % 3) % 5],
            "image": f"{name}.png",
        }
        for n, name in enumerate(IDS * 2)
    ]
    path = folder / "vl.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def groups_file(folder: Path) -> str:
    """MM-RLHF-RewardBench: two prompts with three ranked answers each, six pairs."""
    rows = [
        {"id": name, "image": f"{group}/{name}.png", "prompt": name, "chosen": ANSWERS[i], "rejected": ANSWERS[j],
         "chosen_reason": "", "rejected_reason": ""}
        for name, group in (("a", "mcq"), ("b", "long"))
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]  # fmt: skip
    path = folder / "mm.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def module(backbone_folder) -> NaiveRM:
    torch.manual_seed(0)
    module = NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048))
    module.configure_model()
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    return module


def data(folder: Path, stage: str = "test", **settings) -> PreferenceDataModule:
    sources = [
        VLRewardBench(pairs_file(folder), images="optional"),
        MMRLHFRewardBench(groups_file(folder), images="optional"),
        ListSource(preferences(1, responses=(2, 3, 2)), "own"),
    ]
    return PreferenceDataModule(**{stage: sources}, eval_batch_size=3, **settings)


def trainer(folder: Path, **settings) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, **settings,
    )  # fmt: skip


class StopAfter(pl.Callback):
    """Ends the run in the middle, as a crash would."""

    def __init__(self, batches: int) -> None:
        self.left = batches
        self.rows: list[int] = []

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.left -= 1
        if not self.left:  # before the batch is written
            raise RuntimeError("crash")
        self.rows += [dataloader_idx * 100 + row for row in batch.row_index.tolist() if row >= 0]


def test_figures_files_and_the_same_by_report(module, tmp_path):
    """What `test` logs and stores is what `report` makes of the rewards that it wrote; 46-like K-way lines are read."""
    figures = trainer(tmp_path).test(module, data(tmp_path), verbose=False)[0]
    results = json.loads((tmp_path / "results.json").read_text())
    report = json.loads((tmp_path / "report.json").read_text())
    for suite in data(tmp_path).sources("test")[:2]:
        name = suite.name
        file = read_rewards(str(tmp_path / "rewards" / f"{name}.jsonl"), suite)
        assert file.text_only
        expected = score(suite, file.rewards)
        assert results[name]["accuracy"] == pytest.approx(expected.figures["overall"].value)
        assert report["suites"][name]["overall"] == pytest.approx(expected.figures["overall"].value)
        assert report["suites"][name]["text_only"] is True
        for key, figure in expected.figures.items():
            if not np.isnan(figure.value):
                assert figures[f"test/{name}/{key.replace(' ', '_')}"] == pytest.approx(figure.value), key
    assert report["suites"]["mm_rlhf_rewardbench"]["rows"] == 6 and results["mm_rlhf_rewardbench"]["rows"] == 2
    own = report["suites"]["own"]
    assert own["overall"] == pytest.approx(results["own"]["accuracy"])
    headlines = [results[name]["accuracy"] for name in ("vl_rewardbench", "mm_rlhf_rewardbench", "own")]
    assert figures["test/accuracy"] == pytest.approx(sum(headlines) / 3)
    assert "VL-RewardBench" in (tmp_path / "report.html").read_text()


def test_a_stopped_test_goes_on(module, tmp_path):
    """After a crash only what is missing is scored, and every figure and file is that of an undisturbed run."""
    whole = trainer(tmp_path / "whole").test(module, data(tmp_path), verbose=False)[0]
    stopped = StopAfter(3)
    with pytest.raises(RuntimeError, match="crash"):
        trainer(tmp_path / "run", callbacks=[stopped]).test(module, data(tmp_path), verbose=False)
    rest = StopAfter(-1)
    again = trainer(tmp_path / "run", callbacks=[rest]).test(module, data(tmp_path), verbose=False)[0]
    assert sorted(stopped.rows + rest.rows) == sorted([*range(14), 100, 101, *range(200, 203)])
    assert 4 <= len(stopped.rows) <= 6
    assert again == pytest.approx(whole, abs=1e-5, nan_ok=True)
    for name in ("vl_rewardbench", "mm_rlhf_rewardbench", "own"):
        lines = [(tmp_path / run / "rewards" / f"{name}.jsonl").read_text().splitlines() for run in ("whole", "run")]
        for one, two in zip(*lines, strict=True):
            assert json.loads(one)["rewards"] == pytest.approx(json.loads(two)["rewards"], abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "run" / "rewards").iterdir()) == [
        "mm_rlhf_rewardbench.jsonl", "own.jsonl", "vl_rewardbench.jsonl",
    ]  # fmt: skip


class StopAtTheEnd(pl.Callback):
    """Ends the run when every row is scored and nothing is reported yet."""

    def on_test_epoch_end(self, trainer, module):
        raise RuntimeError("crash")


def test_a_test_that_stopped_before_its_report_makes_it(module, tmp_path):
    """No row is left to score, and all is there; a reward that is NaN stays one, as null in every JSON."""
    own = data(tmp_path)
    with pytest.raises(RuntimeError, match="crash"):
        trainer(tmp_path, callbacks=[StopAtTheEnd()]).test(module, own, verbose=False)
    part = tmp_path / "rewards" / "vl_rewardbench.jsonl.part-0"
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    part.write_text("".join(
        json.dumps(line | ({"rewards": None, "error": "NaN"} if line["row"] == 3 else {})) + "\n" for line in lines
    ))  # fmt: skip
    rest = StopAfter(-1)
    trainer(tmp_path, callbacks=[rest]).test(module, own, verbose=False)
    assert rest.rows == []
    report = json.loads((tmp_path / "report.json").read_text())["suites"]["vl_rewardbench"]
    assert report["without_reward"] == 2 and report["groups"]["hallucination"]["total"] == 6
    assert "NaN" not in (tmp_path / "results.json").read_text()
    file = read_rewards(str(tmp_path / "rewards" / "vl_rewardbench.jsonl"), own.sources("test")[0])
    assert file.failed == 1


def test_rewards_of_another_model_are_not_taken_up(module, backbone_folder, tmp_path):
    """Other weights, same settings: the unfinished rows are forgotten."""
    stopped = StopAfter(3)
    with pytest.raises(RuntimeError, match="crash"):
        trainer(tmp_path, callbacks=[stopped]).test(module, data(tmp_path), verbose=False)
    torch.manual_seed(1)
    other = NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048))
    other.configure_model()
    torch.nn.init.normal_(other.model.head.layers[-1].weight, std=0.3)
    everything = StopAfter(-1)
    trainer(tmp_path, callbacks=[everything]).test(other, data(tmp_path), verbose=False)
    assert len(everything.rows) == 14 + 2 + 3


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_same_figures_on_several_devices(module, tmp_path, devices):
    """Nothing padded, nothing repeated: 14, 2 and 3 rows on 2 and 3 processes, some of which have none."""
    alone = trainer(tmp_path / "1").test(module, data(tmp_path), verbose=False)[0]
    trainer(tmp_path / "n", devices=devices, strategy="ddp_fork").test(module, data(tmp_path), verbose=False)
    files = [json.loads((tmp_path / run / "report.json").read_text())["suites"] for run in ("1", "n")]
    for name, expected in files[0].items():
        for key in ("rows", "overall", "groups", "ties", "interval", "overall_ties_half", "baselines", "unscored"):
            assert files[1][name][key] == expected[key], (name, key)
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("1", "n")]
    for line in (*results[0].values(), *results[1].values()):
        assert line["cost"].pop("seconds") > 0
    assert results[0] == results[1]  # fillers cost nothing
    assert results[0]["vl_rewardbench"]["accuracy"] == alone["test/vl_rewardbench/overall"]
    for name in results[0]:
        lines = [(tmp_path / run / "rewards" / f"{name}.jsonl").read_text().splitlines() for run in ("1", "n")]
        assert len(lines[0]) == results[0][name]["rows"]
        for one, two in zip(*lines, strict=True):
            assert json.loads(one)["rewards"] == pytest.approx(json.loads(two)["rewards"], abs=1e-5)


def test_lost_rows_are_wrong_and_unasked_ones_leave(tmp_path):
    """Three of 14 rows scored, all right: 3/14 where the others were lost, 3/3 where a limit left them out."""
    suite = VLRewardBench(pairs_file(tmp_path), images="optional")
    found = Gathered(
        torch.tensor([0, 0, 1, 1, 5, 5]), torch.tensor([1.0, 0.0] * 3), torch.tensor([1.0, 0.0] * 3), torch.ones(6)
    )
    lost = score(suite, benchmark_rewards(suite, found, limited=False))
    assert (lost.figures["overall"].correct, lost.figures["overall"].total) == (3, 14)
    assert lost.without_reward == 22 and lost.unscored == 0
    limited = score(suite, benchmark_rewards(suite, found, limited=True))
    assert (limited.figures["overall"].correct, limited.figures["overall"].total) == (3, 3)
    assert limited.unscored == 11


def test_calibration_is_fitted_on_held_out_rows_and_stored(module, backbone_folder, tmp_path):
    """On the source that is no benchmark; the checkpoint brings it back, and 0.5 is the median reward."""
    run = trainer(tmp_path)
    rows = [row for seed in range(5) for row in preferences(seed, responses=(2, 3, 2))]
    held_out = PreferenceDataModule(
        val=[VLRewardBench(pairs_file(tmp_path), images="optional"), ListSource(rows, "held")], eval_batch_size=8
    )
    logged = run.validate(module, held_out, verbose=False)[0]
    assert 0 <= logged["val/vl_rewardbench/overall"] <= 1 and 0 <= logged["val/vl_rewardbench/macro"] <= 1
    rewards = torch.cat([torch.from_numpy(r) for r in _rewards(module, rows)])
    margins = torch.stack(
        [r[i] - r[j] for row, r in zip(rows, map(torch.from_numpy, _rewards(module, rows)), strict=True)
         for i, j in row.comparisons()]
    )  # fmt: skip
    if margins.mean() <= 0:
        assert module.calibration is None
        module.calibration = Calibration(2.0, 0.25, "median", 1, 1, "held")
    else:
        assert module.calibration.source == "held"
        assert module.calibration.temperature == pytest.approx(fit_temperature(margins), rel=1e-3)
        assert module.calibration.offset == pytest.approx(float(np.median(rewards)), abs=1e-4)
        assert (module.calibration.comparisons, module.calibration.responses) == (len(margins), len(rewards))
    run.save_checkpoint(tmp_path / "model.ckpt")
    scorer = load(tmp_path / "model.ckpt", device="cpu")
    assert scorer.calibration == module.calibration
    offset = torch.tensor([module.calibration.offset])
    assert scorer.probability(offset).item() == pytest.approx(0.5)


def _rewards(module: NaiveRM, rows) -> list[np.ndarray]:
    with torch.inference_mode():
        batch = module.eval().collator(training=False)(list(enumerate(rows)))
        return [r.numpy() for r in module.score(batch).split([len(row.responses) for row in rows])]
