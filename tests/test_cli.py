"""The command line end to end, on a tiny text-only backbone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, Dataset

from lit_basereward.__main__ import main
from lit_basereward.callbacks.interrupt import GracefulStop
from lit_basereward.cli import RewardCLI
from lit_basereward.cli_errors import one_line
from lit_basereward.data.types import RowError

# Classes that a user brings: a file on PYTHONPATH, named in YAML.
USER_MODULE = '''
import os, signal
from lightning.pytorch import Callback
from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import Message, Preference

class Rows(Source):
    """Four rows, one of which does as told when it is read.

    Args:
        act: what row 2 does.
        from_reading: and in which reading of it.
    """
    def __init__(self, act: str, from_reading: int = 1) -> None:
        self.act, self.from_reading, self.name = act, from_reading, "rows"
    def __len__(self):
        return 4
    def __getitem__(self, index):
        self.from_reading -= index == 2
        if index == 2 and self.from_reading == 0:
            if self.act == "bug":
                raise KeyError("a bug")
            signal.raise_signal(getattr(signal, self.act))
        return Preference(str(index), (Message("user", ("the cat",)),), ("a dog", "red"), (1.0, 0.0))

class CtrlC(Callback):
    """What a terminal does on Ctrl-C: every process gets the signal, data loader workers too."""
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 1 and batch_idx % 2 == 0:
            os.killpg(0, getattr(signal, os.environ.get("SIGNAL", "SIGINT")))
'''


class Parsed(RewardCLI):
    """Parses and merges, and leaves it at that."""

    def instantiate_classes(self) -> None:
        self.config_init = self.config
        self.trainer = self.model = self.datamodule = None

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    @property
    def arguments(self) -> Any:
        """The model's."""
        return self.config[self.subcommand].model.init_args


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Callable[[str], str]) -> SimpleNamespace:
    """A folder with rows, a config, the user's module, and the checkpoint of one epoch with a 3-layer head."""
    root = tmp_path_factory.mktemp("cli")
    words = ["the", "a", "cat", "dog", "sits", "runs", "on", "under", "red", "blue", "small"]
    rows = [{"prompt": words[i], "chosen": words[-i], "rejected": f"{words[i - 1]} is"} for i in range(1, 9)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "user_parts.py").write_text(USER_MODULE)
    sys.path.insert(0, str(root))
    config = {
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "accumulate_grad_batches": 2,
            "logger": False,
            "default_root_dir": str(root / "run"),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        },
        "model": {
            "class_path": "lit_basereward.modules.naive.NaiveRM",
            "init_args": {
                "backbone": {"name_or_path": backbone_folder("qwen2"), "init": "random"},
                "head": {"class_path": "MLPHead", "init_args": {"num_layers": 3}},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            },
        },
        "data": {key: str(root / "rows.jsonl") for key in ("train", "val", "predict")} | {"global_batch_size": 4},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(root / "config.yaml")])
    (checkpoint,) = (root / "run" / "checkpoints").glob("*.ckpt")
    yield SimpleNamespace(root=root, config=str(root / "config.yaml"), checkpoint=str(checkpoint), settings=config)
    sys.path.remove(str(root))


