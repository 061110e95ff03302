"""An ensemble beside its members: is it ahead of each, do they err alike, does their disagreement tell its errors?

Results are plain JSON, as those of :mod:`lit_basereward.benchmarks.diagnosis`. Several heads on one backbone are
members, too.

Shape legend: M members, C comparisons.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.diagnosis import Compared, thinned_curve
from lit_basereward.benchmarks.evidence import Evidence
from lit_basereward.benchmarks.score import compare, score
from lit_basereward.benchmarks.types import Rewards
from lit_basereward.ensemble.votes import disagreement
from lit_basereward.metrics import error_auroc


def member_rewards(evidence: Sequence[Evidence]) -> dict[str, Rewards]:
    """What each member gave a benchmark's entries, None where it does not vote.

    Args:
        evidence: of each entry.
    """
    names = dict.fromkeys(name for each in evidence for name in each.get("members", {}))
    return {
        name: [
            np.array(each["members"][name], dtype=np.float64) if name in each.get("members", {}) else None
            for each in evidence
        ]
        for name in names
    }


def member_figures(
    benchmark: Benchmark, rewards: Rewards, compared: Compared, evidence: Sequence[Evidence]
) -> dict[str, Any]:
    """Everything that the report says of an ensemble's members.

    Args:
        benchmark: the suite.
        rewards: of its entries, by the ensemble.
        compared: the ensemble's comparisons.
        evidence: of each entry, with its ``members``.

    Returns:
        - ``members``, by name: ``entries`` that it votes on; on these its ``overall`` figure, the ensemble's, and how
          far the ensemble is ahead, with the paired bootstrap's interval and p
        - ``pairs`` of members on the comparisons that both vote on: how often their verdicts ``differ``, how often
          ``both_wrong``, and the ``correlation`` of their errors
        - ``disagreement``: see :func:`_disagreement`
    """
    given = member_rewards(evidence)
    margins = _margins(given, compared)
    return {
        "members": {name: _beside(benchmark, rewards, each) for name, each in given.items()},
        "pairs": [
            {"members": [first, second], **_alike(margins[i], margins[j])}
            for (i, first), (j, second) in itertools.combinations(enumerate(given), 2)
        ],
        "disagreement": _disagreement(margins, compared.margins),
    }


def _beside(benchmark: Benchmark, rewards: Rewards, member: Rewards) -> dict[str, Any]:
    """A member's overall figure and the ensemble's, on the entries that both scored."""
    shared = [own is not None and whole is not None for own, whole in zip(member, rewards, strict=True)]
    whole, own = (
        score(benchmark, [given if both else None for given, both in zip(each, shared, strict=True)])
        for each in (rewards, member)
    )
    ahead = compare(whole, own)["overall"]
    return {
        "entries": sum(shared),
        "overall": own.figures["overall"].value,
        "ensemble": whole.figures["overall"].value,
        "ahead": ahead.value,
        "interval": [ahead.low, ahead.high],
        "p": ahead.p,
    }


def _margins(given: dict[str, Rewards], compared: Compared) -> Tensor:
    """[M, C] reward of the better response less that of the worse, NaN where a member does not vote."""
    found = torch.full((len(given), len(compared.entry)), torch.nan, dtype=torch.float64)
    places = list(zip(compared.entry.tolist(), compared.better.tolist(), compared.worse.tolist(), strict=True))
    for m, rewards in enumerate(given.values()):
        for c, (e, i, j) in enumerate(places):
            own = rewards[e]
            if own is not None:
                found[m, c] = float(own[i] - own[j])
    return found


def _alike(first: Tensor, second: Tensor) -> dict[str, Any]:
    """How much the errors of two members have in common; their correlation is NaN where one makes none."""
    both = ~(first.isnan() | second.isnan())
    wrong = torch.stack([first[both] <= 0, second[both] <= 0]).double()
    num = int(both.sum())
    return {
        "comparisons": num,
        "differ": float((wrong[0] != wrong[1]).double().mean()) if num else float("nan"),
        "both_wrong": float(wrong.prod(0).mean()) if num else float("nan"),
        "correlation": float(torch.corrcoef(wrong)[0, 1]) if num > 1 else float("nan"),
    }


def _disagreement(members: Tensor, ensemble: Tensor) -> dict[str, Any]:
    """Whether the members' disagreement tells the ensemble's errors.

    Disagreement is the standard deviation over members of the probability ``sigmoid(margin)`` that the better response
    wins: offsets of rewards, which pairs cannot fit, are not in it, nor is their scale where members are sure. (The
    standard deviation of the margins themselves grows with them: large where all are sure and right.)

    Args:
        members: [M, C] margins.
        ensemble: [C] margins.

    Returns:
        ``comparisons``; ``auroc`` of disagreement for errors, beside it that of the standard deviation of margins
        (``auroc_of_std``) and of a small margin of the ensemble's, which needs no members (``auroc_of_margin``);
        ``when_right`` and ``when_wrong``, the mean disagreement; and ``risk_coverage``, answering first where the
        members agree.
    """
    voters = (~members.isnan()).sum(0)
    members, ensemble = members[:, voters > 1], ensemble[voters > 1]
    if not len(ensemble):
        return {"comparisons": 0}
    spread, right = disagreement(members.sigmoid()), ensemble > 0
    return {
        "comparisons": len(ensemble),
        "auroc": error_auroc(spread, right),
        "auroc_of_std": error_auroc(disagreement(members), right),
        "auroc_of_margin": error_auroc(-ensemble.abs(), right),
        "when_right": float(spread[right].mean()),
        "when_wrong": float(spread[~right].mean()),
        "risk_coverage": thinned_curve(-spread, right),
    }


def member_notes(figures: dict[str, Any]) -> list[str]:
    """Sentences for below a table."""
    found = []
    for name, each in figures["members"].items():
        low, high = each["interval"]
        found.append(
            f"member {name}: {each['overall']:.4f} on its {each['entries']:,} rows, where the ensemble has "
            f"{each['ensemble']:.4f}: {each['ahead']:+.4f} [{low:+.4f}, {high:+.4f}], p = {each['p']:.4f}"
        )
    for each in figures["pairs"]:
        if each["comparisons"]:
            alike = f"correlation of errors {each['correlation']:.3f}"
            if math.isnan(each["correlation"]):
                alike = "their errors have no correlation, as one of them errs in none or in all"
            found.append(
                f"{' and '.join(each['members'])}: verdicts differ in {each['differ']:.4f} of {each['comparisons']:,} "
                f"comparisons, both are wrong in {each['both_wrong']:.4f}; {alike}"
            )
    return [*found, *_disagreement_notes(figures["disagreement"])]


def _disagreement_notes(spread: dict[str, Any]) -> list[str]:
    """A sentence; none where no two members voted together."""
    if not spread["comparisons"]:
        return []
    if math.isnan(spread["auroc"]):
        errs = "errs in none" if math.isnan(spread["when_wrong"]) else "is wrong in all"
        return [
            f"the ensemble {errs} of {spread['comparisons']:,} comparisons on which members vote together: there is "
            "nothing that disagreement could tell apart"
        ]
    return [
        f"disagreement of members tells errors with an AUROC of {spread['auroc']:.3f} (of their probabilities; "
        f"{spread['auroc_of_std']:.3f} of their margins), a small margin with {spread['auroc_of_margin']:.3f}; 0.5 "
        f"is chance. Area under risk-coverage by agreement {spread['risk_coverage']['aurc']:.3f}"
    ]
