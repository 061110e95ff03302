"""``--ckpt_path`` from the command line: the newest whole one for `last`, and no weights read that it brings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from lit_basereward.cli import RewardCLI
from lit_basereward.testing import tiny_backbone_folder

SAVE = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}


@pytest.fixture
def run(tmp_path):
    """A run of two steps of a pretrained backbone, with a checkpoint after each, and `last.ckpt`."""
    rows = [{"prompt": f"the cat {i}", "chosen": "a dog", "rejected": "red"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"dirpath": str(tmp_path / "saved"), "every_n_train_steps": 1, "save_top_k": -1, "save_last": True}
    config = {
        "trainer": {
            **{"accelerator": "cpu", "logger": False, "default_root_dir": str(tmp_path), "num_sanity_val_steps": 0},
            **{"enable_progress_bar": False, "enable_model_summary": False, "max_steps": 2},
            "callbacks": [{**SAVE, "init_args": {**settings, "filename": "{step}"}}],
        },
        "model": {
            "class_path": "lit_basereward.NaiveRM",
            "init_args": {"backbone": {"name_or_path": tiny_backbone_folder(tmp_path / "backbone", "qwen2")}},
        },
        "data": {"train": str(tmp_path / "rows.jsonl"), "val": str(tmp_path / "rows.jsonl"), "global_batch_size": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["fit", "--config", str(tmp_path / "config.yaml")]
    RewardCLI(arguments)
    return arguments


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_last_is_the_newest_whole_one(run, tmp_path, capsys):
    """`last.ckpt` and that of step 2 were cut off; the run goes on from step 1, says so, and makes step 2 again.

    The backbone's weights are gone meanwhile: nothing reads them where a checkpoint brings its own. By name, a cut-off
    checkpoint is an error before anything is loaded.
    """
    saved = tmp_path / "saved"
    assert sorted(file.name for file in saved.glob("*.ckpt")) == ["last.ckpt", "step=1.ckpt", "step=2.ckpt"]
    second = torch.load(saved / "step=2.ckpt", weights_only=True)["state_dict"]
    for age, name in enumerate(["last.ckpt", "step=2.ckpt", "step=1.ckpt"]):
        if age < 2:
            os.truncate(saved / name, (saved / name).stat().st_size // 2)
        os.utime(saved / name, (1e9 - age, 1e9 - age))
    for weights in (tmp_path / "backbone").glob("*.safetensors"):
        weights.unlink()
    cli = RewardCLI([*run, "--ckpt_path", "last"])
    told = f"{saved / 'last.ckpt'} is not whole, its writing was interrupted or it was damaged; going on from "
    assert f"{told}{saved / 'step=1.ckpt'}\n" in capsys.readouterr().err
    assert Path(cli.trainer.ckpt_path) == saved / "step=1.ckpt" and cli.trainer.global_step == 2
    for name, value in cli.model.state_dict().items():
        assert torch.equal(value, second[name]), name
    os.truncate(saved / "last.ckpt", 1000)  # the run has written it again
    with pytest.raises(ValueError, match=r"last\.ckpt' is not a whole checkpoint .*--ckpt_path last"):
        RewardCLI([*run, "--ckpt_path", str(saved / "last.ckpt")])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_last_where_a_logger_numbers_its_versions(run, tmp_path, capsys):
    """Each start has a folder of its own: the first finds nothing, and says so; the second goes on from the first's.

    A folder that the user has named is the only one; without a checkpoint there is nothing to evaluate.
    """
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "logs")}}
    save = config["trainer"]["callbacks"][0]["init_args"]
    config["trainer"]["logger"] = logger
    del save["dirpath"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    versions = tmp_path / "logs" / "lightning_logs"
    with pytest.raises(ValueError, match=rf"no checkpoint in {versions / 'version_0'}/checkpoints; name one"):
        RewardCLI(["validate", *run[1:], "--ckpt_path", "last"])
    RewardCLI([*run, "--ckpt_path", "last", "--trainer.max_steps", "1"])
    assert f"no checkpoint in {versions / 'version_0'}/checkpoints, starting anew\n" in capsys.readouterr().err
    cli = RewardCLI([*run, "--ckpt_path", "last"])
    path = versions / "version_0" / "checkpoints" / "last.ckpt"
    told = f"no checkpoint in {versions / 'version_1'}/checkpoints, going on from that of an earlier start: {path}\n"
    assert told in capsys.readouterr().err and Path(cli.trainer.ckpt_path) == path
