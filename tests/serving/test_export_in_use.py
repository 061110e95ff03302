"""An export where a checkpoint is asked for: evaluated, and given a calibration, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import lit_basereward
from lit_basereward.__main__ import main
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.lora import LoRA
from lit_basereward.serving.export import export

ROWS = [{"prompt": f"is it {n}", "responses": [f"yes {n}", "no", "red"]} for n in range(6)]


@pytest.fixture(scope="module")
def place(backbone_folder, tmp_path_factory) -> Path:
    """A checkpoint with adapters that do something, its export, its adapters alone, rows, and a config of a run."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    module = NaiveRM(Backbone(backbone_folder("qwen2"), max_length=2048, lora=LoRA(rank=4)))
    module.configure_model()
    for name, parameter in module.named_parameters():
        if "lora_B" in name or ".head." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    stored: dict = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(stored)
    torch.save(stored, folder / "model.ckpt")
    export(str(folder / "model.ckpt"), str(folder / "exported"))
    export(str(folder / "model.ckpt"), str(folder / "adapters"), adapter_only=True)
    # The model is right about all rows but the first, so that there is a temperature.
    ratings = [(r == r.max()).int() for r in expected(folder)]
    ratings[0] = 1 - ratings[0]
    rows = [{**row, "ratings": rating.tolist()} for row, rating in zip(ROWS, ratings, strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    config = {"trainer": quiet, "data": {"val": "rows.jsonl", "predict": "rows.jsonl"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    own = {"class_path": "NaiveRM", "init_args": {"backbone": {"name_or_path": backbone_folder("qwen2")}}}
    (folder / "own.yaml").write_text(yaml.safe_dump({**config, "model": own}))
    return folder


def predicted(place: Path, *arguments: str) -> torch.Tensor:
    """[rows, 3]"""
    output = place / "predicted.jsonl"
    main(["predict", *arguments, "--predictions.path", str(output), "--predictions.overwrite", "true"])
    return torch.tensor([json.loads(line)["rewards"] for line in output.read_text().splitlines()])


def expected(place: Path) -> torch.Tensor:
    scorer = lit_basereward.load(place / "model.ckpt", "cpu")
    return torch.stack([scorer.score(row["prompt"], row["responses"]) for row in ROWS])


@pytest.mark.slow
@pytest.mark.parametrize("config", ["run.yaml", "own.yaml"])
def test_an_export_is_evaluated_as_its_checkpoint_is(place, config, monkeypatch):
    """Its model section, or that of a config, whose head and backbone it fills: the checkpoint's rewards to 1e-5."""
    monkeypatch.chdir(place)
    found = predicted(place, "--config", config, "--ckpt_path", "exported")
    torch.testing.assert_close(found, expected(place), rtol=0, atol=1e-5)
    main(["validate", "--config", config, "--ckpt_path", "exported"])


@pytest.mark.slow
def test_a_calibration_goes_into_an_export(place, monkeypatch, capsys):
    """Into a copy of it, or into it: the checkpoint's own numbers, told in the card, and the folder stays whole."""
    monkeypatch.chdir(place)
    main(["calibrate", "--ckpt_path", "model.ckpt", "--data", "rows.jsonl", "--output", "calibrated.ckpt"])
    fitted = lit_basereward.load("calibrated.ckpt", "cpu").calibration
    main(["calibrate", "--ckpt_path", "exported", "--data", "rows.jsonl", "--output", "calibrated"])
    assert lit_basereward.load("exported", "cpu").calibration is None
    for rule in ("median", "labels"):
        main(["calibrate", "--ckpt_path", "calibrated", "--data", "rows.jsonl", "--rule", rule])
        found = lit_basereward.load("calibrated", "cpu").calibration
        assert isinstance(found, Calibration) and found.rule == rule
        assert found.temperature == pytest.approx(fitted.temperature, rel=1e-3)
        card = Path("calibrated", "README.md").read_text()
        assert f"## Calibration\n\n{found}; `rm.probability(rewards)` uses it.\n\n## Backbone" in card
    assert card.count("## Calibration") == 1 and "## Training" in card and "## Checked" in card


@pytest.mark.parametrize(
    ("command", "folder", "words"),
    [
        ("fit", "exported", "cannot be resumed: start from its weights by --model.init_from exported"),
        ("validate", "adapters", "holds adapters without their backbone"),
        ("validate", "broken", "model.safetensors is missing"),
    ],
)
def test_what_an_export_is_not_for(place, command, folder, words, monkeypatch, capsys):
    """One line each, with what to do."""
    monkeypatch.chdir(place)
    if folder == "broken":
        Path("broken").mkdir()
        for file in Path("exported").iterdir():
            if file.name != "model.safetensors":
                (Path("broken") / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", "run.yaml", "--ckpt_path", folder])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 1 and words in line
