"""Every YAML under configs/ parses and builds its model and data; none is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_basereward import CriticRM, GenerativeRM, NaiveRM
from lit_basereward.benchmarks.report import SUITES
from lit_basereward.cli import RewardCLI
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.losses import BradleyTerry
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.heads import MLPHead

ROOT = Path(__file__).parents[1] / "configs"
# those of ensembles do not fit: tests/ensemble/test_ensemble_configs.py
CONFIGS = sorted(path.name for path in ROOT.glob("*.y*ml") if "ensemble" not in path.name)
PARADIGMS: dict[str, type[RewardModule]] = {
    "7b.yaml": NaiveRM,
    "critic_7b.yaml": CriticRM,
    "demo.yaml": NaiveRM,
    "demo_critic.yaml": CriticRM,
    "demo_generative.yaml": GenerativeRM,
    "demo_reasoning.yaml": GenerativeRM,
    "generative_7b.yaml": GenerativeRM,
}
BENCHMARKS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.y*ml"))


class Built(RewardCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def test_all_are_found():
    """A new config raises this number, so that none slips past the test below."""
    assert sorted(PARADIGMS) == CONFIGS, "PARADIGMS, above, names each config and its class"
    suites = sorted(f"{suite}.yaml" for suite in SUITES)
    assert sorted([*suites, "all.yaml", "validate.yaml"]) == BENCHMARKS, "one config for each suite"
    folders = ["ablations", "benchmarks", "data", "overlays", "rl"]
    assert sorted(path.name for path in ROOT.iterdir() if path.is_dir()) == folders


@pytest.mark.parametrize("config", [config for config in CONFIGS if config in PARADIGMS])
def test_builds(config, tmp_path, monkeypatch):
    """Model, data and trainer are made from it; nothing runs."""
    monkeypatch.chdir(tmp_path)
    cli = Built(["fit", "--config", str(ROOT / config)])
    assert type(cli.model) is PARADIGMS[config] and isinstance(cli.datamodule, PreferenceDataModule)


@pytest.mark.parametrize("config", BENCHMARKS)
def test_benchmarks_merge_onto_a_model(config, tmp_path, monkeypatch):
    """Each suite is built, unopened; all.yaml has the six of them in `test`, validate.yaml monitors one of its own."""
    monkeypatch.chdir(tmp_path)
    command = "fit" if config == "validate.yaml" else "test"
    cli = Built([command, "--config", str(ROOT / "7b.yaml"), "--config", str(ROOT / "benchmarks" / config)])
    sources = cli.datamodule.sources("val" if command == "fit" else "test")
    if config == "all.yaml":
        assert {source.name for source in sources} == set(SUITES), "all.yaml has a line for each suite"
    elif config == "validate.yaml":
        monitored = next(c for c in cli.trainer.callbacks if isinstance(c, ModelCheckpoint)).monitor
        assert monitored.split("/")[1] in {source.name for source in sources}
    else:
        assert [f"{source.name}.yaml" for source in sources] == [config]


def test_7b_is_the_papers_recipe(tmp_path, monkeypatch):
    """Two layers with SiLU, Bradley-Terry alone, lr 3e-6, 128 comparisons, one epoch, vision tower frozen."""
    monkeypatch.chdir(tmp_path)
    cli = Built(["fit", "--config", str(ROOT / "7b.yaml")])
    model = cli.model
    head = model.head(8)
    assert isinstance(head, MLPHead) and [type(layer).__name__ for layer in head.layers] == ["Linear", "SiLU", "Linear"]
    assert isinstance(model.ranking_loss, BradleyTerry) and model.ranking_loss.margin == 0 and model.regularizers == []
    assert not model.ranking_loss.length_norm and model.ranking_loss.label_smoothing == 0
    assert model.make_optimizer([torch.nn.Parameter()]).defaults["lr"] == 3e-6
    assert model.backbone.name_or_path == "Qwen/Qwen2.5-VL-7B-Instruct" and model.backbone.freeze == ["vision"]
    assert cli.datamodule.global_batch_size == 128
    assert cli.trainer.max_epochs == 1


def test_critic_7b_is_mm_rlhfs_code(tmp_path, monkeypatch):
    """Head of two layers with tanh; ties squared with weight 1, centre 0.01; greedy critiques of up to 4,096 tokens."""
    monkeypatch.chdir(tmp_path)
    model = Built(["fit", "--config", str(ROOT / "critic_7b.yaml")]).model
    assert [type(layer).__name__ for layer in model.head(8).layers] == ["Linear", "Tanh", "Linear"]
    terms = {type(term).__name__: term.coefficient for term in model.regularizers}
    assert terms == {"TieSquared": 1.0, "ZeroCoefficient": 0.01} and model.critique_weight == 1.0
    assert (model.critique, model.num_critiques, model.temperature, model.max_new_tokens) == ("generate", 1, 0.0, 4096)


def test_generative_7b_is_r1_rewards_first_stage(tmp_path, monkeypatch):
    """One epoch at lr 1e-5, 256 comparisons a step; by one option it reasons, with that style's own template."""
    monkeypatch.chdir(tmp_path)
    cli = Built(["fit", "--config", str(ROOT / "generative_7b.yaml")])
    assert cli.model.make_optimizer([torch.nn.Parameter()]).defaults["lr"] == 1e-5
    assert (cli.datamodule.global_batch_size, cli.trainer.max_epochs, cli.model.style) == (256, 1, "verdict")
    cli = Built(["fit", "--config", str(ROOT / "generative_7b.yaml"), "--model.style", "reasoning"])
    assert cli.model.template.name_or_path == "reasoning"


@pytest.mark.parametrize("config", ["critic_7b.yaml", "generative_7b.yaml"])
def test_overlays_and_benchmarks_merge_onto_the_paradigms(config, tmp_path, monkeypatch):
    """As onto 7b.yaml."""
    monkeypatch.chdir(tmp_path)
    files = [config, "overlays/fsdp.yaml", "benchmarks/vl_rewardbench.yaml"]
    cli = Built(["test", *(part for file in files for part in ("--config", str(ROOT / file)))])
    assert type(cli.model) is PARADIGMS[config] and type(cli.trainer.strategy).__name__ == "FSDP2Strategy"
    assert [source.name for source in cli.datamodule.sources("test")] == ["vl_rewardbench"]
