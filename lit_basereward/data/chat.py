"""From a row's texts to tokens: the chat template is structure, what the data says never is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lit_basereward.data.types import ImagePart, Message

IMAGE = -1  # stands for an image among token ids until its placeholders are known
_SLOT = re.compile("\ue000(\\d+)\ue001")

# A conversation without its texts: roles, and for each part whether it is an image.
Shape = tuple[tuple[str, tuple[bool, ...]], ...]


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
        self._plain = self._plain_tokenizer()
        self._shapes: dict[Shape, tuple[list[int | str], list[int | str], list[int]]] = {}

    def text(self, text: str) -> list[int]:
        """Token ids of data: never an id with structural meaning."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def template(self, text: str) -> list[int]:
        """Token ids of what the chat template or the processor wrote."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the rendered prompt, generation prompt included, with :data:`IMAGE` at each image."""
        pieces, _, _ = self._rendered(messages)
        texts = [part for message in messages for part in message.content if isinstance(part, str)]
        return [i for piece in pieces for i in (self.text(texts[piece]) if isinstance(piece, int) else self._ids(piece))]

    def around_response(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Ids that the template writes between the generation prompt and a response, and the end of the turn."""
        _, before, end = self._rendered(messages)
        return [i for piece in before for i in self.template(str(piece))], end

    def _rendered(self, messages: Sequence[Message]) -> tuple[list[int | str], list[int | str], list[int]]:
        shape = tuple((m.role, tuple(isinstance(part, ImagePart) for part in m.content)) for m in messages)
        if shape not in self._shapes:
            if len(self._shapes) > 1000:
                self._shapes.clear()
            self._shapes[shape] = self._render(shape)
        return self._shapes[shape]

    def _render(self, shape: Shape) -> tuple[list[int | str], list[int | str], list[int]]:
        """Template pieces and slot numbers of the prompt, pieces before the response, ids that end its turn."""
        conversation, slots = [], 0
        for role, parts in shape:
            content = []
            for is_image in parts:
                content.append({"type": "image"} if is_image else {"type": "text", "text": f"\ue000{slots}\ue001"})
                slots += not is_image
            # Text-only templates take strings; those of vision-language models take parts.
            plain = self.image_token is None
            conversation.append({"role": role, "content": "".join(p["text"] for p in content) if plain else content})
        answer: Any = f"\ue000{slots}\ue001"
        answer = {"role": "assistant", "content": answer if plain else [{"type": "text", "text": answer}]}
        prompt = self._apply(conversation, add_generation_prompt=True)
        whole = self._apply([*conversation, answer], add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise ValueError(
                "this chat template renders a prompt differently once it is answered, so that a response cannot be "
                "scored on its own; give the backbone another chat template"
            )
        before, _, after = whole.removeprefix(prompt).partition(f"\ue000{slots}\ue001")
        pieces: list[int | str] = [int(p) if i % 2 else p for i, p in enumerate(_SLOT.split(prompt))]
        found = [piece for piece in pieces if isinstance(piece, int)]
        if found != list(range(slots)):
            raise ValueError(f"this chat template leaves out or reorders turns: it rendered texts {found} of {slots}")
        return pieces, [before], self._end_of_turn(after)

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

    def _ids(self, piece: str) -> list[int]:
        """Template text to ids, with IMAGE where its image token stands."""
        if self.image_token is None:
            return list(self._template_cached(piece))
        ids: list[int] = []
        for n, between in enumerate(piece.split(self.image_token)):
            ids += ([IMAGE] if n else []) + list(self._template_cached(between))
        return ids

    def _template_cached(self, piece: str) -> tuple[int, ...]:
        return _encode_template(self.tokenizer, piece)

    def _plain_tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("this tokenizer has no fast version; use a model with a tokenizer.json")
        state = json.loads(backend.to_str())
        unknown = set(self.text_tokens) - {token["content"] for token in state["added_tokens"]}
        if unknown:
            raise ValueError(f"text_tokens {sorted(unknown)} are not among the tokenizer's added tokens")
        state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in self.text_tokens]
        return Tokenizer.from_str(json.dumps(state))


@lru_cache(maxsize=10_000)
def _encode_template(tokenizer: Any, piece: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(piece, add_special_tokens=False))
