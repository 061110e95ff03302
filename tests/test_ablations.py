"""Every overlay under configs/ablations/ is a row of the paper: its header's commands build, with that row's settings.

Nothing is loaded: configs are parsed and built as the command line does. A parse takes half a second, so commands that
differ from others in a name alone are parsed among the slow tests.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lit_basereward import CriticRM, EnsembleRM, GenerativeRM, NaiveRM
from lit_basereward.cli import RewardCLI, main
from lit_basereward.data.routing import Route, When
from lit_basereward.ensemble import AccuracyWeighted, ConfidenceWeighted, Mean
from lit_basereward.ensemble.fitting import ensemble
from lit_basereward.ensemble.folder import open_ensemble
from lit_basereward.losses import BradleyTerry, ZeroCoefficient
from lit_basereward.rl import HybridReward, JudgeReward, ModelReward, RuleReward
from lit_basereward.rl.grpo import grpo

ROOT = Path(__file__).parents[1]
HERE = "configs/ablations"
ABLATIONS = ROOT / HERE
FILES = sorted(str(path.relative_to(ABLATIONS).with_suffix("")) for path in ABLATIONS.rglob("*.y*ml"))
ROWS = {
    "heads": 7,  # Table 2
    "regularizers": 5,  # Figure 1
    "paradigms": 6,  # Table 1
    "corpora": 11,  # Table 4
    "corpora/demo": 3,
    "backbones": 8,  # Table 6
    "backbones/demo": 3,
    "ensembles": 4,  # Table 7, whose other rows are the members alone
    "ensembles/demo": 4,
    "text_ratio": 5,
    "rl": 4,  # Table 11, whose other row is the policy before training
    "rl/demo": 1,
    ".": 1,  # short.yaml
}
NAMED = [file for file in FILES if "/" in file]


class Built(RewardCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> RewardCLI:
    """The command line; its parser takes most of the time of making it, so it is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cli"))
        return Built(["fit", "--config", str(ROOT / "configs/demo.yaml")])


