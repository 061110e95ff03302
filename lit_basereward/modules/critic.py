"""Critic-RM: writes a critique of the response first, and reads the reward behind it (MM-RLHF's, paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator, TooLongPolicy
from lit_basereward.data.critic import CriticBatch, CriticCollator, Critique
from lit_basereward.data.templates import CRITIC_FIELDS, Template
from lit_basereward.losses import BradleyTerry, RankingLoss, Regularizer, step_weight
from lit_basereward.losses.functional import comparisons
from lit_basereward.modules.base import OptimizerFactory, ScheduleFactory
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.modules.schedule import WarmupCosine
from lit_basereward.modules.writing import Writes, check_writing
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.generation import extend
from lit_basereward.nn.heads import HeadFactory, MLPHead
from lit_basereward.nn.language import LanguageRewardModel, mean_per_branch


class CriticRM(Writes, NaiveRM):
    """Scores a response behind a critique of it, trained with Bradley-Terry and on the critiques' text, in one pass.

    The prompt is the critic's instructions with images and question; a branch is a response, the critique as the
    assistant's turn, and its end of turn, where the head reads. Rows without critiques are scored as Naive-RM scores
    them. MM-RLHF also has ``TieSquared(1.0)`` and ``ZeroCoefficient(0.01)`` as regularizers, and a head of two layers
    with tanh: configs/critic_7b.yaml.

    Args:
        backbone: which model to start from and which of its parts train; its language head trains with the language
            model.
        head: factory from hidden size to reward head.
        loss: ranking loss over the comparisons of a row.
        regularizers: terms added to the loss.
        critique_weight: factor on the critiques' loss: for each comparison the mean cross-entropy per token of the
            better response's critique and of the worse one's, added up, and 0 where the row has none (MM-RLHF's code).
            Those of tied responses are not learnt (our choice).
        critique: in evaluation the model writes the critiques (``generate``), reads the row's own (``given``), or does
            without (``none``: Naive-RM, in training too).
        num_critiques: critiques to write per response; the reward is the mean behind them.
        temperature: of writing; 0 takes the likeliest token (MM-RLHF's code).
        max_new_tokens: most tokens of a critique that is written (4096 in MM-RLHF's code); one that is cut off there is
            read as it is, without an end of turn.
        stop: strings that end a critique, too; they are not part of it.
        template: ``critic``, or the path of a text file with the fields ``{question}`` and ``{response}``.
        pair_weighting: every comparison counts the same (``pair``), or every row (``row``).
        layout: ``shared`` computes each prompt and image once for all its responses, exactly; ``padded`` computes
            every response from the start.
        train_too_long: rows over ``backbone.max_length`` in training are an ``error``, or left out and counted
            (``drop``).
        score_too_long: the same in evaluation and prediction; ``cut`` takes tokens from the end of the response.
        optimizer: factory from parameters to an optimizer.
        schedule: factory from optimizer and number of steps to a schedule, stepped once per optimizer step.
        head_lr: learning rate of the reward head where it shall differ from the backbone's.
        init_from: start from the weights of another critic: a checkpoint of ours.
        allow_bf16_weights: permit precision bf16-true with a trainable backbone.

    Raises:
        ValueError: for settings that do not go together.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: HeadFactory = MLPHead,
        loss: RankingLoss = BradleyTerry(),  # noqa: B008
        regularizers: list[Regularizer] = [],  # noqa: B006
        critique_weight: float = 1.0,
        critique: Critique = "generate",
        num_critiques: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 4096,
        stop: list[str] = [],  # noqa: B006
        template: str = "critic",
        pair_weighting: Literal["pair", "row"] = "pair",
        layout: Literal["shared", "padded"] = "shared",
        train_too_long: Literal["error", "drop"] = "error",
        score_too_long: TooLongPolicy = "error",
        optimizer: OptimizerFactory = lambda parameters: torch.optim.AdamW(parameters, lr=3e-6, weight_decay=0.0),
        schedule: ScheduleFactory = WarmupCosine,
        head_lr: float | None = None,
        init_from: str | None = None,
        allow_bf16_weights: bool = False,
    ) -> None:
        if critique_weight < 0:
            raise ValueError(f"critique_weight is {critique_weight}; use a number >= 0")
        if num_critiques < 1:
            raise ValueError(f"num_critiques is {num_critiques}; use 1 or more")
        if num_critiques > 1 and critique != "generate":
            raise ValueError(f"critique is {critique}, and {num_critiques} are to be written: leave out num_critiques")
        check_writing(max_new_tokens, temperature, stop)
        if num_critiques > 1 and temperature == 0:
            raise ValueError(
                f"{num_critiques} critiques at temperature 0 are all the same; set temperature, such as 1.0"
            )
        super().__init__(
            backbone, head, loss, regularizers, pair_weighting, layout, train_too_long, score_too_long, optimizer,
            schedule, head_lr, init_from, allow_bf16_weights,
        )  # fmt: skip
        self.critique_weight, self.critique, self.num_critiques = critique_weight, critique, num_critiques
        self.template = Template(template, CRITIC_FIELDS)
        self.temperature, self.max_new_tokens, self.stop = temperature, max_new_tokens, stop

    def network(self, weights: bool) -> LanguageRewardModel:
        """Backbone with its language head, and the reward head."""
        language_model = self.backbone.load(weights=weights, language_head=True)
        head = self.head(language_model.config.get_text_config().hidden_size)
        return LanguageRewardModel(language_model, head)

    def collator(self, training: bool) -> Collator:
        """Critic's instructions as prefix, each response with its critique as one branch."""
        critique = "given" if training and self.critique == "generate" else self.critique
        return CriticCollator(
            self.backbone.processor(), template=self.template, critique=critique, **self._collation(training)
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """Naive-RM's loss on the rewards behind the critiques, and the critiques' own, from one forward pass."""
        assert isinstance(batch, CriticBatch) and self.model is not None
        targets = batch.targets if self.critique_weight > 0 else None
        rewards, token_losses = self.model(batch.inputs, batch.layout, targets)
        parts = {"ranking_loss": self.ranking(rewards, batch)}
        if self.critique_weight > 0 and self.critique != "none":
            parts["critique_loss"] = self.critique_weight * self._critique_loss(token_losses, batch)
        total = torch.stack(list(parts.values())).sum()
        logged = {name: part.detach() for name, part in parts.items()}
        return total, {"rewards": rewards.detach(), "share": total.detach(), "parts": logged}

    def _critique_loss(self, token_losses: Tensor, batch: CriticBatch) -> Tensor:
        """This micro-batch's share of the mean over comparisons of both critiques' cross-entropy per token."""
        if batch.targets is None:
            return token_losses.sum()  # of none
        per_response = mean_per_branch(token_losses, batch.targets, len(batch.row))  # 0 without a critique
        better, worse = comparisons(batch.row, batch.ratings)
        row = batch.row[better]
        weight = step_weight(row, batch, self.pair_weighting)
        return (weight * (per_response[better] + per_response[worse])).sum()

    def score(self, batch: Batch) -> Tensor:
        """Rewards [N], behind critiques that are written now, given, or not there."""
        assert isinstance(batch, CriticBatch) and self.model is not None
        if bool(batch.to_write.any()):
            return self._write_and_score(batch)
        self.cost.forwards += len(batch.row)
        self.evidence = [] if batch.targets is None else self._given(batch)
        return self.model(batch.inputs, batch.layout)[0]

    def _given(self, batch: CriticBatch) -> list[dict[str, Any]]:
        """The rows' own critiques as evidence, and none of rows that are scored without."""
        assert batch.targets is not None
        counts = torch.bincount(batch.targets.branch, minlength=len(batch.row)).tolist()
        texts = [self.writer.text(ids) for ids in batch.targets.token.cpu().split(counts)]
        rows: list[dict[str, Any]] = [{} for _ in range(len(batch))]
        for r, text, critiqued in zip(batch.row.tolist(), texts, batch.critiqued.tolist(), strict=True):
            if critiqued:
                rows[r].setdefault("critiques", []).append([text])
        return rows

    def _write_and_score(self, batch: CriticBatch) -> Tensor:
        """Two passes: critiques are written behind the prompts' cache, then read with the head."""
        model = cast(LanguageRewardModel, self.model)
        written = self.writer.write(model, batch.inputs, batch.layout, self.num_critiques)
        turns = self.writer.turns(written)
        rewards = self._read(model, batch, turns)
        self.cost.forwards += len(batch.row) * (1 + self.num_critiques)
        self.cost.generated_tokens += sum(len(ids) for some in written.tokens for ids in some)
        self.evidence = _by_row(batch, self.writer.texts(written), written.finished)
        return rewards.mean(1)

    def _read(self, model: LanguageRewardModel, batch: CriticBatch, turns: list[list[list[int]]]) -> Tensor:
        """Rewards [N, num_critiques] behind the critiques of each response, given as token ids."""
        samples = range(self.num_critiques)
        if batch.layout.shared:
            flat, branch = [turn for some in turns for turn in some], [b for b in range(len(turns)) for _ in samples]
            return model(*extend(batch.inputs, batch.layout, flat, branch))[0].unflatten(0, (-1, self.num_critiques))
        longer = [extend(batch.inputs, batch.layout, [some[n] for some in turns]) for n in samples]
        return torch.stack([model(inputs, layout)[0] for inputs, layout in longer], dim=1)


def _by_row(batch: Batch, texts: Sequence[Sequence[str]], finished: Sequence[Sequence[bool]]) -> list[dict[str, Any]]:
    """What each row's rewards rest on: its critiques, and how many never ended or say nothing."""
    rows: list[dict[str, Any]] = [{"critiques": [], "unfinished": 0, "empty": 0} for _ in range(len(batch))]
    for r, some, ends in zip(batch.row.tolist(), texts, finished, strict=True):
        rows[r]["critiques"].append(list(some))
        rows[r]["unfinished"] += sum(not end for end in ends)
        rows[r]["empty"] += sum(not text.strip() for text in some)
    return rows