@pytest.fixture
def keep_handlers() -> Iterator[None]:
    """Lightning leaves SIGINT ignored after Ctrl-C, since it ends the process."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def exit_code(*args: str) -> Any:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return stop.value.code


# ------------------------------------------------------------------------------------------------ without PyTorch
def test_help_and_version_do_not_load_torch() -> None:
    script = (
        "import sys; from lit_basereward.__main__ import main; main(sys.argv[1:]);"
        "print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    )

    def run(argument: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", script, argument], capture_output=True, text=True, check=True
        ).stdout.splitlines()

    *text, loaded = run("--help")
    assert loaded == "[]"
    commands = text[: text.index("tools:")]
    listed = [match[1] for line in commands if (match := re.match(r"  ([a-z]+)   +\w", line))]
    assert listed == list(LightningCLI.subcommands())
    from lit_basereward import __version__

    assert run("--version") == [f"lit_basereward {__version__}", "[]"]


# -------------------------------------------------------------------------------------------- what does not parse
@pytest.fixture(scope="module")
def parser(place: SimpleNamespace) -> Parsed:
    return Parsed(["fit", "--config", place.config])


HEAD = "model.init_args.head.init_args"
# Each with where it is put into the config, or None for the command line; and the message after "error: ", a pattern.
BAD = {
    "unknown section": (
        "trainr.max_steps", 3,
        r"'trainr' is not accepted; did you mean 'trainer'\? accepted: .*data, model.*",
    ),
    "unknown trainer key": (
        "trainer.max_stepz", 3,
        r"trainer: 'max_stepz' is not accepted; did you mean 'max_steps'\? accepted: .*max_steps.*",
    ),
    "unknown data key": (
        "data.trian", "x",
        r"data: 'trian' is not accepted; did you mean 'train'\? accepted: .*train, val",
    ),
    "unknown model argument": (
        "model.init_args.headd", {"class_path": "MLPHead"},
        r"model: 'headd' is not a parameter of NaiveRM; did you mean 'head'\? accepted: backbone, head, loss, .*",
    ),
    "unknown argument of a factory": (
        f"{HEAD}.numlayers", 2,
        r"model.head: 'numlayers' is not a parameter of MLPHead; did you mean 'num_layers'\? "
        "accepted: num_layers, activation",
    ),
    "unknown argument of a data class": (
        "model.init_args.backbone.name_or_pth", "x",
        r"model.backbone: 'name_or_pth' is not a parameter of Backbone; did you mean 'name_or_path'\? "
        "accepted: name_or_path, init, .*",
    ),
    "unknown argument in a list": (
        "data.train", [{"class_path": "JSONLSource", "init_args": {"pth": "x"}}],
        r"data.train: 'pth' is not a parameter of JSONLSource; did you mean 'path'\? accepted: path, image_root, .*",
    ),
    "missing argument": (
        "data.train", [{"class_path": "JSONLSource"}],
        "data.train: JSONLSource needs path",
    ),
    "unknown argument of a torch class": (
        "model.init_args.optimizer.init_args.lrr", 1,
        r"model.optimizer: 'lrr' is not a parameter of AdamW; did you mean 'lr'\? accepted: lr, betas, .*",
    ),
    "word for a number that torch also takes as a tensor": (
        "model.init_args.optimizer.init_args.lr", "fast",
        r"model.optimizer.lr: 'fast' is not accepted; accepted: float, Tensor \(class_path and init_args\)",
    ),
    "wrong literal": (
        f"{HEAD}.activation", "gelu",
        r"model.head.activation: 'gelu' is not accepted; did you mean 'relu'\? "
        "accepted: 'none', 'tanh', 'silu', 'relu'",
    ),
    "wrong literal at the top": (
        "data.on_bad_row", "x",
        "data.on_bad_row: 'x' is not accepted; accepted: 'raise', 'skip'",
    ),
    "wrong type": (
        f"{HEAD}.num_layers", "two",
        "model.head.num_layers: 'two' is not accepted; accepted: int",
    ),
    "wrong optional type": (
        "data.train", [{"class_path": "JSONLSource", "init_args": {"path": "x", "limit": "q"}}],
        "data.train.limit: 'q' is not accepted; accepted: int, null",
    ),
    "wrong union": (
        "data.train", {"pth": 3},
        r"""data.train: "{'pth': 3}" is not accepted; """
        r"accepted: str, Source \(class_path and init_args\), list\[.*\], null",
    ),
    "unknown class": (
        "model.class_path", "lit_basereward.modules.naive.NaivRM",
        r"model: lit_basereward.modules.naive has no 'NaivRM'; did you mean 'NaiveRM'\? accepted: NaiveRM",
    ),
    "unknown class of a package": (
        "model.init_args.loss", "lit_basereward.losses.BradleyTery",
        r"model.loss: lit_basereward.losses has no 'BradleyTery'; did you mean 'BradleyTerry'\? "
        "accepted: BradleyTerry, .*",
    ),
    "unknown class of the top package, which imports lazily": (
        "model.class_path", "lit_basereward.NaivRM",
        r"model: lit_basereward has no 'NaivRM'; did you mean 'NaiveRM'\? "
        r"accepted: Backbone, CriticRM, EnsembleRM, GenerativeRM, NaiveRM, .*",
    ),
    "unknown short name": (
        "model.init_args.head.class_path", "MLPHed",
        r"model.head: there is no class 'MLPHed'; did you mean 'MLPHead'\? accepted: a class of lit_basereward .*",
    ),
    "unknown module": (
        "model.init_args.head.class_path", "my_pkg.Head",
        "model.head: there is no module 'my_pkg'; accepted: the import path of a class, .*",
    ),
    "class of another kind": (
        "model.init_args.head", {"class_path": "torch.nn.Linear", "init_args": {"out_features": 1}},
        "model.head: 'torch.nn.Linear' is not accepted; accepted: a subclass of RewardHead",
    ),
    "unknown callback argument": (
        "trainer.callbacks", [{"class_path": "ModelCheckpoint", "init_args": {"montor": "x"}}],
        r"trainer.callbacks: 'montor' is not a parameter of ModelCheckpoint; did you mean 'monitor'\? accepted: .*",
    ),
    "option": (
        None, ["--trainer.max_stepz=3"],
        r"trainer: 'max_stepz' is not accepted; did you mean 'max_steps'\? accepted: .*",
    ),
    "option of nothing": (
        None, ["--foo", "3"],
        "'foo' is not accepted; accepted: ckpt_path, config, data, model, .*",
    ),
    "option of the model": (
        None, ["--model.headd", "3"],
        r"model: 'headd' is not a parameter of NaiveRM; did you mean 'head'\? accepted: .*",
    ),
    "option of a data class": (
        None, ["--model.backbone.max_lenght", "3"],
        r"model.backbone: 'max_lenght' is not a parameter of Backbone; did you mean 'max_length'\? accepted: .*",
    ),
    "value of an option": (
        None, ["--model.layout", "x"],
        "model.layout: 'x' is not accepted; accepted: 'shared', 'padded'",
    ),
    "class of an option": (
        None, ["--model.head", "MLPHed"],
        r"model.head: there is no class 'MLPHed'; did you mean 'MLPHead'\? accepted: .*",
    ),
    "missing config": (
        None, ["--config", "nope.yaml"],
        "config 'nope.yaml' does not exist; accepted: a YAML file, or a config of the package: 7b, .*",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_parse_is_one_line_that_ends_with_what_is_accepted(
    case: str, parser: Parsed, place: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value, message = BAD[case]
    config = json.loads(json.dumps(place.settings))
    if key:
        *path, last = key.split(".")
        section = config
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as stop:
        parser.parse_arguments(parser.parser, ["fit", "--config", str(tmp_path / "bad.yaml"), *([] if key else value)])
    assert stop.value.code == 2
    wrong = key and case != "missing argument"  # what is missing is in no file
    where = f"config {tmp_path}/bad.yaml: " if wrong else ""
    assert re.fullmatch(f"error: {re.escape(where)}{message}\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("args", "content", "message"),
    [
        ([], "", "no command given; accepted: fit, validate, test, predict, calibrate, .*, report, serve"),
        (["fitt"], "", r"'fitt' is not a command; did you mean 'fit'\? accepted: fit, validate, test, predict, .*"),
        (["reprot"], "", r"'reprot' is not a command; did you mean 'report'\? accepted: fit, .*, serve"),
        (["fit"], "", "no model; accepted: --model NaiveRM, a config with one, or a --ckpt_path that holds one"),
        (["fit", "--config", "FILE"], "a: 1\nb: [1,\n", r"config .* is not valid YAML in line 3: expected the node .*"),
        (["fit", "--config", "FILE"], "trainer:\n", "config .* holds no settings; accepted: keys such as model .*"),
        (
            ["fit", "--config", "FILE"],
            "modle: {}",
            r"config .*file.yaml: 'modle' is not accepted; did you mean 'model'\?.*",
        ),
        (["fit", "--config", "FILE"], "just text", "config .* holds no settings; accepted: keys such as model .*"),
        (
            ["--config", "FILE", "fit"],
            "trainer: {max_steps: 3}",
            ".* is not accepted before subcommand 'fit'; accepted: .*",
        ),
    ],
)
def test_what_is_no_config(
    args: list[str], content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.yaml").write_text(content)
    with pytest.raises(SystemExit) as stop:
        Parsed([str(tmp_path / "file.yaml") if argument == "FILE" else argument for argument in args])
    assert stop.value.code == 2
    assert re.fullmatch(f"error: {message}\n", capsys.readouterr().err)


def test_debug_shows_the_message_of_jsonargparse(
    place: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIT_BASEREWARD_DEBUG", "1")
    assert exit_code("fit", "--config", place.config, "--model.layout", "x") == 2
    assert "Does not validate against any of the Union subtypes" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- errors in the run
def test_users_errors_are_one_line_and_exit_1(
    place: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half.jsonl").write_text((place.root / "rows.jsonl").read_text() + '{"prompt": "a", "chos')
    half = ["fit", "--config", place.config, "--data.train", str(tmp_path / "half.jsonl")]
    backbone = place.settings["model"]["init_args"]["backbone"]
    critic = {"model": {"class_path": "CriticRM", "init_args": {"backbone": backbone, "template": "my.txt"}}}
    (tmp_path / "critic.yaml").write_text(yaml.safe_dump(critic))
    for args, said in (
        (half, r"error: .*half\.jsonl.*9.*"),
        (
            ["fit", "--config", place.config, "--trainer.default_root_dir", f"{half[-1]}/run"],
            "error: Not a directory: .*",
        ),
        (["fit", "--config", place.config, "--model.head.num_layers", "9"], "error: num_layers is 9; use 1 to 5"),
        (
            ["fit", "--config", place.config, "--config", str(tmp_path / "critic.yaml")],
            r"error: there is no template 'my\.txt' \(No such file or directory\); give .*, or the path of a text file",
        ),
        (["validate", "--ckpt_path", "nope.ckpt"], "error: ckpt_path 'nope.ckpt' does not exist; .*"),
        (["validate", "--ckpt_path", half[-1]], "error: ckpt_path '.*half.jsonl' is not a whole checkpoint .*"),
    ):
        assert exit_code(*args) == 1
        *before, last = capsys.readouterr().err.splitlines()
        assert re.fullmatch(said, last)
        assert not any("Traceback" in line for line in before)

    with pytest.raises(RowError, match="half"):
        main([*half, "--debug"])


def test_a_bug_keeps_its_traceback(place: SimpleNamespace) -> None:
    rows = json.dumps({"class_path": "user_parts.Rows", "init_args": {"act": "bug"}})
    with pytest.raises(KeyError, match="a bug"):
        main(["validate", "--config", place.config, f"--data.val={rows}"])


class Failing(Dataset[int]):
    """Its rows cannot be read, whoever tries."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise RowError("rows.jsonl line 3: RowError: has no image")


