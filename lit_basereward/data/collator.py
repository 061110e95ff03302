"""From rows to a laid-out batch of tensors. A small picklable object: it holds the processor, never the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import get_worker_info

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.chat import IMAGE, ChatEncoder
from lit_basereward.data.images import image_key, open_image
from lit_basereward.data.types import Message, Preference, TooLong
from lit_basereward.nn.layout import Layout

if TYPE_CHECKING:
    from lit_basereward.data.scan import Scan

TooLongPolicy = Literal["error", "drop", "cut"]

BYTES_PER_TOKEN = 4
"""Of text, as estimated: 4 English letters, or 1.3 Chinese characters (our choice)."""


@dataclass
class Item:
    """One row, opened and tokenised.

    Args:
        index: position in the source.
        prefix: token ids of the prompt, image placeholders in place.
        branches: token ids of each branch. Here it is a response; other paradigms have other branches.
        lengths: tokens of each response, end-of-turn included.
        truncated: True for each response that was cut.
        ratings: as in :class:`Preference`, NaN where unrated.
        weight: factor on the row's loss.
        images: identity of the row's images; empty if it has none.
        vision: what the image processor returned for them.
    """

    index: int
    prefix: list[int]
    branches: list[list[int]]
    lengths: list[int]
    truncated: list[bool]
    ratings: list[float]
    weight: float
    images: tuple[Hashable, ...] = ()
    vision: dict[str, Tensor] = field(default_factory=dict)


class Collator:
    """Opens images, renders, tokenises and lays out. ``prepare`` works row by row, so that one bad row can be left out.

    Args:
        processor: of the backbone; a tokenizer for a text-only one.
        layout: ``shared`` computes a prompt once for all its responses; ``padded`` repeats it for each.
        max_length: most tokens of prompt and one response together.
        too_long: longer rows are an ``error``, are left out (``drop``), or lose tokens from the end of the response,
            end-of-turn kept (``cut``).
        system_prompt: first turn of prompts without one; None leaves it to the chat template.
        text_tokens: added tokens that keep their meaning inside texts.
        share_features: rows with the same images may share features (the backbone gives them row by row).
        dummy_image: batches without images carry a blank one, so that every rank runs its vision tower.
    """

    def __init__(
        self,
        processor: Any,
        layout: Literal["shared", "padded"] = "shared",
        max_length: int = 32_768,
        too_long: TooLongPolicy = "error",
        system_prompt: str | None = None,
        text_tokens: Sequence[str] = (),
        share_features: bool = False,
        dummy_image: bool = False,
    ) -> None:
        self.processor = processor
        self.chat = ChatEncoder(processor, text_tokens)
        self.layout, self.max_length, self.too_long = layout, max_length, too_long
        self.system_prompt, self.share_features = system_prompt, share_features
        self.pad_id = self.chat.tokenizer.pad_token_id or 0
        self.dummy = self._dummy() if dummy_image and self.chat.image_token is not None else {}

    def __call__(self, rows: Sequence[tuple[int, Preference]], counts: StepCounts | None = None) -> Batch:
        """A batch of ``(index, row)``; counts of its own where no optimizer step gives them."""
        return self.collate([self.prepare(index, row) for index, row in rows], counts)

    def estimate(self, rows: Scan) -> np.ndarray:
        """About how many tokens the texts of rows make in the shared layout, known before any is encoded.

        Other paradigms have other branches, and say so here: set-up balances micro-batches by it.

        Args:
            rows: what the pass over a source found.

        Returns:
            [R] float32: prompt and responses, each once, and an end of turn for each response.
        """
        return tokens_in(rows.prompt) + tokens_in(rows.answers) + rows.responses.astype(np.float32)

    def remark(self, rows: Scan, used: np.ndarray) -> str:
        """What a user should know of the rows that take part before the first is laid out; empty if nothing.

        Args:
            rows: what the pass over a source found.
            used: positions of the rows that take part.
        """
        return ""

    # ------------------------------------------------------------------------------------------------ one row
    def prepare(self, index: int, row: Preference) -> Item:
        """Open and tokenise one row.

        Raises:
            RowError: if an image cannot be read or the row does not fit the backbone; TooLong at too many tokens.
        """
        self._check_images(row)
        messages = self._with_system(row.prompt)
        prefix, vision = self._with_images(row, self.chat.prompt(messages))
        before, end_of_turn = self.chat.around_response(messages)
        branches, lengths, truncated = [], [], []
        for k, response in enumerate(row.responses):
            end = end_of_turn if not row.finished or row.finished[k] else []
            tokens = self.chat.text(response)
            room = self.max_length - len(prefix) - len(before) - len(end)
            cut = len(tokens) > room
            if cut:
                self._check_room(row, len(prefix), len(tokens), room)
                tokens = tokens[:room]
            if not (before + tokens + end):
                raise row.error(f"has response {k} without text that was cut off: nothing of it can be scored")
            branches.append(before + tokens + end)
            lengths.append(len(tokens) + len(end))
            truncated.append(cut)
        ratings = list(row.ratings) or [float("nan")] * len(row.responses)
        keys = tuple(image_key(ref) for ref in row.images)
        return Item(index, prefix, branches, lengths, truncated, ratings, row.weight, keys, vision)

    def num_tokens(self, item: Item) -> int:
        """Tokens that the model computes for a row: its prompt once, or in the padded layout for every branch."""
        prefixes = 1 if self.layout == "shared" else len(item.branches)
        return prefixes * len(item.prefix) + sum(map(len, item.branches))

    def _check_images(self, row: Preference) -> None:
        if row.images and self.chat.image_token is None:
            raise row.error("has images, but this backbone reads text only")

    def _check_room(self, row: Preference, prompt: int, response: int, room: int, fixed: str = "prompt") -> None:
        """Raise where a row that is too long cannot be cut or is not to be; ``fixed`` says what is never cut."""
        where = f"has {prompt + response} tokens ({prompt} of them {fixed}), over max_length {self.max_length}"
        if room < 1:
            raise TooLong(str(row.error(f"{where}: its {fixed} alone does not fit; raise backbone.max_length")))
        if self.too_long != "cut":
            raise TooLong(str(row.error(f"{where}; raise backbone.max_length, or set what happens to such rows")))

    def _with_system(self, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
        if self.system_prompt is None or prompt[0].role == "system":
            return prompt
        return (Message("system", (self.system_prompt,)), *prompt)

    def _with_images(self, row: Preference, ids: list[int]) -> tuple[list[int], dict[str, Tensor]]:
        """Ids with every image's placeholders in place, and what the image processor returned."""
        if not row.images:
            return ids, {}
        if ids.count(IMAGE) != len(row.images):
            raise row.error(
                f"has {len(row.images)} images, but the chat template wrote {ids.count(IMAGE)} placeholders"
            )
        images = [open_image(ref, row.where or f"row {row.id!r}") for ref in row.images]
        try:
            runs, vision = self._process(images)
        except ValueError as error:
            raise row.error(f"has an image that the processor refuses: {error}") from error
        placeholders = iter(runs)
        return [i for token in ids for i in (next(placeholders) if token == IMAGE else (token,))], vision

    def _process(self, images: list[Image.Image]) -> tuple[list[list[int]], dict[str, Tensor]]:
        """Placeholder ids of each image of a row, and the vision tensors of the row."""
        assert self.chat.image_token is not None
        out = self.processor(
            images=[images],
            text=[self.chat.image_token * len(images)],
            return_text_replacement_offsets=True,
            return_mm_token_type_ids=False,
            add_special_tokens=False,
            return_tensors="pt",
        )
        (replacements,) = out.pop("text_replacement_offsets")
        text_keys = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
        return [self.chat.template(r["replacement"]) for r in replacements], {
            key: value for key, value in out.items() if key not in text_keys
        }

    def _dummy(self) -> dict[str, Tensor]:
        _, vision = self._process([Image.new("RGB", (28, 28))])
        return {f"dummy_{key}": value for key, value in vision.items()}

    # ---------------------------------------------------------------------------------------------- one batch
    def collate(self, items: Sequence[Item], counts: StepCounts | None = None, dropped: Sequence[str] = ()) -> Batch:
        """Lay prepared rows out as one batch."""
        inputs, layout = (self._shared if self.layout == "shared" else self._padded)(items)
        if self.dummy and not any(item.vision for item in items):
            inputs |= self.dummy

        def flat(values: Callable[[Item], Sequence[Any]]) -> Tensor:
            return torch.tensor([value for item in items for value in values(item)])

        return Batch(
            inputs=inputs,
            layout=layout,
            row=torch.arange(len(items)).repeat_interleave(torch.tensor([len(item.lengths) for item in items])),
            ratings=flat(lambda item: item.ratings).float(),
            lengths=flat(lambda item: item.lengths),
            row_index=torch.tensor([item.index for item in items]),
            weight=torch.tensor([item.weight for item in items], dtype=torch.float32),
            truncated=flat(lambda item: item.truncated),
            counts=counts or StepCounts(),
            dropped=list(dropped),
        )

    def _shared(self, items: Sequence[Item]) -> tuple[dict[str, Tensor], Layout]:
        row = [r for r, item in enumerate(items) for _ in item.branches]
        branches = [branch for item in items for branch in item.branches]
        layout = Layout.shared_prefix([len(item.prefix) for item in items], [len(b) for b in branches], row)
        tokens = [i for item in items for i in item.prefix] + [i for branch in branches for i in branch]
        inputs = {"input_ids": torch.tensor([tokens])}
        seen: dict[Hashable, int] = {}  # images of a row -> its first entry among the features
        distinct: list[Item] = []
        image_index: list[int] = []
        total = 0
        for n, item in enumerate(items):
            if item.vision:
                key = item.images if self.share_features else n
                # The tower gives one entry per image, per tile, or per row: as many as the pixels have, but in Qwen-VL,
                # where these are patches.
                entries = len(item.vision.get("image_grid_thw", item.vision["pixel_values"]))
                if key not in seen:
                    seen[key] = total
                    total += entries
                    distinct.append(item)
                image_index += range(seen[key], seen[key] + entries)
        if len(image_index) > total:
            inputs["image_index"] = torch.tensor(image_index)
            layout.image_entries = image_index  # reading them from the tensor would wait for a GPU
        return inputs | self._vision(distinct) | self._token_types(inputs), layout

    def _padded(self, items: Sequence[Item]) -> tuple[dict[str, Tensor], Layout]:
        repeated = [item for item in items for _ in item.branches]
        sequences = [torch.tensor(item.prefix + branch) for item in items for branch in item.branches]
        lengths = [len(sequence) for sequence in sequences]
        inputs = {
            "input_ids": pad_sequence(sequences, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence([torch.ones(n, dtype=torch.long) for n in lengths], batch_first=True),
        }
        return inputs | self._vision(repeated) | self._token_types(inputs), Layout.padded(lengths)

    def _token_types(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Which tokens are image placeholders, where the backbone asks for it."""
        if not getattr(self.processor, "return_mm_token_type_ids", False):
            return {}
        types = self.processor.create_mm_token_type_ids(inputs["input_ids"].tolist())
        # Gemma 3 reads them under another name, and without them its images are read causally without a word.
        names = self.processor.model_input_names
        gemma = "token_type_ids" in names and "mm_token_type_ids" not in names
        return {"token_type_ids" if gemma else "mm_token_type_ids": torch.tensor(types)}

    def _vision(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """The rows' vision tensors as one: joined along the first axis, the second padded where families have tiles."""
        with_images = [item.vision for item in items if item.vision]
        return {key: _join([v[key] for v in with_images]) for key in (with_images[0] if with_images else ())}


def tokens_in(size: np.ndarray) -> np.ndarray:
    """About how many tokens texts of these bytes are, [R] float32."""
    return size.astype(np.float32) / BYTES_PER_TOKEN


def _join(tensors: list[Tensor]) -> Tensor:
    if len({tensor.shape[1:] for tensor in tensors}) > 1:
        longest = max(tensor.shape[1] for tensor in tensors)
        tensors = [
            torch.cat([t, t.new_zeros(len(t), longest - t.shape[1], *t.shape[2:])], dim=1)
            if t.shape[1] < longest
            else t
            for t in tensors
        ]
    if get_worker_info() is None:
        return torch.cat(tensors)
    # into the shared memory in which it leaves the worker, as torch's own collation does: a copy less
    shape = (sum(map(len, tensors)), *tensors[0].shape[1:])
    shared = tensors[0]._typed_storage()._new_shared(math.prod(shape))
    return torch.cat(tensors, out=tensors[0].new(shared).resize_(shape))
