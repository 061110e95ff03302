"""Rows as a pairwise judge sees them: two responses behind the question, in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.chat import ChatEncoder
from lit_basereward.data.collator import tokens_in
from lit_basereward.data.instructions import InstructionCollator, WrittenItem, targets
from lit_basereward.data.sampler import FILLER
from lit_basereward.data.templates import JUDGE_FIELDS, Template
from lit_basereward.data.types import Preference
from lit_basereward.data.verdict import judgement_fault, verdict_place
from lit_basereward.nn.language import Targets

if TYPE_CHECKING:
    from lit_basereward.data.scan import Scan

Style = Literal["verdict", "reasoning"]
"""What a judge writes: one token that names the better response, or its thoughts and then the answer."""


class Comparison(NamedTuple):
    """One order of two responses.

    Args:
        first: response of the row that is shown as 1.
        second: response that is shown as 2.
        answer: ids that the judge is to write; empty where it is asked, not taught.
        verdict: which of them is the verdict.
    """

    first: int
    second: int
    answer: Sequence[int] = ()
    verdict: int = 0


@dataclass
class JudgeItem(WrittenItem):
    """One row for a judge.

    Args:
        comparisons: of each branch, responses counted in the row.
        same_as: first response of the row with the same text as each.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    same_as: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class JudgeBatch(Batch):
    """A batch of which each branch is one order of two responses. Shape legend: N responses, B branches.

    ``layout.pooled`` [B] is where a branch's verdict is predicted. ``row``, ``ratings``, ``lengths`` and ``truncated``
    are of the N responses; ``lengths`` counts responses whole, and ``truncated`` is True where any branch shows less.

    A branch with ``first == second`` compares nothing: it stands in for a row without anything to compare (all
    responses have the same text; in training, no ratings that differ), since each row has at least one branch. It is to
    be left out of scores, votes and losses, and has no targets.

    Args:
        first: [B] the response that a branch shows as 1, by its position among the N.
        second: [B] the response that it shows as 2.
        same_as: [N] the first response of the row with the same text, itself where there is none. Of equal responses
            only that one is in branches when scoring: the others share its score.
        targets: tokens that the judge is to write, end of turn included; None outside training.
    """

    first: Tensor
    second: Tensor
    same_as: Tensor
    targets: Targets | None


