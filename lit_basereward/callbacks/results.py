"""Figures of one source of rows, and the table of all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_basereward.benchmarks.evidence import COST, evidence_figures
from lit_basereward.benchmarks.score import Result
from lit_basereward.callbacks.gathering import Gathered
from lit_basereward.losses.functional import comparisons
from lit_basereward.metrics import accuracy_interval, pair_accuracy_by_row, reward_length_correlation


@dataclass
class SourceResult:
    """What a model reached on one source.

    Args:
        rows: evaluated rows.
        comparisons: strictly ordered pairs in them.
        accuracy: share of comparisons whose better response scores strictly higher (ties are wrong).
        low, high: 95 % interval of the accuracy, rows as clusters.
        reward_ties: share of comparisons with equal rewards.
        margin: mean reward difference of better and worse.
        log_loss: mean of -log sigmoid(reward difference), in nats: Bradley-Terry's loss; 0.693 for equal rewards.
        better_reward, worse_reward: means; the ``_std`` their standard deviations.
        reward_length_correlation: Pearson, over responses. This one and the means are None where rewards are comparable
            inside a row only.
        dropped: rows left out because they could not be read.
        evidence: see :func:`~lit_basereward.benchmarks.evidence.evidence_figures`.
        cost: of a row, see :class:`~lit_basereward.modules.cost.Cost`.
    """

    rows: int
    comparisons: int
    accuracy: float
    low: float
    high: float
    reward_ties: float
    margin: float
    log_loss: float
    better_reward: float | None = None
    better_reward_std: float | None = None
    worse_reward: float | None = None
    worse_reward_std: float | None = None
    reward_length_correlation: float | None = None
    dropped: int = 0
    evidence: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def logs(self) -> dict[str, float]:
        """All figures by name but the cost, which hangs on the machine too."""
        own = {key: value for key, value in asdict(self).items() if key not in ("evidence", "cost")} | self.evidence
        return {key: float(value) for key, value in own.items() if value is not None}


def source_result(found: Gathered, comparable_across_rows: bool = True) -> SourceResult:
    """Figures of one source, and what they cost.

    Args:
        found: by the model.
        comparable_across_rows: of the model.
    """
    result = evaluate(
        found.index, found.rewards, found.ratings, found.lengths, len(found.dropped), comparable_across_rows
    )
    result.evidence, result.cost = evidence_figures(found.evidence.values()), found.cost.per_row()
    return result


def evaluate(
    index: Tensor,
    rewards: Tensor,
    ratings: Tensor,
    lengths: Tensor,
    dropped: int = 0,
    comparable_across_rows: bool = True,
) -> SourceResult:
    """Figures of one source.

    Args:
        index: [N] row of each response, ascending.
        rewards: [N]
        ratings: [N] NaN is unrated.
        lengths: [N] tokens.
        dropped: rows that were left out.
        comparable_across_rows: False where a reward means something only beside the others of its row.
    """
    rows, row = torch.unique_consecutive(index, return_inverse=True)
    correct, ties, total = pair_accuracy_by_row(rewards, row, ratings)
    accuracy, low, high = accuracy_interval(correct, total)
    better, worse = comparisons(row, ratings)
    b, w = rewards[better], rewards[worse]

    result = SourceResult(
        rows=len(rows),
        comparisons=len(b),
        accuracy=accuracy,
        low=low,
        high=high,
        reward_ties=(ties.sum() / total.sum()).item(),
        margin=_mean_std(b - w)[0],
        log_loss=-F.logsigmoid(b - w).mean().item(),
        dropped=dropped,
    )
    if comparable_across_rows:
        result.better_reward, result.better_reward_std = _mean_std(b)
        result.worse_reward, result.worse_reward_std = _mean_std(w)
        result.reward_length_correlation = float(reward_length_correlation(rewards, lengths))
    return result


def _mean_std(values: Tensor) -> tuple[float, float]:
    return (values.mean().item(), values.std(correction=0).item()) if len(values) else (float("nan"),) * 2


def results_table(
    results: dict[str, SourceResult], suites: dict[str, Result], blank_of: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """``{source: {rows, accuracy, low, high, accuracy_blank_image, cost}}``, a blanked copy beside its source.

    Args:
        results: by source.
        suites: of the sources that are benchmarks: their accuracy is the official overall figure, and ``figures`` has
            all of them. Figures of a critic's and a judge's evidence stand beside the accuracy by their own names.
        blank_of: name of a source with blanked images -> name of the source itself.
    """
    blanks = {blank_of[name]: result.accuracy for name, result in results.items() if name in blank_of}
    table = {}
    for name, result in results.items():
        if blank_of.get(name) in results:
            continue
        accuracy, low, high = result.accuracy, result.low, result.high
        line: dict[str, Any] = {"rows": result.rows}
        if name in suites:
            overall = suites[name].figures["overall"]
            accuracy, low, high = overall.value, overall.low, overall.high
            line["figures"] = {key: figure.value for key, figure in suites[name].figures.items()}
        line |= {"accuracy": accuracy, "low": low, "high": high, "accuracy_blank_image": blanks.get(name)}
        table[name] = line | result.evidence | {"cost": result.cost}
    return table


def format_table(table: dict[str, dict[str, Any]]) -> str:
    """The table as aligned text; below it, how many of the texts that were written are no good. Forwards, generated
    tokens and seconds are those of a row on average."""
    width = max([len("source"), *map(len, table)])
    judged = any("position_consistency" in r for r in table.values())
    head = f"{'source':<{width}}   rows  accuracy  95 % interval   image blanked  forwards   tokens  seconds"
    lines = [f"{head}{'  both orders agree' if judged else ''}"]
    for name, r in table.items():
        blank = "" if r["accuracy_blank_image"] is None else f"{r['accuracy_blank_image']:.3f}"
        cost = [f"{r['cost'][key]:.3g}" if r["cost"] else "" for key in COST]
        line = (
            f"{name:<{width}}  {r['rows']:>5}  {r['accuracy']:>8.3f}  {r['low']:.3f} to {r['high']:.3f}  {blank:>14}"
            f"  {cost[0]:>8}  {cost[1]:>7}  {cost[2]:>7}"
        )
        lines.append(f"{line}  {r.get('position_consistency', float('nan')):>17.3f}" if judged else line)
    return "\n".join([*lines, *(f"{name}: {fault}" for name, r in table.items() for fault in _faults(r))])


def _faults(line: dict[str, Any]) -> list[str]:
    """What is wrong with the texts that rewards rest on: without a word, a judge that never answers is a model at 0."""
    kinds = {"unparsed": "votes", "empty": "critiques", "unfinished": "critiques"}
    of = {key: f" of {line[kind]:,} {kind}" if kind in line else "" for key, kind in kinds.items()}
    return [f"{line[key]:,}{of[key]} are {key}" for key in kinds if line.get(key)]
