"""Tokenisation seams: what the model reads is what its template writes, and the reward is read at the end of the turn.

The template is rendered here anew, with the texts in place, and not by the collator, which is under examination too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_basereward.data.critic import CriticCollator
from lit_basereward.data.images import open_image
from lit_basereward.data.templates import question_text
from lit_basereward.data.types import ImagePart, Message, Preference
from lit_basereward.doctor.check import Check, at_most, skipped
from lit_basereward.doctor.subject import Subject

FAMILY = "tokens"


def tokens(subject: Subject) -> Iterator[Check]:
    """Strings against strings, token ids against the tokenizer, states against states."""
    if subject.judges:
        yield skipped(
            FAMILY, "read as the template renders them", "a judge's branch is no conversation of one response"
        )
        yield _text_stays_text(subject)
        return
    rows, tokenizer = subject.rows, subject.collator.chat.tokenizer
    wrong = [
        row.id
        for row in rows
        for k in range(len(row.responses))
        if not _rendering(subject, row, k).startswith(tokenizer.decode(_ids(subject, row, k)))
    ]
    name = "prompt + response read as the template renders them"
    yield at_most(FAMILY, name, len(wrong), 0, f"not so in rows {wrong[:3]}" if wrong else "")
    yield _ends(subject)
    yield _pooled_ids(subject)
    yield _pooled_states(subject)
    yield _text_stays_text(subject)


def end_of_turn(subject: Subject, row: Preference) -> int:
    """The token that ends an answer to this prompt: the first special one that the template writes behind it."""
    tokenizer = subject.collator.chat.tokenizer
    behind = _rendered(subject, row.prompt, "\ue000").rpartition("\ue000")[2]
    special = set(tokenizer.all_special_ids)
    ids = [i for i in tokenizer.encode(behind, add_special_tokens=False) if i in special]
    return ids[0] if ids else tokenizer.eos_token_id


def _conversation(subject: Subject, row: Preference, k: int) -> tuple[Sequence[Message], str]:
    """Turns, and the model's last one: a response to the prompt, or a critique in answer to a critic's instructions."""
    collator = subject.collator
    reads_critiques = isinstance(collator, CriticCollator) and collator.critique == "given"
    if not (reads_critiques and len(row.critiques) == len(row.responses) and all(map(str.strip, row.critiques))):
        return row.prompt, row.responses[k]
    asked = collator.template.fill(question=question_text(row.prompt), response=row.responses[k])  # type: ignore[attr-defined]
    return [Message("user", (*(ImagePart() for _ in row.images), asked))], row.critiques[k]


def _rendered(subject: Subject, prompt: Sequence[Message], response: str) -> str:
    """The conversation as its template renders it, image places not expanded."""
    reads_images = subject.collator.chat.image_token is not None

    def content(parts: Sequence[Any]) -> Any:
        if not reads_images:
            return "".join(part for part in parts if isinstance(part, str))
        return [{"type": "image"} if isinstance(p, ImagePart) else {"type": "text", "text": p} for p in parts]

    turns = [*prompt, Message("assistant", (response,))]
    system = subject.collator.system_prompt
    if system is not None and prompt[0].role != "system":
        turns.insert(0, Message("system", (system,)))
    messages = [{"role": turn.role, "content": content(turn.content)} for turn in turns]
    return subject.collator.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)


def _rendering(subject: Subject, row: Preference, k: int) -> str:
    """The same with what the processor makes of the image places, as a string."""
    text, processor = _rendered(subject, *_conversation(subject, row, k)), subject.collator.processor
    tokenizer = subject.collator.chat.tokenizer
    options = {"add_special_tokens": False, "return_tensors": "pt"}
    if row.images:
        images = [open_image(ref, row.where or f"row {row.id!r}") for ref in row.images]
        ids = processor(text=[text], images=[images], **options)["input_ids"]
    else:
        ids = tokenizer([text], **options)["input_ids"]
    return tokenizer.decode(ids[0])


def _ids(subject: Subject, row: Preference, k: int) -> list[int]:
    return subject.alone(row, k).inputs["input_ids"][0].tolist()


def _finished(subject: Subject) -> list[Preference]:
    """The rows, every response of which is said to end."""
    return [replace(row, finished=()) for row in subject.rows]


def _ends(subject: Subject) -> Check:
    wrong = [
        (row.id, subject.collator.chat.tokenizer.decode(_ids(subject, row, k)[-1:]))
        for row in _finished(subject)
        for k in range(len(row.responses))
        if _ids(subject, row, k)[-1] != end_of_turn(subject, row)
    ]
    note = f"row {wrong[0][0]} ends with {wrong[0][1]!r}" if wrong else ""
    return at_most(FAMILY, "a response ends with the end-of-turn token", len(wrong), 0, note)


def _pooled_ids(subject: Subject) -> Check:
    """The layout's index, in the batch that scoring makes."""
    rows = _finished(subject)
    batch = subject.collator(list(enumerate(rows)))
    ids = batch.inputs["input_ids"].flatten()[batch.layout.pooled].tolist()
    expected = [end_of_turn(subject, row) for row in rows for _ in row.responses]
    wrong = [i for i, j in zip(ids, expected, strict=True) if i != j]
    note = f"pooled at {subject.collator.chat.tokenizer.decode(wrong[:1])!r}" if wrong else ""
    return at_most(FAMILY, "pooled at the end-of-turn token, by the layout", len(wrong), 0, note)


def _pooled_states(subject: Subject) -> Check:
    """What the head is given against the backbone's state at the last end-of-turn token of the response alone."""
    name = "pooled at the end-of-turn token, by the state"
    model, rows = subject.model, _finished(subject)
    if model is None:
        return skipped(FAMILY, name, f"{type(subject.module).__name__} has no single backbone and head")
    given: list[Tensor] = []
    hook = model.head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].float()))
    try:
        subject.rewards(rows)
    finally:
        hook.remove()
    expected = []
    with torch.inference_mode(), subject.computing():
        for row in rows:
            for k in range(len(row.responses)):
                inputs = subject.alone(row, k).inputs
                states = model.base(**inputs, use_cache=False).last_hidden_state[0]
                at = (inputs["input_ids"][0] == end_of_turn(subject, row)).nonzero()[-1, 0]
                expected.append(states[at].float())
    reference = torch.stack(expected)
    value = (torch.cat(given) - reference).abs().max() / reference.square().mean().sqrt()
    tolerance = 10 * subject.tolerance  # the largest of thousands of numbers, not of a few rewards
    return at_most(FAMILY, name, value.item(), tolerance)


def _text_stays_text(subject: Subject) -> Check:
    """Special tokens written out in a prompt and a response make no token of structure."""
    chat = subject.collator.chat
    special = {t: i for t, i in chat.tokenizer.added_tokens_encoder.items() if t not in chat.text_tokens}
    written = " ".join(special)

    def structure(text: str) -> Counter[int]:
        row = Preference("special", (Message("user", (text,)),), (text, f"{text} 2"), critiques=(text, text))
        item = subject.collator.prepare(0, replace(row, where="a row with special tokens in its texts"))
        return Counter(i for ids in (item.prefix, *item.branches) for i in ids if i in set(special.values()))

    name = "special tokens in a text stay text (extra ids)"
    if len(chat.text(written)) * 4 > subject.collator.max_length:
        return skipped(FAMILY, name, f"backbone.max_length {subject.collator.max_length} has no room for them all")
    extra = structure(written) - structure("text")
    return at_most(FAMILY, name, extra.total(), 0, f"{len(special)} special tokens tried")