def test_error_of_a_worker_is_what_it_said_there() -> None:
    with pytest.raises(RowError, match="Traceback") as raised:
        next(iter(DataLoader(Failing(), num_workers=1)))
    assert one_line(raised.value) == "rows.jsonl line 3: RowError: has no image"
    assert one_line(FileNotFoundError(2, "No such file or directory", "x.yaml")) == "No such file or directory: x.yaml"
    assert one_line(ValueError("first\n   second\n")) == "first second"
    assert one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("signal_name", "code"), [pytest.param("SIGINT", 130, marks=pytest.mark.slow), ("SIGTERM", 143)]
)
@pytest.mark.usefixtures("keep_handlers")
def test_signal_in_validate_ends_with_its_exit_code(place: SimpleNamespace, signal_name: str, code: int) -> None:
    """SIGTERM comes in the second of four batches (set-up reads the rows first, with Python's own handler, which would
    end the tests, so only the second reading acts); Lightning stops after the batch."""
    arguments = {"act": signal_name, "from_reading": 1 if signal_name == "SIGINT" else 2}
    rows = json.dumps({"class_path": "user_parts.Rows", "init_args": arguments})
    args = ["validate", "--config", place.config, f"--data.val={rows}", "--data.eval_batch_size", "1"]
    assert exit_code(*args) == code


