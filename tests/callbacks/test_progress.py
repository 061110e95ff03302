"""What a terminal shows while it trains, and what a file has of it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_basereward.callbacks.progress import StepProgressBar, figures, terminal_bar
from lit_basereward.cli import main
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.types import Message, Preference
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource

FIGURES = r"loss \d\.\d{3} acc \d\.\d{3} rows/s \S+"


def rows(count: int) -> list[Preference]:
    prompt = (Message("user", ("the cat",)),)
    return [Preference(str(n), prompt, ("a dog", "it is red"), (1.0, 0.0)) for n in range(count)]


@pytest.fixture
def fit(tmp_path, backbone_folder):
    """``fit(validated, **settings)``: six rows in three steps an epoch, with a checkpoint at the end."""

    def run(validated: bool = True, kind: type = NaiveRM, ckpt: Path | None = None, **settings: Any) -> pl.Trainer:
        val = [ListSource(rows(2), "pairs")] if validated else None
        data = PreferenceDataModule(train=ListSource(rows(6)), val=val, global_batch_size=2)
        given = {"callbacks": [StepProgressBar(), ModelCheckpoint(tmp_path, save_last=True)], **settings}
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_model_summary=False,
            num_sanity_val_steps=1, log_every_n_steps=1, **given,
        )  # fmt: skip
        torch.manual_seed(0)
        trainer.fit(kind(Backbone(backbone_folder("qwen2"), max_length=2048)), data, ckpt_path=ckpt)
        return trainer

    return run


@pytest.fixture
def screen(request, monkeypatch):
    """``screen()``: what a terminal of 100 columns was given to show, line by line, without colours."""
    rich = pytest.importorskip("rich")
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=getattr(request, "param", 100))
    monkeypatch.setattr(rich, "_console", console)

    def lines() -> list[str]:
        drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", drawn) if line.strip()]

    return lines


def test_figures_in_three_digits():
    shown = figures({"loss": 0.69315, "accuracy": 0.5, "rows/s": torch.tensor(60.088), "val/accuracy": 1, "n": 1234.5})
    assert shown == ["loss 0.693", "acc 0.500", "rows/s 60.1", "val 1.000", "n 1,234"]


@pytest.mark.parametrize("screen", [60, 80, 100], indirect=True)
def test_a_long_run_has_one_line(screen, request):
    """Whole at 100 columns; what is narrower cuts it off."""
    bar = terminal_bar()
    told = "loss 0.693 acc 0.500 rows/s 60.1 val 0.733"
    bar.add_task("Epoch 11/12", total=20_000, completed=12_345, figures=told)
    with bar:
        bar.refresh()
    (shown,) = {*screen()}
    width = request.node.callspec.params["screen"]
    assert len(shown) <= width and (width < 100 or re.fullmatch(rf"Epoch 11/12 \S+ +12345/20000 \S+ \S+ {told}", shown))


def test_without_epochs_steps_are_counted_on_one_line(fit, screen):
    """Lightning's own bar says `Epoch 0/-2` and 2/3. Whole epochs make 3 steps each; one that resumes goes on at 2."""
    last = fit(max_epochs=-1, max_steps=2, val_check_interval=1).checkpoint_callbacks[0].last_model_path
    first = screen()
    assert re.fullmatch(rf"Step +━+ 2/2 +\S+ \S+ {FIGURES} val \d\.\d{{3}}", first[-1])
    assert any(re.match(r"pairs +━+ 0/2 .* rows$", line) for line in first)
    fit(max_epochs=-1, max_steps=5, val_check_interval=1, ckpt=last)
    again = screen()[len(first) :]
    counts = [re.search(r"(\d+)/5", line)[1] for line in again if line.startswith("Step")]
    assert {"2", "5"} <= {*counts} <= {"2", "3", "4", "5"} and counts == sorted(counts)
    assert max(map(len, first + again)) <= 100 and all(re.match("Step|pairs", line) for line in first + again)


def test_with_epochs_these_are_told(fit, screen):
    fit(max_epochs=2)
    assert re.match(r"Epoch 1/2 +\S+ 0/6 ", screen()[0]) and re.match(r"Epoch 2/2 +━+ 6/6 ", screen()[-1])


class Endless(NaiveRM):
    """Needs no limit: it has no schedule."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_without_any_limit_there_is_no_total(fit, screen):
    fit(kind=Endless, max_epochs=-1, max_time={"seconds": 1})
    assert re.match(r"Step +\S+ \d+/\? ", screen()[-1])


def line(step: str, validated: bool = True) -> str:
    """The pattern of one in a file."""
    told = FIGURES.replace(" acc", ", acc").replace(" rows", ", rows")
    return f"step {step}: {told}" + (r", val \d\.\d{3}" if validated else "")


def test_a_file_has_a_line_of_each_validation(fit, capsys):
    fit(max_epochs=-1, max_steps=4, val_check_interval=2)
    lines = [each for each in capsys.readouterr().out.splitlines() if each.startswith("step")]
    assert len(lines) == 3  # the second is of the first epoch
    assert all(re.fullmatch(line(f"{step} of 4"), each) for step, each in zip((2, 3, 4), lines, strict=True))


def test_without_validation_a_file_has_a_line_of_each_epoch(fit, capsys):
    fit(validated=False, max_epochs=2)
    lines = [each for each in capsys.readouterr().out.splitlines() if each.startswith("step")]
    assert len(lines) == 2
    assert all(re.fullmatch(line(f"{step} of 6", False), each) for step, each in zip((3, 6), lines, strict=True))


class Another(StepProgressBar):
    """That of a device which is not the first."""

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)
        self.disable()


def test_other_devices_say_nothing(fit, screen, capsys):
    fit(max_epochs=1, callbacks=[Another()])
    assert screen() == [] and "step 3" not in capsys.readouterr().out


def test_fit_of_the_command_line_counts_so(tmp_path, backbone_folder, capsys):
    """Into a file here; switched off, it says nothing."""
    pairs = [{"prompt": "the cat", "chosen": "a dog", "rejected": f"it is red {n}"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = {
        "trainer": {
            "max_steps": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
            "enable_model_summary": False, "default_root_dir": str(tmp_path),
        },
        "model": {
            "class_path": "NaiveRM", "init_args": {"backbone": {"name_or_path": backbone_folder("qwen2")}},
        },
        "data": {key: str(tmp_path / "rows.jsonl") for key in ("train", "val")} | {"global_batch_size": 2},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for off in ([], ["--trainer.enable_progress_bar", "false"]):
        main(["fit", "--config", str(tmp_path / "config.yaml"), *off])
        assert len(re.findall(line("2 of 2"), capsys.readouterr().out)) == (not off)
