"""The model under examination, the rows it is examined with, and how both are found."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator
from lit_basereward.data.judge import JudgeCollator
from lit_basereward.data.types import ImagePart, Message, Preference
from lit_basereward.modules.base import RewardModule
from lit_basereward.modules.critic import CriticRM
from lit_basereward.modules.generative import GenerativeRM
from lit_basereward.nn.reward_model import RewardModel
from lit_basereward.scorer import Scorer
from lit_basereward.testing import random_image

LayoutName = Literal["shared", "padded"]


@dataclass
class Subject:
    """A built model and rows to try it on.

    Args:
        scorer: holds the module, on its device and in evaluation mode.
        rows: two or more.
        image_rows: those with images; made up where the user's have none; empty for a text-only backbone.
        precision: the trainer's, as far as it is known.
        checkpoint: path of what the model was loaded from, if it was.
        allow: modules whose classes a checkpoint may name.
    """

    scorer: Scorer
    rows: list[Preference]
    image_rows: list[Preference]
    precision: str = "32-true"
    checkpoint: str | None = None
    allow: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        reading(self.scorer)
        if self.judges:  # one response alone is nothing to a judge
            self.rows = comparable(self.rows) or comparable(made_up_rows(4, bool(self.image_rows)))
            self.image_rows = comparable(self.image_rows)

    @property
    def judges(self) -> bool:
        """True where a branch holds two responses."""
        return isinstance(self.collator, JudgeCollator)

    @property
    def module(self) -> RewardModule:
        """The reward module."""
        return self.scorer.module

    @property
    def collator(self) -> Collator:
        """The one that scoring uses."""
        return self.scorer.collator

    @property
    def model(self) -> RewardModel | None:
        """The network of paradigms that have one backbone and one head, else None."""
        model = getattr(self.module, "model", None)
        return model if isinstance(model, RewardModel) else None

    @property
    def training_rows(self) -> list[Preference]:
        """Rows with comparisons to make, with images among them for a backbone that reads some."""
        rows = [*self.rows, *(row for row in self.image_rows if row not in self.rows)]
        return comparable(rows) or comparable(made_up_rows(4, bool(self.image_rows)))

    @property
    def tolerance(self) -> float:
        """Of rewards in units of their spread: rounding of float32, or of bfloat16 where the backbone is stored so."""
        return 1e-4 if self.module.backbone.dtype == "float32" else 5e-2

    def with_layout(self, layout: LayoutName) -> Collator:
        """The scoring collator in another layout."""
        collator = copy.copy(self.collator)
        collator.layout = layout
        return collator

    def rewards(self, rows: Sequence[Preference], layout: LayoutName | None = None) -> list[Tensor]:
        """[K] rewards of each row, computed as one batch."""
        scorer = copy.copy(self.scorer)
        if layout is not None:
            scorer.collator = self.with_layout(layout)
        return scorer.score_rows(rows)

    def computing(self) -> torch.autocast:
        """The precision in which :class:`Scorer` computes."""
        mixed = self.module.backbone.dtype == "bfloat16"
        return torch.autocast(self.scorer.device.type, torch.bfloat16, enabled=mixed)

    def alone(self, row: Preference, k: int) -> Batch:
        """Response ``k`` of a row as a padded batch of one: nothing shared, nothing padded. The reference."""
        one = replace(
            row, responses=row.responses[k : k + 1], critiques=row.critiques[k : k + 1],
            finished=row.finished[k : k + 1], ratings=(),
        )  # fmt: skip
        return self.with_layout("padded")([(0, one)]).to(self.scorer.device)

    def branches(self, row: Preference) -> list[dict[str, Tensor]]:
        """What the backbone reads of each branch of a row alone: a response, or of a judge two of them in one order."""
        if not self.judges:
            return [self.alone(row, k).inputs for k in range(len(row.responses))]
        return [self._order(row, u, v) for u, v in self.orders(row)]

    def orders(self, row: Preference) -> list[tuple[int, int]]:
        """Of a judge's branches: the response that is shown first, and the second one."""
        item: Any = self.collator.prepare(0, row)
        return [(each.first, each.second) for each in item.comparisons]

    def _order(self, row: Preference, u: int, v: int) -> dict[str, Tensor]:
        """Two responses are two branches, one for each order, of equal images: one of them, cut out of the padding."""
        pair = replace(row, responses=(row.responses[u], row.responses[v]), ratings=(), critiques=(), finished=())
        batch = self.with_layout("padded")([(0, pair)]).to(self.scorer.device)
        b, width = self.orders(pair).index((0, 1)), batch.inputs["input_ids"].shape[1]
        length = int(batch.inputs["attention_mask"][b].sum())
        halves = {key: value.chunk(2)[b] for key, value in batch.inputs.items()}
        return {key: each[:, :length] if each.shape == (1, width) else each for key, each in halves.items()}


