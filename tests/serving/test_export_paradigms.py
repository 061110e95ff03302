"""Exports of critics and judges: language models that anyone can write with, and the very rewards by `load`."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lit_basereward
from lit_basereward import CriticRM, GenerativeRM
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import MLPHead
from lit_basereward.nn.lora import LoRA, Quantize
from lit_basereward.serving.export import export
from lit_basereward.serving.folder import HEAD, TEMPLATE, write_manifest
from lit_basereward.testing import preferences, tiny_backbone_folder


def rows(images: bool = True):
    """The first row with critiques, the second without."""
    first, second = preferences(3, images, responses=(2, 3))
    return [replace(first, critiques=("it is red", "the cat is not")), second]


def build(kind: type[RewardModule], folder: str, lora: LoRA | None = None, quantize=None, **options) -> RewardModule:
    """Every weight that trains has moved from where it began, each on its own."""
    torch.manual_seed(0)
    module = kind(Backbone(folder, freeze=[], max_length=2048, lora=lora, quantize=quantize), **options)
    module.configure_model()
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.03 * torch.randn_like(parameter)
    return module


def save(module: RewardModule, path: Path) -> Path:
    stored: dict = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(stored)
    torch.save(stored, path)
    return path


def rewards(path: Path, images: bool = True, **settings) -> torch.Tensor:
    scorer = lit_basereward.load(path, "cpu")
    for name, value in settings.items():
        setattr(scorer.module, name, value)
    scorer.collator = scorer.module.collator(training=False)
    return torch.cat(scorer.score_rows(rows(images)))


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> str:
    """A Qwen2 whose language head is its embeddings."""
    return tiny_backbone_folder(tmp_path_factory.mktemp("tied") / "qwen2", "qwen2", tie_word_embeddings=True)


CASES = {
    "vision": ("qwen2_5_vl", {}),
    "adapters": ("qwen2_5_vl", {"lora": LoRA(rank=4)}),
    "tied": ("tied", {}),
    "tied adapters": ("tied", {"lora": LoRA(rank=4)}),
    "4 bits": ("qwen2", {"lora": LoRA(rank=4), "quantize": Quantize()}),
}


DEFAULT = ["tied"]
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in DEFAULT]


@pytest.fixture
def case(request, backbone_folder, tied):
    """Folder, settings of the backbone, and whether the model sees."""
    name, settings = CASES[request.param]
    return tied if name == "tied" else backbone_folder(name), settings, name == "qwen2_5_vl"


@pytest.mark.parametrize("case", DEFAULT + OTHERS, indirect=True)
def test_a_critic_comes_back(case, tmp_path):
    """Its rewards with critiques that are given, none, and written by itself; a linear head is no `score` here."""
    folder, settings, images = case
    head = partial(MLPHead, num_layers=1)
    module = build(CriticRM, folder, head=head, max_new_tokens=4, **settings)
    path = save(module, tmp_path / "critic.ckpt")
    out = export(str(path), str(tmp_path / "out"))
    for critique in ("given", "none", "generate"):
        found, expected = rewards(out, images, critique=critique), rewards(path, images, critique=critique)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert set(load_file(out / HEAD)) == {"head.layers.0.weight"}
    kept = load_file(out / "model.safetensors")
    assert "score.weight" not in kept and ("lm_head.weight" in kept) == ("tied" not in folder)
    assert not any("lora" in name or "quant" in name for name in kept)


@pytest.mark.parametrize("case", DEFAULT + OTHERS, indirect=True)
def test_a_judge_is_a_plain_language_model(case, tmp_path):
    """`load` gives its scores; transformers loads the folder without us, all of it, and says the same next word."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    folder, settings, images = case
    module = build(GenerativeRM, folder, **settings).eval()
    path = save(module, tmp_path / "judge.ckpt")
    out = export(str(path), str(tmp_path / "out"))
    torch.testing.assert_close(rewards(out, images), rewards(path, images), rtol=0, atol=1e-5)
    assert not (out / HEAD).exists()
    auto = AutoModelForImageTextToText if images else AutoModelForCausalLM
    model, info = auto.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert [type(model).__name__] == json.loads((out / "config.json").read_text())["architectures"]
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        ours = module.model.generator(input_ids=ids).logits
        torch.testing.assert_close(model.eval()(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-4)
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    assert written.shape[1] > 20


@pytest.mark.parametrize("kind", [CriticRM, GenerativeRM])
def test_bfloat16(backbone_folder, tmp_path, kind):
    """Half the size; rewards move in the second digit, and the export is not refused for it."""
    path = save(build(kind, backbone_folder("qwen2"), max_new_tokens=4), tmp_path / "model.ckpt")
    out = export(str(path), str(tmp_path / "out"), dtype="bfloat16")
    assert {str(value.dtype) for value in load_file(out / "model.safetensors").values()} == {"torch.bfloat16"}
    settings = {"critique": "given"} if kind is CriticRM else {}
    difference = (rewards(out, False, **settings) - rewards(path, False, **settings)).abs().max()
    assert 0 < difference < 0.2


@pytest.mark.parametrize("kind", [CriticRM, pytest.param(GenerativeRM, marks=pytest.mark.slow)])
def test_adapters_alone(backbone_folder, tmp_path, kind):
    """Bit for bit by `load`; PEFT puts them on the whole language model, whose logits are ours."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = backbone_folder("qwen2")
    module = build(kind, folder, lora=LoRA(rank=4), max_new_tokens=4).eval()
    path = save(module, tmp_path / "model.ckpt")
    out = export(str(path), str(tmp_path / "out"), adapter_only=True)
    assert torch.equal(rewards(out, False), rewards(path, False))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), out).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        ours = module.model.generator(input_ids=ids).logits
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-4)
    assert "alone can load it" not in (out / "README.md").read_text()


def test_the_wording_goes_along(backbone_folder, tmp_path):
    """A template of the user's own, whose file is gone when the export is loaded; a packaged one too."""
    own = tmp_path / "own.txt"
    own.write_text("Q: {question}\nA {first}\nB {second}\nBetter {1 or 2}:\n")
    module = build(GenerativeRM, backbone_folder("qwen2"), template=str(own))
    path = save(module, tmp_path / "judge.ckpt")
    expected = rewards(path, False)
    out = export(str(path), str(tmp_path / "out"))
    assert (out / TEMPLATE).read_text() == own.read_text()
    own.unlink()
    with pytest.raises(ValueError, match="there is no template"):
        lit_basereward.load(path, "cpu")
    torch.testing.assert_close(rewards(out, False), expected, rtol=0, atol=1e-5)
    (out / TEMPLATE).write_text((out / TEMPLATE).read_text().replace("A {", "a {"))
    with pytest.raises(ValueError, match=f"{TEMPLATE} was changed"):
        lit_basereward.load(out, "cpu")


def test_a_language_head_that_was_lost_is_not_kept(backbone_folder, tmp_path, monkeypatch):
    """No reward of a critic with given critiques hangs on it: the likelihood of texts does, and is compared."""
    import lit_basereward.serving.export as tool

    write = tool._write_model

    def wrong(module, *arguments):
        module.model.lm_head.weight.data += 0.1 * torch.randn_like(module.model.lm_head.weight)
        return write(module, *arguments)

    path = save(build(CriticRM, backbone_folder("qwen2"), max_new_tokens=4), tmp_path / "critic.ckpt")
    monkeypatch.setattr(tool, "_write_model", wrong)
    with pytest.raises(ValueError, match="does not give its rewards back"):
        export(str(path), str(tmp_path / "out"))


def test_a_critic_without_its_head_is_an_error(backbone_folder, tmp_path):
    path = save(build(CriticRM, backbone_folder("qwen2"), max_new_tokens=4), tmp_path / "critic.ckpt")
    out = export(str(path), str(tmp_path / "out"))
    (out / HEAD).unlink()
    write_manifest(out)
    with pytest.raises(ValueError, match="has no reward head"):
        lit_basereward.load(out, "cpu")


def test_the_cards_say_how_they_score(backbone_folder, tmp_path):
    """What loads them, that a judge compares, and no figure of a head that is not there."""
    texts = {}
    for kind in (CriticRM, GenerativeRM):
        path = save(build(kind, backbone_folder("qwen2"), max_new_tokens=4), tmp_path / f"{kind.__name__}.ckpt")
        texts[kind] = (export(str(path), str(tmp_path / kind.__name__)) / "README.md").read_text()
        assert "`Qwen2ForCausalLM` of transformers" in texts[kind] and "`instructions.txt`" in texts[kind]
        assert "text-classification" not in texts[kind]
    assert "give at least two responses" in texts[GenerativeRM] and "reward_head" not in texts[GenerativeRM]
    assert "give at least two responses" not in texts[CriticRM] and "reward_head.safetensors" in texts[CriticRM]


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)])
def test_training_starts_from_an_exported_critic(backbone_folder, tmp_path, lora):
    """And from a checkpoint: the same rewards and language head, in full or beneath new adapters; not from Naive-RM."""
    module = build(CriticRM, backbone_folder("qwen2"), critique="given")
    path = save(module, tmp_path / "critic.ckpt")
    out, expected = export(str(path), str(tmp_path / "out")), rewards(path, False)
    for place in (path, out):
        backbone = Backbone(backbone_folder("qwen2"), freeze=[], max_length=2048, lora=lora)
        again = CriticRM(backbone, critique="given", init_from=str(place))
        again.configure_model()
        torch.testing.assert_close(again.model.lm_head.weight, module.model.lm_head.weight, rtol=0, atol=0)
        with torch.no_grad():
            found = again.eval().score(again.collator(False)(list(enumerate(rows(False)))))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert not again.partial
