"""Generative RM: a judge that reads two responses and says which is better (paper section 3.1; R1-Reward).

Shape legend: N responses, B branches: ordered pairs of responses.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator, TooLongPolicy
from lit_basereward.data.judge import JudgeBatch, JudgeCollator, Style, verdict_ids
from lit_basereward.data.templates import JUDGE_FIELDS, Template
from lit_basereward.data.verdict import parse_verdict
from lit_basereward.losses import step_weight
from lit_basereward.modules.base import OptimizerFactory, RewardModule, ScheduleFactory
from lit_basereward.modules.schedule import WarmupCosine
from lit_basereward.modules.writing import Writes, check_writing
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.generation import extend
from lit_basereward.nn.language import LanguageRewardModel, VerdictHead, mean_per_branch

Evidence = list[dict[str, Any]]


class GenerativeRM(Writes, RewardModule):
    """Judges two responses in one prompt, in both orders, without a head of its own; trained on what it should say.

    ``d_ij``, the log-odds that i beats j, is the mean over both orders, and the score of i is ``1/K sum_j d_ij``:
    swapped responses swap their scores bit for bit, and for K = 2 ``sigmoid(s_1 - s_2)`` is the averaged probability.
    Scores mean something inside their row only. K responses cost K (K - 1) judgements; one response is an error.

    Args:
        backbone: which model to start from and which of its parts train.
        style: ``verdict`` reads the logits of the two answers in one pass and writes nothing; ``reasoning`` writes
            ``<think>...</think><answer>1</answer>`` and counts the answers.
        template: ``verdict`` or ``reasoning``, or the path of a text file with the fields ``{question}``,
            ``{first}`` and ``{second}``; None is the style's own.
        verdicts: what says that the first, or the second response is better; one token each.
        num_votes: judgements per order in style ``reasoning`` (R1-Reward's best is 15, at temperature 1).
        temperature: of writing; 0 takes the likeliest token.
        stop_when_decided: in rows of two responses cast no more votes once they cannot change which one wins. The
            size of the difference is then that of the votes that were cast.
        max_new_tokens: most tokens of a judgement (our choice); one that is cut off there may lack an answer.
        stop: strings that end a judgement, too; they are not part of it.
        pair_weighting: every comparison counts the same (``pair``), or every row (``row``), as always in style
            ``reasoning``, where a row has one judgement.
        layout: ``shared`` computes each prompt and image once for all its pairs, exactly; ``padded`` computes every
            pair from the start.
        train_too_long: rows over ``backbone.max_length`` in training are an ``error``, or left out and counted
            (``drop``).
        score_too_long: the same in evaluation and prediction; ``cut`` takes tokens from the ends of the responses.
        optimizer: factory from parameters to an optimizer. AdamW at 1e-5 is R1-Reward's for supervised training.
        schedule: factory from optimizer and number of steps to a schedule, stepped once per optimizer step.
        allow_bf16_weights: permit precision bf16-true with a trainable backbone.

    Raises:
        ValueError: for settings that do not go together.
    """

    comparable_across_rows = False

    def __init__(
        self,
        backbone: Backbone,
        style: Style = "verdict",
        template: str | None = None,
        verdicts: tuple[str, str] = ("1", "2"),
        num_votes: int = 1,
        temperature: float = 0.0,
        stop_when_decided: bool = True,
        max_new_tokens: int = 2048,
        stop: list[str] = [],  # noqa: B006
        pair_weighting: Literal["pair", "row"] = "pair",
        layout: Literal["shared", "padded"] = "shared",
        train_too_long: Literal["error", "drop"] = "error",
        score_too_long: TooLongPolicy = "error",
        optimizer: OptimizerFactory = lambda parameters: torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0),
        schedule: ScheduleFactory = WarmupCosine,
        allow_bf16_weights: bool = False,
    ) -> None:
        if num_votes < 1:
            raise ValueError(f"num_votes is {num_votes}; use 1 or more")
        if num_votes > 1 and style == "verdict":
            raise ValueError(
                "style verdict reads logits and casts no votes: leave out num_votes, or set style: reasoning"
            )
        if style == "reasoning" and tuple(verdicts) != ("1", "2"):
            raise ValueError(f"verdicts are {verdicts}, and style reasoning answers 1 or 2: leave out verdicts")
        check_writing(max_new_tokens, temperature, stop)
        if num_votes > 1 and temperature == 0:
            raise ValueError(f"{num_votes} votes at temperature 0 are all the same; set temperature, such as 1.0")
        super().__init__(
            backbone,
            layout,
            train_too_long,
            score_too_long,
            optimizer,
            schedule,
            allow_bf16_weights=allow_bf16_weights,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.save_hyperparameters(ignore=["optimizer", "schedule"])
        self.style, self.verdicts, self.pair_weighting = style, verdicts, pair_weighting
        self.votes = style == "reasoning"
        self.num_votes, self.temperature, self.stop_when_decided = num_votes, temperature, stop_when_decided
        self.max_new_tokens, self.stop = max_new_tokens, stop
        self.template = Template(template or style, JUDGE_FIELDS)
        self.trained = True  # there is no head to be random: an instructed model judges as it is

    def network(self, weights: bool) -> LanguageRewardModel:
        """Backbone with its language head, of which the verdicts are read.

        Raises:
            ValueError: if a verdict is not one token.
        """
        language_model = self.backbone.load(weights=weights, language_head=True)
        verdicts = verdict_ids(self.writer.chat, self.verdicts)
        return LanguageRewardModel(language_model, VerdictHead(language_model, *verdicts))

    def collator(self, training: bool) -> Collator:
        """Judge's instructions as prefix, two responses in one order as one branch."""
        return JudgeCollator(
            self.backbone.processor(),
            template=self.template,
            style=self.style,
            verdicts=self.verdicts,
            training=training,
            **self._collation(training),
        )

    # ------------------------------------------------------------------------------------------------- training
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy per token of what the judge should say; a comparison's two orders have half a say each."""
        assert isinstance(batch, JudgeBatch) and self.model is not None
        log_odds, token_losses = self.model(batch.inputs, batch.layout, batch.targets)
        total = 0.0 * log_odds.sum()
        if batch.targets is not None:
            taught = batch.first != batch.second  # [B] others stand for rows without anything to learn
            per_branch = mean_per_branch(token_losses, batch.targets, len(log_odds))[taught]
            weighting = self.pair_weighting if self.style == "verdict" else "row"  # a row has one judgement
            orders = 2 if weighting == "pair" else 1
            weight = step_weight(batch.row[batch.first[taught]], batch, weighting) / orders
            total = total + (weight * per_branch).sum()
        rewards = scores(log_odds.detach(), batch)
        return total, {"rewards": rewards, "share": total.detach()}

    # -------------------------------------------------------------------------------------------------- scoring
    def score(self, batch: Batch) -> Tensor:
        """Scores [N], float32; a row's scores add up to 0."""
        assert isinstance(batch, JudgeBatch) and self.model is not None
        if self.votes:
            return scores(self._vote(batch), batch)
        self.cost.forwards += len(batch.first)
        log_odds, _ = self.model(batch.inputs, batch.layout)
        self.evidence = _by_row(batch, "log_odds", [[value] for value in log_odds.tolist()])
        return scores(log_odds, batch)

    def _vote(self, batch: JudgeBatch) -> Tensor:
        """Log-odds [B] from written judgements: half a vote is added to each side."""
        model = cast(LanguageRewardModel, self.model)
        votes = torch.zeros(len(batch.first), 3)  # for the first, for the second, unparsed
        texts: list[list[str]] = [[] for _ in batch.first]
        cut_off = [0.0] * len(batch.first)
        for rounds in self._rounds(batch):
            # also where nothing is to be compared: sharded weights are gathered by all devices alike
            open_branches = list(range(len(votes))) if self.sharded else self._undecided(batch, votes)
            if not open_branches:
                break
            inputs, layout = batch.inputs, batch.layout
            if len(open_branches) < len(votes):
                inputs, layout = extend(inputs, layout, [[]] * len(open_branches), branch=open_branches)
            written = self.writer.write(model, inputs, layout, num_samples=rounds)
            self.cost.forwards += len(open_branches)  # a further round reads the prompts of open rows again
            self.cost.generated_tokens += sum(len(ids) for some in written.tokens for ids in some)
            for branch, some, ends in zip(open_branches, self.writer.texts(written), written.finished, strict=True):
                texts[branch] += some
                cut_off[branch] += sum(not ended for ended in ends)
                for text, ended in zip(some, ends, strict=True):
                    # a thought that was cut off names responses, but has not decided
                    verdict = parse_verdict(text) if ended or "</answer>" in text else None
                    votes[branch, {1: 0, 2: 1, None: 2}[verdict]] += 1
        self.evidence = _by_row(batch, "votes", votes.long().tolist(), texts)
        for row, unfinished in zip(batch.row[batch.first].tolist(), cut_off, strict=True):
            self.evidence[row]["unfinished"] = self.evidence[row].get("unfinished", 0) + int(unfinished)
        return vote_log_odds(votes).to(batch.row.device)

    def _rounds(self, batch: JudgeBatch) -> list[int]:
        """Votes per order to cast at a time: before more than half are cast nothing is decided, then one by one."""
        if not self.stop_when_decided or not batch.layout.shared or self.sharded:  # ranks write together
            return [self.num_votes]
        least = self.num_votes // 2 + 1
        return [least] + [1] * (self.num_votes - least)

    def _undecided(self, batch: JudgeBatch, votes: Tensor) -> list[int]:
        """Branches whose row can still turn: rows of more than two responses, whose scores are sums, cast all votes."""
        first, second = batch.first.tolist(), batch.second.tolist()
        place = {pair: b for b, pair in enumerate(zip(first, second, strict=True))}
        sizes = torch.bincount(batch.row).tolist()
        found = []
        for b, (i, j) in enumerate(zip(first, second, strict=True)):
            if i == j:  # stands for a row of equal responses
                continue
            here, there = votes[b], votes[place[j, i]]
            ahead = float(here[0] + there[1] - here[1] - there[0])
            remaining = 2 * self.num_votes - float(here.sum() + there.sum())
            if remaining > 0 and (sizes[int(batch.row[i])] > 2 or abs(ahead) <= remaining):
                found.append(b)
        return found


def vote_log_odds(votes: Tensor) -> Tensor:
    """Log-odds of votes with half a vote added to each side; an unparsed one is half a vote for each.

    Args:
        votes: [B, 3] for the response shown first, for the one shown second, and unparsed.

    Returns:
        [B]
    """
    sides = votes[:, :2] + votes[:, 2:] / 2 + 0.5
    return sides[:, 0].log() - sides[:, 1].log()


def scores(log_odds: Tensor, batch: JudgeBatch) -> Tensor:
    """``s_i = 1/K sum_j d_ij`` with ``d_ij = (l_ij - l_ji) / 2``: responses with the same text are equal.

    Args:
        log_odds: [B] that the first response of each branch beats its second.
        batch: says which responses those are. Orders that are not there count as even, and so does a response with
            itself.

    Returns:
        [N] scores, float32; summed in float64, so that the order of the responses leaves no trace.
    """
    n = len(batch.row)
    shown = torch.zeros(n, n, dtype=torch.float64, device=log_odds.device)
    shown[batch.first, batch.second] = log_odds.double()
    same = batch.same_as
    difference = ((shown - shown.T) / 2)[same][:, same]  # zero where the rows differ
    in_row = torch.bincount(batch.row, minlength=len(batch))[batch.row]
    return (difference.sum(1) / in_row).float()


def _by_row(batch: JudgeBatch, key: str, values: list[list[float]], texts: list[list[str]] | None = None) -> Evidence:
    """What each row's scores rest on, by places inside the row: ``[i, j, values of i before j]``."""
    start = torch.searchsorted(batch.row, torch.arange(len(batch), device=batch.row.device)).tolist()
    rows: Evidence = [{key: [], **({} if texts is None else {"judgements": []})} for _ in range(len(batch))]
    for b, (i, j) in enumerate(zip(batch.first.tolist(), batch.second.tolist(), strict=True)):
        if i == j:  # stands for a row of equal responses
            continue
        row = int(batch.row[i])
        rows[row][key].append([i - start[row], j - start[row], *values[b]])
        if texts is not None:
            rows[row]["judgements"] += texts[b]
    return rows
