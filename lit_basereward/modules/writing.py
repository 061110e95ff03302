"""How critics and judges write: settings of generation, and the texts that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lit_basereward.data.chat import ChatEncoder
from lit_basereward.data.types import Message
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.generation import Generated
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.layout import Layout


def check_writing(max_new_tokens: int, temperature: float, stop: Sequence[str] | None) -> None:
    """Refuse settings that nothing can be written with.

    Raises:
        ValueError: naming the setting.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; use 1 or more")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; use 0, which takes the likeliest token, or more")
    if stop is None or isinstance(stop, str) or "" in stop:
        raise ValueError(f"stop is {stop!r}; give a list of texts that are not empty, in YAML in quotes")


@dataclass
class Writer:
    """Writes behind the branches of a batch.

    Args:
        processor: of the backbone; a tokenizer for a text-only one.
        max_new_tokens: most tokens of a text.
        temperature: of sampling; 0 takes the likeliest token.
        stop: strings that end a text, too.
        text_tokens: added tokens that keep their meaning inside texts.
    """

    processor: Any
    max_new_tokens: int
    temperature: float = 0.0
    stop: Sequence[str] = ()
    text_tokens: Sequence[str] = ()
    chat: ChatEncoder = field(init=False)
    end_of_turn: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.chat = ChatEncoder(self.processor, self.text_tokens)
        _, self.end_of_turn = self.chat.around_response((Message("user", ("",)),))

    def write(
        self, model: LanguageRewardModel, inputs: dict[str, Tensor], layout: Layout, num_samples: int = 1
    ) -> Generated:
        """Texts behind every branch; the prompts and images are computed once."""
        tokenizer = self.chat.tokenizer
        added = tokenizer.added_tokens_decoder
        ends = {self.end_of_turn[-1], tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
        return model.generate(
            inputs,
            layout,
            end_ids=sorted(ends),
            max_new_tokens=self.max_new_tokens,
            num_samples=num_samples,
            temperature=self.temperature,
            stop_strings=self.stop,
            tokenizer=tokenizer,
            suppress_ids=sorted(
                {i for i, token in added.items() if token.special} - ends
            ),  # such as image placeholders
        )

    def text(self, ids: Sequence[int] | Tensor) -> str:
        """Token ids as text, special tokens left out."""
        return self.chat.tokenizer.decode(ids, skip_special_tokens=True)

    def texts(self, written: Generated) -> list[list[str]]:
        """[branches][samples] as text."""
        return [[self.text(ids) for ids in some] for some in written.tokens]

    def turns(self, written: Generated) -> list[list[list[int]]]:
        """[branches][samples] as token ids of whole turns: those that ended have their end of turn, others have not."""
        return [
            [ids + self.end_of_turn if ended else ids for ids, ended in zip(some, ends, strict=True)]
            for some, ends in zip(written.tokens, written.finished, strict=True)
        ]


class Writes:
    """What paradigms that write have: the writer, made on first use, since it reads a tokenizer."""

    backbone: Backbone
    max_new_tokens: int
    temperature: float
    stop: list[str]

    @cached_property
    def writer(self) -> Writer:
        """How texts are written, by this module's settings."""
        processor, tokens = self.backbone.processor(), self.backbone.text_tokens
        return Writer(processor, self.max_new_tokens, self.temperature, self.stop, tokens)
