"""Ensembles where other models are used: on other devices, as reward of a policy, in part of a test, with judges."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lit_basereward import CriticRM, EnsembleRM, GenerativeRM, Scorer, load
from lit_basereward.cli import main
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.routing import Route, When
from lit_basereward.data.scan import scan
from lit_basereward.data.types import Message, Preference
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import Backbone
from lit_basereward.rl.scoring import LoadedModel
from lit_basereward.testing import ListSource, preferences

SEEING = [Route(["qwen", "intern"], When(modality="image"))]
QUIET = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
WRITING = {"max_new_tokens": 6, "stop": ["a", "e", "o"]}  # texts of a random model end at unequal lengths
CLI = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]


def save(module: RewardModule, path: Path) -> str:
    torch.manual_seed(0)
    module.configure_model()
    trainer = pl.Trainer(**QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return str(path)


def config(path: Path, members: dict[str, str], **arguments: object) -> str:
    model = {"class_path": "lit_basereward.EnsembleRM", "init_args": {"members": members, **arguments}}
    path.write_text(json.dumps({"model": model}))  # which is YAML, too
    return str(path)


def test_members_go_where_the_ensemble_went(members):
    """Moved before its members were loaded, as by a scorer, it takes them along; those with own devices stay."""
    moved = Scorer(EnsembleRM({"text": members["text"]}), "meta")
    assert {p.device.type for p in moved.module.parameters()} == {"meta"}
    placed = Scorer(EnsembleRM({"text": members["text"]}, devices=["cpu"]), "meta")
    assert {p.device.type for p in placed.module.parameters()} == {"cpu"}


def test_a_voting_judge_with_a_device_of_its_own(backbone_folder, tmp_path):
    """Its votes are counted where its batch is, not where the ensemble is."""
    judge = GenerativeRM(Backbone(backbone_folder("qwen2"), max_length=2048), style="reasoning", **WRITING)
    path = save(judge, tmp_path / "judge.ckpt")
    whole = EnsembleRM({"judge": path}, devices=["cpu"])
    batch = whole.collator(False)(list(enumerate(preferences(images=False, responses=(2, 3)))))
    expected = whole.score(batch)
    assert whole.to("meta").score(batch).equal(expected)


def test_a_rollout_that_is_too_long_is_cut_by_each_member(backbone_folder, tmp_path):
    """As of a model alone: its reward is that of the response without its end."""
    from lit_basereward import NaiveRM

    torch.manual_seed(0)
    path = save(NaiveRM(Backbone(backbone_folder("qwen2"), max_length=40)), tmp_path / "short.ckpt")
    row = Preference("", (Message("user", ("hi",)),), ("the red cat " * 40, "no"))
    yaml = config(tmp_path / "ensemble.yaml", {"only": path})
    (expected,), (found,) = (LoadedModel(each, "cpu").score([row]) for each in (path, yaml))
    torch.testing.assert_close(found.rewards, expected.rewards, rtol=0, atol=1e-6)


def test_tokens_of_a_row_are_those_of_all_voters(members):
    """A server limits them; the prompt that it tells of is the first voter's."""
    scorer = Scorer(EnsembleRM(members, routes=SEEING), "cpu")
    rows = preferences()[:2]
    alone = {name: load(path, "cpu").collator for name, path in members.items()}
    for row, voters in zip(rows, (members, ("qwen", "intern")), strict=True):
        item = scorer.collator.prepare(0, row)
        items = {name: alone[name].prepare(0, row) for name in voters}
        assert scorer.collator.num_tokens(item) == sum(alone[name].num_tokens(each) for name, each in items.items())
        assert item.prefix == items["qwen"].prefix


class StopAfter(pl.Callback):
    """Ends a test as Ctrl-C does, after some batches."""

    def __init__(self, batches: int) -> None:
        self.batches, self.rows = batches, 0

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == self.batches:
            raise RuntimeError("stopped")
        self.rows += len(batch)


