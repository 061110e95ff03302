"""What rewards rest on: the critiques that a critic wrote, a judge's verdicts in both orders; and what they cost.

The evidence of a row is a plain dict, in a module's ``evidence`` and in the lines of predictions and rewards:

- of a critic: ``critiques``, a list of texts for each response; ``empty`` and ``unfinished``, how many of them are
- of a judge: ``votes``, ``[[i, j, wins of i, wins of j, unparsed], ...]``, or ``log_odds``,
  ``[[i, j, log-odds that i beats j], ...]``, where response i was presented first and j second; ``judgements``, the
  texts, in the order of ``votes``
- of an ensemble, and of several heads: ``members``, ``{name: [a reward for each response]}`` of those that vote on it;
  ``judges``, names of the members whose scores mean something inside their row only, if there are any
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.metrics import order_swap_consistency

Evidence = dict[str, Any]
KEYS = ("critiques", "empty", "unfinished", "votes", "log_odds", "judgements", "members", "judges")
COST = ("forwards", "generated_tokens", "seconds")
"""What is told of a scored row's cost, on average."""


@dataclass(frozen=True)
class Account:
    """What a model gives beside its rewards on a benchmark.

    Args:
        evidence: of each entry, with the numbers that its responses have there; empty if there is none.
        figures: of :func:`evidence_figures`.
        cost: ``forwards``, ``generated_tokens`` and ``seconds`` of one scored row on average; empty if not known.
        comparable_across_rows: False where a reward means something only beside the other responses of its row.
    """

    evidence: Sequence[Evidence] = ()
    figures: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    comparable_across_rows: bool = True

    def notes(self) -> list[str]:
        """Sentences for below a table."""
        f, found = self.figures, []
        if "position_consistency" in f:
            first = f"; the response that is presented first wins {f['first_wins']:.4f}"
            found.append(
                f"position consistency {f['position_consistency']:.4f}: the share of response pairs with the same "
                f"verdict in both orders{'' if math.isnan(f['first_wins']) else first}"
            )
        if "unparsed" in f:
            found.append(f"{f['unparsed']:,} of {f['votes']:,} votes were not parsed; each is half a vote each way")
        texts = [f"{f[key]:,} {key}" for key in ("empty", "unfinished") if key in f]
        if texts:
            of = f" of {f['critiques']:,} critiques" if "critiques" in f else ""
            found.append(f"{' and '.join(texts)}{of}")
        if not self.comparable_across_rows:
            found.append(
                "rewards of this model are comparable inside a row only: their distribution over rows and their "
                "correlation with length are left out"
            )
        return found

    def cost_of_a_row(self) -> str:
        """The cost in words; empty if it is not known."""
        if not self.cost:
            return ""
        forwards, tokens, seconds = (self.cost[key] for key in COST)
        return f"per row: {forwards:.4g} forwards, {tokens:.4g} generated tokens, {seconds:.3g} s"


def evidence_of(line: dict[str, Any]) -> Evidence:
    """What of a line is evidence."""
    return {key: line[key] for key in KEYS if key in line}


def is_judged(evidence: Evidence) -> bool:
    """True if a pairwise judge gave it."""
    return "votes" in evidence or "log_odds" in evidence


def is_inside_row(evidence: Evidence) -> bool:
    """True if rewards mean something beside the others of their row only: a judge gave them, or has a say in them."""
    return is_judged(evidence) or bool(evidence.get("judges"))


def evidence_figures(rows: Iterable[Evidence]) -> dict[str, float]:
    """Figures of a source's evidence, those that there is something for.

    Args:
        rows: evidence of each scored row.

    Returns:
        - ``position_consistency`` and ``first_wins``: ``consistent`` and ``first_wins`` of
          :func:`~lit_basereward.metrics.order_swap_consistency`, over all pairs of a row's responses that were
          presented in both orders. NaN without one.
        - ``votes`` and ``unparsed``: how many votes there are, and how many of them could not be parsed.
        - ``critiques``, ``empty`` and ``unfinished``: how many texts there are, and how many of them are so.
    """
    rows = list(rows)
    found: dict[str, float] = {}
    if any(map(is_judged, rows)):
        margins = [pair for row in rows for pair in _both_orders(row)]
        swap = order_swap_consistency(*torch.tensor(margins, dtype=torch.float64).reshape(-1, 2).unbind(1))
        found |= {"position_consistency": swap.consistent, "first_wins": swap.first_wins}
    votes = [vote for row in rows for vote in row.get("votes", [])]
    if votes:
        found |= {"votes": sum(sum(vote[2:]) for vote in votes), "unparsed": sum(vote[4] for vote in votes)}
    critiques = [texts for row in rows for texts in row.get("critiques", [])]
    if critiques:
        found["critiques"] = sum(map(len, critiques))
    for key in ("empty", "unfinished"):
        counts = [row[key] for row in rows if key in row]
        if counts:
            found[key] = sum(counts)
    return found


def ahead(evidence: Evidence) -> dict[tuple[int, int], float]:
    """How far response i is ahead of j, by (i, j), i presented first: log-odds, or votes for i less votes for j.

    NaN without a parsed vote; an order without any vote is not there.
    """
    found = {(i, j): math.nan if odds is None else float(odds) for i, j, odds in evidence.get("log_odds", [])}
    for i, j, for_i, for_j, unparsed in evidence.get("votes", []):
        if for_i + for_j + unparsed:
            found[i, j] = float(for_i - for_j) if for_i + for_j else math.nan
    return found


