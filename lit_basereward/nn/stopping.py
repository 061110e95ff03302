"""What ends a text that is being written, and what is left of it then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class StopStrings:
    """Says of each sequence whether its text holds one of some strings; a stopping criterion for transformers.

    Its own looks at the prompt, too, and takes a string that begins there for one that was written.

    Args:
        strings: at least one, none empty.
        tokenizer: decodes.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        self.strings, self.tokenizer = strings, tokenizer
        self.tail = max(len(string.encode()) for string in strings)  # a token has at least a byte

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """[S, 1 + n] ids, the first of them the branch's own -> [S] bool."""
        tails = input_ids[:, 1:][:, -self.tail :].tolist()
        return torch.tensor([self.find(self.text(tail)) is not None for tail in tails], device=input_ids.device)

    def text(self, tokens: list[int]) -> str:
        """The text of tokens as it is, special ones included."""
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def find(self, text: str) -> int | None:
        """Where the first of the strings begins."""
        return min((text.index(string) for string in self.strings if string in text), default=None)

    def cut(self, tokens: list[int]) -> list[int] | None:
        """Tokens of the text before the first string; None where there is none."""
        text = self.text(tokens)
        end = self.find(text)
        if end is None:
            return None
        kept = tokens
        while not text[:end].startswith(self.text(kept)):
            kept = kept[:-1]
        rest = text[len(self.text(kept)) : end]
        return kept + self.tokenizer.encode(rest, add_special_tokens=False, split_special_tokens=True)


def without_end(tokens: list[int], end_ids: set[int], stops: StopStrings | None) -> tuple[list[int], bool]:
    """Tokens without what ended them, and whether anything but their number did."""
    end = next((place for place, token in enumerate(tokens) if token in end_ids), None)
    tokens = tokens[:end]
    before = stops.cut(tokens) if stops else None
    if before is not None:
        return before, True
    return tokens, end is not None
