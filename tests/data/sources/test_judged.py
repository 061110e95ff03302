"""Rows that a judge can learn from: which are kept, how many, and that verdicts are balanced."""

from __future__ import annotations

import pickle

import pytest

from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.judged import JudgedRows
from lit_basereward.data.types import Message, Preference, RowError
from lit_basereward.data.verdict import parse_verdict
from lit_basereward.testing import ListSource


def row(name: str, judgement: str, ratings=(1.0, 0.0)) -> Preference:
    return Preference(name, (Message("user", ("q",)),), ("a", "b"), ratings, judgement=judgement)


def rows() -> list[Preference]:
    """Six that say 1, two that say 2, and one with each fault."""
    ones = [row(f"one {n}", "<answer>1</answer>") for n in range(6)]
    twos = [row(f"two {n}", "<answer>2</answer>", (0.0, 1.0)) for n in range(2)]
    faults = [row("none", ""), row("three", "<answer>3</answer>"), row("against", "2"), row("tie", "1", (1.0, 1.0))]
    return [*ones[:3], *faults, *twos, *ones[3:]]


def test_balanced_by_seed(capsys):
    """2 of the 6 for verdict 1, both for 2, in the source's order; another seed takes others; the counts are told."""
    source = ListSource(rows(), "traces")
    judged = JudgedRows(source)
    judged.prepare()
    assert capsys.readouterr().out == (
        "judgements of traces: 4 rows kept; 6 say 1, 2 say 2, 1 no judgement, 1 no verdict in the judgement, "
        "1 judgement against the ratings, 1 no better one of the first two responses, 4 left out for balance\n"
    )
    kept = [judged[n] for n in range(len(judged))]
    assert sorted(parse_verdict(r.judgement) for r in kept) == [1, 1, 2, 2]
    places = [source.rows.index(r) for r in kept]
    assert places == sorted(places)
    draws = {tuple(r.id for r in JudgedRows(source, seed=seed)) for seed in range(8)}
    assert len(draws) > 1 and [r.id for r in JudgedRows(source)] == [r.id for r in kept]


def test_all_without_balance():
    """8 of 12, and names, fingerprints and pickles as those of other sources."""
    source = ListSource(rows(), "traces")
    judged = JudgedRows(source, balance=False)
    assert len(judged) == 8 and judged.name == "traces"
    prints = {s.fingerprint() for s in (source, judged, JudgedRows(source), JudgedRows(source, seed=1))}
    assert len(prints) == 4
    again = pickle.loads(pickle.dumps(judged))
    assert [r.id for r in again] == [r.id for r in judged]


def test_rows_that_cannot_be_read_stay():
    """Whether they stop the run is the datamodule's to say."""

    class Broken(Source):
        name = "broken"

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Preference:
            if index == 0:
                raise RowError("broken:1 is no JSON")
            if index > 1:
                raise IndexError
            return row("good", "1")

    judged = JudgedRows(Broken(), balance=False)
    assert len(judged) == 2 and judged[1].id == "good"
    with pytest.raises(RowError, match="broken:1"):
        judged[0]
    assert len(JudgedRows(ListSource([], "empty"))) == 0