@pytest.mark.slow
def test_an_interrupted_test_goes_on(members, tmp_path):
    """Stopped after 2 of 3 batches of 2 rows it scores the last 2; files and report are those of an unbroken run."""
    rows = preferences(responses=(2, 3, 2, 4, 2, 3))
    files = []
    for name, stops in (("whole", [9]), ("broken", [2, 9])):
        for stop in stops:
            data = PreferenceDataModule(test=ListSource(rows), eval_batch_size=2)
            callback = StopAfter(stop)
            trainer = pl.Trainer(**QUIET, default_root_dir=tmp_path / name, callbacks=[callback])
            module = EnsembleRM(members, routes=SEEING)
            if stop == 2:
                with pytest.raises(RuntimeError, match="stopped"):
                    trainer.test(module, data, verbose=False)
            else:
                trainer.test(module, data, verbose=False)
        files.append([json.loads(line) for line in (tmp_path / name / "rewards/list.jsonl").read_text().splitlines()])
    assert callback.rows == 2
    for one, other in zip(*files, strict=True):
        assert one["rewards"] == pytest.approx(other["rewards"], abs=1e-5)
        assert one["members"].keys() == other["members"].keys()
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "broken")]
    assert reports[0]["overall"] == reports[1]["overall"]
    assert reports[0]["ensemble"]["members"].keys() == reports[1]["ensemble"]["members"].keys() == members.keys()


def test_critic_and_judge_as_members(members, backbone_folder, tmp_path):
    """Through the command line: predict and test give the mean of what each gives alone, to 1e-5.

    The files say who is a judge, so that `report` leaves out what compares rows; best and worst become preferences.
    """
    backbone = Backbone(backbone_folder("qwen2_5_vl"), max_length=2048)
    paths = {
        "qwen": members["qwen"],
        "critic": save(CriticRM(backbone, **WRITING), tmp_path / "critic.ckpt"),
        "judge": save(GenerativeRM(backbone), tmp_path / "judge.ckpt"),
    }
    rows = [row for row in preferences(3, images=False, responses=(2, 3, 2, 4))]
    lines = [
        {"id": row.id, "prompt": f"row {n}", "responses": row.responses, "ratings": row.ratings}
        for n, row in enumerate(rows)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = [*CLI, "--config", config(tmp_path / "ensemble.yaml", paths)]
    places = ["--predictions.path", f"{tmp_path}/p.jsonl", "--predictions.preferences", f"{tmp_path}/pairs.jsonl"]
    main(["predict", *given, "--data.predict", str(file), *places, "--trainer.default_root_dir", str(tmp_path)])
    main(["test", *given, "--data.test", str(file), "--trainer.default_root_dir", str(tmp_path / "run")])
    alone = {name: load(path, "cpu") for name, path in paths.items()}
    predicted, tested = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("p.jsonl", "run/rewards/rows.jsonl")
    )
    for line, one, other in zip(lines, predicted, tested, strict=True):
        expected = torch.stack([each.score(line["prompt"], line["responses"]) for each in alone.values()]).mean(0)
        assert one["rewards"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert other["rewards"] == pytest.approx(one["rewards"], abs=1e-5)
        assert one["judges"] == ["judge"] and list(one["members"]) == list(paths)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert set(report["ensemble"]["members"]) == set(paths) and report["diagnostics"]["distribution"] is None
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 4


def test_what_rows_cost_and_lack_is_asked_of_all_members(members, backbone_folder, tmp_path):
    """The estimates' sum, and a judge's remark of rows that have one response alone, with its name."""
    judge = save(GenerativeRM(Backbone(backbone_folder("qwen2"), max_length=2048)), tmp_path / "judge.ckpt")
    both = {"text": members["text"], "judge": judge}
    rows = scan(ListSource(preferences(images=False, responses=(2, 1, 3))), "rows", "raise")
    collators = [load(path, "cpu").collator for path in both.values()]
    whole = EnsembleRM(both).collator(False)
    assert whole.estimate(rows).tolist() == pytest.approx(sum(each.estimate(rows) for each in collators).tolist())
    assert whole.remark(rows, np.arange(3)) == "member judge: 1 of 3 rows have one response: a judge compares two"