@pytest.fixture
def parse(cli: RewardCLI, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``parse("fit", "--config", ...)``: the settings of a command, files named from the project's folder."""
    monkeypatch.chdir(ROOT)

    def parsed(*args: str) -> Any:
        return cli.parser.parse_args(list(args))

    return parsed


def header(file: str) -> dict[str, str]:
    """Fields of a file's header, such as ``Command``."""
    lines = (ABLATIONS / f"{file}.yaml").read_text().split("\n")
    fields: dict[str, str] = {}
    for line in lines[2 : next(n for n, line in enumerate(lines) if not line.startswith("#"))]:
        name, text = line[2:13].strip(), line[13:]
        if name:
            fields[name] = text
        else:
            fields[list(fields)[-1]] += f"\n{text}"
    return fields


def commands(file: str) -> list[list[str]]:
    """What its header says to run, at full and at demo scale, without ``python -m lit_basereward``."""
    text = "\n".join(header(file).get(key, "") for key in ("Command", "Demo")).replace("\\\n", "")
    given = re.findall(r"^python -m lit_basereward (.*(?:\n  .*)*)", text, flags=re.MULTILINE)
    return [shlex.split(each) for each in given]


def without_corpora(command: list[str], file: str) -> list[str]:
    """The command without configs that are sources of data alone, but for the file's own: they are many, and slow to
    parse, and have tests of their own."""
    pairs = [command[n : n + 2] for n in range(1, len(command), 2)]
    data = ("configs/data/", "configs/benchmarks/", "configs/ablations/corpora/")
    kept = [pair for pair in pairs if not pair[1].startswith(data) or pair[1] == f"{HERE}/{file}.yaml"]
    return [command[0], *(part for pair in kept for part in pair)]


def names(layers: torch.nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in layers]


def test_none_is_forgotten() -> None:
    """A new row raises a number here, so that none slips past the tests below."""
    found = {folder: sum(str(Path(file).parent) == folder for file in FILES) for folder in ROWS}
    assert found == ROWS and sum(ROWS.values()) == len(FILES)


@pytest.mark.parametrize("file", NAMED)
def test_header(file: str) -> None:
    """What it tests, the paper's numbers where it is the paper's, and commands that name it."""
    fields, (title, blank, *_) = header(file), (ABLATIONS / f"{file}.yaml").read_text().split("\n")
    assert title.endswith(".") and blank == "#" and "Tests" in fields and "Demo" in fields
    assert "/demo/" in file or ("Paper" in fields and "Command" in fields)
    for command in commands(file):
        assert all((ROOT / each).is_file() for each in command if each.startswith("configs/"))
    named = [f"{HERE}/{file}.yaml" in command for command in commands(file)]
    if file.startswith("ensembles/"):
        assert any(named)  # once fitted, the ensemble has a folder
    elif file.startswith("rl/"):
        assert named[0]  # the demo's rewards are configs/rl/rewards
    else:
        assert all(named)


# ------------------------------------------------------------------------------------- fit and test, by their axis
HEADS = {
    "1_layer": ["Linear"],
    "2_none": ["Linear", "Linear"],
    "2_tanh": ["Linear", "Tanh", "Linear"],
    "2_silu": ["Linear", "SiLU", "Linear"],
    "3_silu": ["Linear", "SiLU"] * 2 + ["Linear"],
    "4_silu": ["Linear", "SiLU"] * 3 + ["Linear"],
    "5_silu": ["Linear", "SiLU"] * 4 + ["Linear"],
}
LAMBDAS = {"lambda_0.1": [0.1], "lambda_0.01": [0.01], "lambda_0.001": [0.001], "lambda_0": [], "length_norm": []}
BACKBONES = {
    "internvl2_8b": "models/InternVL2-8B-hf",
    "internvl3_1b": "OpenGVLab/InternVL3-1B-hf",
    "internvl3_2b": "OpenGVLab/InternVL3-2B-hf",
    "internvl3_8b": "OpenGVLab/InternVL3-8B-hf",
    "qwen2_vl_7b": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2_5_vl_3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2_5_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen2_5_vl_32b": "Qwen/Qwen2.5-VL-32B-Instruct",
}
PARADIGMS = {
    "naive": (NaiveRM, None),
    "critic": (CriticRM, None),
    "verdict_untrained": (GenerativeRM, "verdict"),
    "verdict": (GenerativeRM, "verdict"),
    "reasoning": (GenerativeRM, "reasoning"),
}
TRAINED = [file for file in NAMED if not file.startswith(("ensembles/", "rl/")) and file != "paradigms/reasoning_rl"]
OF_THE_MIX = ("mmpr", "rlaif_v", "r1_reward", "tulu3", "olmo2", "ultra_hard", "others")
"""The corpora that the paper keeps, in the order of configs/data/paper.yaml."""
BY_NAME = [f"corpora/{row}" for row in OF_THE_MIX] + [
    f"backbones/{row}" for row in BACKBONES if row not in ("internvl2_8b", "qwen2_5_vl_32b")
]
"""Files that are checked to the letter below, or give a name alone."""
AT_DEMO_SCALE = ("heads/5_silu", "regularizers/lambda_0.1", "text_ratio/multimodal_0.25")
"""One file of each axis whose files lie over both scales: what is in them is seen over the one already."""


def command_of(file: str, scale: str) -> Any:
    """A parameter of the test: a file and the scale of its command, slow where a faster one sees the same."""
    told = "/demo/" in file or (scale == "full" and file not in BY_NAME) or file in AT_DEMO_SCALE
    return pytest.param(file, scale, marks=[] if told else [pytest.mark.slow])


def scales(file: str) -> list[str]:
    """A row of the demo alone has the demo's command, one whose demo is another file has the full one."""
    return ["demo"] if "/demo/" in file else ["full", "demo"][: len(commands(file))]


@pytest.mark.parametrize(("file", "scale"), [command_of(file, scale) for file in TRAINED for scale in scales(file)])
def test_row(file: str, scale: str, cli: RewardCLI, parse: Callable[..., Any]) -> None:
    """The header's command builds; the row's settings are there, and what it does not name is the base's."""
    axis, row, demo = file.split("/")[0], file.split("/")[-1], scale == "demo"
    command = commands(file)[scales(file).index(scale)]
    assert ("configs/demo" in " ".join(command)) == demo
    settings = parse(*without_corpora(command, file))
    built = cli.parser.instantiate_classes(settings)[command[0]]
    model = built.model
    if axis == "heads":
        assert names(model.head(8).layers) == HEADS[row]
    if axis == "regularizers":
        assert type(model.ranking_loss) is BradleyTerry
        assert model.ranking_loss.length_norm == (row == "length_norm")
        assert all(type(term) is ZeroCoefficient for term in model.regularizers)
        assert [term.coefficient for term in model.regularizers] == LAMBDAS[row]
    if axis == "text_ratio":
        assert f"{built.data.mixture.multimodal:.2f}" == row.removeprefix("multimodal_")
        assert settings[command[0]].trainer.max_steps > 0
    if axis == "paradigms":
        assert (type(model), getattr(model, "style", None)) == PARADIGMS[row]
    elif not demo:
        assert model.backbone.name_or_path == (BACKBONES[row] if axis == "backbones" else BACKBONES["qwen2_5_vl_7b"])
    if axis != "paradigms":
        assert type(model) is NaiveRM
        assert model.make_optimizer([torch.nn.Parameter()]).defaults["lr"] == (5e-4 if demo else 3e-6)
    if not demo:
        assert model.backbone.freeze == ["vision"] and model.backbone.gradient_checkpointing
    elif axis == "backbones":
        assert type(model.backbone).__name__.lower() == "tiny" + row.replace("_vl", "vl")
    else:
        assert type(model.backbone).__name__ == "TinyQwen2_5VL"


@pytest.mark.parametrize("file", [*(file for file in NAMED if "ensembles/" in file), "paradigms/verdict_untrained"])
def test_results_do_not_overwrite_those_of_another_row(file: str) -> None:
    """Results go to the root folder of a run: a tested row has one of its own, named after it, and not its base's."""
    for command in commands(file):
        if command[0] == "test":
            given = command[command.index("--trainer.default_root_dir") + 1]
            assert given.endswith(file.split("/")[-1])
            assert given.startswith("runs/demo_") == ("demo" in " ".join(command))
            assert "--ckpt_path" not in command or command[command.index("--ckpt_path") + 1] == given


def test_short_runs_leave_the_demo_alone() -> None:
    """A row of 100 steps would lie where the demo's model of 555 was, and be served and tested as it."""
    trainer = yaml.safe_load((ABLATIONS / "short.yaml").read_text())["trainer"]
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())["trainer"]
    assert trainer["default_root_dir"] == trainer["logger"]["init_args"]["save_dir"] != demo["default_root_dir"]
    assert trainer["logger"]["class_path"] == demo["logger"]["class_path"]


