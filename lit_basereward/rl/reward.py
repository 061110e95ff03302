"""What a reward function is to reinforcement learning here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lit_basereward.rl.task import Sample


class Reward(ABC):
    """Rewards of what a policy wrote. Subclass it and name it in YAML; several are summed.

    It knows no trainer: completions and what they answer in, numbers out.
    """

    @abstractmethod
    def __call__(self, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[float]]:
        """The reward of each completion.

        Args:
            completions: texts, without what ends a turn.
            samples: what each of them answers: prompt, images (closed) and ``answer``.

        Returns:
            ``reward``, one number per completion, and any parts of it under names of their own, which are logged.
        """
