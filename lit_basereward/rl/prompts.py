"""A task in the form that TRL reads, tokenised as everywhere in this package: text from data is never structure.

TRL has the processor render a prompt to one string and tokenise that, so a response that says ``<|im_end|>`` would end
its turn, one that says ``<|image_pad|>`` would be counted as an image, and tokens would differ from those that
``GenerativeRM`` scores with. Texts therefore go through the chat template as hexadecimal digits between two private
characters, and the tokenizer, which is given a ``__call__`` of its own, puts their tokens in place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lit_basereward.data.chat import ChatEncoder
from lit_basereward.data.images import open_image
from lit_basereward.data.types import ImagePart, Message, RowError
from lit_basereward.nn.backbone import Backbone
from lit_basereward.rl.task import Sample, Task

_OPEN, _CLOSE = "\ue000", "\ue001"
_SEALED = re.compile(f"{_OPEN}([0-9a-f]*){_CLOSE}")


class Prompts:
    """What turns samples into what TRL and the model read.

    Args:
        policy: whose processor and text tokens are used.

    Attributes:
        processor: of a vision-language model, or a text-only model's tokenizer; it unseals the texts of :meth:`turns`.
        tokenizer: the processor's.
        chat: encodes texts.
    """

    def __init__(self, policy: Backbone) -> None:
        self.processor = policy.processor()
        self.chat = ChatEncoder(self.processor, policy.text_tokens)
        self.tokenizer: Any = self.chat.tokenizer
        self.tokenizer.padding_side = "left"  # TRL pads prompts so, and image positions must lie beside their tokens
        self.sees = self.chat.image_token is not None
        _unseal_in(self.tokenizer, self.chat)
        if self.sees:
            _allow_no_images(self.processor)

    def turns(self, sample: Sample) -> list[dict[str, Any]]:
        """Chat turns as chat templates take them, texts sealed: parts, or strings for a text-only model."""
        return [self._turn(message) for message in sample.prompt]

    def _turn(self, message: Message) -> dict[str, Any]:
        if not self.sees:
            texts = [seal(part) for part in message.content if not isinstance(part, ImagePart)]
            return {"role": message.role, "content": "".join(texts)}
        parts = [
            {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": seal(part)}
            for part in message.content
        ]
        return {"role": message.role, "content": parts}

    def images(self, sample: Sample) -> list[Any]:
        """The sample's images, decoded.

        Raises:
            RowError: if one cannot be read, or the model reads text only.
        """
        if sample.images and not self.sees:
            raise RowError(f"{sample.where} has images, but this policy reads text only; name a vision-language model")
        return [open_image(ref, sample.where) for ref in sample.images]

    def dataset(self, task: Task) -> Any:
        """A Hugging Face data set over a prepared task, whose rows are made, and images opened, when they are read.

        Returns:
            a ``datasets.Dataset`` with the columns ``prompt``, ``sample`` and, for models that see, ``images``.
        """
        from datasets import Dataset

        def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            samples = [task[index] for index in batch["index"]]
            columns: dict[str, list[Any]] = {"prompt": [self.turns(sample) for sample in samples], "sample": samples}
            images = [self.images(sample) for sample in samples]
            return columns | ({"images": images} if self.sees else {})

        return Dataset.from_dict({"index": list(range(len(task)))}).with_transform(rows)


def seal(text: str) -> str:
    """A text as letters and digits that no template, processor or tokenizer takes for anything."""
    return f"{_OPEN}{text.encode('utf-8', 'surrogatepass').hex()}{_CLOSE}"


def unsealed_ids(text: str, chat: ChatEncoder) -> list[int]:
    """Token ids of a rendered chat: those of the template, and apart from them those of each sealed text."""
    ids: list[int] = []
    for number, piece in enumerate(_SEALED.split(text)):
        if number % 2:
            ids += chat.text(bytes.fromhex(piece).decode("utf-8", "surrogatepass"))
        elif piece:
            ids += chat.template(piece)
    return ids


def _unseal_in(tokenizer: Any, chat: ChatEncoder) -> None:
    """Have ``tokenizer(...)`` unseal, in place. Its class keeps its name, which is written to its files."""
    cls = type(tokenizer)

    def call(self: Any, text: Any = None, *args: Any, **options: Any) -> Any:
        texts: Sequence[Any] = [text] if isinstance(text, str) else text or []
        if not any(isinstance(each, str) and _OPEN in each for each in texts):
            return cls.__call__(self, text, *args, **options)
        ids = [unsealed_ids(each, chat) for each in texts]
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids]}
        if isinstance(text, str) and not options.get("return_tensors"):
            given = {name: values[0] for name, values in given.items()}
        return self.pad(
            given,
            padding=options.get("padding") or False,
            padding_side=options.get("padding_side"),
            return_tensors=options.get("return_tensors"),
        )

    tokenizer.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__call__": call})


def _allow_no_images(processor: Any) -> None:
    """Have ``processor(images=[[picture], None])`` take None for no images, in place.

    TRL 1.16 calls it so for a batch of which only some prompts have images, and transformers refuses that.
    """
    cls = type(processor)

    def call(self: Any, images: Any = None, *args: Any, **options: Any) -> Any:
        if isinstance(images, list):
            images = [[] if each is None else each for each in images]
        return cls.__call__(self, images, *args, **options)

    processor.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__call__": call})
