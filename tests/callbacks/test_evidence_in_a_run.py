"""Critiques, verdicts and cost in `test`, `validate` and `predict`: a critic and a judge on a real tiny backbone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from lit_basereward.benchmarks import MMRLHFRewardBench
from lit_basereward.benchmarks.evidence import COST
from lit_basereward.benchmarks.rewards import read_rewards
from lit_basereward.calibrate import calibrate
from lit_basereward.callbacks.predictions import PredictionWriter
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.modules.cost import Cost
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource, preferences

ANSWERS = ("It is red.", "A small blue boat on a lake.", "No.")
BIAS = 1.0


class Critic(NaiveRM):
    """Scores as Naive-RM, and says of response k of row n that it is ``n.k``, in three tokens; odd rows have an empty
    critique."""

    def score(self, batch) -> Tensor:
        rewards = super().score(batch)
        self.evidence = [
            {
                "critiques": [[f"<b>{row}.{k}</b>"] for k in range(int((batch.row == number).sum()))],
                "empty": row % 2,
                "unfinished": 1,
            }
            for number, row in enumerate(batch.row_index.tolist())
        ]
        self.cost.generated_tokens += 3 * len(rewards)
        return rewards


class Judge(NaiveRM):
    """Log-odds of a pair are the difference of two rewards, plus BIAS for the response that is presented first."""

    comparable_across_rows = False

    def score(self, batch) -> Tensor:
        rows = super().score(batch).split(torch.bincount(batch.row).tolist())
        self.evidence = [
            {
                "log_odds": [
                    [i, j, float(row[i] - row[j]) + BIAS] for i in range(len(row)) for j in range(len(row)) if i != j
                ]
            }
            for row in rows
        ]
        return torch.cat([row - row.mean() for row in rows])


def build(kind: type[NaiveRM], folder: str) -> NaiveRM:
    torch.manual_seed(0)
    module = kind(Backbone(folder, max_length=2048))
    module.configure_model()
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    return module


@pytest.fixture(scope="module")
def critic(backbone_folder) -> NaiveRM:
    return build(Critic, backbone_folder("qwen2_5_vl"))


@pytest.fixture(scope="module")
def judge(backbone_folder) -> NaiveRM:
    return build(Judge, backbone_folder("qwen2_5_vl"))


def data(folder: Path) -> PreferenceDataModule:
    """Two ids with three ranked answers each, six pairs; and rows of 2, 3 and 2 responses."""
    rows = [
        {"id": name, "image": f"{group}/{name}.png", "prompt": name, "chosen": ANSWERS[i], "rejected": ANSWERS[j],
         "chosen_reason": "", "rejected_reason": ""}
        for name, group in (("a", "mcq"), ("b", "long"))
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "mm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = MMRLHFRewardBench(str(folder / "mm.jsonl"), images="optional")
    return PreferenceDataModule(test=[suite, own()], eval_batch_size=2)


def own() -> ListSource:
    return ListSource(preferences(1, responses=(2, 3, 2)), "own")


def trainer(folder: Path, **settings) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        **{"logger": False, "enable_checkpointing": False} | settings,
    )  # fmt: skip


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_seconds(results: dict) -> dict:
    return {name: line | {"cost": {**line["cost"], "seconds": 0}} for name, line in results.items()}


def test_critiques_and_cost_stand_beside_accuracy(critic, tmp_path):
    """The rows of `own` have 2, 3 and 2 responses: 7 forwards and 21 tokens over 3 rows, 7 critiques, that of row 1
    empty, one unfinished in each row. The suite's two ids have 3 responses each."""
    own_data = data(tmp_path)
    logged = trainer(tmp_path).test(critic, own_data, verbose=False)[0]
    results = json.loads((tmp_path / "results.json").read_text())
    for name, forwards, critiques, empty, unfinished in (("own", 7 / 3, 7, 1, 3), ("mm_rlhf_rewardbench", 3, 6, 1, 2)):
        cost = results[name]["cost"]
        assert cost["forwards"] == pytest.approx(forwards) and cost["generated_tokens"] == pytest.approx(3 * forwards)
        assert cost["seconds"] > 0
        counts = {"critiques": critiques, "empty": empty, "unfinished": unfinished}
        assert {key: results[name][key] for key in counts} == counts
        assert {key: logged[f"test/{name}/{key}"] for key in counts} == counts
        assert f"test/{name}/better_reward" in logged  # comparable over rows
    lines = written(tmp_path / "rewards" / "own.jsonl")
    assert [line["critiques"] for line in lines] == [
        [[f"<b>{n}.{k}</b>"] for k in range(num)] for n, num in enumerate((2, 3, 2))
    ]
    assert sum(line["cost"]["forwards"] for line in lines) == pytest.approx(7)

    # the page has the critiques of the pairs that are wrong, as text; what `report` reads from the file is the same
    suite = own_data.sources("test")[0]
    file = read_rewards(tmp_path / "rewards" / "mm_rlhf_rewardbench.jsonl", suite)
    assert {key: results["mm_rlhf_rewardbench"][key] for key in file.account.figures} == file.account.figures
    assert file.account.cost == pytest.approx(results["mm_rlhf_rewardbench"]["cost"])
    assert file.account.evidence[4]["critiques"] == [["<b>1.0</b>"], ["<b>1.2</b>"]]  # the second pair of the second id
    page = (tmp_path / "report.html").read_text()
    wrong = [e for e, given in enumerate(file.rewards) if given[0] <= given[1]]
    assert wrong
    for e in wrong:
        for (text,) in file.account.evidence[e]["critiques"]:
            assert text.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<b>0." not in page
    assert "per row: 2.333 forwards, 7 generated tokens" in page


