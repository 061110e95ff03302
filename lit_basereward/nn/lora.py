"""Adapters and 4-bit storage: what lets a large frozen backbone be trained on one device, and how both come off again.

LoRA (arXiv 2106.09685) adds ``alpha / rank * B A`` to frozen linear layers and trains A and B alone. QLoRA
(arXiv 2305.14314) stores those frozen layers in 4 bits besides. Adapters are put into the base model in place, so that
everything that knows the model by its parts, as the shared layout does, sees the same model as before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

_ADAPTER = "default"  # the name that peft gives an adapter
_BASE = ".base_layer."  # what peft puts into the names of the layers that it wraps


@dataclass
class LoRA:
    """Low-rank adapters on linear layers, which train in place of the language model's own weights.

    Args:
        rank: r, inner width of A and B (our choice; the paper trains all weights).
        alpha: the adapters' output is scaled by alpha / rank (our choice).
        dropout: on the adapters' input while training. It draws anew for each response in the padded layout, and once
            for a prompt that responses share.
        targets: regular expression on the whole name of a layer in the base model, such as
            ``.*language_model.*[.](q_proj|v_proj)``. None is every linear layer of the language model (our choice),
            whatever the family calls them.
        vision: with ``targets`` None, the vision tower's linear layers too.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | None = None
    vision: bool = False

    def inject(self, base: nn.Module, part_of: Callable[[str], str]) -> None:
        """Put adapters into ``base``, in place. B starts at zero, so no output changes yet.

        Args:
            base: of transformers, in float32 or 4-bit; all of it is frozen.
            part_of: the part of the model that a name belongs to.

        Raises:
            ValueError: for a rank or targets that cannot be, with the mend.
        """
        settings = self.peft_config(base, part_of)
        from peft import inject_adapter_in_model

        inject_adapter_in_model(settings, base)
        for name, parameter in base.named_parameters():
            if is_adapter(name):  # peft takes over the base's storage, which may be bfloat16
                parameter.data = parameter.data.float()

    def peft_config(self, base: nn.Module, part_of: Callable[[str], str]) -> Any:
        """The same in peft's words, targets filled in."""
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise ValueError('backbone.lora needs peft: pip install "lit_basereward[lora]"') from error
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora.rank is {self.rank} and lora.dropout {self.dropout}; use a rank >= 1 and 0 <= dropout < 1"
            )
        if self.vision and self.targets is not None:
            raise ValueError("lora.vision goes with the default targets; name the tower's layers in lora.targets")
        targets = self.targets or default_targets(base, part_of, self.vision)
        self._check(targets, base)
        # A regular expression: a list of names would be matched by their ends, and hit other parts as well.
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # a float works, and is what papers scale by
            lora_dropout=self.dropout,
            target_modules=targets,
            task_type="FEATURE_EXTRACTION",
        )

    @staticmethod
    def _check(targets: str, base: nn.Module) -> None:
        try:
            found = [(name, module) for name, module in base.named_modules() if re.fullmatch(targets, name)]
        except re.error as error:
            raise ValueError(f"lora.targets {targets!r} is no regular expression: {error}") from error
        linear = sorted({name.rpartition(".")[2] for name, module in base.named_modules() if _is_linear(module)})
        if not found:
            raise ValueError(
                f"lora.targets {targets!r} matches the whole name of no layer; linear layers end in {', '.join(linear)}"
            )
        for name, module in found:
            if not _is_linear(module):
                raise ValueError(
                    f"lora.targets {targets!r} matches {name}, which is no linear layer; end it with one or more of "
                    f"{', '.join(linear)}"
                )


@dataclass
class Quantize:
    """4-bit storage of the language model's frozen linear layers (QLoRA). They compute in ``backbone.dtype``.

    Vision tower, projector, embeddings and head stay as they are.

    Args:
        kind: ``nf4``, whose 16 levels suit normally distributed weights, or ``fp4``.
        double: quantise the scales of the blocks too, which saves another 0.4 bits per weight.
    """

    kind: Literal["nf4", "fp4"] = "nf4"
    double: bool = True

    def config(self, skip: list[str], dtype: torch.dtype) -> Any:
        """The same in transformers' words.

        Args:
            skip: modules to leave alone.
            dtype: to compute in.
        """
        try:
            import bitsandbytes  # noqa: F401 - transformers' own message is longer, and comes later
        except ImportError as error:
            raise ValueError('backbone.quantize needs bitsandbytes: pip install "lit_basereward[lora]"') from error
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.kind,
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=skip,
        )


def default_targets(base: Any, part_of: Callable[[str], str], vision: bool = False) -> str:
    """A regular expression for every linear layer of the language model, and of the vision tower where asked for."""
    linear = [name for name, module in base.named_modules() if _is_linear(module)]
    decoder = base.get_decoder()
    prefix = next(name for name, module in base.named_modules() if module is decoder)
    inside = f"{prefix}." if prefix else ""
    patterns = [_pattern(inside, [name for name in linear if name.startswith(inside) and part_of(name) == "language"])]
    if vision:
        towers = [name for name in linear if part_of(f"{name}.weight") == "vision"]
        if not towers:
            raise ValueError("lora.vision: this backbone has no vision tower; leave it out")
        for tower in sorted({name.partition(".")[0] for name in towers}):
            names = [name for name in towers if name.startswith(f"{tower}.")]
            patterns.append(_pattern(f"{tower}.", names, "(?!.*(merger|projector|connector))"))
    return "|".join(patterns)