LOOPS = re.findall(r"^```\n(for .*?)^```$", (ROOT / "docs/ablations.md").read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("loop", LOOPS, ids=["demo", "full"])
def test_loops_of_the_page(loop: str, cli: RewardCLI, parse: Callable[..., Any]) -> None:
    """As they stand, in bash, with `python` and `mv` put down instead of run: 7 rows and 3 seeds, each fitted, then
    tested, and in a folder of its own. The first row's commands parse."""
    stub = 'python() { echo "$@"; }; mkdir() { :; }; mv() { echo mv "$@"; };'
    done = subprocess.run(["bash", "-euc", stub + loop], capture_output=True, text=True, cwd=ROOT, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    fits, tests, moves = ([line for line in lines if start in line[:4]] for start in ("fit", "test", "mv"))
    assert len(fits) == len(tests) == 21
    kept = [line[line.index("--trainer.default_root_dir") + 1] for line in fits] if not moves else [m[2] for m in moves]
    assert len(set(kept)) == 21 and "runs/ablations/heads/1_layer/seed_0" in kept
    for line, subcommand in ((fits[0], "fit"), (tests[0], "test")):
        assert line[:3] == ["-m", "lit_basereward", subcommand]
        settings = parse(*without_corpora(line[2:], "heads/1_layer"))[subcommand]
        assert settings.model.init_args.head.init_args.num_layers == 1 and settings.data.seed == 0


def test_defaults_change_nothing(parse: Callable[..., Any]) -> None:
    """So their runs are shared: the merged settings are, to the last, those of demo.yaml with short.yaml."""
    base = ["fit", "--config", "configs/demo.yaml", "--config", "configs/ablations/short.yaml"]
    rows = ("heads/2_silu", "regularizers/lambda_0", "backbones/demo/qwen2_5_vl")  # of other keys, so all at once
    plain = parse(*base).fit
    merged = parse(*base, *(part for row in rows for part in ("--config", f"{HERE}/{row}.yaml"))).fit
    for settings in (plain, merged):
        del settings["config"]
    assert merged == plain


def test_corpora_are_those_of_the_papers_mix(parse: Callable[..., Any]) -> None:
    """The seven that are kept are the sources of configs/data/paper.yaml, to the letter and in its order."""
    read = [yaml.safe_load((ABLATIONS / f"corpora/{name}.yaml").read_text()) for name in OF_THE_MIX]
    paper = yaml.safe_load((ROOT / "configs/data/paper.yaml").read_text())["data"]["train"]
    assert [source for row in read for source in row["data"]["train"]] == paper
    assert all(row.keys() == {"data"} and row["data"].keys() == {"on_bad_row", "train"} for row in read)
    (mapped,) = yaml.safe_load((ABLATIONS / "corpora/omni_align.yaml").read_text())["data"]["train"]
    whole = yaml.safe_load((ROOT / "configs/data/omnialign_v_dpo.yaml").read_text())["data"]["train"]
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}  # TableSource's own, written out there
    assert {**mapped["init_args"], **columns} == whole["init_args"]


def test_a_judges_rows_have_judgements(cli: RewardCLI, parse: Callable[..., Any]) -> None:
    """The command of the reasoning row wraps its training source."""
    (full, _) = commands("paradigms/reasoning")
    source = parse(*full).fit.data.train
    assert source.class_path.endswith("JudgedRows") and source.init_args.source.init_args.path == "judged.jsonl"


# ---------------------------------------------------------------------------------------------------- ensembles, RL
COMBINERS = {
    "average": Mean,
    "average_with_llm": Mean,
    "accuracy_weighted": AccuracyWeighted,
    "confidence_weighted": ConfidenceWeighted,
}


@pytest.mark.parametrize("file", [file for file in NAMED if file.startswith("ensembles/")])
def test_ensemble(file: str, cli: RewardCLI, parse: Callable[..., Any]) -> None:
    """Over the base it is what it is alone: two members, or three and a route for rows with images."""
    row, demo = file.split("/")[-1], "/demo/" in file
    seeing = ["qwen2_5_vl", "qwen2_vl" if demo else "internvl3"]
    text = [] if row != "average_with_llm" else ["qwen2" if demo else "qwen3"]
    base = f"configs/{'demo_' if demo else ''}ensemble.yaml"
    merged = cli.parser.instantiate_classes(
        parse("test", "--config", base, "--config", f"{HERE}/{file}.yaml")
    ).test.model
    for model in (merged, open_ensemble(f"{HERE}/{file}.yaml", [])):
        assert isinstance(model, EnsembleRM) and type(model.combiner) is COMBINERS[row]
        assert model.names == seeing + text
        assert model.routes == ([Route(seeing, When(modality="image"))] if text else [])
    tool = ArgumentParser(exit_on_error=False)
    tool.add_function_arguments(ensemble, sub_configs=False)
    for command in commands(file):
        if command[0] == "ensemble":
            options = [each.replace("--fit_on", "--fit_on+") for each in command[1:]]
            assert len(tool.parse_args(options).fit_on) == (3 if demo else 1)
        elif "--ckpt_path" not in command:  # the folder that the tool writes
            configs = ["--config", "configs/benchmarks/all.yaml"] * (not demo)
            assert command[:-2] == ["test", "--config", base, "--config", f"{HERE}/{file}.yaml", *configs]


REWARDS = {
    "rl/rule": ([RuleReward] * 2),
    "rl/basereward": ([ModelReward] * 2),
    "rl/hybrid": ([HybridReward] * 2),
    "rl/r1_reward": ([ModelReward] * 2),
    "rl/demo/r1_reward": [ModelReward],
    "paradigms/reasoning_rl": ([JudgeReward] * 2),
}


@pytest.mark.parametrize("file", REWARDS)
def test_rewards_of_grpo(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of its header has the row's one reward."""
    monkeypatch.chdir(ROOT)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(grpo, sub_configs=False)
    settings = [parser.instantiate_classes(parser.parse_args(command[1:])) for command in commands(file)]
    built = [each.rewards for each in settings]
    assert [[type(reward) for reward in rewards] for rewards in built] == [[kind] for kind in REWARDS[file]]
    if file.endswith("r1_reward"):  # a judge compares, so a prompt has several answers, when it is held out, too
        demo = settings[-1].settings
        assert settings[-1].held_out is not None and demo["max_steps"] == 40  # the demo's other settings are there
        each = demo["num_generations_eval"]
        assert each > 1 and demo["per_device_eval_batch_size"] % each == 0
    if file == "rl/rule":
        assert all(rewards[0].maths for rewards in built)
    if file == "paradigms/reasoning_rl":
        assert all((each.consistency_weight, each.format_weight) == (0.5, 0.5) for (each,) in built)


# ------------------------------------------------------------------------------------------------------------ a run
def test_equal_steps_whatever_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 rows with images and 40 without, a share of 0.25 leaves 13 and 40: 53 + comparisons in less than one step
    of 144. The run still takes its 2 steps, in two epochs, and is validated once, behind them."""
    monkeypatch.chdir(ROOT)
    sums = "{class_path: lit_basereward.demo.Sums, init_args: {split: val, rows: %d}}"
    scenes = "{class_path: lit_basereward.demo.Scenes, init_args: {split: val, rows: 40}}"
    files = ("demo", "ablations/short", "ablations/text_ratio/multimodal_0.25")
    main([
        "fit", *(part for file in files for part in ("--config", f"configs/{file}.yaml")),
        "--data.train", f"[{scenes}, {sums % 40}]", "--data.val", f"[{sums % 4}]", "--trainer.max_steps", "2",
        "--trainer.val_check_interval", "2", "--trainer.default_root_dir", str(tmp_path),
        "--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.callbacks",
        "[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {monitor: val/accuracy}}]",
    ])  # fmt: skip
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    stored = torch.load(checkpoint, weights_only=True)
    assert stored["global_step"] == 2
