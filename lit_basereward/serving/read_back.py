"""Is an export the model that it was made from? Numbers of both on made-up rows, and how far apart they are."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.scorer import Scorer

TOLERANCE = 1e-5  # on rewards read back, in units of :func:`lost`
ROUNDED = 0.05  # the same where weights are written in bfloat16, whose 8 bits are 2 to 3 digits


def made_up(scorer: Scorer) -> list[Preference]:
    """Two rows to compare rewards on: one of text, one with an image where the model sees."""
    from PIL import Image

    text = scorer.row("What is 7 times 8?", ["It is 56.", "54", "I do not know."])
    judgement = "<think>7 times 8 is 56.</think><answer>1</answer>"
    critiques = ("It is right.", "It is 2 too low.", "No answer.")
    rows = [replace(text, ratings=(2.0, 1.0, 0.0), critiques=critiques, judgement=judgement)]
    if scorer.collator.chat.image_token is not None:
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize((84, 56)).convert("RGB").save(buffer, "PNG")
        prompt = (Message("user", (ImagePart(), "Which side is brighter?")),)
        images = (ImageRef(data=buffer.getvalue()),)
        answers = ("The lower one.", "The left one.")
        rows.append(Preference("", prompt, answers, (1.0, 0.0), images, judgement="<answer>1</answer>"))
    return rows


def read_out(scorer: Scorer, rows: list[Preference]) -> Tensor:
    """Rewards; of a model that writes what its head reads behind given texts, and how likely it finds those.

    Texts of its own would differ by whole words where two of them are next to equally likely.
    """
    module: Any = scorer.module
    if not isinstance(module.model, LanguageRewardModel):
        return torch.cat(scorer.score_rows(rows))
    batch: Any = module.collator(training=True)(list(enumerate(rows))).to(scorer.device)
    mixed = module.backbone.dtype == "bfloat16"
    with torch.inference_mode(), torch.autocast(scorer.device.type, torch.bfloat16, enabled=mixed):
        return torch.cat(module.model(batch.inputs, batch.layout, batch.targets)).float().cpu()


def lost(rewards: Tensor, expected: Tensor) -> float:
    """Largest difference of rewards, in units of the expected ones' standard deviation where that is above 1."""
    return float((rewards - expected).abs().max() / expected.std(correction=0).clamp(min=1.0))