class JudgeCollator(InstructionCollator):
    """Images, instructions and question as prefix; as branch two responses, the rest of the instructions, an answer.

    To score, every ordered pair of the row's distinct responses is a branch. They are taken in the order of their
    texts, so that the tokens, and with them the scores, do not depend on the order of the responses. A branch ends
    where the verdict is predicted, or the thoughts begin.

    To train on verdicts, each comparison of the row is two branches, one in either order, followed by the verdict
    token and the end of the turn: both positions are right equally often. To train on reasoning, a row is one branch,
    ``responses[0]`` as 1 and ``responses[1]`` as 2, followed by its judgement; these rows are to be balanced by
    :class:`~lit_basereward.data.sources.judged.JudgedRows`.

    Args:
        processor: of the backbone; a tokenizer for a text-only one.
        template: the instructions, with ``JUDGE_FIELDS``.
        style: what the judge writes.
        training: answers are laid out too.
        verdicts: what names the first and the second response; one token each.
        **settings: as for :class:`Collator`. Where ``cut`` is set, the longer response of a pair loses tokens first;
            two that are both too long keep equally many.

    Raises:
        ValueError: if a verdict is not one token, or both are the same.
    """

    def __init__(
        self,
        processor: Any,
        template: Template,
        style: Style,
        training: bool,
        verdicts: tuple[str, str] = ("1", "2"),
        **settings: Any,
    ) -> None:
        super().__init__(processor, template, **settings)
        assert template.fields == JUDGE_FIELDS, template.fields
        self.style, self.training = style, training
        self.verdict_ids = verdict_ids(self.chat, verdicts)

    def estimate(self, rows: Scan) -> np.ndarray:
        """See :meth:`Collator.estimate`: each branch holds two responses, and the instructions between and behind them.
        What is to be written is not counted, and no two responses are taken for the same."""
        num = rows.responses.astype(np.float32)
        branches = num * (num - 1)
        if self.training:
            branches = 2 * rows.comparisons.astype(np.float32) if self.style == "verdict" else np.ones_like(num)
        before, between, middle, behind = map(len, self._pieces)
        pair = 2 * tokens_in(rows.answers) / np.maximum(num, 1)  # of mean length, which over all pairs is exact
        answer = tokens_in(rows.judgement) if self.training and self.style == "reasoning" else 0
        return before + tokens_in(rows.prompt) + between + branches * (pair + middle + behind) + answer

    def remark(self, rows: Scan, used: np.ndarray) -> str:
        """How many rows lack judgements that are to be learnt, or anything to compare."""
        without = int((rows.judgement[used] == 0).sum())
        if self.training and self.style == "reasoning" and without:
            return f"{without:,} of {len(used):,} rows have no `judgement`; wrap their source in JudgedRows"
        single = int((rows.responses[used] == 1).sum())
        return f"{single:,} of {len(used):,} rows have one response: a judge compares two" if single else ""

    def prepare(self, index: int, row: Preference) -> JudgeItem:
        """See :meth:`Collator.prepare`.

        Raises:
            RowError: also if there is but one response, or a judgement to train on is missing or contradicts the
                ratings.
        """
        if len(row.responses) < 2:
            raise row.error("has one response, and a judge compares: give at least two, or use another paradigm")
        turn = self._turn(row)
        texts = [self.chat.text(response) for response in row.responses]
        ends = [len(turn.end) if ok else 0 for ok in row.finished or [True] * len(texts)]
        item = JudgeItem(
            **self._of_row(index, row, turn),
            lengths=[len(text) + end for text, end in zip(texts, ends, strict=True)],
            truncated=[False] * len(texts),
            same_as=[row.responses.index(response) for response in row.responses],
        )
        item.comparisons = self._comparisons(index, row, item.same_as, turn.end) or [Comparison(0, 0)]
        _, _, middle, rest = self._pieces
        for first, second, answer, _ in item.comparisons:
            behind = [*rest, *turn.close, *answer]
            fixed = len(turn.prefix) + len(middle) + len(behind)
            shown = self._shown(row, fixed, len(texts[first]), len(texts[second]))
            for k, length in zip((first, second), shown, strict=True):
                item.truncated[k] |= length < len(texts[k])
            item.branches.append([*texts[first][: shown[0]], *middle, *texts[second][: shown[1]], *behind])
            item.written.append(len(answer))
        return item

    def _comparisons(self, index: int, row: Preference, same_as: list[int], end: list[int]) -> list[Comparison]:
        if not self.training:
            distinct = sorted(set(same_as), key=lambda k: row.responses[k])
            return [Comparison(u, v) for u in distinct for v in distinct if u != v]
        if index == FILLER:
            return []
        if self.style == "verdict":
            answers = [[verdict, *end] for verdict in self.verdict_ids]
            return [
                order
                for better, worse in row.comparisons()
                for order in (Comparison(better, worse, answers[0]), Comparison(worse, better, answers[1]))
            ]
        if fault := judgement_fault(row):
            raise row.error(
                f"cannot teach a judge to reason ({fault}); wrap its source in JudgedRows, which leaves such rows out"
            )
        place = verdict_place(row.judgement)
        assert place is not None
        verdict = self.chat.token_at(row.judgement, place)
        return [Comparison(0, 1, [*self.chat.text(row.judgement), *end], verdict)]

    def _shown(self, row: Preference, fixed: int, first: int, second: int) -> tuple[int, int]:
        """How many tokens of each of two responses are shown; the same in either order."""
        room = self.max_length - fixed
        if first + second <= room:
            return first, second
        self._check_room(row, fixed, first + second, room - 1, "prompt and judgement" if self.training else "prompt")
        most = max(room - min(first, second), room // 2)
        return min(first, most), min(second, most)

    def collate(  # type: ignore[override]  # of its own items
        self, items: Sequence[JudgeItem], counts: StepCounts | None = None, dropped: Sequence[str] = ()
    ) -> JudgeBatch:
        """Lay prepared rows out as one batch of comparisons."""
        batch = super().collate(items, counts, dropped)
        learnt = targets(batch, items)  # reads the branches' ends
        # the token that predicts token v of an answer of n tokens stands n - v before the branch's last one
        back = [len(c.answer) - c.verdict if c.answer else 0 for item in items for c in item.comparisons]
        batch.layout.pooled = batch.layout.pooled - torch.tensor(back)
        starts = [0]
        for item in items:
            starts.append(starts[-1] + len(item.lengths))
        placed = list(zip(starts, items, strict=False))
        return JudgeBatch(
            **vars(batch),
            first=torch.tensor([start + c.first for start, item in placed for c in item.comparisons]),
            second=torch.tensor([start + c.second for start, item in placed for c in item.comparisons]),
            same_as=torch.tensor([start + k for start, item in placed for k in item.same_as]),
            targets=learnt,
        )


def verdict_ids(chat: ChatEncoder, verdicts: tuple[str, str]) -> tuple[int, int]:
    """Token ids of what names the first and the second response.

    Raises:
        ValueError: if a verdict is not one token, or both are the same.
    """
    ids = [chat.text(verdict) for verdict in verdicts]
    if any(len(tokens) != 1 for tokens in ids) or ids[0] == ids[1]:
        counts = " and ".join(f"{verdict!r} is {len(tokens)}" for verdict, tokens in zip(verdicts, ids, strict=True))
        raise ValueError(f"verdicts are to be two different texts of one token each; {counts}")
    return ids[0][0], ids[1][0]
