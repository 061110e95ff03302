"""Reward heads: from the hidden state at a response's last token to its scalar reward, always in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

Activation = Literal["none", "tanh", "silu", "relu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "silu": nn.SiLU, "relu": nn.ReLU}


class RewardHead(nn.Module, ABC):
    """Turns pooled states into rewards. Subclass it, write ``forward``, and name the class in YAML.

    A head is float32 whatever surrounds it, and a subclass does nothing for that: calling it turns autocast off and
    casts the states, and ``.to(torch.bfloat16)``, ``.bfloat16()`` or ``.half()``, on it or on a module that holds it,
    leave its parameters and buffers in float32. Rewards are small differences of large sums: bfloat16 keeps 8 bits of
    them, so close responses would tie.

    Args:
        hidden_size: width of the backbone's states.
    """

    each: Tensor | None = None
    """Of a head that is made of several: what each of them gave in the last forward pass, [heads, N] with gradient.
    Each of them is trained by the loss of its own rewards."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """Rewards of N responses.

        Args:
            states: [N, hidden_size], float32, the last layer's state at each response's last token.

        Returns:
            [N] rewards in log-odds units: ``sigmoid(r_i - r_j)`` is the probability that i beats j.
        """

    def __call__(self, states: Tensor) -> Tensor:
        """Run ``forward`` and its hooks in float32.

        Args:
            states: [N, hidden_size], any floating point type.

        Raises:
            ValueError: if ``forward`` returns anything but [N] float32 rewards.
        """
        with torch.autocast(states.device.type, enabled=False):
            rewards: Tensor = super().__call__(states.float())
        # [N, 1] would broadcast to all pairs in a loss; other types come from sharding with a low-precision policy.
        if rewards.shape != states.shape[:1] or rewards.dtype != torch.float32:
            raise ValueError(
                f"{type(self).__name__} returned {rewards.dtype} {list(rewards.shape)} for {len(states)} states; "
                f"return torch.float32 [{len(states)}], one reward per response"
            )
        return rewards

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Every conversion (`to`, `half`, `cuda`, a parent's, Lightning's bf16-true) ends here, the children's included:
        # take its device and refuse its type. From the original tensor: a round trip through bf16 would lose bits.
        def keep_float32(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            if not applied.is_floating_point() or applied.dtype == torch.float32:
                return applied
            return tensor.to(applied.device, torch.float32)

        super()._apply(keep_float32, recurse)
        return self


HeadFactory = Callable[[int], RewardHead]
"""Builds the head for a hidden size; a head class is one, and so is ``class_path`` with ``init_args`` in YAML."""


class MLPHead(RewardHead):
    """Linear layers with an activation between them (paper, Table 2; two layers with SiLU are its best).

    Width, bias and initialisation are not stated there; our choice: hidden layers are as wide as the state, have a
    bias and PyTorch's initialisation; the last has none, since Bradley-Terry sees only differences of rewards, and
    starts from a normal distribution of standard deviation 1 / (hidden_size + 1). So rewards begin near zero and the
    first Bradley-Terry loss near log 2 = 0.693, whatever the scale of the states. (Measured for independent states of
    rms 1, 5 and 20: PyTorch's initialisation of the last layer gives 0.70, 0.89 and 2.3; a *variance* of
    1 / (hidden_size + 1) gives 0.71, 1.2 and 3.8.)

    Args:
        hidden_size: width of the backbone's states.
        num_layers: linear layers, 1 to 5.
        activation: between the layers: ``none``, ``tanh``, ``silu`` or ``relu``.

    Raises:
        ValueError: if ``num_layers`` or ``activation`` is none of these.
    """

    def __init__(self, hidden_size: int, num_layers: int = 2, activation: Activation = "silu") -> None:
        super().__init__(hidden_size)
        if num_layers not in range(1, 6):
            raise ValueError(f"num_layers is {num_layers}; use 1 to 5")
        if activation not in get_args(Activation):
            raise ValueError(f"activation is {activation!r}; use one of {', '.join(get_args(Activation))}")
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers.append(nn.Linear(hidden_size, hidden_size))
            if activation != "none":
                layers.append(_ACTIVATIONS[activation]())
        last = nn.Linear(hidden_size, 1, bias=False)
        nn.init.normal_(last.weight, std=1 / (hidden_size + 1))
        self.layers = nn.Sequential(*layers, last)

    def forward(self, states: Tensor) -> Tensor:
        """See :class:`RewardHead`."""
        rewards: Tensor = self.layers(states).sum(-1)  # of one: squeeze gives a view, of which FSDP2 warns
        return rewards


class MultiHead(RewardHead):
    """Several heads on the same states: an ensemble for the price of its heads, since the backbone runs once.

    The reward is their mean. Each head is trained by the loss of its own rewards, and the loss is the mean of theirs
    (our choice; a loss of the mean alone would train one wide head). They differ by nothing but their first weights, so
    their errors are much alike: how much so stands in the report.

    Args:
        hidden_size: width of the backbone's states.
        num_heads: how many; at least 2.
        head: factory of one of them.

    Raises:
        ValueError: for fewer than two heads.
    """

    def __init__(self, hidden_size: int, num_heads: int = 4, head: HeadFactory = MLPHead) -> None:
        super().__init__(hidden_size)
        if num_heads < 2:
            raise ValueError(f"num_heads is {num_heads}; use 2 or more, or the head itself")
        self.heads = nn.ModuleList(head(hidden_size) for _ in range(num_heads))

    def forward(self, states: Tensor) -> Tensor:
        """See :class:`RewardHead`."""
        self.each = torch.stack([head(states) for head in self.heads])
        return self.each.mean(0)
