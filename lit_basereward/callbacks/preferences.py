"""Best of n: the rewards of `predict` as pairs of a chosen and a rejected response, in TRL's preference format."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImagePart, ImageRef, Preference


def write_preferences(path: Path, predictions: Path, source: Source) -> tuple[int, int]:
    """One pair for each row of several responses: that with the highest reward over that with the lowest.

    ``{"prompt": messages, "chosen": [message], "rejected": [message], "images": [path, ...]}``, the conversational form
    of TRL's explicit prompts, which our own sources read, too; ``images`` only where there are some. ``score_chosen``
    and ``score_rejected`` are the two rewards. Messages are strings where all images stand before the text of
    the first user turn, which is where TRL and we put them, else lists of parts.

    Images stay where they are: paths are relative to the file if they lie below it. Those that a source holds as bytes
    are written once each to ``<path>.images``.

    Args:
        path: file to write.
        predictions: of :class:`PredictionWriter`, whole.
        source: the rows, in the same order.

    Returns:
        how many pairs, and how many rows gave none: of one response, without rewards, with a NaN among them, or with no
        reward above another but by rounding, as equal texts may have.
    """
    pairs = left_out = 0
    temporary = Path(f"{path}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with predictions.open(encoding="utf-8") as lines, temporary.open("w", encoding="utf-8") as file:
        for index, line in enumerate(lines):
            rewards = json.loads(line)["rewards"]
            found = best_and_worst(source[index], rewards) if rewards else None
            if found is None:
                left_out += 1
                continue
            scores = {"score_chosen": rewards[found[0]], "score_rejected": rewards[found[1]]}
            file.write(json.dumps(_pair(source[index], *found, path) | scores, ensure_ascii=False) + "\n")
            pairs += 1
    temporary.replace(path)
    return pairs, left_out


def best_and_worst(row: Preference, rewards: list[float]) -> tuple[int, int] | None:
    """Responses with the highest and the lowest reward, the first of several.

    None where no reward is above another, where one is NaN, and where both are the same text, whose rewards may differ
    by rounding.
    """
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
    if not all(map(math.isfinite, rewards)) or not rewards[best] > rewards[worst]:
        return None
    return None if row.responses[best] == row.responses[worst] else (best, worst)


def _pair(row: Preference, chosen: int, rejected: int, path: Path) -> dict[str, Any]:
    pair: dict[str, Any] = {"prompt": _turns(row)}
    for name, k in (("chosen", chosen), ("rejected", rejected)):
        pair[name] = [{"role": "assistant", "content": row.responses[k]}]
    if row.images:
        pair["images"] = [_image(ref, path) for ref in row.images]
    return pair


def _turns(row: Preference) -> list[dict[str, Any]]:
    """Strings, if all images stand before the text of the first user turn; else every turn as its parts.

    Never some of each: readers put all images into the first user turn that is a string.
    """
    first = next(each for each in row.prompt if each.role == "user")
    turns = []
    for turn in row.prompt:
        leading = (ImagePart(),) * (len(row.images) if turn is first else 0)
        text = "".join(part for part in turn.content if isinstance(part, str))
        if turn.content not in (leading, (*leading, text)):
            return [{"role": each.role, "content": [_part(part) for part in each.content]} for each in row.prompt]
        turns.append({"role": turn.role, "content": text})
    return turns


def _part(part: str | ImagePart) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part}


def _image(ref: ImageRef, path: Path) -> str:
    if ref.path:
        inside = Path(ref.path).is_relative_to(path.parent.resolve())
        return os.path.relpath(ref.path, path.parent.resolve()) if inside else ref.path
    folder = Path(f"{path}.images")
    folder.mkdir(exist_ok=True)
    file = folder / hashlib.sha256(ref.data).hexdigest()
    if not file.exists():
        file.write_bytes(ref.data)
    return f"{folder.name}/{file.name}"
