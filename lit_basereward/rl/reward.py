"""What a reward function is to reinforcement learning here, and how other trainers call one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lit_basereward.rl.task import Sample


class Reward(ABC):
    """Rewards of what a policy wrote. Subclass it and name it in YAML; several are summed.

    It knows no trainer: completions and what they answer in, numbers out.
    """

    comparable_across_rows = True
    """False where a reward means something only beside others of its prompt; settled by :meth:`prepare`."""

    def prepare(self) -> None:  # noqa: B027 - most need none
        """Load what is needed, once, before anything is asked. Default: nothing."""

    @abstractmethod
    def __call__(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """The reward of each completion.

        Args:
            completions: texts, without what ends a turn.
            samples: what each of them answers: prompt, images (closed) and ``answer``.

        Returns:
            ``reward``, one number per completion, and any parts of it under names of their own, which are logged; NaN
            in a part is left out of its mean.
        """

    def as_trl(self, answer: str = "answer") -> Callable[..., list[float]]:
        """A reward function for TRL's trainers, and for others that call theirs so.

        It takes ``prompts`` and ``completions``, as texts or as chat messages, and the data set's columns, of which it
        reads ``images`` or ``image`` (Pillow images, paths or encoded bytes) and the answer. Parts go to ``log_metric``
        where the trainer gives one. The model is loaded now.

        Args:
            answer: column with the right answer; it may be missing where nothing is compared with it.

        Example:
            >>> reward = RuleReward().as_trl(answer="solution")  # doctest: +SKIP
            >>> GRPOTrainer(model, reward_funcs=[reward], ...)  # doctest: +SKIP
        """
        self.prepare()

        def function(
            prompts: Sequence[Any], completions: Sequence[Any], log_metric: Any = None, **columns: Any
        ) -> list[float]:
            found = self([_text(each) for each in completions], _samples(prompts, columns, answer))
            if log_metric is not None:
                for name, mean in means(found).items():
                    log_metric(name, mean)
            return found["reward"]

        function.__name__ = type(self).__name__
        return function


def means(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Means of a reward's parts, NaN left out; parts that have nothing else are none."""
    known = {name: [v for v in found[name] if not math.isnan(v)] for name in sorted(found.keys() - {"reward"})}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def _text(completion: Any) -> str:
    """A completion as text, whether TRL gives it so or as turns, of which the last is read; of None there is none."""
    content = completion[-1]["content"] if isinstance(completion, list | tuple) and completion else completion
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or [])


def _samples(prompts: Sequence[Any], columns: Mapping[str, Any], answer: str) -> list[Sample]:
    """A trainer's prompts and columns; TRL has put the images in their places in the turns, others have not."""
    from lit_basereward.data.sources.record import read_prompt
    from lit_basereward.scorer import encoded, encoded_turn

    kept: dict[int, tuple[Any, Any]] = {}

    def once(value: Any) -> Any:  # a group has one image, many times
        if id(value) not in kept:
            kept[id(value)] = value, encoded(value)  # a value that is kept keeps its id
        return kept[id(value)][1]

    samples = []
    for n, prompt in enumerate(prompts):
        where = f"prompt {n} of the batch"
        turns = prompt if isinstance(prompt, str) else [encoded_turn(turn, once) for turn in prompt]
        images = next((columns[key][n] for key in ("images", "image") if columns.get(key) is not None), None)
        if images is None or _carries_images(turns):
            images = []
        given = images if isinstance(images, list | tuple) else [images]
        # The trainer's own values, so paths may lie anywhere.
        messages, refs = read_prompt(turns, [once(image) for image in given], where, root=None)
        right = columns[answer][n] if columns.get(answer) is not None else None
        samples.append(Sample(messages, refs, "" if right is None else str(right), where=where))
    return samples


def _carries_images(turns: str | list[dict[str, Any]]) -> bool:
    contents = [] if isinstance(turns, str) else [turn["content"] for turn in turns]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(part.get("image") is not None for part in parts)
