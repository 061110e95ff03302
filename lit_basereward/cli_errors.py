"""Errors of the command line in one line that ends with the offending key and with what is accepted there.

jsonargparse tells of a wrong key deep in a config by the whole union of types that did not fit, level by level. The
text is a tree by indentation: this module reads it, follows the branch that came furthest, and says what went wrong at
its end. A text that it does not know is shown as it is.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module

_KEY = re.compile(r'Parser key "([^"]+)":$')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':$")
_FACTORY = re.compile(r"Type [\w.]*Callable\[\[(.*?)\], .*? expects a function or a callable class: (.*)")
_GOT_CLASS = re.compile(r"Got value: Namespace\(class_path='([^']+)'")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_TYPE = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*?))?(?:\. Got value: Namespace.*)?$")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_NO_CLASS = re.compile(r"module '([^']+)' has no attribute '([^']+)'")
_NO_MODULE = re.compile(r"No module named '([^']+)'")
_SHORT_NAME = re.compile(r"Expected a dot import path string: (\S+)")
_NUMBER = re.compile(r"<class '(?:int|float|bool)'>")
_NOT_SUBCLASS = re.compile(r"Expected '([^']+)' to be a subclass of (.+?)\.")


@dataclass
class _Line:
    """A line of the message and what is indented below it."""

    indent: int
    text: str
    below: list[_Line] = field(default_factory=list)

    def all_text(self) -> str:
        return "\n".join([self.text, *(line.all_text() for line in self.below)])


@dataclass(frozen=True)
class _Place:
    """Where in the config a line stands: the keys so far, the class there, and how many arguments it gets in code."""

    keys: tuple[str, ...] = ()
    class_path: str = ""
    given: int = 0

    @property
    def depth(self) -> int:
        return len(self.keys) + bool(self.class_path)


@dataclass(frozen=True)
class _Problem:
    depth: int
    text: str


def shorten(message: str) -> str:
    """The message of a value that does not fit its type, as one line; other messages unchanged.

    Args:
        message: of jsonargparse, many lines.
    """
    problem = _deepest(_tree(message), _Place())
    return problem.text if problem else message


def unknown_key(key: str, accepted: Iterable[str]) -> str:
    """One line for a key that no option has, such as ``trainer.max_stepz``.

    Args:
        key: dotted.
        accepted: dotted keys of all options.
    """
    accepted = list(accepted)
    place = ""
    rest = key
    while rest:
        name, _, rest = rest.partition(".")
        prefix = f"{place}." if place else ""
        here = {option.removeprefix(prefix).split(".")[0] for option in accepted if option.startswith(prefix)}
        if name not in here:
            return f"{f'{place}: ' if place else ''}{name!r} is not accepted{_choose(name, sorted(here))}"
        place = f"{prefix}{name}"
    return f"{key!r} is not accepted here"


def unknown_command(name: str, commands: Sequence[str]) -> str:
    """One line for a subcommand that does not exist."""
    return f"{name!r} is not a command{_choose(name, commands)}"


def _tree(message: str) -> list[_Line]:
    """The message's lines by indentation; the dash of a list counts as indentation."""
    root = _Line(-1, "")
    stack = [root]
    for raw in filter(str.strip, message.splitlines()):
        text = re.sub(r"^(\s*)- ", r"\1  ", raw)
        indent = len(text) - len(text.lstrip())
        text = text.strip()
        top_level = re.match(r'(Parser key "[^"]+":) (.+)', text)  # both in one line where the problem has one line
        parts = top_level.groups() if top_level else (text,)
        for offset, part in enumerate(parts):
            line = _Line(indent + offset, part)
            while stack[-1].indent >= line.indent:
                stack.pop()
            stack[-1].below.append(line)
            stack.append(line)
    return root.below


def _deepest(lines: list[_Line], place: _Place) -> _Problem | None:
    """The problem furthest down the config; of alternatives that all fail at once, their union."""
    problems = [found for line in lines if (found := _explain(line, place))]
    union = next((line.text for line in lines if line.text.startswith("Subtypes: ")), "")
    value = next((line.text for line in lines if line.text.startswith("Given value: ")), "")
    best = max(problems, key=lambda problem: problem.depth, default=None)
    number = bool(_NUMBER.search(union)) and any(_SHORT_NAME.match(each.text) for line in lines for each in line.below)
    if union and (best is None or best.depth <= place.depth or number):  # a word for a number is no name of a class
        shown = value.removeprefix("Given value: ").partition(". Got value: ")[0]
        return _Problem(place.depth, _wrong_value(place, shown, _type_name(union.removeprefix("Subtypes: ")[1:-1])))
    return best


