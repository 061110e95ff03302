"""A tiny policy that has imitated demonstrations for a while: what reinforcement starts from in the demos."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tqdm import trange

from lit_basereward.demo.backbone import TinyQwen2_5VL
from lit_basereward.rl.prompts import Prompts
from lit_basereward.rl.task import Sample, Task, demonstrated


@dataclass
class WarmStarted(TinyQwen2_5VL):
    """The demo's backbone after some minutes of imitation, trained where it is not there yet, and then kept.

    A policy that never writes a verdict earns nothing and learns nothing, so it is shown first what one looks like.
    For a real judge this is supervised training of a `GenerativeRM` on judgements.

    Args:
        name_or_path: folder to keep it in.
        init: its weights are read from there.
        task: what it imitates: those of its prompts that have a demonstration.
        steps: of imitation. Few enough leave reinforcement something to do.
        batch_size: demonstrations a step.
        learning_rate: of AdamW.
        seed: of weights and order.
    """

    name_or_path: str = "runs/rl/warm_start"
    init: Literal["pretrained", "random"] = "pretrained"
    task: Task | None = None
    steps: int = 240
    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0

    def folder(self) -> str:
        """The folder, made where it is missing.

        Raises:
            ValueError: if it is missing and there is no task to make it from.
        """
        final = Path(self.name_or_path)
        if not final.exists():
            if self.task is None:
                raise ValueError(f"there is no folder {self.name_or_path!r}; give a task to imitate, and it is made")
            aside = final.with_name(f".{final.name}.{os.getpid()}")
            try:
                self._make(self.task, aside)
                os.rename(aside, final)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return str(final)

    def _make(self, task: Task, folder: Path) -> None:
        task.prepare()
        samples = demonstrated(task)
        base = TinyQwen2_5VL(max_pixels=self.max_pixels)
        shutil.copytree(base.folder(), folder)
        torch.manual_seed(self.seed)
        model: Any = base.load(language_head=True)
        loss = imitate(model, Prompts(base), samples, self.steps, self.batch_size, self.learning_rate, self.seed)
        model.save_pretrained(folder)
        told = f"{self.steps} steps on {len(samples):,} demonstrations, loss {loss:.3f}"
        print(f"warm start: {told}; kept in {self.name_or_path}")


def imitate(
    model: Any,
    prompts: Prompts,
    samples: Sequence[Sample],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> float:
    """Supervised training on demonstrations, in place: cross-entropy of their tokens and of the end of their turn.

    Args:
        model: of transformers, with its language head, in float32.
        prompts: of the same backbone.
        samples: with demonstrations.
        steps: of AdamW.
        batch_size: demonstrations a step, drawn without repetition until all had their turn.
        learning_rate: the same in all steps.
        seed: of the order.

    Returns:
        the mean loss of the last tenth of the steps.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    rng, queue, losses = random.Random(seed), list[int](), list[float]()
    for _ in trange(steps, desc="warm start", unit=" steps", leave=False):
        while len(queue) < batch_size:
            queue += rng.sample(range(len(samples)), len(samples))
        drawn, queue = queue[:batch_size], queue[batch_size:]
        inputs, labels = batch_of([samples[index] for index in drawn], prompts)
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def batch_of(samples: Sequence[Sample], prompts: Prompts) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Prompts with their demonstrations as inputs, padded right, and [B, L] labels: -100 where nothing is to be learnt.

    Demonstrations are tokenised apart from their prompts, as completions are when they are generated.
    """
    pad = prompts.tokenizer.pad_token_id
    encoded = prompts.processor.apply_chat_template(
        [prompts.turns(sample) for sample in samples], tokenize=False, add_generation_prompt=True
    )
    images = [image for sample in samples for image in prompts.images(sample)]
    encoded = prompts.processor(text=encoded, **({"images": images} if images else {}))
    completions = [[*prompts.chat.text(sample.demonstration), prompts.tokenizer.eos_token_id] for sample in samples]
    both = list(zip(encoded["input_ids"], completions, strict=True))
    inputs = {
        "input_ids": _padded([[*prompt, *completion] for prompt, completion in both], pad),
        "attention_mask": _padded([[1] * (len(prompt) + len(completion)) for prompt, completion in both], 0),
    }
    if "mm_token_type_ids" in encoded:
        kinds = [
            [*kind, *([0] * len(completion))]
            for kind, completion in zip(encoded["mm_token_type_ids"], completions, strict=True)
        ]
        inputs["mm_token_type_ids"] = _padded(kinds, 0)
    inputs |= {key: torch.as_tensor(value) for key, value in encoded.items() if key.startswith(("pixel", "image"))}
    labels = [[-100] * len(prompt) + completion for prompt, completion in both]
    return inputs, _padded(labels, -100)


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """[B, longest]"""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
