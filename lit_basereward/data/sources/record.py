"""One JSON object to one row: our schema (docs/data_format.md) and TRL's preference forms."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_basereward.data.images import image_ref
from lit_basereward.data.records.lines import json_kind
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference, RowError

_SHARED_KEYS = frozenset(
    ("id", "prompt", "images", "image", "critiques", "judgement", "finished", "weight", "category")
)
_LIST_KEYS = _SHARED_KEYS | {"responses", "ratings"}
_PAIR_KEYS = _SHARED_KEYS | {"chosen", "rejected", "margin", "score_chosen", "score_rejected"}
# Keys that other formats use for something that would change the row, and that is not read here.
_REFUSED = {
    "system": "make it the first message of `prompt`, with role system",
    "video": "give its frames as `images`",
    "videos": "give their frames as `images`",
}
_LONGEST = 16_000_000  # characters of one text (our choice): beyond any context, and minutes of tokenizing
# Names of the prompt in other corpora: beside them, what two answers happen to begin with is not the prompt.
_PROMPT_ELSEWHERE = ("question", "instruction", "query", "input", "text", "conversations", "messages")


def read_row(
    record: dict[str, Any],
    where: str,
    root: Path | None,
    source: str = "",
    default_id: str = "",
    image_token: str | None = None,
    allow_empty: bool = False,
) -> Preference:
    """A row in the schema of docs/data_format.md, or in one of TRL's preference forms, as a :class:`Preference`.

    Args:
        record: the JSON object; null is the same as a missing key.
        where: names the row in error messages.
        root: see :func:`image_ref`.
        source: name of the corpus.
        default_id: id of a row without one.
        image_token: see :class:`JSONLSource`.
        allow_empty: accept responses without text.

    Raises:
        RowError: if the row is bad; the message begins with ``where`` and says the mend.
    """
    record = {key: value for key, value in record.items() if value is not None}
    pair = "responses" not in record and bool({"chosen", "rejected"} & record.keys())
    _check_keys(record, _PAIR_KEYS if pair else _LIST_KEYS, where)
    if pair:
        prompt, responses = _pair(record, where)
        ratings = _pair_ratings(record, where)
    else:
        if "responses" not in record:
            raise RowError(f"{where} needs `responses`, or both `chosen` and `rejected`; it has {list(record)}")
        prompt, responses = record.get("prompt"), _list(record, "responses", where)
        rated = _list(record, "ratings", where)
        ratings = [float("nan") if r is None else _number(r, "a rating", where) for r in rated]
    for k, response in enumerate(responses):
        if not _text(response, f"response {k}", where).strip() and not allow_empty:
            raise RowError(f"{where} has an empty response {k}; remove it, or set allow_empty")
    if "image" in record and "images" in record:
        raise RowError(f"{where} has both `image` and `images`; give one of them")
    given = record.get("images", record.get("image", []))
    images = one_image_list(record, given if isinstance(given, list) else [given], where)
    if prompt is None:
        raise RowError(f"{where} has no `prompt`; it has {list(record)}")
    messages, refs = read_prompt(prompt, images, where, root, image_token)
    finished = _list(record, "finished", where)
    if not all(isinstance(flag, bool) for flag in finished):
        raise RowError(f"{where} has `finished` {finished}; give true or false per response")
    name = record.get("id", default_id)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise RowError(f"{where} has an id that is a JSON {json_kind(name)}; give a string or an integer")
    return Preference(
        id=_text(str(name), "an id", where),
        prompt=messages,
        responses=tuple(responses),
        ratings=tuple(ratings),
        images=refs,
        critiques=tuple(_text("" if c is None else c, "a critique", where) for c in _list(record, "critiques", where)),
        judgement=_text(record.get("judgement", ""), "`judgement`", where),
        finished=tuple(finished),
        weight=_number(record.get("weight", 1.0), "`weight`", where),
        source=source,
        category=_text(record.get("category", ""), "`category`", where),
        where=where,
    )


def one_image_list(record: dict[str, Any], images: list[Any], where: str) -> list[Any]:
    """The prompt's images: ``images``, or what ``chosen_images`` and ``rejected_images`` both are.

    Raises:
        RowError: if one of these two says something else.
    """
    given = [record.get(key) for key in ("chosen_images", "rejected_images")]
    sides = [side if isinstance(side, list) else [side] for side in given if side not in (None, "", [])]
    images = images or (sides[0] if len(sides) == 2 else [])
    if any(side != images for side in sides):
        raise RowError(
            f"{where} has other images in `chosen_images` or `rejected_images` than for its prompt or its other "
            "response; responses are compared on one prompt with one list of images: remove the row"
        )
    return images


def read_prompt(
    value: Any, images: list[Any], where: str, root: Path | None, image_token: str | None = None
) -> tuple[tuple[Message, ...], tuple[ImageRef, ...]]:
    """A prompt and its images: a string, which is one user turn, or chat messages in Hugging Face's format.

    An image part that carries no image itself takes the next of ``images``. Where the prompt has no image part at all,
    ``images`` stand before the text of the first user turn (our choice).

    Raises:
        RowError: if the messages are no such messages, have no text of a user, or do not fit the images.
    """
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, list):
        raise RowError(f"{where} has a prompt that is a JSON {json_kind(turns)}; give a string or a list of messages")
    slots: list[Any] = []  # what each image part carries, None where it takes the next of `images`
    messages: list[Message] = []
    for n, turn in enumerate(turns):
        role, content = _turn(turn, f"message {n} of its prompt", where)
        if role == "system" and n:
            raise RowError(f"{where} has a system message behind others; make it the first")
        messages.append(Message(role, tuple(_parts(content, slots, where, image_token))))
    asked = [n for n, m in enumerate(messages) if m.role == "user"]
    if not any(isinstance(part, str) and part.strip() for n in asked for part in messages[n].content):
        raise RowError(f"{where} has an empty prompt: no user turn has text; give it one, or remove the row")
    if images and not slots:
        slots = [None] * len(images)
        messages[asked[0]] = Message("user", (*(ImagePart() for _ in images), *messages[asked[0]].content))
    if slots.count(None) != len(images):
        raise RowError(
            f"{where} has {len(images)} images but {slots.count(None)} image placeholders in its prompt; give one "
            "placeholder per image, or none at all to put the images before the first user turn's text"
        )
    rest = iter(images)
    return tuple(messages), tuple(image_ref(next(rest) if s is None else s, root, where) for s in slots)


def _turn(turn: Any, what: str, where: str) -> tuple[str, Any]:
    """Role and content of one chat message."""
    if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
        has = f"has the keys {list(turn)}" if isinstance(turn, dict) else f"is a JSON {json_kind(turn)}"
        raise RowError(f'{where}: {what} {has}; write {{"role": "user" or "assistant", "content": ...}}')
    if turn["role"] not in ("system", "user", "assistant"):
        raise RowError(f"{where}: {what} has role {turn['role']!r}; use system, user or assistant")
    return turn["role"], turn["content"]


def _parts(content: Any, slots: list[Any], where: str, image_token: str | None) -> list[str | ImagePart]:
    """A message's texts and image places in reading order; appends to ``slots`` what each image part carries."""
    if isinstance(content, str):
        texts = content.split(image_token) if image_token else [content]
        content = [{"type": "text", "text": texts[0]}]
        for text in texts[1:]:
            content += [{"type": "image"}, {"type": "text", "text": text}]
    if not isinstance(content, list):
        raise RowError(
            f"{where} has a message with a JSON {json_kind(content)} as content; give a string or a list of parts"
        )
    parts: list[str | ImagePart] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image":
            carried = [part[key] for key in ("image", "path", "url") if part.get(key) is not None]
            carried += [{"bytes": part["base64"]}] if part.get("base64") is not None else []
            if len(carried) > 1:
                raise RowError(f"{where} has an image part with {len(carried)} images; give each a part of its own")
            slots.append(carried[0] if carried else None)
            parts.append(ImagePart())
        elif kind == "text":
            text = _text(part.get("text"), "a text part with a `text`", where)
            parts += [text] if text else []
        else:
            raise RowError(
                f"{where} has a message part of type {kind!r}; use "
                '{"type": "text", "text": ...} or {"type": "image"}'
            )
    return parts


