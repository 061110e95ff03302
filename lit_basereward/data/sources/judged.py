"""Rows that a judge can learn to reason from: their judgement names the response that is rated higher."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import Preference, RowError
from lit_basereward.data.verdict import judgement_fault, parse_verdict


class JudgedRows(Source):
    """The rows of a source whose judgement can be read and agrees with the ratings, as many for 1 as for 2.

    A judgement says 1 and 2 throughout, so that its responses cannot be swapped to balance the verdicts: rows of the
    commoner one are left out instead. The source underneath is read once for it, by every process that needs the rows;
    what was found is printed where data are prepared. Rows that cannot be read stay, for the datamodule to deal with.

    Args:
        source: rows with judgements; its name is kept.
        balance: leave out rows of the commoner verdict, so that a position is right half of the time, as in R1-Reward's
            training data. False keeps them all.
        seed: of which ones.
    """

    def __init__(self, source: Source, balance: bool = True, seed: int = 0) -> None:
        self.source, self.balance, self.seed = source, balance, seed
        self.name = source.name
        self._kept: np.ndarray | None = None
        self._counts: Counter[str] = Counter()

    def prepare(self) -> None:
        """Prepare the source underneath, read it, and print what is kept and why other rows are not."""
        self.source.prepare()
        self._kept = None
        kept = len(self)
        counts = ", ".join(f"{count:,} {what}" for what, count in self._counts.items())
        print(f"judgements of {self.name or type(self.source).__name__}: {kept:,} rows kept; {counts}", flush=True)

    def __len__(self) -> int:
        """Number of rows kept."""
        return len(self._rows())

    def __getitem__(self, index: int) -> Preference:
        """The row, unchanged; errors are those of the source."""
        return self.source[int(self._rows()[index])]

    def fingerprint(self) -> str:
        """That of the source underneath, and which of its rows are kept."""
        return f"judged:{self.balance}:{self.seed}:{self.source.fingerprint()}"

    def _rows(self) -> np.ndarray:
        if self._kept is None:
            self._kept = self._find()
        return self._kept

    def _find(self) -> np.ndarray:
        """Positions in the source, ascending, and the counts beside them."""
        verdicts: dict[int, list[int]] = {1: [], 2: []}
        bad: list[int] = []
        faults: Counter[str] = Counter()
        for index in range(len(self.source)):
            try:
                row = self.source[index]
            except RowError:
                bad.append(index)
                continue
            if fault := judgement_fault(row):
                faults[fault] += 1
            else:
                verdict = parse_verdict(row.judgement)
                assert verdict is not None
                verdicts[verdict].append(index)
        rarer = min(map(len, verdicts.values())) if self.balance else None
        rng = np.random.default_rng(self.seed)
        kept = [rng.permutation(rows)[:rarer] for rows in verdicts.values()]
        self._counts = Counter({f"say {verdict}": len(rows) for verdict, rows in verdicts.items()}) + faults
        if left_out := sum(map(len, verdicts.values())) - sum(map(len, kept)):
            self._counts["left out for balance"] = left_out
        if bad:
            self._counts["cannot be read"] = len(bad)
        return np.sort(np.concatenate([*kept, bad]).astype(np.int64))
