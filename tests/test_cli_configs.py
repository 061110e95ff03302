"""Configs by name: the package's stand in for files that are not here, and never for those that are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_configs import Built

from lit_basereward.cli import main
from lit_basereward.cli_configs import FOLDER, find_configs
from lit_basereward.cli_tools import TOOLS
from lit_basereward.rl import Reward, RuleReward

ROOT = Path(__file__).parents[1]
PACKAGED = str(FOLDER / "demo.yaml")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "lit_basereward").rglob("README.md")),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        ["fit", "--config", "configs/demo.yaml"],
        ["fit", "--config=configs/demo.yaml", "--trainer.max_steps", "3"],
        ["fit", "-c", "configs/demo.yaml"],
        ["fit", "-c=demo"],
        ["fit", "--config", "demo"],
    ],
)
def test_what_is_not_here_is_the_packages(given: list[str]) -> None:
    """Its path stands in the place of the name, and one line says so; other arguments stay."""
    found, lines = find_configs(given)
    name = next(each.removeprefix("--config=").removeprefix("-c=") for each in given if "demo" in each)
    assert found == [each.replace(name, PACKAGED) for each in given]
    assert lines == [f"config {name}: that of the package, {PACKAGED}"]


def test_overlays_in_folders_have_names_too() -> None:
    found, lines = find_configs(["fit", "--config", "7b", "--config", "overlays/fsdp"])
    assert found[2::2] == [str(FOLDER / "7b.yaml"), str(FOLDER / "overlays" / "fsdp.yaml")] and len(lines) == 2


@pytest.mark.parametrize("name", ["configs/demo.yaml", "demo"])
def test_what_is_here_always_wins(name: str, empty_folder: Path) -> None:
    """A folder too: that of an ensemble is given as --config."""
    if name == "demo":
        (empty_folder / "demo").mkdir()
    else:
        (empty_folder / "configs").mkdir()
        (empty_folder / name).write_text("seed_everything: 1")
    assert find_configs(["fit", "--config", name]) == (["fit", "--config", name], [])


@pytest.mark.parametrize("value", ["{trainer: {max_steps: 1}}", "seed_everything: 1", "https://x.org/demo"])
def test_other_values_and_options_are_left_alone(value: str) -> None:
    given = ["fit", "--config", value, "--data.train", "configs/demo.yaml"]
    assert find_configs(given) == (given, [])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("configs/dmo.yaml", "'configs/demo.yaml'"),
        ("demo.yaml", "'configs/demo.yaml'"),  # a file's name, which is not looked up
        ("./configs/demo.yaml", "'configs/demo.yaml'"),
        ("config/overlays/fsdp.yaml", "'configs/overlays/fsdp.yaml'"),
        ("configs/fsdp.yaml", "'configs/overlays/fsdp.yaml'"),
        ("configs/../configs/demo.yaml", "'configs/demo.yaml'"),
        ("my_rum.yaml", "'my_run.yaml'"),
    ],
)
def test_what_is_nowhere_is_told_with_what_is_near(name: str, near: str, empty_folder: Path) -> None:
    (empty_folder / "my_run.yaml").write_text("seed_everything: 1")
    with pytest.raises(ValueError, match=re.escape(f"config {name!r} does not exist")) as error:
        find_configs(["fit", "--config", name])
    assert near in str(error.value).partition("did you mean ")[2]


def test_without_anything_near_the_names_are_listed() -> None:
    with pytest.raises(ValueError, match=r"accepted: a YAML file, or a config of the package: 7b, critic_7b, .*, and"):
        find_configs(["fit", "--config", "zzzzzzzz"])


def test_commands_take_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Two merge, and a name that does not exist ends with 2 and one line."""
    cli = Built(["test", "--config", "configs/demo.yaml", "--config", "overlays/ddp", "--trainer.devices", "1"])
    assert cli.datamodule.source_names("test")[0] == "digits" and "DDP" in type(cli.trainer.strategy).__name__
    assert len(re.findall("that of the package", capsys.readouterr().err)) == 2
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "configs/dmo.yaml"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: config 'configs/dmo.yaml' does not exist, here or in the package; did you mean")


TAKEN: list[list[Reward]] = []


def take(rewards: list[Reward]) -> None:
    """Take rewards.

    Args:
        rewards: to take.
    """
    TAKEN.append(rewards)


def test_tools_take_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(TOOLS, "take", f"{__name__}:take")
    main(["take", "--config", "rl/rewards/rule"])
    assert [[type(reward) for reward in given] for given in TAKEN] == [[RuleReward]]
    with pytest.raises(SystemExit) as stop:
        main(["take", "--config", "rl/rewards/rul"])
    assert stop.value.code == 2 and "'configs/rl/rewards/rule.yaml'" in capsys.readouterr().err


def test_all_configs_of_the_docs_are_in_the_package() -> None:
    """The names behind --config on every page; those that begin otherwise are the user's own."""
    named = {name for page in PAGES for name in re.findall(r"--config[ =](configs/[\w./-]+\.yaml)", page.read_text())}
    assert len(named) > 10
    find_configs([each for name in sorted(named) for each in ("--config", name)])