def _pair(record: dict[str, Any], where: str) -> tuple[Any, list[str]]:
    """Prompt and the two responses of TRL's preference forms; the prompt is given, or what both sides begin with.

    As in TRL, whole conversations win over a prompt that is a string.
    """
    if not {"chosen", "rejected"} <= record.keys():
        raise RowError(f"{where} has only one of `chosen` and `rejected`; give both, or `responses` for one alone")
    prompt, sides = record.get("prompt"), [record["chosen"], record["rejected"]]
    if all(isinstance(side, str) for side in sides):
        asked = [key for key in _PROMPT_ELSEWHERE if key in record]
        if prompt is None and asked:
            raise RowError(f"{where} has no `prompt`, but `{asked[0]}`; rename that key to `prompt`")
        return (prompt, sides) if prompt is not None else _split_strings(sides[0], sides[1], where)
    if not all(isinstance(side, list) for side in sides):
        kinds = " and ".join(json_kind(side) for side in sides)
        raise RowError(f"{where} has {kinds} as `chosen` and `rejected`; give two strings or two lists of messages")
    if not isinstance(prompt, list):
        shared = 0
        while shared < min(map(len, sides)) - 1 and sides[0][shared] == sides[1][shared]:
            shared += 1
        if shared:
            prompt, sides = sides[0][:shared], [side[shared:] for side in sides]
    responses = []
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        roles = [_turn(turn, f"a message of `{name}`", where)[0] for turn in side]
        if roles != ["assistant"]:
            raise RowError(
                f"{where}: behind the prompt, `{name}` has the turns {roles} instead of one assistant turn; give the "
                "turns that both sides share as `prompt` (or begin both sides with them), and the last answers apart"
            )
        parts = _parts(side[0]["content"], [], where, None)
        if any(isinstance(part, ImagePart) for part in parts):
            raise RowError(f"{where} has an image in `{name}`; images belong to the prompt")
        responses.append("".join(part for part in parts if isinstance(part, str)))
    return prompt, responses