def _both_orders(evidence: Evidence) -> list[tuple[float, float]]:
    """How far i is ahead of j > i, presented first and presented second, of all pairs that were presented in both."""
    found = ahead(evidence)
    return [(each, -found[j, i]) for (i, j), each in found.items() if i < j and (j, i) in found]


def judgements(evidence: Evidence) -> list[tuple[tuple[int, int] | None, str]]:
    """A judge's texts, each with the two responses in the order in which it saw them, None where that is not told."""
    texts = evidence.get("judgements", [])
    orders = [(i, j) for i, j, *counts in evidence.get("votes", []) for _ in range(sum(counts))]
    return list(zip(orders if len(orders) == len(texts) else [None] * len(texts), texts, strict=True))


def entry_evidence(benchmark: Benchmark, rows: dict[int, Evidence], responses: dict[int, int]) -> list[Evidence]:
    """Evidence of scored rows as evidence of a benchmark's entries, which may be parts of rows.

    Args:
        benchmark: whose rows were scored.
        rows: evidence by row.
        responses: how many each of these rows has.
    """
    # entry_rewards selects, so it also tells which row, and which of its responses, an entry's rewards come from
    row_of = benchmark.entry_rewards({row: np.full(num, row) for row, num in responses.items()})
    place_of = benchmark.entry_rewards({row: np.arange(num) for row, num in responses.items()})
    return [
        {} if row is None or place is None else _select(rows.get(int(row[0]), {}), place.astype(int).tolist())
        for row, place in zip(row_of, place_of, strict=True)
    ]


def _select(evidence: Evidence, responses: list[int]) -> Evidence:
    """What is about these responses, numbered anew; counts are the row's and stay behind."""
    number = {old: new for new, old in enumerate(responses)}
    found: Evidence = {}
    if "critiques" in evidence:
        found["critiques"] = [evidence["critiques"][old] for old in responses]
    if "members" in evidence:
        found["members"] = {name: [given[old] for old in responses] for name, given in evidence["members"].items()}
    for key in ("votes", "log_odds"):
        if key in evidence:
            about = [line for line in evidence[key] if line[0] in number and line[1] in number]
            found[key] = [[number[i], number[j], *rest] for i, j, *rest in about]
    if "judges" in evidence:
        found["judges"] = evidence["judges"]
    if "judgements" in evidence:
        told = judgements(evidence)
        found["judgements"] = [text for pair, text in told if pair is None or set(pair) <= number.keys()]
    return found


# ------------------------------------------------------------------------------------------------- from files
def read_evidence(record: dict[str, Any], responses: int, where: str) -> Evidence:
    """The evidence of a line of a rewards file.

    Args:
        record: the line.
        responses: how many its row has.
        where: file and line, for errors.

    Raises:
        ValueError: if a key does not hold what this module says.
    """
    found = evidence_of(record)
    for key, value in found.items():
        fits, form = _FORMS[key]
        if not fits(value, responses):
            raise ValueError(f"{where} has {json.dumps(value)[:80]} as `{key}`; beside `rewards` give {form}")
    return found


def read_cost(record: dict[str, Any], where: str) -> dict[str, float]:
    """The cost of a line of a rewards file.

    Raises:
        ValueError: if it is none.
    """
    cost = record["cost"]
    if not isinstance(cost, dict) or not all(_is_number(cost.get(key)) and cost[key] >= 0 for key in COST):
        raise ValueError(
            f"{where} has {json.dumps(cost)[:80]} as `cost`; give {', '.join(COST)}, each a number from 0 on, or "
            "leave `cost` out"
        )
    return {key: float(cost[key]) for key in COST}


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_critiques(value: Any, responses: int) -> bool:
    return isinstance(value, list) and len(value) == responses and all(map(_are_texts, value))


def _are_pairs(value: Any, responses: int, width: int, rest: Callable[[Any], bool]) -> bool:
    """A list of ``[i, j, ...]`` with positions of two responses."""
    return isinstance(value, list) and all(
        isinstance(line, list)
        and len(line) == width
        and all(_is_count(place) and place < responses for place in line[:2])
        and line[0] != line[1]
        and all(map(rest, line[2:]))
        for line in value
    )


def _are_members(value: Any, responses: int) -> bool:
    return isinstance(value, dict) and all(
        isinstance(given, list) and len(given) == responses and all(map(_is_number, given)) for given in value.values()
    )


_FORMS: dict[str, tuple[Callable[[Any, int], bool], str]] = {
    "critiques": (_are_critiques, "a list of texts for each response"),
    "empty": (lambda value, _: _is_count(value), "a count"),
    "unfinished": (lambda value, _: _is_count(value), "a count"),
    "votes": (
        lambda value, responses: _are_pairs(value, responses, 5, _is_count),
        "[[i, j, wins of i, wins of j, unparsed], ...] with positions of responses, or `votes` alone in all lines",
    ),
    "log_odds": (
        lambda value, responses: _are_pairs(value, responses, 3, lambda odds: odds is None or _is_number(odds)),
        "[[i, j, log-odds that i beats j], ...] with positions of responses",
    ),
    "judgements": (lambda value, _: _are_texts(value), "a list of texts"),
    "judges": (lambda value, _: _are_texts(value), "a list of names"),
    "members": (_are_members, "a number for each response under the name of each member that votes"),
}
