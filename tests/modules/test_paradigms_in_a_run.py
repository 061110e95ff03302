"""Critics and judges through the Trainer and the command line: fit, resume, validate, test, predict, and `load`."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml

import lit_basereward
from lit_basereward import CriticRM, GenerativeRM
from lit_basereward.__main__ import main
from lit_basereward.calibrate import calibrate
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.types import RowError
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.lora import LoRA, Quantize
from lit_basereward.testing import ListSource, preferences, tiny_backbone_folder

KINDS: dict[type[RewardModule], dict[str, Any]] = {CriticRM: {"max_new_tokens": 3}, GenerativeRM: {}}
kinds = pytest.mark.parametrize("kind", KINDS)


def rows(images: bool = True):
    """Every other row has critiques."""
    found = preferences(3, images, responses=(2, 3, 2, 2))
    words = ("it is red", "the cat is not", "under a table")
    return [replace(row, critiques=words[: len(row.responses)]) if n % 2 else row for n, row in enumerate(found)]


def build(kind: type[RewardModule], folder: str, **backbone: Any) -> RewardModule:
    torch.manual_seed(0)
    # A large eps: else Adam takes full steps along gradients that are nothing but rounding.
    optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.0, eps=1e-2)
    settings = {"freeze": [], "max_length": 2048, **backbone}
    return kind(Backbone(folder, **settings), optimizer=optimizer, **KINDS[kind])


def fit(
    module: RewardModule, place: Path, steps: int, resume: str | None = None, images: bool = True, **more: Any
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=place, **more,
    )  # fmt: skip
    data = PreferenceDataModule(train=ListSource(rows(images)), global_batch_size=3, shuffle=False)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer


def trained(module: RewardModule) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def score(module: RewardModule, images: bool = True) -> torch.Tensor:
    with torch.no_grad():
        return module.eval().score(module.collator(False)(list(enumerate(rows(images)))))


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> str:
    return tiny_backbone_folder(tmp_path_factory.mktemp("tied") / "qwen2", "qwen2", tie_word_embeddings=True)


@kinds
@pytest.mark.parametrize(
    "case", ["vision", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adapters", "tied", "4 bits"))]
)
def test_stop_resume_and_load(backbone_folder, tied, tmp_path, kind, case):
    """Two steps, a checkpoint, two more in a new process's stead: to the bit the weights of four steps in one go.
    `load` gives the rewards of the module that was trained."""
    folder = {"vision": backbone_folder("qwen2_5_vl"), "tied": tied}.get(case, backbone_folder("qwen2"))
    backbone: dict[str, Any] = {} if case in ("vision", "tied") else {"lora": LoRA(rank=4)}
    backbone |= {"quantize": Quantize()} if case == "4 bits" else {}
    options = {"images": case == "vision"}
    whole, half, rest = (build(kind, folder, **backbone) for _ in range(3))
    torch.manual_seed(0)
    fit(whole, tmp_path, 4, **options)
    torch.manual_seed(0)
    fit(half, tmp_path, 4, **options, callbacks=[_StopAfter(2)]).save_checkpoint(tmp_path / "half.ckpt")
    fit(rest, tmp_path, 4, str(tmp_path / "half.ckpt"), **options).save_checkpoint(tmp_path / "whole.ckpt")
    expected = trained(whole)
    for name, weight in trained(rest).items():
        assert torch.equal(weight, expected[name]), name
    loaded = lit_basereward.load(tmp_path / "whole.ckpt", "cpu").module
    torch.testing.assert_close(score(loaded, **options), score(rest, **options), rtol=0, atol=1e-6)
    if backbone:
        stored = torch.load(tmp_path / "whole.ckpt", weights_only=True)
        assert not any("lm_head" in name or "base_layer" in name for name in stored["state_dict"])
        assert "lm_head.weight" in stored["base"]


class _StopAfter(pl.Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


@kinds
def test_adapters_refuse_another_language_head(backbone_folder, tmp_path, kind):
    """It is frozen and left out of the file, so that its fingerprint is what tells that it is another."""
    from safetensors.torch import load_file, save_file

    folder = backbone_folder("qwen2")
    module = build(kind, folder, lora=LoRA(rank=4))
    fit(module, tmp_path, 1, images=False).save_checkpoint(tmp_path / "model.ckpt")
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(folder).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(other / "model.safetensors")
    weights["lm_head.weight"] += 0.1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"adapters of another backbone: 1 of .* first 'lm_head\.weight'"):
        lit_basereward.load(tmp_path / "model.ckpt", "cpu", backbone=str(other))


def test_scoring_with_a_judge(backbone_folder, tmp_path):
    """One response is an error that says so; branches are 2 + 6 + 2 + 2 and responses 9, and each row gets its own."""
    module = build(GenerativeRM, backbone_folder("qwen2_5_vl"))
    fit(module, tmp_path, 1).save_checkpoint(tmp_path / "judge.ckpt")
    scorer = lit_basereward.load(tmp_path / "judge.ckpt", "cpu")
    with pytest.raises(RowError, match="has one response, and a judge compares: give at least two"):
        scorer.score("is it red", ["yes"])
    together = scorer.score_rows(rows())
    assert [len(found) for found in together] == [2, 3, 2, 2]
    for row, found in zip(rows(), together, strict=True):
        torch.testing.assert_close(found, scorer.score_rows([row])[0], rtol=0, atol=1e-5)
        assert float(found.sum()) == pytest.approx(0, abs=1e-5)


def test_a_judges_calibration_is_of_differences(backbone_folder, tmp_path):
    """A temperature is fitted on comparisons, and makes their probabilities; no offset, so a reward alone has none, and
    no labels of right and wrong."""
    module = build(GenerativeRM, backbone_folder("qwen2"))
    fit(module, tmp_path, 1, images=False).save_checkpoint(tmp_path / "judge.ckpt")
    found = list(score(module, images=False).split([2, 3, 2, 2]))
    found[0] = -found[0]  # right about all rows but one, so that there is a temperature
    rated = [replace(row, ratings=tuple(r.tolist())) for row, r in zip(rows(images=False), found, strict=True)]
    source = ListSource(rated)
    with pytest.raises(ValueError, match="comparable inside a row only"):
        calibrate(str(tmp_path / "judge.ckpt"), source, rule="labels", device="cpu")
    fitted = calibrate(str(tmp_path / "judge.ckpt"), source, device="cpu")
    scorer = lit_basereward.load(tmp_path / "judge.ckpt", "cpu")
    assert scorer.calibration == fitted and fitted.offset is None
    with pytest.raises(ValueError, match="a single one has no probability"):
        scorer.probability(scorer.score("is it red", ["yes", "no"]))


@pytest.mark.slow  # the command line of both is run by tests/test_readme.py, too
@pytest.mark.parametrize("kind", [CriticRM, GenerativeRM])
def test_from_the_command_line(backbone_folder, tmp_path, monkeypatch, kind):
    """fit, fit on from its checkpoint, validate, test and predict; predictions are those of `load`."""
    monkeypatch.chdir(tmp_path)
    records = [
        {"prompt": f"is it {n}", "responses": [f"yes {n}", "no", "red"], "ratings": [1, 0, 0],
         "critiques": ["it is", "not so", "no"]}
        for n in range(4)
    ]  # fmt: skip
    Path("rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    backbone = {"name_or_path": backbone_folder("qwen2"), "max_length": 2048}
    arguments = {"backbone": backbone, **KINDS[kind]}
    files = dict.fromkeys(("train", "val", "test", "predict"), "rows.jsonl")
    trainer = {
        "max_steps": 1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": "run",
    }  # fmt: skip
    config = {"model": {"class_path": kind.__name__, "init_args": arguments}, "trainer": trainer}
    Path("run.yaml").write_text(yaml.safe_dump(config | {"data": {**files, "global_batch_size": 4}}))
    main(["fit", "--config", "run.yaml"])
    path = str(max(Path("run").rglob("*.ckpt")))
    main(["fit", "--config", "run.yaml", "--ckpt_path", path, "--trainer.max_steps", "2"])
    for command in ("validate", "test", "predict"):
        main([command, "--config", "run.yaml", "--ckpt_path", path])
    (predictions,) = Path().rglob("predictions.jsonl")
    found = torch.tensor([json.loads(line)["rewards"] for line in predictions.read_text().splitlines()])
    scorer = lit_basereward.load(path, "cpu")
    expected = torch.stack([scorer.score(record["prompt"], record["responses"]) for record in records])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
