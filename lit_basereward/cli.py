"""The command line: Lightning's own, with short errors and checkpoints that never override a config in silence."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from lit_basereward.allowed import check_classes
from lit_basereward.callbacks.interrupt import GracefulStop
from lit_basereward.callbacks.predictions import PredictionWriter
from lit_basereward.callbacks.progress import RowProgressBar, StepProgressBar
from lit_basereward.cli_checkpoint import (
    load_checkpoint,
    load_export,
    model_differences,
    model_section,
    restored_differences,
    settle_last,
)
from lit_basereward.cli_errors import one_line
from lit_basereward.cli_parser import RewardParser, report
from lit_basereward.cli_tools import TOOLS, run_tool
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.ensemble.folder import is_ensemble, read_ensemble
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.modules.base import RewardModule
from lit_basereward.modules.critic import CriticRM  # noqa: F401 - imported, so that YAML can name it without its path
from lit_basereward.modules.ensemble import EnsembleRM  # noqa: F401
from lit_basereward.modules.generative import GenerativeRM  # noqa: F401
from lit_basereward.modules.naive import NaiveRM  # noqa: F401
from lit_basereward.serving.folder import is_export


class RewardCLI(LightningCLI):
    """LightningCLI for reward models: ``fit``, ``validate``, ``test`` and ``predict``.

    A checkpoint given by ``--ckpt_path`` brings its own model section where no ``model`` is given. Where one is given
    it wins, and what differs from the checkpoint is printed. (Stock Lightning lets the checkpoint win, silently.)

    Args:
        args: arguments of the command line, without the program's name.
        debug: show errors of the config as jsonargparse writes them.
    """

    def __init__(self, args: list[str], debug: bool = False) -> None:
        self.debug = debug
        self.checkpoint: dict[str, Any] = {}
        super().__init__(
            RewardModule,
            PreferenceDataModule,
            # the datamodule splits rows over devices itself, without repeating any
            trainer_defaults={"use_distributed_sampler": False, "callbacks": [GracefulStop()]},
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_class=RewardParser,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            args=args,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Stock, but that ``model`` may be left out: a checkpoint may hold it."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": v for key, v in self.trainer_defaults.items() if key != "callbacks"})
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True, required=False)
        # Without sub-configs: else jsonargparse opens the path of a data file and takes its content for the list.
        parser.add_class_arguments(self._datamodule_class, "data", fail_untyped=False, sub_configs=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Where `predict` writes is asked for so often that it has options of its own."""
        parser.add_lightning_class_args(PredictionWriter, "predictions")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with a checkpoint's model section in front of what is given where that names no model."""
        assert isinstance(parser, RewardParser) and isinstance(args, list)
        parser.debug, parser.commands = self.debug, self._subcommand_parsers
        args = parser.with_packaged_configs(args)
        for each in self._subcommand_parsers.values():
            assert isinstance(each, RewardParser)
            each.debug, each.arguments, each.configs = self.debug, args, parser.configs
        for command in ("validate", "test"):  # our own table says it in five lines
            self._subcommand_parsers[command].set_defaults(verbose=False)
        checkpoint_path, model_given = self._look_ahead(parser, args)
        if checkpoint_path and is_export(checkpoint_path):
            self.checkpoint = load_export(checkpoint_path, next(each for each in args if each in parser.commands))
            args = [*args, "--ckpt_path=null", f"--model.init_from={checkpoint_path}"]
        elif checkpoint_path and is_ensemble(checkpoint_path):
            self.checkpoint, args = read_ensemble(checkpoint_path), [*args, "--ckpt_path=null"]
        elif checkpoint_path:
            self.checkpoint = load_checkpoint(checkpoint_path)
        section = model_section(self.checkpoint)
        if section and not model_given:
            self._check_classes()
            after_command = next((i for i, arg in enumerate(args, 1) if arg in self._subcommand_parsers), len(args))
            args = [*args[:after_command], f"--model={json.dumps(section)}", *args[after_command:]]
        self.config = parser.parse_args(args)

    def _check_classes(self) -> None:
        """Build from a checkpoint alone only what `load` would build without being told more."""
        try:
            check_classes(self.checkpoint["hyper_parameters"], allow=())
        except ValueError as error:
            reason = str(error).partition("; ")[0]
            raise ValueError(
                f"{reason}; if you trust it, give the model section yourself, such as by --config with the config.yaml "
                "of its run"
            ) from error

    def _look_ahead(self, parser: RewardParser, args: list[str]) -> tuple[str | None, bool]:
        """The checkpoint's path, and whether a model is named, on the command line or in a YAML file."""
        options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        options.add_argument("--ckpt_path", nargs="?")
        options.add_argument("--model", "--model.class_path", nargs="?")
        known, _ = options.parse_known_args(args)
        checkpoint_path, model_given = None, known.model is not None
        for content in parser.configs.values():
            model = content.get("model")
            model_given |= isinstance(model, str) or (isinstance(model, dict) and "class_path" in model)
            checkpoint_path = content.get("ckpt_path", checkpoint_path)
        return known.ckpt_path or checkpoint_path, model_given

    def _parse_ckpt_path(self) -> None:
        # Lightning's hook of this name merges the checkpoint's hyper-parameters over the config.
        if self.config[self.config.subcommand].model is None:
            self.parser.error("no model; accepted: --model NaiveRM, a config with one, or a --ckpt_path that holds one")
        if self.checkpoint:
            self._dump_config()
            model = self.config_dump["model"]
            del self.config_dump  # made again when the seed is known
            lines = model_differences(self.checkpoint, model, RewardModule)
            if self.config.subcommand == "fit":
                lines += restored_differences(self.checkpoint, model)
            report(lines)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Stock, with a progress bar that counts steps in training, and rows in evaluation."""
        section = self.config[self.subcommand].trainer
        given = section.get("callbacks") or []
        bars = [c for c in (given if isinstance(given, list) else [given]) if "ProgressBar" in str(c.class_path)]
        if section.enable_progress_bar is not False and not bars:
            bar = StepProgressBar() if self.subcommand == "fit" else RowProgressBar()
            self.trainer_defaults["callbacks"] = [*self.trainer_defaults["callbacks"], bar]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Tell the trainer of the checkpoint: stock would only after pretrained weights were read for nothing."""
        if stored := self.checkpoint.get("calibration"):  # of an export; a checkpoint's is read again with its weights
            self.model.calibration = Calibration.from_dict(stored)
        settings = self.config_init[self.subcommand]
        path = settings.ckpt_path
        if path == "last":
            path, lines = settle_last(self.trainer)
            if path is None and self.subcommand != "fit":
                raise ValueError(f"--ckpt_path last: {'; '.join(lines).removesuffix(', starting anew')}; name one")
            report(lines)
            settings.ckpt_path = None
        if path and os.path.exists(path):
            self.trainer.ckpt_path, settings.ckpt_path = path, None

    before_validate = before_test = before_predict = before_fit

    def before_instantiate_classes(self) -> None:
        """Leave a training run its config where an evaluation goes to the same folder."""
        if self.subcommand != "fit":
            self.save_config_kwargs["config_filename"] = f"config_{self.subcommand}.yaml"
            # of a checkpoint's callbacks: those that save are of no use here
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")


def main(args: list[str] | None = None) -> None:
    """Run one command, such as ``main(["fit", "--config", "configs/demo.yaml"])``.

    Args:
        args: arguments of the command line; None takes the program's own. With ``--debug`` among them, or
            ``LIT_BASEREWARD_DEBUG=1`` in the environment, errors come with their traceback.

    Raises:
        SystemExit: with 2 for a config that does not parse and 1 for data, files or settings that do not work, after
            one line on stderr; with 130 or 143 after Ctrl-C or SIGTERM.
    """
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given or os.environ.get("LIT_BASEREWARD_DEBUG", "0") not in ("", "0")
    # Not about the user's run: a deprecation inside Lightning, and its advertisements.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_about_the_run)
    given = [argument for argument in given if argument != "--debug"]
    try:
        if given and given[0] in TOOLS:
            run_tool(given[0], given[1:], RewardParser, debug)
        else:
            RewardCLI(given, debug)
    except (ValueError, OSError, MisconfigurationException) as error:
        if debug:
            raise
        sys.stderr.write(f"error: {one_line(error)}\n")
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error
    except SIGTERMException as stop:
        raise SystemExit(143) from stop
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes it exit code 1
            raise SystemExit(130) from stop
        raise


def _about_the_run(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