def _explain(line: _Line, place: _Place) -> _Problem | None:
    """What a line says, or the deepest of what is below it."""
    text = line.text
    if match := _KEY.match(text):
        return _deepest(line.below, _Place((*place.keys, match[1])))
    if match := _CLASS.match(text):
        return _deepest(line.below, _Place(place.keys, match[1], place.given))
    if match := _FACTORY.match(text):
        inside = _GOT_CLASS.search(line.all_text())
        given = match[1].count(",") + 1 if match[1] else 0
        factory = _Place(place.keys, inside[1] if inside else "", given)
        return _deepest([_Line(line.indent, match[2], line.below)], factory)
    if match := _UNKNOWN.match(text):
        return _Problem(place.depth + 1, _unknown_parameter(place, match[1]))
    if match := _REQUIRED.match(text):
        owner = f"{place.class_path.rpartition('.')[2]} needs" if place.class_path else "required and not given:"
        names = match[1] if place.class_path else match[1].partition(".")[2] or match[1]
        return _Problem(place.depth + 1, f"{_path(place)}{owner} {names}")
    if wrong_class := _wrong_class(text, place):
        return _Problem(place.depth + 1, wrong_class)
    if line.below:  # "Errors:", and lines that only introduce others
        return _deepest(line.below, place)
    if (match := _TYPE.match(text)) and match[2] is not None:
        return _Problem(place.depth, _wrong_value(place, match[2], _type_name(match[1])))
    if place.keys == ("config",):
        return _Problem(place.depth, f"config: {text[0].lower()}{text[1:]}")
    return None


def _wrong_class(text: str, place: _Place) -> str:
    """What is wrong with a ``class_path``; empty if nothing is known."""
    if match := _NO_CLASS.match(text):
        module = sys.modules.get(match[1])
        public = [name for name in getattr(module, "__all__", vars(module) if module else ()) if name[0] != "_"]
        classes = {name: member for name in public if inspect.isclass(member := getattr(module, name))}
        own = [
            name for name, cls in classes.items() if cls.__module__.startswith(match[1]) and not inspect.isabstract(cls)
        ]
        return f"{_path(place)}{match[1]} has no {match[2]!r}{_choose(match[2], own)}"
    if match := _NO_MODULE.match(text):
        return (
            f"{_path(place)}there is no module {match[1]!r}; accepted: the import path of a class, such as "
            "my_package.heads.MyHead, with the package installed or its folder on PYTHONPATH"
        )
    if match := _SHORT_NAME.match(text):
        known = {
            name
            for module, content in list(sys.modules.items())
            if module.startswith("lit_basereward.")
            for name, member in vars(content).items()
            if inspect.isclass(member) and member.__module__.startswith("lit_basereward.")
        }
        return (
            f"{_path(place)}there is no class {match[1]!r}{_did_you_mean(match[1], known)} accepted: a class of "
            "lit_basereward by its name, any other by its import path, such as my_package.heads.MyHead"
        )
    if match := _NOT_SUBCLASS.match(text):
        return f"{_path(place)}{match[1]!r} is not accepted; accepted: a subclass of {_type_name(match[2]).split()[0]}"
    return ""


def _unknown_parameter(place: _Place, key: str) -> str:
    name = key.split(".")[0]
    accepted = _parameters(place.class_path, place.given)
    while name in accepted and "." in key:  # a key further down, of a plain data class
        place, key = _Place((*place.keys, name)), key.partition(".")[2]
        name, accepted = key.split(".")[0], []
    owner = f" of {place.class_path.rpartition('.')[2]}" if place.class_path else ""
    return f"{_path(place)}{name!r} is not a parameter{owner}{_choose(name, accepted)}"


def _wrong_value(place: _Place, value: str, accepted: str) -> str:
    nested = re.match(r"NestedArg\(key='([^']+)', val=(.+)\)$", value)  # given on the command line
    if nested:
        place, value = _Place((*place.keys, nested[1])), nested[2].strip("'\"")
    value = value if len(value) <= 80 else f"{value[:77]}..."
    suggestion = _did_you_mean(value, re.findall(r"'([^']+)'", accepted))
    return f"{_path(place)}{value!r} is not accepted{suggestion} accepted: {accepted}"


def _parameters(class_path: str, given: int) -> list[str]:
    """Constructor parameters of a class but for the first ``given``, which code fills in."""
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return []
    names: list[str] = []
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in names]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in names[given:] if not name.startswith("_")]


def _type_name(text: str) -> str:
    """Types as a YAML author knows them: our classes by class_path, the values of a Literal, null for NoneType."""
    text = re.sub(r"<class '([^']+\.[^']+)'>", r"\1 (class_path and init_args)", text)
    text = re.sub(r"<class '([^']+)'>", r"\1", text)
    text = re.sub(r"(?:typing\.)?Literal\[([^\]]*)\]", r"\1", text)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    return text.replace("NoneType", "null")


def _path(place: _Place) -> str:
    return f"{'.'.join(place.keys)}: " if place.keys else ""


def _did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """What stands between the offending key and the list of accepted ones."""
    close = difflib.get_close_matches(name, list(accepted), n=1)
    return f"; did you mean {close[0]!r}?" if close else ";"


def _choose(name: str, accepted: Sequence[str]) -> str:
    """Suggestion and list, to end a message with."""
    return f"{_did_you_mean(name, accepted)} accepted: {', '.join(accepted)}" if accepted else ""


def one_line(error: BaseException | str) -> str:
    """An error's message in one line, and of an error in a worker process only what it said there."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = str(error).strip() or type(error).__name__
    if text.startswith("Does not validate against any of the Union") and error.__cause__:  # type: ignore[union-attr]
        return one_line(error.__cause__)  # type: ignore[union-attr]  # of the form asked for, but refused by its class
    worker = re.match(r"Caught (\w+) in .*", text)
    if worker:
        text = re.sub(rf"^[\w.]*\b{worker[1]}: ", "", text.splitlines()[-1])
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
