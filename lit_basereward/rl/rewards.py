"""What a policy's completions are worth: the paper's three rewards (section 5), and sums of rewards.

Each knows no trainer. The rule's ``accuracy`` is logged beside whatever a model says, so that a model's reward which
rises while accuracy does not is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from lit_basereward.data.types import ImagePart, Preference, RowError
from lit_basereward.rl.answers import Form, check_formulas, extract, matches, options_of, truths
from lit_basereward.rl.reward import Reward
from lit_basereward.rl.scoring import GroupScores, Model, open_model
from lit_basereward.rl.task import Sample


class RuleReward(Reward):
    """1 where the answer is right, else 0.

    An answer is found in ``\\boxed{}``, in ``<answer>``, behind ``####``, behind "the answer is", or on the last line,
    in this order; the true one is taken out of the first three, too. It is compared as text, as a choice (its letter,
    or the text of that option in the prompt), and as a number with its unit. docs/rl.md has the rules.

    Args:
        form: ``any`` of these places, or only ``boxed`` or ``tagged``: then an answer elsewhere counts as none.
        tolerance: relative, for numbers; whole numbers without a unit have to be hit.
        maths: compare formulas as well, which takes math-verify (extra ``rl``) and the main thread.
    """

    def __init__(self, form: Form = "any", tolerance: float = 1e-3, maths: bool = False) -> None:
        if form not in get_args(Form):
            raise ValueError(f"form is {form!r}; use one of: {', '.join(get_args(Form))}")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance is {tolerance}; it is relative, so use a number from 0 to below 1")
        self.form, self.tolerance, self.maths = form, tolerance, maths

    def prepare(self) -> None:
        """Raise ``ValueError`` where math-verify is needed and not there, or not in the main thread."""
        if self.maths:
            check_formulas()

    def __call__(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """``answer`` of the samples is the right one.

        Raises:
            RowError: for a sample without an answer.
        """
        for sample in samples:
            if not truths(sample.answer):
                raise RowError(f"{sample.where or 'a prompt'} has no answer to compare with; give it one, or remove it")
        accuracy = [float(self.right(text, sample)) for text, sample in zip(completions, samples, strict=True)]
        return {"reward": accuracy, "accuracy": accuracy}

    def right(self, completion: str, sample: Sample) -> bool:
        """Whether a completion has the sample's answer."""
        if self.maths:
            check_formulas()  # now, not at the first formula of a long run
        given = extract(completion, self.form)
        if given is None:
            return False
        asked = "\n".join(part for turn in sample.prompt for part in turn.content if not isinstance(part, ImagePart))
        options = options_of(asked)
        return any(matches(given, truth, options, self.tolerance, self.maths) for truth in truths(sample.answer))

    def accuracy(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """What to log beside a model's reward: NaN for samples without an answer, nothing where none has one."""
        found = [
            float(self.right(text, sample)) if truths(sample.answer) else math.nan
            for text, sample in zip(completions, samples, strict=True)
        ]
        return {} if all(map(math.isnan, found)) else {"accuracy": found}


class _FromModel(Reward):
    """What the rewards that ask a model have in common: one pass for each group of completions of one prompt."""

    def __init__(
        self, model: str, rule: RuleReward | None = None, device: str | None = None, allow: list[str] | None = None
    ) -> None:
        self.model, self.device, self.allow = model, device, allow or []
        self.rule = rule or RuleReward()
        self._opened: Model | None = None

    def prepare(self) -> None:
        """Load the model, or ask a served one what its rewards mean.

        Raises:
            ValueError: if there is none, or its rewards cannot be used so.
        """
        self.rule.prepare()
        if self._opened is None:
            opened = open_model(self.model, self.device, self.allow)
            self.check(opened)
            self._opened, self.comparable_across_rows = opened, opened.comparable_across_rows

    def check(self, model: Model) -> None:
        """Raise ``ValueError`` where the model's rewards do not serve."""

    def scores(self, completions: Sequence[str], samples: Sequence[Sample]) -> GroupScores:
        """Scores of all completions, [N] in their order.

        Raises:
            ValueError: where a model that only compares is given a completion alone, and without one sample for each.
        """
        if not completions or len(completions) != len(samples):
            raise ValueError(f"there are {len(completions)} completions and {len(samples)} samples; give one for each")
        self.prepare()
        assert self._opened is not None
        groups: dict[object, list[int]] = {}
        for n, sample in enumerate(samples):
            groups.setdefault((sample.prompt, sample.images), []).append(n)
        rows = [_row([completions[n] for n in group], samples[group[0]]) for group in groups.values()]
        if not self.comparable_across_rows and any(len(row.responses) < 2 for row in rows):
            raise ValueError(
                f"the model {self.model!r} compares the responses of one prompt, and its rewards mean nothing across "
                "prompts, but here a prompt has one completion; give every prompt a group, held-out ones too "
                "(settings.num_generations_eval), or use a model that scores single responses"
            )
        scored = self._opened.score(rows)
        order = torch.tensor([n for group in groups.values() for n in group]).argsort()
        odds = [each.log_odds for each in scored]
        known = [each for each in odds if each is not None]
        return GroupScores(
            torch.cat([each.rewards for each in scored])[order],
            torch.cat(known)[order] if len(known) == len(odds) else None,
        )

    def log_odds(self, scores: GroupScores) -> Tensor:
        """[N] ``(r - offset) / T``.

        Raises:
            ValueError: without a calibration that has an offset.
        """
        if scores.log_odds is None:
            raise ValueError(
                f"the model {self.model!r} has no calibration, so nothing says which reward is a good one; fit it on "
                "held-out rows: python -m lit_basereward calibrate --ckpt_path ... --data ..."
            )
        return scores.log_odds


class ModelReward(_FromModel):
    """A reward model's reward, raw as in the paper unless told otherwise.

    Args:
        model: checkpoint, export, ensemble, or ``http(s)://`` URL of a served model.
        rule: finds the ``accuracy`` that is logged beside it; None is ``RuleReward`` as it is.
        standardize: take log-odds of being good, ``(r - offset) / T`` by the model's calibration, so that models of
            different scales can be summed and clipped alike.
        clip: bound the reward to plus and minus this, after standardising. None does not.
        length_penalty: taken off, after clipping, for every 1,000 characters beyond ``free_length``.
        free_length: characters that cost nothing.
        device: where the model computes; None is this process's GPU, else the CPU.
        allow: modules of yours whose classes the checkpoint may name.
    """

    def __init__(
        self,
        model: str,
        rule: RuleReward | None = None,
        standardize: bool = False,
        clip: float | None = None,
        length_penalty: float = 0.0,
        free_length: int = 0,
        device: str | None = None,
        allow: list[str] | None = None,
    ) -> None:
        super().__init__(model, rule, device, allow)
        if clip is not None and not clip > 0:
            raise ValueError(f"clip is {clip}; use a number above 0, or null for none")
        if not (math.isfinite(length_penalty) and length_penalty >= 0 and free_length >= 0):
            raise ValueError(
                f"length_penalty is {length_penalty} and free_length {free_length}; they cannot be below 0 or NaN"
            )
        self.standardize, self.clip = standardize, clip
        self.length_penalty, self.free_length = length_penalty, free_length

    def check(self, model: Model) -> None:
        """Rewards that mean something only beside others of their prompt have no common scale."""
        if self.standardize and not model.comparable_across_rows:
            raise ValueError(
                f"the model {self.model!r} compares the responses of one prompt, so its rewards of different prompts "
                "have no common scale; leave standardize out (GRPO compares inside a group anyway)"
            )

    def __call__(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """Parts: ``model``, the raw reward, and ``accuracy``."""
        scores = self.scores(completions, samples)
        values = self.log_odds(scores) if self.standardize else scores.rewards
        if self.clip is not None:
            values = values.clamp(-self.clip, self.clip)
        beyond = torch.tensor([max(0, len(text) - self.free_length) / 1000 for text in completions])
        rewards = values - self.length_penalty * beyond
        accuracy = self.rule.accuracy(completions, samples)
        return {"reward": rewards.tolist(), "model": scores.rewards.tolist(), **accuracy}


class HybridReward(_FromModel):
    """The paper's hybrid: 1 where the rule finds the answer right, else ``sigmoid(r)``.

    The offset of a Bradley-Terry reward is arbitrary, so ``r`` is taken as ``(r - offset) / T`` by the model's
    calibration: the probability that the response is good (our choice).

    Args:
        model: checkpoint, export, ensemble, or ``http(s)://`` URL of a served model; with a calibration that has an
            offset.
        rule: what is right; None is ``RuleReward`` as it is.
        device: where the model computes; None is this process's GPU, else the CPU.
        allow: modules of yours whose classes the checkpoint may name.
    """

    def __init__(
        self, model: str, rule: RuleReward | None = None, device: str | None = None, allow: list[str] | None = None
    ) -> None:
        super().__init__(model, rule, device, allow)

    def check(self, model: Model) -> None:
        """A single response of a model that only compares has no probability."""
        if not model.comparable_across_rows:
            raise ValueError(
                f"the model {self.model!r} compares the responses of one prompt, so a single one has no probability of "
                "being good; use a model that scores single responses, or ModelReward and RuleReward in a WeightedSum"
            )

    def __call__(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """Parts: ``accuracy`` of the rule, ``model``, the raw reward, and ``probability``, that of all completions."""
        accuracy = self.rule(completions, samples)["accuracy"]
        scores = self.scores(completions, samples)
        probability = torch.sigmoid(self.log_odds(scores)).tolist()
        return {
            "reward": [1.0 if right else p for right, p in zip(accuracy, probability, strict=True)],
            "accuracy": accuracy,
            "model": scores.rewards.tolist(),
            "probability": probability,
        }


class WeightedSum(Reward):
    """A weighted sum of rewards. The parts of each are logged; a name that an earlier one has gets its number behind.

    Args:
        rewards: what is summed.
        weights: one for each.
    """

    def __init__(self, rewards: list[Reward], weights: list[float]) -> None:
        if not rewards or len(rewards) != len(weights):
            raise ValueError(f"there are {len(rewards)} rewards and {len(weights)} weights; give one weight for each")
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"the weights are {weights}; use finite numbers")
        self.rewards, self.weights = rewards, weights

    def prepare(self) -> None:
        """Prepare each."""
        for reward in self.rewards:
            reward.prepare()
        self.comparable_across_rows = all(reward.comparable_across_rows for reward in self.rewards)

    def __call__(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """Parts: those of each."""
        found = [reward(completions, samples) for reward in self.rewards]
        columns = zip(*(each["reward"] for each in found), strict=True)
        total = [sum(w * r for w, r in zip(self.weights, column, strict=True)) for column in columns]
        parts: dict[str, list[float]] = {}
        for number, each in enumerate(found, start=1):
            for name in each.keys() - {"reward"}:
                parts[f"{name}_{number}" if name in parts else name] = each[name]
        return {"reward": total, **parts}


def _row(completions: Sequence[str], sample: Sample) -> Preference:
    """A group as a row, as everything else that is scored."""
    return Preference("", sample.prompt, tuple(completions), images=sample.images, where=sample.where)
