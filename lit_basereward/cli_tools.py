"""Tools: functions that hang on the command line, ``python -m lit_basereward NAME``.

A tool is a function with types and a Google-style docstring, which are its options and its ``--help``. A parameter that
is positional-only is given without an option, and an option that takes a list may be repeated.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from docstring_parser import parse

if TYPE_CHECKING:
    from lit_basereward.cli_parser import RewardParser

TOOLS = {
    "calibrate": "lit_basereward.calibrate:calibrate",
    "curate": "lit_basereward.curate:curate",
    "doctor": "lit_basereward.doctor.run:doctor",
    "ensemble": "lit_basereward.ensemble.fitting:ensemble",
    "export": "lit_basereward.serving.export:export",
    "grpo": "lit_basereward.rl.grpo:grpo",
    "report": "lit_basereward.benchmarks.report:report",
    "serve": "lit_basereward.serving.server:serve",
}
"""Module and function of each tool; imported when it is called."""


def run_tool(name: str, args: Sequence[str], parser_class: type[RewardParser], debug: bool = False) -> None:
    """Parse the arguments of a tool, and call it.

    Args:
        name: of the tool.
        args: arguments behind its name; ``--config FILE.yaml`` gives options by name.
        parser_class: of the command line, for its errors of one line.
        debug: show errors as jsonargparse writes them.
    """
    module, _, attribute = TOOLS[name].partition(":")
    function = getattr(import_module(module), attribute)
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    positional = [each.name for each in parameters if each.kind is each.POSITIONAL_ONLY]
    described = parse(inspect.getdoc(function) or "")
    explained = {each.arg_name: each.description for each in described.params}

    parser = parser_class(prog=f"python -m lit_basereward {name}", description=described.short_description or "")
    parser.debug = debug
    if "config" not in hints:  # else it is the tool's own
        parser.add_argument("-c", "--config", action="config", help="YAML file with options by name.")
    for each in positional:
        parser.add_argument(each, metavar=each.upper(), type=hints[each], help=explained.get(each))
    # without sub-configs, as in the commands: the path of a data file is no config
    parser.add_function_arguments(function, skip=set(positional), sub_configs=False)
    lists = [f"--{key}" for key, hint in hints.items() if _is_list(hint)]
    args = parser.with_packaged_configs(args, own="config" not in hints)
    parsed = parser.parse_args([_append(argument, lists) for argument in args])
    settings = vars(parser.instantiate_classes(parsed))
    if "config" not in hints:
        settings.pop("config", None)
    given = [settings.pop(each) for each in positional]
    function(*given, **settings)


def _is_list(hint: Any) -> bool:
    """True for a list, and for one that may be null."""
    return any(get_origin(each) is list for each in (hint, *get_args(hint)))


def _append(argument: str, lists: Sequence[str]) -> str:
    """``--rewards`` as jsonargparse's ``--rewards+``, which appends."""
    option, equals, value = argument.partition("=")
    return f"{option}+{equals}{value}" if option in lists else argument
