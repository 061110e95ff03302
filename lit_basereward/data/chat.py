"""From a row's texts to tokens: the chat template is structure, what the data says never is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from lit_basereward.data.types import ImagePart, Message

IMAGE = -1  # stands for an image among token ids until its placeholders are known
_KEPT_SHAPES = 1_000  # rendered shapes that are remembered, and the turns and parts of the largest (our choice): with
_KEPT_PARTS = 100  # larger ones a thousand requests would fill the memory
_SLOT = re.compile("\ue000(\\d+)\ue001")

# A conversation without its texts: roles, and for each part whether it is an image.
Shape = tuple[tuple[str, tuple[bool, ...]], ...]


class Rendered(NamedTuple):
    """A conversation of one shape: template text and numbers of texts, ids before the response, ids that end it."""

    prompt: list[str | int]
    before: list[int]
    end: list[int]


def _slot(number: int) -> str:
    return f"\ue000{number}\ue001"


class ChatEncoder:
    """Renders conversations with a model's own chat template and encodes template and texts apart.

    The template is rendered with numbered slots in place of the texts. What the template wrote is encoded with the
    tokenizer, texts with a copy of it that has no added tokens: a literal ``<|im_end|>`` in a response stays text.

    Args:
        processor: of a vision-language model, or a text-only model's tokenizer.
        text_tokens: added tokens that keep their meaning inside texts.
    """

    def __init__(self, processor: Any, text_tokens: Sequence[str] = ()) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_token: str | None = getattr(processor, "image_token", None)
        self.text_tokens = tuple(text_tokens)
        added = self.tokenizer.added_tokens_encoder
        if unknown := set(text_tokens) - added.keys():
            raise ValueError(f"text_tokens {sorted(unknown)} are not among the tokenizer's added tokens")
        self._kept = re.compile(f"({'|'.join(map(re.escape, text_tokens))})")
        self._kept_ids = {token: added[token] for token in text_tokens}
        self._plain = self._plain_tokenizer()
        self._shapes: dict[Shape, Rendered] = {}

    def text(self, text: str) -> list[int]:
        """Token ids of data: never an id with structural meaning."""
        ids: list[int] = []
        for piece in self._pieces(text):
            known = self._kept_ids.get(piece)
            ids += self._encode(piece) if known is None else [known]
        return ids

    def token_at(self, text: str, position: int) -> int:
        """Which of the ids that :meth:`text` gives for a text holds its character ``position``; both count from 0."""
        before = 0
        for piece in self._pieces(text):
            if position < len(piece):
                if piece not in self._kept_ids:
                    before += self._plain.encode(piece, add_special_tokens=False).char_to_token(position)
                return before
            position -= len(piece)
            before += len(self.text(piece))
        raise IndexError(f"the text has no character {position}")

    def _pieces(self, text: str) -> list[str]:
        """A text cut at the added tokens that keep their meaning."""
        return self._kept.split(text) if self.text_tokens else [text]

    def _encode(self, text: str) -> list[int]:
        # without the places of the tokens in the text, which `encode` reckons, too, and which take half of its time
        return self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def template(self, text: str) -> list[int]:
        """Token ids of what the chat template or the processor wrote."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the rendered prompt, generation prompt included, with :data:`IMAGE` at each image."""
        return self._filled(self._rendered(messages).prompt, messages)

    def around_last_text(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids of the rendered prompt before its last text, and those behind it; otherwise as :meth:`prompt`."""
        pieces = self._rendered(messages).prompt
        last = max(n for n, piece in enumerate(pieces) if isinstance(piece, int))
        return self._filled(pieces[:last], messages), self._filled(pieces[last + 1 :], messages)

    def _filled(self, pieces: Sequence[str | int], messages: Sequence[Message]) -> list[int]:
        """Ids of a part of a rendered prompt, texts in their places."""
        texts = [part for message in messages for part in message.content if isinstance(part, str)]
        return [
            i
            for piece in pieces
            for i in (self.text(texts[piece]) if isinstance(piece, int) else self._with_image_places(piece))
        ]

    def around_response(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids that the template writes between the generation prompt and a response, and those that end its turn."""
        rendered = self._rendered(messages)
        return rendered.before, rendered.end

    def _rendered(self, messages: Sequence[Message]) -> Rendered:
        shape = tuple((m.role, tuple(isinstance(part, ImagePart) for part in m.content)) for m in messages)
        if (rendered := self._shapes.get(shape)) is None:
            rendered = self._render(shape)
            if sum(1 + len(parts) for _, parts in shape) <= _KEPT_PARTS:
                if len(self._shapes) >= _KEPT_SHAPES:
                    self._shapes.clear()
                self._shapes[shape] = rendered
        return rendered

    def _render(self, shape: Shape) -> Rendered:
        conversation: list[dict[str, Any]] = []
        slots = 0
        for role, parts in shape:
            content = []
            for is_image in parts:
                content.append({"type": "image"} if is_image else {"type": "text", "text": _slot(slots)})
                slots += not is_image
            conversation.append({"role": role, "content": self._content(content)})
        answer = {"role": "assistant", "content": self._content([{"type": "text", "text": _slot(slots)}])}
        prompt = self._apply(conversation, add_generation_prompt=True)
        whole = self._apply([*conversation, answer], add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise ValueError(
                "this chat template renders a prompt differently once it is answered, so that a response cannot be "
                "scored on its own; give the backbone another chat template"
            )
        before, _, after = whole.removeprefix(prompt).partition(_slot(slots))
        pieces = [int(piece) if n % 2 else piece for n, piece in enumerate(_SLOT.split(prompt))]
        found = [piece for piece in pieces if isinstance(piece, int)]
        if found != list(range(slots)):
            raise ValueError(f"this chat template leaves out or reorders turns: it rendered texts {found} of {slots}")
        return Rendered(pieces, self.template(before), self._end_of_turn(after))

    def _content(self, parts: list[dict[str, str]]) -> Any:
        """Templates of vision-language models take parts, those of text-only ones a string."""
        return parts if self.image_token is not None else "".join(part["text"] for part in parts)

    def _apply(self, conversation: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        return self.processor.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def _end_of_turn(self, after: str) -> list[int]:
        """Ids up to the first special token behind the response; a template without one ends with the tokenizer's."""
        ids = self.template(after)
        special = set(self.tokenizer.all_special_ids)
        for n, i in enumerate(ids, 1):
            if i in special:
                return ids[:n]
        return [self.tokenizer.eos_token_id]

    def _with_image_places(self, piece: str) -> list[int]:
        """Template text to ids, with IMAGE where its image token stands."""
        ids: list[int] = []
        for n, between in enumerate(piece.split(self.image_token) if self.image_token else [piece]):
            ids += [*([IMAGE] if n else []), *_encode_template(self.tokenizer, between)]
        return ids

    def _plain_tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("this tokenizer has no fast version; use a model with a tokenizer.json")
        state = json.loads(backend.to_str())
        state["added_tokens"] = []
        return Tokenizer.from_str(json.dumps(state))


@lru_cache(maxsize=10_000)
def _encode_template(tokenizer: Any, piece: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(piece, add_special_tokens=False))