def _split_strings(chosen: str, rejected: str, where: str) -> tuple[str, list[str]]:
    """Cut at the first difference, a space before it going to the responses, as TRL's ``extract_prompt`` does."""
    cut = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if cut is None:
        raise RowError(f"{where} has no `prompt`, and `chosen` or `rejected` begins the other; give the `prompt`")
    if not chosen[:cut].strip():
        raise RowError(f"{where} has no `prompt`, and `chosen` and `rejected` share no beginning; give the `prompt`")
    cut -= chosen[cut - 1] == " "
    return chosen[:cut], [chosen[cut:], rejected[cut:]]


def _pair_ratings(record: dict[str, Any], where: str) -> list[float]:
    """1 and 0, or the two scores, or margin and 0."""
    keys = ("margin", "score_chosen", "score_rejected")
    given = {key: _number(record[key], f"`{key}`", where) for key in keys if key in record}
    values = list(given.values())
    if not given:
        return [1.0, 0.0]
    if list(given) == ["margin"]:
        if not values[0] > 0:
            raise RowError(f"{where} has margin {values[0]}; give one above 0, or remove it")
        return [values[0], 0.0]
    if list(given) != ["score_chosen", "score_rejected"]:
        raise RowError(f"{where} has {list(given)}; give both scores, or margin alone, or none of them")
    if values[0] < values[1]:
        raise RowError(f"{where} has score_chosen {values[0]} below score_rejected {values[1]}; swap the responses")
    return values


def _check_keys(record: dict[str, Any], known: frozenset[str], where: str) -> None:
    """Keys that are not read are the corpus's own business, unless one looks like a key that was meant to be read."""
    for key in record:
        if key in known:
            continue
        if key in _REFUSED and record[key] not in ("", []):
            raise RowError(f"{where} has `{key}`, which is not read; {_REFUSED[key]}, or remove it")
        if key in _LIST_KEYS | _PAIR_KEYS:
            raise RowError(
                f"{where} has `{key}` in a row of the other form; give `responses` with `ratings`, or `chosen` and "
                "`rejected` with `margin` or scores"
            )
        close = _closest(key.lower(), known) if len(key) <= 40 else ""  # longer ones are like none, and slow to compare
        if close:
            raise RowError(f"{where} has the key `{repr(key)[1:-1]}`; did you mean `{close}`? (else rename it)")


@lru_cache(maxsize=1000)
def _closest(key: str, known: frozenset[str]) -> str:
    """The known key that this one misspells, or "". The cutoff finds `wieght` and spares `prompt_id` and `idx`."""
    return next(iter(difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.82)), "")


def _list(record: dict[str, Any], key: str, where: str) -> list[Any]:
    value = record.get(key, [])
    if not isinstance(value, list):
        raise RowError(f"{where} has `{key}` that is a JSON {json_kind(value)}; give a list, one per response")
    return value


def _number(value: Any, what: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{where} has {what} that is a JSON {json_kind(value)}; give a number")
    try:
        return float(value)
    except OverflowError as error:
        raise RowError(f"{where} has {what} too large for a number; give a smaller one") from error


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{where} has {what} that is a JSON {json_kind(value)}; give a string")
    if len(value) > _LONGEST:
        raise RowError(f"{where} has {what} of {len(value)} characters, over the limit of {_LONGEST}; cut it")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # "\ud83d" alone, where an emoji was cut in two: no tokenizer takes it
        raise RowError(f"{where} has half a character in {what} ({error}); remove it from the text") from error
    return value