def _pattern(inside: str, names: list[str], not_here: str = "") -> str:
    """Any prefix, as a language head's class adds one; then the part; then the last two words of its layers."""
    ends = "|".join(sorted({re.escape(".".join(name.split(".")[-2:])) for name in names}))
    return rf"(.*\.)?{re.escape(inside)}{not_here}.*\.({ends})"


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)  # the 4-bit one is its subclass


def is_adapter(name: str) -> bool:
    """True for the name of an adapter's parameter."""
    return ".lora_" in name


def is_wrapped(name: str) -> bool:
    """True for the name of a parameter that lies beneath an adapter."""
    return _BASE in name


def has_adapters(model: nn.Module) -> bool:
    """True if adapters have been injected somewhere."""
    return any(is_adapter(name) for name, _ in model.named_parameters())


def is_quantized(model: nn.Module) -> bool:
    """True if some weights are stored in 4 bits."""
    return any(_is_quantized(module) for module in model.modules())


def _is_quantized(layer: nn.Module) -> bool:
    return hasattr(getattr(layer, "weight", None), "quant_state")


def beneath_adapters(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network without adapters under the names that they have in ``model``, its own adapters beside."""
    own = model.state_dict()
    places = {name.replace(_BASE, "."): name for name in own if not is_adapter(name)}
    return {places.get(name, name): value for name, value in weights.items()} | {
        name: value for name, value in own.items() if is_adapter(name)
    }


def adapters(base: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The adapters under peft's names for its files, those of ``AutoModel`` wrapped in a ``PeftModel``.

    Args:
        base: with adapters.
        prefix: of its names in the model that is to be wrapped, such as ``model.`` in one with a language head.
    """
    return {
        f"base_model.model.{prefix}{name.replace(f'.{_ADAPTER}.', '.')}": value
        for name, value in base.state_dict().items()
        if is_adapter(name)
    }


def dequantize(base: nn.Module) -> None:
    """Store 4-bit layers as plain float32 ones of the same worth, in place, adapters still beside them."""
    found = {name: layer for name, layer in base.named_modules() if _is_quantized(layer) and not _is_adapted(layer)}
    for name, layer in found.items():
        _replace(base, name, _linear(_dequantized(layer), layer.bias))
    base.__dict__.pop("hf_quantizer", None)


def merge(base: nn.Module) -> None:
    """Fold adapters into plain float32 linear layers, in place, and take 4-bit layers out of their storage.

    4-bit weights are merged as what they are worth, the values that the adapters were trained beside: rewards stay the
    same. The weights before quantisation would give others, and quantising the sum anew others again.
    """
    dequantize(base)
    adapted: dict[str, Any] = {name: module for name, module in base.named_modules() if _is_adapted(module)}
    for name, module in adapted.items():
        layer = module.get_base_layer()
        delta = module.get_delta_weight(_ADAPTER).to(layer.weight.device, torch.float32)
        _replace(base, name, _linear(layer.weight.detach().float() + delta, layer.bias))
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        base.__dict__.pop(attribute, None)


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "lora_A")


def _dequantized(layer: Any) -> Tensor:
    """[out, in] float32"""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(_packed(layer), layer.weight.quant_state).float()


def _packed(layer: nn.Module) -> Tensor:
    """Two weights a byte. Some CPUs rearrange them when they first infer; taking the state puts them back."""
    return layer.state_dict()["weight"]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return made


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


def fingerprints(base: nn.Module, values: int = 64) -> dict[str, str]:
    """A short hash of each frozen weight, since adapters are right on the very weights they were trained on alone.

    Storage in float32 or bfloat16 makes no difference, nor does the device: of 4-bit weights the codes are hashed, not
    their scales. (No quotient of two bfloat16 numbers is so close to the middle between two levels of nf4 that float32
    rounding decides: the closest is 2.2e-7 away. Backbones stored in float16 or float32 are not so safe.)

    Args:
        base: with its weights.
        values: hashed of each, evenly spread; in 4 bits pairs of them.
    """
    found = {}
    for name, parameter in base.named_parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            found[name] = _hash(_spread(parameter.detach(), values).to("cpu", torch.bfloat16).float())
    for name, layer in base.named_modules():
        if _is_quantized(layer) and not _is_adapted(layer):
            found[f"{name}.weight"] = _hash(_spread(_packed(layer), values).cpu())
    return {name.replace(_BASE, "."): value for name, value in found.items()}


def _spread(tensor: Tensor, values: int) -> Tensor:
    return tensor.flatten()[:: max(1, tensor.numel() // values)]


def _hash(sample: Tensor) -> str:
    return hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16]