def reading(scorer: Scorer) -> Scorer:
    """The same, in place, that writes nothing: what it writes may turn on a rounding, and with it the rewards.

    A critic then reads the rows' critiques, where all responses have one; a judge that thinks first is asked for its
    verdict at once.
    """
    if isinstance(scorer.module, CriticRM) and scorer.module.critique == "generate":
        scorer.module.critique = "given"
    if isinstance(scorer.module, GenerativeRM):
        scorer.module.votes = False
    scorer.collator = scorer.module.collator(training=False)
    return scorer


def comparable(rows: Sequence[Preference]) -> list[Preference]:
    """Those with two responses or more."""
    return [row for row in rows if len(row.responses) > 1]


def difference(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """Largest difference of rewards in units of their spread.

    The spread is the standard deviation over all responses, at least a tenth of their root mean square: below that
    float32 itself cannot tell them apart better.
    """
    a, b = torch.cat(list(one)), torch.cat(list(two))
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} rewards against {len(b)}")
    return ((a - b).abs().max() / spread([b])).item()


def spread(rewards: Sequence[Tensor]) -> Tensor:
    """See :func:`difference`; scalar."""
    flat = torch.cat(list(rewards))
    return torch.maximum(flat.std(correction=0), flat.square().mean().sqrt() / 10).clamp(min=1e-9)


_WORDS = ["the", "red", "cat", "sits", "under", "a", "small", "table", "and", "is", "not", "quite", "seven", "here"]


def made_up_rows(number: int, images: bool) -> list[Preference]:
    """Rows of unequal lengths with one to four responses; of three, two have images, of unequal and oblong sizes.

    Responses begin with a newline or a space here and there, and some are in other alphabets: where tokenisers err.
    Every other row has critiques.

    Args:
        number: of rows.
        images: False leaves the images out.
    """
    rng = random.Random(0)
    oddities = ["\n\n", " ", "\u00fcber ", "\u732b "]

    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(_WORDS, k=rng.randint(low, high)))

    rows = []
    for i in range(number):
        sizes = [(84, 56), (56, 112), (56, 56)][: (i + 1) % 3] if images else []
        refs = tuple(random_image(size, seed=10 * i + j) for j, size in enumerate(sizes))
        prompt = [Message("user", (*(ImagePart() for _ in refs), words(3, 12)))]
        if i % 2:
            prompt += [Message("assistant", (words(1, 6),)), Message("user", (words(2, 8),))]
        responses = tuple(oddities[(i + k) % 4] + words(1, 12) + f" {k}" for k in range((2, 4, 3, 1)[i % 4]))
        ratings = tuple(float(r) for r in rng.sample(range(len(responses)), len(responses)))
        critiques = tuple(f"It is {k} times right." for k in range(len(responses))) if i % 2 == 0 else ()
        row = Preference(f"made-up-{i}", tuple(prompt), responses, ratings, refs, critiques, where=f"made-up row {i}")
        rows.append(row)
    return rows


def row_sets(
    given: Sequence[Preference], number: int, reads_images: bool
) -> tuple[list[Preference], list[Preference], str]:
    """Rows, rows with images, and one line that says where they come from."""
    rows = list(given) or made_up_rows(number, reads_images)
    with_images = [row for row in rows if row.images]
    told = f"{len(rows)} {'given' if given else 'made-up'} rows, {len(with_images)} of them with images"
    if reads_images and len(with_images) < 2:
        with_images = [row for row in made_up_rows(max(number, 4), True) if row.images]
        told += f"; {len(with_images)} made-up ones with images for the checks on images"
    return rows, with_images, told


def reads_images(config: Any) -> bool:
    """True for a vision-language model's configuration."""
    return getattr(config, "vision_config", None) is not None
