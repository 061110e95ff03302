"""What is given replaces what was there: two mends of how jsonargparse merges settings."""

from __future__ import annotations

from typing import Any

import jsonargparse
from jsonargparse import Namespace


def _forget_other_class(parser: Any, before: Any, now: Any) -> None:
    """Settings of one class are not those of another.

    jsonargparse keeps them where names agree: a user's head with ``num_layers: int = 6`` would get the 2 of our default
    head, without a word.
    """
    if before and "init_args" in before:
        names = [str(spec["class_path"]).rpartition(".")[2] for spec in (before, now)]  # YAML may give the name alone
        if names[0] != names[1]:
            before["init_args"] = Namespace()


def _replace_lists(value: Any, *args: Any, **options: Any) -> Any:
    """A list that is given replaces the one before it.

    jsonargparse merges lists of equal length item by item: a source would get the ``limit``, a route the ``when`` of
    that which it replaces, without a word.
    """
    if isinstance(value, list) and not options.get("append"):
        options["prev_val"] = None
    return _adapt_typehints(value, *args, **options)


_adapt_typehints: Any = jsonargparse._typehints.adapt_typehints


def mend_merging() -> None:
    """Put both in place. Calling it again changes nothing."""
    jsonargparse._typehints.discard_init_args_on_class_path_change = _forget_other_class
    jsonargparse._typehints.adapt_typehints = _replace_lists  # type: ignore[assignment]
