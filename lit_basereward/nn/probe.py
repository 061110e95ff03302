"""Is the shared layout exact for this backbone? Known for some, tried once for the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch

from lit_basereward.nn.reward_model import SHARED_LAYOUT, RewardModel, attends_fully

if TYPE_CHECKING:
    from lit_basereward.data.collator import Collator

LayoutName = Literal["shared", "padded"]
TOLERANCE = 1e-4


def choose_layout(
    model: RewardModel,
    layout: LayoutName,
    collator: Callable[[LayoutName], Collator],
    say: Callable[[str], Any] = print,
) -> LayoutName:
    """The layout to use: ``shared`` only where it is exact; otherwise ``padded``, with one line that says why.

    A model type outside the proven list is probed: rewards of one text row and one image row, shared against padded.
    """
    if layout == "padded":
        return layout
    config = model.base.config
    if config.get_text_config()._attn_implementation != "branch":
        reason = f"attention {config.get_text_config()._attn_implementation} is not supported there"
    elif not attends_fully(config):
        reason = f"{config.model_type} does not attend fully in every layer"
    elif config.model_type in SHARED_LAYOUT:
        return layout
    else:
        difference = probe(model, collator)
        if difference <= TOLERANCE:
            return layout
        reason = f"rewards of {config.model_type} differ by {difference:.1g} there"
    say(f"layout: padded, since {reason}")
    return "padded"


def probe(model: RewardModel, collator: Callable[[LayoutName], Collator]) -> float:
    """Largest difference of rewards between the two layouts, relative to their spread; infinite where one fails."""
    from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference

    draw = random.Random(0)
    words = [" ".join(draw.choices(["red", "nine", "why", "not", "a", "cat"], k=n)) for n in (3, 17, 40)]
    rows = [Preference("text", (Message("user", (words[1],)),), (words[0], words[2]))]
    shared, padded = collator("shared"), collator("padded")
    if shared.chat.image_token is not None:
        image = ImageRef(data=_png())
        rows.append(Preference("image", (Message("user", (ImagePart(), words[0])),), tuple(words), images=(image,)))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            device = next(model.parameters()).device
            batches = [c(list(enumerate(rows))).to(device) for c in (shared, padded)]
            one, two = (_rewards(model, batch) for batch in batches)
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError):
        return float("inf")
    finally:
        model.train(was_training)
    return ((one - two).abs().max() / two.std().clamp(min=1e-6)).item()


def _rewards(model: RewardModel, batch: Any) -> torch.Tensor:
    found = model(batch.inputs, batch.layout)
    return found[0] if isinstance(found, tuple) else found  # those with a language head return more


def _png() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
