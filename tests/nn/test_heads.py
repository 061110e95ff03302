from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lit_basereward.nn.heads import HeadFactory, MLPHead, MultiHead, RewardHead

EXAMPLES = str(Path(__file__).parents[2] / "examples")
H = 16


@pytest.fixture(params=["MLPHead", "QuantileHead"])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RewardHead:
    """Ours, and the one of a user who did nothing for float32."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from quantile_head import QuantileHead

    torch.manual_seed(0)
    return MLPHead(H) if request.param == "MLPHead" else QuantileHead(H)


CASTS = {
    "bfloat16": lambda module: module.bfloat16(),
    "half": lambda module: module.half(),
    "double": lambda module: module.double(),
    "to_dtype": lambda module: module.to(torch.bfloat16),
    "to_tensor": lambda module: module.to(torch.zeros(1, dtype=torch.bfloat16)),
    "parent": lambda module: nn.ModuleDict({"head": module, "other": nn.Linear(2, 2)}).to(torch.bfloat16),
}


@pytest.mark.parametrize("cast", CASTS)
def test_no_cast_touches_the_parameters(head: RewardHead, cast: str) -> None:
    """Float32 and bit for bit what they were: a detour through bfloat16 would have rounded them."""
    before = {name: parameter.clone() for name, parameter in head.named_parameters()}
    CASTS[cast](head)
    for name, parameter in head.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name]), name


def test_the_parent_itself_is_cast(head: RewardHead) -> None:
    parent = nn.ModuleDict({"head": head, "other": nn.Linear(2, 2)}).to(torch.bfloat16)
    assert parent["other"].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_moving_to_another_device_works(head: RewardHead, dtype: torch.dtype | None) -> None:
    nn.Sequential(head).to("meta", dtype)
    assert {(p.device.type, p.dtype) for p in head.parameters()} == {("meta", torch.float32)}
    head.to_empty(device="cpu")
    assert {(p.device.type, p.dtype) for p in head.parameters()} == {("cpu", torch.float32)}


def test_built_in_bfloat16_and_cast_as_lightning_does() -> None:
    """`bf16-true` builds the module under a default type of bfloat16, then converts it: the head ends in float32."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = nn.Sequential(MLPHead(H))
    finally:
        torch.set_default_dtype(torch.float32)
    model.to(torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_rewards_are_float32_under_autocast(head: RewardHead) -> None:
    """Bit for bit the rewards and gradients without autocast, from bfloat16 states; the states' gradient comes back."""
    states = torch.randn(5, H).bfloat16().requires_grad_()
    plain = head.forward(states.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert (states.float() @ states.float().T).dtype == torch.bfloat16  # autocast is on
        rewards = head(states)
    assert rewards.dtype == torch.float32 and rewards.shape == (5,)
    assert torch.equal(rewards, plain)
    expected = torch.autograd.grad(plain.sum(), head.parameters())
    rewards.sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(head.parameters(), expected, strict=True))
    assert states.grad is not None and states.grad.dtype == torch.bfloat16


def test_hooks_run_and_see_float32(head: RewardHead) -> None:
    seen: list[tuple[torch.dtype, bool]] = []
    head.register_forward_pre_hook(lambda _, args: seen.append((args[0].dtype, torch.is_autocast_enabled("cpu"))))
    with torch.autocast("cpu", torch.bfloat16):
        head(torch.randn(5, H).bfloat16())
    assert seen == [(torch.float32, False)]


def test_a_head_that_forgets_to_squeeze_is_refused() -> None:
    """[N, 1] rewards minus [N] rewards would be all [N, N] differences, without an error."""

    class Unsqueezed(RewardHead):
        def forward(self, states: Tensor) -> Tensor:
            return states[:, :1]

    with pytest.raises(ValueError, match=r"Unsqueezed returned torch.float32 \[5, 1\] .* return torch.float32 \[5\]"):
        Unsqueezed(H)(torch.randn(5, H))


def test_a_head_of_low_precision_is_refused() -> None:
    class Half(RewardHead):
        def forward(self, states: Tensor) -> Tensor:
            return states.half().sum(1)

    with pytest.raises(ValueError, match=r"Half returned torch.float16 \[5\]"):
        Half(H)(torch.randn(5, H))


def test_no_responses(head: RewardHead) -> None:
    assert head(torch.zeros(0, H)).shape == (0,)


@pytest.mark.parametrize(
    ("num_layers", "activation", "parameters", "activations"),
    [
        (1, "silu", 8, 0),
        (2, "none", 80, 0),
        (2, "tanh", 80, 1),
        (2, "silu", 80, 1),
        (3, "silu", 152, 2),
        (5, "relu", 296, 4),
    ],
)
def test_table_2(num_layers: int, activation: str, parameters: int, activations: int) -> None:
    """H = 8: a hidden layer has 8 * 8 + 8 = 72 parameters, the last, without bias, 8; activations stand between."""
    layers = list(MLPHead(8, num_layers, activation).layers)
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert (len(linear), len(layers) - len(linear)) == (num_layers, activations)
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == parameters
    assert isinstance(layers[-1], nn.Linear) and layers[-1].bias is None


@pytest.mark.parametrize(
    ("activation", "reward"), [("none", 1.0), ("tanh", 0.202434), ("silu", 1.492653), ("relu", 2.0)]
)
def test_activations_by_hand(activation: str, reward: float) -> None:
    """Identity, activation, sum, at states (-1, 2): -1 + 2 = 1; tanh: -0.761594 + 0.964028; x * sigmoid(x):
    -0.268941 + 1.761594; relu: 0 + 2.
    """
    head = MLPHead(2, 2, activation)
    with torch.no_grad():
        head.layers[0].weight.copy_(torch.eye(2))
        head.layers[0].bias.zero_()
        head.layers[-1].weight.fill_(1)
        rewards = head(torch.tensor([[-1.0, 2.0]]))
    torch.testing.assert_close(rewards, torch.tensor([reward]), atol=1e-5, rtol=0)


def test_first_loss_is_near_log_2() -> None:
    """A fresh head on states of rms s = 5, H = 256: the first Bradley-Terry loss lies in [0.6931, 0.7031].

    Averaged over both orders of a pair the loss is log 2 + log cosh(d / 2), which lies in [log 2, log 2 + d^2 / 8].
    d = w (h - h') with w ~ N(0, 1 / (H + 1)^2), so E d^2 = E |h - h'|^2 / (H + 1)^2. The weights of the hidden layer
    have variance 1 / (3 H), so its outputs for two independent states differ by variance 2 s^2 / 3 in each of H units,
    and SiLU stretches by at most 1.1: E |h - h'|^2 <= 1.21 * H * 2 s^2 / 3. Hence E d^2 / 8 <= 0.101 s^2 / H = 0.0099.
    PyTorch's initialisation of the last layer gives about 0.89, a variance of 1 / (H + 1) about 1.2.
    """
    torch.manual_seed(0)
    hidden, s = 256, 5.0
    losses = []
    for _ in range(20):
        head = MLPHead(hidden)
        with torch.no_grad():
            d = head(s * torch.randn(200, hidden)) - head(s * torch.randn(200, hidden))
        losses.append((F.softplus(d) + F.softplus(-d)).mean() / 2)
    assert math.log(2) <= torch.stack(losses).mean().item() <= math.log(2) + 0.0099


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0; use 1 to 5"),
        ({"num_layers": 6}, "num_layers is 6; use 1 to 5"),
        ({"activation": "gelu"}, "activation is 'gelu'; use one of none, tanh, silu, relu"),
    ],
)
def test_bad_settings_say_what_is_accepted(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPHead(H, **options)


@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [("lit_basereward.nn.heads.MLPHead", {"num_layers": 3}), ("quantile_head.QuantileHead", {"num_quantiles": 5})],
)
def test_injected_by_class_path(class_path: str, init_args: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a factory: YAML gives everything but the hidden size; a user's file only has to lie on the path."""
    monkeypatch.syspath_prepend(EXAMPLES)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--head", type=HeadFactory)
    parsed = parser.parse_object({"head": {"class_path": class_path, "init_args": init_args}})
    head = parser.instantiate(parsed).head(H)
    assert type(head).__name__ == class_path.rpartition(".")[2]
    assert len([layer for layer in head.modules() if isinstance(layer, nn.Linear)]) == init_args.get("num_layers", 1)
    assert head(torch.randn(3, H)).shape == (3,)


def test_several_heads_give_their_mean():
    """Each keeps what it gave; the mean is the reward, in float32 under autocast too; one head is no ensemble."""
    head = MultiHead(8, num_heads=3, head=partial(MLPHead, num_layers=1))
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        rewards = head(states)
    assert head.each.shape == (3, 5) and head.each.dtype == torch.float32
    torch.testing.assert_close(head.each[1], head.heads[1](states))
    torch.testing.assert_close(rewards, torch.stack([each(states) for each in head.heads]).mean(0))
    with pytest.raises(ValueError, match="use 2 or more"):
        MultiHead(8, num_heads=1)