# ----------------------------------------------------------------------------------------------------- checkpoints
def test_checkpoint_brings_its_model_where_none_is_given(
    place: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = Parsed(["validate", "--ckpt_path", place.checkpoint])
    assert cli.arguments.head.init_args.num_layers == 3
    assert cli.arguments.backbone.init_args.init == "random"
    assert "checkpoint" not in capsys.readouterr().err

    cli = Parsed(["validate", "--ckpt_path", place.checkpoint, "--model.score_too_long", "cut"])
    assert (cli.arguments.head.init_args.num_layers, cli.arguments.score_too_long) == (3, "cut")
    assert capsys.readouterr().err.splitlines() == ["model.score_too_long: checkpoint 'error', config 'cut' (used)"]


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_given_model_wins_and_differences_are_printed(
    command: str, place: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pins LightningCLI._parse_ckpt_path: without our override the checkpoint's 3 layers and margin 0 come back."""
    assert callable(LightningCLI._parse_ckpt_path)
    config = yaml.safe_load(Path(place.config).read_text())
    config["model"]["init_args"] |= {"head": {"class_path": "MLPHead"}, "layout": "padded"}
    config["ckpt_path"] = place.checkpoint
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    cli = Parsed([command, "--config", str(tmp_path / "config.yaml"), "--model.loss.margin", "0.5"])
    assert cli.arguments.head.init_args.num_layers == 2
    assert cli.arguments.loss.init_args.margin == 0.5
    assert capsys.readouterr().err.splitlines() == [
        "model.head.num_layers: checkpoint 3, config 2 (used)",
        "model.layout: checkpoint 'shared', config 'padded' (used)",
        "model.loss.margin: checkpoint 0.0, config 0.5 (used)",
    ]


def test_same_config_differs_in_nothing(
    place: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the checkpoint says ``lit_basereward.modules.naive.NaiveRM``, and the short name becomes another path."""
    short = Path(place.config).read_text().replace("lit_basereward.modules.naive.NaiveRM", "NaiveRM")
    (tmp_path / "short.yaml").write_text(short)
    Parsed(["fit", "--config", str(tmp_path / "short.yaml"), "--ckpt_path", place.checkpoint])
    assert "checkpoint" not in capsys.readouterr().err


def test_resuming_tells_that_optimizer_settings_do_not_change(
    place: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And they do not: the resumed optimizer has the rate of the checkpoint."""
    settings = ["--model.optimizer.lr=0.5", "--model.optimizer.betas=[0.5, 0.9]", "--model.head_lr=0.1"]
    schedule = ["--model.schedule.warmup=0.5", "--trainer.max_epochs=2"]  # these follow the config
    folder = ["--trainer.default_root_dir", str(tmp_path)]
    cli = RewardCLI(["fit", "--config", place.config, "--ckpt_path", place.checkpoint, *settings, *schedule, *folder])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("model.", "resuming"))]
    assert said == [
        "model.head_lr: checkpoint None, config 0.1 (used)",
        "model.optimizer.lr: checkpoint 0.001 (used), config 0.5",
        "model.optimizer.betas: checkpoint (0.9, 0.999) (used), config [0.5, 0.9]",
        "model.head_lr: checkpoint 0.001 (used), config 0.1",
        "resuming restores optimizer and schedule; to start them anew from these weights, leave out --ckpt_path "
        "and set model.init_from",
    ]
    assert [group["initial_lr"] for group in cli.trainer.optimizers[0].param_groups] == [1e-3, 1e-3]


# ------------------------------------------------------------------------------------------------------- defaults
def test_checkpoint_alone_is_evaluated_and_leaves_the_training_run_its_config(place: SimpleNamespace) -> None:
    before = (place.root / "run" / "config.yaml").read_text()
    folder = ["--trainer.default_root_dir", str(place.root / "run"), "--trainer.logger", "false"]
    rows = ["--data.val", str(place.root / "rows.jsonl")]
    cli = RewardCLI(["validate", "--ckpt_path", place.checkpoint, *rows, *folder])
    assert 0 <= cli.trainer.callback_metrics["val/accuracy"] <= 1
    assert (place.root / "run" / "config.yaml").read_text() == before
    assert "num_layers: 3" in (place.root / "run" / "config_validate.yaml").read_text()
    assert any(isinstance(callback, GracefulStop) for callback in cli.trainer.callbacks)
    assert yaml.safe_load(before)["trainer"]["use_distributed_sampler"] is False
    assert yaml.safe_load(before)["seed_everything"] == 0


def test_printed_config_parses_to_itself(
    place: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("fit", "--config", place.config, "--print_config") == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    assert exit_code("fit", "--config", str(tmp_path / "printed.yaml"), "--print_config") == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("given", ["option", "file"])
def test_a_list_that_is_given_replaces_that_of_the_config(place: SimpleNamespace, tmp_path: Path, given: str) -> None:
    """One source over one, one route over one, of the same length and class: nothing of the first is kept."""
    source = {"class_path": "JSONLSource", "init_args": {"path": str(place.root / "rows.jsonl")}}
    limited = {"class_path": "JSONLSource", "init_args": {**source["init_args"], "limit": 5}}
    routes = [[{"when": {"modality": "image"}, "members": ["a"]}], [{"when": {"category": "c"}, "members": ["b"]}]]
    model = [{"class_path": "EnsembleRM", "init_args": {"members": {"a": "a", "b": "b"}, "routes": r}} for r in routes]
    (tmp_path / "first.yaml").write_text(yaml.safe_dump({"data": {"test": [limited]}, "model": model[0]}))
    second = {"data.test": [source], "model.routes": routes[1]}
    if given == "file":
        (tmp_path / "second.yaml").write_text(yaml.safe_dump({"data": {"test": [source]}, "model": model[1]}))
        more = ["--config", str(tmp_path / "second.yaml")]
    else:
        more = [f"--{key}={json.dumps(value)}" for key, value in second.items()]
    config = Parsed(["test", "--config", str(tmp_path / "first.yaml"), *more]).config["test"]
    assert config.data.test[0].init_args.limit is None
    (route,) = config.model.init_args.routes
    assert (route.when.modality, route.when.category, route.members) == (None, "c", ["b"])


def test_an_option_of_the_last_item_and_an_item_more_keep_the_rest(place: SimpleNamespace) -> None:
    """Lightning's two ways to change a list of classes by options."""
    callbacks = [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/accuracy", "patience": 7}}]
    common = ["fit", "--config", place.config, f"--trainer.callbacks={json.dumps(callbacks)}"]
    (stopping,) = Parsed([*common, "--trainer.callbacks.mode=max"]).config["fit"].trainer.callbacks
    assert (stopping.init_args.patience, stopping.init_args.mode) == (7, "max")
    more = Parsed([*common, "--trainer.callbacks+=LearningRateMonitor"]).config["fit"].trainer.callbacks
    assert more[0].init_args.patience == 7 and more[1].class_path.endswith("LearningRateMonitor")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_to_workers_too_is_a_stop_that_resumes_exactly(
    place: SimpleNamespace, tmp_path: Path, name: str, code: int
) -> None:
    """Four steps of two micro-batches. The signal comes in the first half of the second, which needs one more batch."""
    common = ["fit", "--config", place.config, "--data.num_workers=1", "--trainer.max_epochs=2"]
    stop = "--trainer.callbacks=[{class_path: user_parts.CtrlC}]"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "lit_basereward",
            *common,
            stop,
            "--trainer.default_root_dir",
            str(tmp_path / "stopped"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SIGNAL": name},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    (path,) = (tmp_path / "stopped").rglob("interrupted.ckpt")
    assert f"step 2 is saved; to go on, add --ckpt_path {path}" in run.stderr
    assert torch.load(path, weights_only=True)["global_step"] == 2

    resumed = RewardCLI([*common, "--ckpt_path", str(path), "--trainer.default_root_dir", str(tmp_path / "resumed")])
    unstopped = RewardCLI([*common, "--trainer.default_root_dir", str(tmp_path / "unstopped")])
    assert resumed.trainer.global_step == unstopped.trainer.global_step == 4
    for name, weight in unstopped.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "empty.jsonl"])
def test_a_data_path_stays_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """jsonargparse would open it for the list: a .json list became as many sources, an empty file none."""
    rows = [{"prompt": "is it red", "responses": ["yes", "no"], "ratings": [1, 0]}] * 3
    file = tmp_path / name
    file.write_text({"rows.json": json.dumps(rows), "rows.jsonl": "\n".join(map(json.dumps, rows))}.get(name, ""))
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--data.train={file}", "--print_config"])
    assert not stop.value.code
    assert yaml.safe_load(capsys.readouterr().out)["data"]["train"] == str(file)
