"""The parser of the command line: errors of one line that name the file, and configs by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from lit_basereward.cli_configs import find_configs, read_configs
from lit_basereward.cli_errors import one_line, shorten, unknown_command, unknown_key
from lit_basereward.cli_merging import mend_merging
from lit_basereward.cli_tools import TOOLS

mend_merging()


class RewardParser(LightningArgumentParser):
    """Lightning's parser, with errors of one line.

    Attributes:
        commands: the parsers of the subcommands, by name.
        arguments: what is parsed.
        configs: what its config files hold, by their paths.
        debug: show errors as jsonargparse writes them.
    """

    commands: dict[str, LightningArgumentParser] = {}
    arguments: Sequence[str] = ()
    configs: dict[str, dict[str, Any]] = {}
    debug = False

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that ends with the offending key and what is accepted there, and exit with code 2."""
        if not self.exit_on_error or self.debug:
            super().error(message, ex)
        text = one_line(self._shorten(message))
        sys.stderr.write(f"error: {self._blamed(text)}{text}\n")
        sys.exit(2)

    def with_packaged_configs(self, args: Sequence[str], own: bool = True) -> list[str]:
        """Arguments with the paths of configs that are the package's, and a line for each of these.

        Args:
            args: of the command line.
            own: the configs' keys are this parser's options; others are an error that names the file.
        """
        try:
            self.arguments, lines = find_configs(args)
            self.configs = read_configs(self.arguments)
        except ValueError as error:
            self.error(str(error), error)
        report(lines)
        for path, content in self.configs.items() if own else ():
            for key in content.keys() - {option.split(".")[0] for option in self._options()}:
                self.error(f"config {path}: {unknown_key(str(key), self._options())}")
        return list(self.arguments)

    def _options(self) -> list[str]:
        """Those of the command that is given, dotted."""
        command = next((argument for argument in self.arguments if argument in self.commands), "")
        return [option.dest for option in self.commands.get(command, self)._actions if option.dest != "help"]

    def _blamed(self, text: str) -> str:
        """The one config that has the word which an error is about, if the command line has it not."""
        word = re.search(r"'([^']+)'", text)
        if word is None or text.startswith("config ") or any(word[1] in argument for argument in self.arguments):
            return ""
        having = [path for path, content in self.configs.items() if _has(content, word[1])]
        return f"config {having[0]}: " if len(having) == 1 else ""

    def _shorten(self, message: str) -> str:
        if message.startswith("argument subcommand: invalid choice"):
            return unknown_command(message.split("'")[1], [*self.commands, *TOOLS])
        if message.startswith('expected "subcommand"'):
            return f"no command given; accepted: {', '.join([*self.commands, *TOOLS])}"
        if message.startswith("unrecognized arguments: -"):
            return unknown_key(message.split()[2].lstrip("-").partition("=")[0], self._options())
        if message.startswith("Subcommand ") and "does not accept option" in message:
            return unknown_key(message.split("'")[3], self._options())
        if "is not accepted before subcommand" in message:
            return f"{message}; accepted: --config behind the command"
        return shorten(message)


def _has(settings: Any, word: str) -> bool:
    """Whether a key or a value in it is this word, or a dotted path with it."""
    if isinstance(settings, dict):
        return any(_has(key, word) or _has(value, word) for key, value in settings.items())
    if isinstance(settings, list):
        return any(_has(each, word) for each in settings)
    return f".{word}." in f".{settings}."


@rank_zero_only
def report(lines: Sequence[str]) -> None:
    """Print lines beside the output, once in a run of several processes."""
    for line in lines:
        print(line, file=sys.stderr)