class StopAfter(pl.Callback):
    """Ends the run in the middle, as a crash would."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.left -= 1
        if not self.left:
            raise RuntimeError("crash")


@pytest.mark.slow
def test_a_stopped_test_keeps_evidence_and_cost(critic, tmp_path):
    """The suite is scored when the run crashes; figures, cost and the page's critiques are those of a whole run."""
    trainer(tmp_path / "whole").test(critic, data(tmp_path / "whole"), verbose=False)
    with pytest.raises(RuntimeError, match="crash"):
        trainer(tmp_path / "run", callbacks=[StopAfter(2)]).test(critic, data(tmp_path / "run"), verbose=False)
    assert len(written(tmp_path / "run/rewards/mm_rlhf_rewardbench.jsonl.part-0")) == 2
    trainer(tmp_path / "run").test(critic, data(tmp_path / "run"), verbose=False)
    whole, again = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("whole", "run"))
    assert without_seconds(again) == without_seconds(whole)
    assert again["mm_rlhf_rewardbench"]["cost"]["seconds"] > 0
    shown = [re.findall(r"&lt;b&gt;(\d\.\d)", (tmp_path / run / "report.html").read_text()) for run in ("whole", "run")]
    assert shown[0] and shown[0] == shown[1]


def test_a_judge_in_both_orders(judge, tmp_path):
    """Orders agree where two rewards differ by more than BIAS, which is what the first response is given on top."""
    logged = trainer(tmp_path).test(judge, data(tmp_path), verbose=False)[0]
    results = json.loads((tmp_path / "results.json").read_text())
    report = json.loads((tmp_path / "report.json").read_text())["suites"]
    shares = []
    for name in ("own", "mm_rlhf_rewardbench"):
        lines = written(tmp_path / "rewards" / f"{name}.jsonl")
        agree = [abs(a - b) > BIAS for line in lines for a, b in combinations(line["rewards"], 2)]
        shares.append(sum(agree) / len(agree))
        assert results[name]["position_consistency"] == pytest.approx(shares[-1])
        assert logged[f"test/{name}/position_consistency"] == pytest.approx(shares[-1])
        assert results[name]["first_wins"] >= 0.5
        # nothing that compares rewards of several rows
        assert not [key for key in logged if "better_reward" in key or "worse_reward" in key or "correlation" in key]
        diagnostics = report[name]["diagnostics"]
        assert diagnostics["distribution"] is None and diagnostics["reward_length_correlation"] is None
        assert diagnostics["length_controlled"] and report[name]["calibration"]["before"]["log_loss"] > 0
        assert report[name]["evidence"]["position_consistency"] == results[name]["position_consistency"]
    assert min(shares) < 1 and max(shares) > 0
    page = (tmp_path / "report.html").read_text()
    assert "comparable inside a row only" in page and "Rewards</caption>" not in page
    assert "log-odds for the better response: better response first" in page


