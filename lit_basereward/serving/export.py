"""A checkpoint as a folder in the Hugging Face format: whole, checked, and read back by ``lit_basereward.load``."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import lit_basereward
from lit_basereward.data.templates import Template
from lit_basereward.ensemble.folder import is_ensemble
from lit_basereward.modules.recipe import recipe
from lit_basereward.nn.backbone import Backbone, part_of
from lit_basereward.nn.heads import MLPHead
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.lora import adapters, dequantize, is_adapter, merge
from lit_basereward.scorer import Scorer, load_checkpoint, restore
from lit_basereward.serving.card import card_fields, card_template, read_results
from lit_basereward.serving.folder import ADAPTER, FORMAT, HEAD, RECIPE, TEMPLATE, prefix, read_folder, write_manifest
from lit_basereward.serving.read_back import ROUNDED, TOLERANCE, lost, made_up, read_out

_MODEL_CLASSES = ("ForConditionalGeneration", "ForCausalLM", "LMHeadModel", "Model")
PROCESSOR_FILES = (
    "*preprocessor_config.json", "processor_config.json", "tokenizer*", "*.model", "*.tiktoken", "vocab*", "merges.txt",
    "added_tokens.json", "special_tokens_map.json", "chat_template*", "LICENSE*", "NOTICE*",
)  # fmt: skip
_GENERATION = "generation_config.json"


def export(
    ckpt_path: str,
    output: str,
    dtype: Literal["float32", "bfloat16"] = "float32",
    adapter_only: bool = False,
    results: str | None = None,
    card: str | None = None,
    backbone: str | None = None,
    device: str = "cpu",
    allow: list[str] | None = None,
) -> Path:
    """Write a trained reward model as a Hugging Face folder, which `lit_basereward.load` reads back.

    Adapters are merged into full weights, and 4-bit weights written out in full. The folder is written aside, read
    back, its rewards compared with the checkpoint's, and only then given its name. A critic is written as the whole
    language model with the reward head beside it, a judge as the language model that it is, in its own architecture;
    the wording of their instructions goes along. Of these the likelihood of a text is compared too.

    Args:
        ckpt_path: the model's ``.ckpt`` file, or the folder of a sharded checkpoint.
        output: folder to write; it must not exist.
        dtype: of the backbone's weights. ``float32`` keeps the rewards to 1e-5; ``bfloat16`` halves the size and moves
            them in the second or third digit. The head is float32.
        adapter_only: of a model with LoRA write the adapters in PEFT's format, and the head, without the backbone; all
            in float32.
        results: ``results.json`` that ``test`` wrote for this checkpoint; its figures go into the model card.
        card: Jinja template of the model card, in place of ``lit_basereward/serving/card.md.j2``, which says what its
            fields are.
        backbone: folder or hub id of the backbone, where it is not where it was in training.
        device: where rewards are compared.
        allow: modules of yours, such as ``my_pkg.heads``, whose classes the checkpoint may name.

    Raises:
        ValueError: if the checkpoint cannot be read, ``output`` is there already, or the rewards read back differ.
    """
    target, allow = Path(output), allow or []
    if target.exists():
        raise ValueError(f"output {output!r} is there already; name a new folder, or remove it first")
    if (Path(ckpt_path) / RECIPE).exists():
        raise ValueError(f"{ckpt_path!r} is an export already; give the checkpoint that it was made from")
    if is_ensemble(ckpt_path):
        raise ValueError(f"{ckpt_path!r} is an ensemble; export its members, and name the exports as its members")
    if adapter_only and dtype != "float32":
        raise ValueError(f"adapters are written in float32, as they were trained: leave out dtype {dtype}")
    figures, template = read_results(results), card_template(card)
    checkpoint = load_checkpoint(Path(ckpt_path))
    module: Any = restore(checkpoint, allow, backbone)
    scorer = Scorer(module, device)
    rows = made_up(scorer)
    trained = expected = read_out(scorer, rows)
    origin: Backbone = module.backbone
    source = source_folder(origin)
    with _aside(target) as folder:
        if adapter_only:
            architecture = None
            _write_adapters(module, folder)
        else:
            if origin.dtype == "bfloat16":  # computed so until here, and in float32 from now on, adapters still apart
                to_float32(module)
                expected = read_out(scorer, rows)
            _make_plain(module)
            architecture = _write_model(module, origin, source, dtype, folder)
            copy_processor(source, folder, code=origin.trust_remote_code)
        if writes := isinstance(module.model, LanguageRewardModel):
            _write_template(module.template, folder)
        described = _describe(checkpoint, module, adapter_only)
        (folder / RECIPE).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        del module, scorer  # one network in memory at a time

        read_back = read_folder(folder, allow, backbone if adapter_only else None)
        rewards = read_out(Scorer(read_back, device), rows)
        moved, off = lost(rewards, trained), lost(rewards, expected)
        if not off <= (TOLERANCE if adapter_only or dtype == "float32" else ROUNDED):
            raise ValueError(
                f"the export does not give its rewards back (they differ by {off:.2g}) and was not kept; if the "
                "backbone is a class of yours, let it read everything from its name_or_path"
            )
        stored = None if adapter_only else dtype
        comparable = read_back.comparable_across_rows
        about = card_fields(described, origin, source, figures, stored, writes, comparable)
        text = template.render(**about, moved=moved, architecture=architecture)
        (folder / "README.md").write_text(text, encoding="utf-8")
        write_manifest(folder)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"exported to {target} ({size / 1e6:,.1f} MB); its rewards differ from the checkpoint's by {moved:.1g}")
    return target


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that takes its name when all has gone well, and goes when not."""
    folder = target.parent / f".{target.name}.{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
        os.rename(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _make_plain(module: Any) -> None:
    """Merge what lies beside or in place of full weights, and describe the backbone as it will lie in the folder."""
    base = module.model.base
    merge(base)
    to_float32(module)
    now: dict[str, Any] = {"name_or_path": ".", "init": "pretrained", "revision": None, "lora": None, "quantize": None}
    now["freeze"] = sorted({part_of(name) for name, _ in base.named_parameters()})  # so that the dtype is that of all
    origin = module.backbone
    if type(origin).__module__.startswith("lit_basereward."):  # the demo's makes its folder itself
        origin = Backbone(**{field.name: getattr(origin, field.name) for field in fields(Backbone)})
    module.backbone = replace(origin, dtype="float32", **now)


def to_float32(module: Any) -> None:
    """Store and compute in float32, without 4-bit layers; adapters stay apart."""
    dequantize(module.model.base)
    for parameter in module.model.parameters():
        parameter.data = parameter.data.float()
    module.backbone = replace(module.backbone, dtype="float32")


def _write_model(
    module: Any, origin: Backbone, source: Path, dtype: Literal["float32", "bfloat16"], folder: Path
) -> str | None:
    """Config, weights and head; the name of the architecture where others know it.

    A linear head is ``score``, as in transformers' sequence classification; that of a critic stands apart, since the
    rest is a whole language model.
    """
    from safetensors.torch import save_file

    config: Any = origin.config()
    model, head = module.model, module.model.head
    writes = isinstance(model, LanguageRewardModel)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    weights = {name: _own(value.to(getattr(torch, dtype))) for name, value in _named(model).items()}
    architecture = type(model.generator).__name__ if writes else None
    if not writes and type(head) is MLPHead and len(head.layers) == 1:
        weights["score.weight"] = _own(head.state_dict()["layers.0.weight"])
        architecture = _classifier((config.architectures or [type(model.base).__name__])[0])
        config.num_labels, config.problem_type = 1, "regression"  # one number, without a sigmoid
        text = config.get_text_config()
        if text.pad_token_id is None:  # without one transformers refuses batches
            tokenizer = origin.processor()
            text.pad_token_id = getattr(tokenizer, "tokenizer", tokenizer).pad_token_id
    elif state := head.state_dict():  # a judge reads its language head, and has none of its own
        save_file({f"head.{name}": _own(value) for name, value in state.items()}, folder / HEAD)
    _skeleton(config, origin.trust_remote_code).save_pretrained(folder, state_dict=weights)
    (folder / _GENERATION).unlink(missing_ok=True)  # made up of the config
    if writes and (source / _GENERATION).is_file():
        shutil.copyfile(source / _GENERATION, folder / _GENERATION)
    config.architectures, config.dtype = [architecture or type(model.base).__name__], dtype
    config.save_pretrained(folder)
    module.backbone.dtype = dtype
    return architecture


def _named(model: Any) -> dict[str, Tensor]:
    """Weights of the backbone under the hub's names; a language head that is tied to the embeddings is theirs."""
    if not isinstance(model, LanguageRewardModel):
        return {f"model.{name}": value for name, value in model.base.state_dict().items()}
    whole = model.generator
    tied = model.lm_head.weight is whole.get_input_embeddings().weight
    names = {f"{name}.weight" for name, module in whole.named_modules() if tied and module is model.lm_head}
    return {name: value for name, value in whole.state_dict().items() if name not in names}


def _write_template(template: Template, folder: Path) -> None:
    """The instructions word for word: a packaged one may be worded otherwise in other versions."""
    text = template.fill(**{name: f"{{{name}}}" for name in template.fields})
    (folder / TEMPLATE).write_text(f"{text}\n", encoding="utf-8")


def _skeleton(config: Any, trust_remote_code: bool) -> Any:
    """The backbone's generative class without weights: it knows the names that the hub's files of the family have."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = getattr(config, "vision_config", None) is not None
    with torch.device("meta"):
        return (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_config(
            config, trust_remote_code=trust_remote_code
        )


def _classifier(architecture: str) -> str:
    """``Qwen2_5_VLForConditionalGeneration`` -> ``Qwen2_5_VLForSequenceClassification``"""
    for suffix in _MODEL_CLASSES:
        architecture = architecture.removesuffix(suffix)
    return f"{architecture}ForSequenceClassification"


def _write_adapters(module: Any, folder: Path) -> None:
    """Adapters as PEFT writes them; head, and projector where it trains, beside them.

    Raises:
        ValueError: if there are none, or the backbone's frozen weights are in the checkpoint alone.
    """
    from safetensors.torch import save_file

    if module.backbone.lora is None or not module.partial:
        raise ValueError(
            "adapter_only needs a model with backbone.lora on a pretrained backbone, and without init_from; "
            "leave it out to export the whole model"
        )
    model = module.model
    settings = replace(model.base.peft_config["default"], inference_mode=True)
    settings.base_model_name_or_path, settings.revision = module.backbone.name_or_path, module.backbone.revision
    if inside := prefix(model):
        settings.target_modules, settings.task_type = f"{re.escape(inside)}({settings.target_modules})", "CAUSAL_LM"
    settings.save_pretrained(str(folder))
    save_file({name: _own(value) for name, value in adapters(model.base, inside).items()}, folder / ADAPTER)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    others = {
        name: _own(value)
        for name, value in model.state_dict().items()
        if name.startswith("head.") or (name in trained and not is_adapter(name))
    }
    save_file(others, folder / HEAD)


def _own(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()


def _describe(checkpoint: dict[str, Any], module: Any, adapter_only: bool) -> dict[str, Any]:
    """What ``load`` needs to know besides weights, as plain JSON."""
    hyper_parameters = checkpoint["hyper_parameters"] | {"backbone": recipe(module.backbone)}
    if "init_from" in hyper_parameters:
        hyper_parameters["init_from"] = None  # its weights are in these
    kept: dict[str, Any] = {key: checkpoint[key] for key in ("calibration", "provenance") if key in checkpoint}
    if adapter_only:
        kept["base"] = checkpoint.get("base", {})
    return {
        "format": FORMAT,
        "version": lit_basereward.__version__,
        "kind": "adapter" if adapter_only else "model",
        **kept,
        "hyper_parameters": hyper_parameters,
    }


def source_folder(backbone: Backbone) -> Path:
    """Folder with the backbone's processor files; of a backbone on the hub those alone are fetched."""
    if Path(backbone.folder()).is_dir():
        return Path(backbone.folder())
    from huggingface_hub import snapshot_download

    patterns = [*PROCESSOR_FILES, "README.md", _GENERATION, *(["*.py"] if backbone.trust_remote_code else [])]
    return Path(snapshot_download(backbone.folder(), revision=backbone.revision, allow_patterns=patterns))


def copy_processor(source: Path, folder: Path, code: bool) -> None:
    """The files themselves: written anew, a processor without its video half would not load elsewhere."""
    for pattern in (*PROCESSOR_FILES, *(["*.py"] if code else [])):
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
