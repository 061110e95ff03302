"""The backbone recipe: which multimodal language model, how it is loaded and which of its parts train."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from lit_basereward.nn.lora import LoRA, Quantize, is_adapter, is_quantized, is_wrapped

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = ("vision", "projector", "language")

# What families call these parts. A projector may sit inside the tower (Qwen's merger), so it is looked for first.
_PROJECTOR = ("merger", "projector", "connector", "image_newline")
_VISION = ("visual.", "vision_tower.", "vision_model.", "vision_encoder.", "image_tower.")


def part_of(parameter_name: str) -> Part:
    """The part of a backbone that a parameter belongs to, by its name."""
    if any(word in parameter_name for word in _PROJECTOR):
        return "projector"
    return "vision" if parameter_name.startswith(_VISION) else "language"


@dataclass
class Backbone:
    """A recipe: cheap to build, print and store in a checkpoint. :meth:`load` does the work.

    Args:
        name_or_path: hub id or local folder of a vision-language model (Qwen2.5-VL, Qwen2-VL, Qwen3-VL, LLaVA-OneVision
            and others) or of a text-only one (Qwen2, Qwen3, Llama).
        init: ``pretrained`` weights, or ``random`` ones from the folder's config alone.
        dtype: storage of frozen parts. What trains is always stored in float32: at the paper's learning rate of 3e-6
            weights stored in bfloat16 lose most of every update.
        attention: kernel of the vision tower, and of the language part in the padded layout.
        freeze: parts that do not train: ``vision`` (the tower without its projector), ``projector``, ``language``.
            Frozen vision is our choice; the paper is silent. With ``lora`` all but the projector is frozen anyway.
        lora: train low-rank adapters beside the frozen language model. Checkpoints then hold what trains alone.
        quantize: store the language model's frozen linear layers in 4 bits.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        max_pixels: larger images are shrunk to this many pixels, aspect ratio kept (our choice).
        max_length: most tokens of prompt and one response together, images included (our choice).
        system_prompt: first turn of prompts that have none. None leaves it to the chat template (Qwen2.5-VL's writes
            "You are a helpful assistant.").
        text_tokens: added tokens that are read as one token in prompts and responses, such as ``<think>``. Any other
            special token in a text stays text.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run model code that comes with the weights. Never needed for the families above.
    """

    name_or_path: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    init: Literal["pretrained", "random"] = "pretrained"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    freeze: list[Part] = field(default_factory=lambda: ["vision"])
    lora: LoRA | None = None
    quantize: Quantize | None = None
    gradient_checkpointing: bool = False
    max_pixels: int = 1_003_520
    max_length: int = 32_768
    system_prompt: str | None = None
    text_tokens: list[str] = field(default_factory=list)
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def partial(self) -> bool:
        """True if checkpoints leave the frozen weights out, so that they are always read from the folder."""
        return self.init == "pretrained" and (self.lora is not None or self.quantize is not None)

    def folder(self) -> str:
        """Where config, processor and weights come from; a subclass may make them on the spot."""
        return self.name_or_path

    def config(self) -> PreTrainedConfig:
        """The model's configuration.

        Raises:
            ValueError: if there is none.
        """
        from transformers import AutoConfig

        local = self.folder().startswith((".", "/", "~")) or Path(self.folder()).parent.parent != Path()
        if local and not Path(self.folder()).is_dir():
            raise ValueError(f"backbone.name_or_path: there is no folder {self.name_or_path!r}")
        if not Path(self.folder()).is_dir():
            self._reach_hub()
        try:
            return AutoConfig.from_pretrained(self.folder(), **self._source())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"backbone {self.name_or_path!r} has no readable config.json; give a hub id or the folder of a "
                f"Hugging Face model ({_first_line(error)})"
            ) from error

    def _reach_hub(self) -> None:
        """Fail at once where transformers would try for most of a minute."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

        wanted: dict[str, Any] = {"repo_id": self.folder(), "filename": "config.json", "revision": self.revision}
        try:
            if not isinstance(try_to_load_from_cache(**wanted), str):
                get_hf_file_metadata(hf_hub_url(**wanted))
        except Exception as error:  # whatever its HTTP client raises
            raise ValueError(
                f"backbone {self.name_or_path!r} is neither a folder here nor can it be had from the Hugging Face hub "
                f"({_first_line(error)}); give the folder of a local copy in model.backbone.name_or_path"
            ) from error

    def processor(self) -> Any:
        """The processor of a vision-language model, or the tokenizer of a text-only one."""
        from lit_basereward.data.processor import load_processor

        return load_processor(
            self.folder(), revision=self.revision, trust_remote_code=self.trust_remote_code, max_pixels=self.max_pixels
        )

    def load(self, weights: bool = True, language_head: bool = False) -> PreTrainedModel:
        """The model in training mode, with frozen parts frozen.

        Args:
            weights: False skips reading pretrained weights, for when a checkpoint fills them anyway; not where its
                checkpoints leave them out.
            language_head: keep the head that predicts tokens, which is a part of ``language``; without it the base
                model is returned.

        Raises:
            ValueError: if the folder has no weights, or a part to freeze that it does not have; for adapters or 4-bit
                weights that cannot be.
        """
        config = self.config()
        model = self._read(config, weights, language_head)
        base = model.base_model if language_head else model
        if self.quantize is not None and not is_quantized(base):
            raise ValueError(f"backbone {self.name_or_path!r}: no weight came out in 4 bits; leave out quantize")
        if self.lora is not None:
            self.lora.inject(base, part_of)
        self._freeze(base)
        if language_head:
            self._store(model.get_output_embeddings(), trains=self.lora is None and "language" not in self.freeze)
        if self.gradient_checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
        return model.train()  # from_pretrained gives eval mode, in which checkpointing never runs

    def _read(self, config: PreTrainedConfig, weights: bool, language_head: bool) -> Any:
        """The model as transformers builds it, in float32."""
        from transformers.utils import logging

        auto = _auto_class(config, language_head)
        options = self._source()
        if self.quantize is not None:
            options["quantization_config"] = self._quantization(config, auto)
        if not (weights or self.partial) or self.init == "random":
            return auto.from_config(
                config,
                dtype=torch.float32,
                attn_implementation=self.attention,
                trust_remote_code=self.trust_remote_code,
            )
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # else it reports the language head as unexpected; we check what is missing
        try:
            model, info = auto.from_pretrained(
                self.folder(),
                dtype=torch.float32,
                attn_implementation=self.attention,
                output_loading_info=True,
                **options,
            )
        except OSError as error:
            raise ValueError(
                f"backbone {self.name_or_path!r} has no readable weights; complete the folder, or set "
                f"backbone.init: random to train from scratch ({_first_line(error)})"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
        if info["missing_keys"]:
            raise ValueError(
                f"backbone {self.name_or_path!r} lacks weights for {len(info['missing_keys'])} parameters, first "
                f"{sorted(info['missing_keys'])[0]!r}; the folder is incomplete or of another model"
            )
        return model

    def _source(self) -> dict[str, Any]:
        return {"revision": self.revision or "main", "trust_remote_code": self.trust_remote_code}

    def _freeze(self, base: nn.Module) -> None:
        found = {part_of(name) for name, _ in base.named_parameters()}
        for part in self.freeze:
            if part not in PARTS:
                raise ValueError(f"backbone.freeze has {part!r}; known parts are {', '.join(PARTS)}")
            # A text-only model has nothing to see with, so the default `vision` asks for nothing there.
            if part not in found and found != {"language"}:
                raise ValueError(f"backbone {self.name_or_path!r} has no {part} to freeze; it has {sorted(found)}")
        for name, parameter in base.named_parameters():
            self._store_parameter(parameter, self._trains(name))

    def _store(self, module: nn.Module, trains: bool) -> None:
        for parameter in module.parameters():
            self._store_parameter(parameter, trains)

    def _store_parameter(self, parameter: nn.Parameter, trains: bool) -> None:
        if parameter.is_floating_point():  # 4-bit weights are bytes
            parameter.requires_grad_(trains)
            parameter.data = parameter.data.to(torch.float32 if trains else getattr(torch, self.dtype))

    def _trains(self, name: str) -> bool:
        if self.lora is None:
            return part_of(name) not in self.freeze
        return is_adapter(name) or (
            part_of(name) == "projector" and "projector" not in self.freeze and not is_wrapped(name)
        )

    def _quantization(self, config: PreTrainedConfig, auto: Any) -> Any:
        """What transformers needs to know to store the frozen language model in 4 bits, and that alone."""
        if self.init == "random":
            raise ValueError("backbone.quantize needs pretrained weights, and backbone.init is random; leave out one")
        if self.lora is None and "language" not in self.freeze:
            raise ValueError("4-bit weights cannot train: set backbone.lora, or add language to backbone.freeze")
        with torch.device("meta"):
            skeleton: Any = auto.from_config(config, trust_remote_code=self.trust_remote_code)
        decoder, base = skeleton.get_decoder(), skeleton.base_model
        parts = [] if decoder is base else list(base.named_children())
        inside = "" if base is skeleton else f"{skeleton.base_model_prefix}."
        others = [f"{inside}{name}" for name, child in parts if child is not decoder]
        others += [name for name, child in skeleton.named_children() if child not in (base, decoder) and inside]
        assert self.quantize is not None
        return self.quantize.config(others, getattr(torch, self.dtype))


def _auto_class(config: PreTrainedConfig, language_head: bool) -> Any:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    if not language_head:
        return AutoModel
    return AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