@pytest.mark.slow
def test_several_devices_give_the_same(judge, tmp_path):
    """One of two processes has fewer rows; a filler, which has verdicts too, is nobody's row and costs nothing."""
    trainer(tmp_path / "1").test(judge, data(tmp_path / "1"), verbose=False)
    trainer(tmp_path / "2", devices=2, strategy="ddp_fork").test(judge, data(tmp_path / "2"), verbose=False)
    alone, both = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("1", "2"))
    assert without_seconds(both) == without_seconds(alone)
    assert all(line["cost"]["seconds"] > 0 for line in both.values())
    lines = [written(tmp_path / run / "rewards" / "own.jsonl") for run in ("1", "2")]
    for one, two in zip(*lines, strict=True):
        for first, second in zip(one["log_odds"], two["log_odds"], strict=True):
            assert first == pytest.approx(second, abs=1e-5)


def test_a_judge_gets_a_temperature_and_no_offset(judge, critic, tmp_path):
    """Held-out rows rated as the judge scores them, all but the first: the temperature is fitted; histograms hold
    margins. The critic's hold rewards, too."""
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = preferences(3, responses=(2, 2, 3, 2))
    with torch.inference_mode():
        batch = judge.eval().collator(training=False)(list(enumerate(rows)))
        rewards = judge.score(batch).split([len(row.responses) for row in rows])
    rows = [
        replace(row, ratings=tuple((reward if n else -reward).tolist()))
        for n, (row, reward) in enumerate(zip(rows, rewards, strict=True))
    ]
    tags = []
    for module in (judge, critic):
        logger = TensorBoardLogger(str(tmp_path), name=type(module).__name__)
        held_out = PreferenceDataModule(val=[ListSource(rows, "held")], eval_batch_size=8)
        logged = trainer(tmp_path, logger=logger).validate(module, held_out, verbose=False)[0]
        events = EventAccumulator(logger.log_dir)
        events.Reload()
        tags.append(events.Tags()["histograms"])
        if module is judge:
            assert 0 <= logged["val/held/position_consistency"] <= 1
            assert not [key for key in logged if "better_reward" in key]
            assert module.calibration.temperature > 0
            assert (module.calibration.offset, module.calibration.rule, module.calibration.responses) == (None, None, 0)
    assert tags == [["val/held/margins"], ["val/held/margins", "val/held/rewards"]]


def test_calibrate_fits_a_judge_no_offset(judge, tmp_path):
    """The rule ``labels`` is about single responses, of which a judge says nothing: refused before a row is scored."""
    run = trainer(tmp_path)
    run.validate(judge, PreferenceDataModule(val=[own()]), verbose=False)
    run.save_checkpoint(tmp_path / "judge.ckpt")
    with pytest.raises(ValueError, match="comparable inside a row only, so no offset tells right from wrong"):
        calibrate(str(tmp_path / "judge.ckpt"), own(), rule="labels", device="cpu", allow=[Judge.__module__])


def test_predictions(critic, tmp_path):
    """Each row has its critiques and its share of its batch's cost. There are 1 + 2 + 3 + 1 = 7 responses."""
    rows = [
        {"id": f"q{n}", "prompt": "is it red", "responses": list(ANSWERS[:num])} for n, num in enumerate((1, 2, 3, 1))
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = PreferenceDataModule(predict=str(tmp_path / "in.jsonl"), eval_batch_size=2)
    writer = PredictionWriter(str(tmp_path / "out.jsonl"))
    trainer(tmp_path, callbacks=[writer]).predict(critic, source, return_predictions=False)
    lines = written(tmp_path / "out.jsonl")
    assert [line["critiques"] for line in lines] == [
        [[f"<b>{n}.{k}</b>"] for k in range(num)] for n, num in enumerate((1, 2, 3, 1))
    ]
    assert sum(line["cost"]["forwards"] for line in lines) == pytest.approx(7)
    assert sum(line["cost"]["generated_tokens"] for line in lines) == pytest.approx(21)
    assert all(line["cost"]["seconds"] > 0 and line["cost"].keys() == set(COST) for line in lines)


def test_cost_by_hand():
    """3 rows with 7 forwards and 2 with 5: 12 forwards over 5 rows, 2.4 of each. Without rows there is no cost."""
    both = Cost(3, 7, 30, 0.5) + Cost(2, 5, 0, 0.25)
    assert both == Cost(5, 12, 30, 0.75)
    assert both.per_row() == {"forwards": 2.4, "generated_tokens": 6.0, "seconds": 0.15}
    assert Cost().per_row() == {}
