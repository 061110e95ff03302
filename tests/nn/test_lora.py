"""Adapters and 4-bit storage: which layers, exact layouts, what trains, what checkpoints hold, and merging."""

from __future__ import annotations

import re
import shutil
import sys
from functools import partial
from pathlib import Path

import lora_runs
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import lit_basereward
from lit_basereward.cli import RewardCLI
from lit_basereward.data.batch import StepCounts
from lit_basereward.nn.backbone import Backbone, part_of
from lit_basereward.nn.lora import LoRA, Quantize, default_targets, fingerprints, is_quantized, merge
from lit_basereward.testing import preferences, run_ranks

CONFIGS = Path(__file__).parents[2] / "configs"
COUNTS = StepCounts(rows=6, comparisons=22)


def untrained(folder: str, **backbone):
    """As a run begins."""
    module = lora_runs.naive(folder, **backbone)
    torch.manual_seed(0)
    module.configure_model()
    return module


def built(folder: str, **backbone):
    """With adapters that do something: B is zero at first."""
    module = untrained(folder, **backbone)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if "lora_B" in name or name.startswith("model.head.layers.2"):
            parameter.data = torch.empty_like(parameter).normal_(std=0.3, generator=generator)
    return module


def rewards(module, rows=None) -> torch.Tensor:
    batch = module.collator(training=False)(list(enumerate(rows or preferences())))
    with torch.no_grad():
        return module.eval().score(batch)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision", "internvl", "qwen2"])
def test_default_targets(backbone_folder, family):
    """The seven linear layers of both language blocks, 14; with `vision` those of the tower, the projector never.

    The expression also fits the names under a language head's class, which have one word more in front.
    """
    base = Backbone(backbone_folder(family)).load()

    def found(vision: bool) -> set[str]:
        targets = default_targets(base, part_of, vision)
        names = [name for name, module in base.named_modules() if re.fullmatch(targets, name)]
        assert all(isinstance(base.get_submodule(name), nn.Linear) for name in names)
        assert all(re.fullmatch(targets, f"model.{name}") for name in names)
        return set(names)

    language = found(vision=False)
    assert len(language) == 14 and {part_of(f"{name}.") for name in language} == {"language"}
    if family == "qwen2":
        with pytest.raises(ValueError, match="no vision tower"):
            found(vision=True)
    else:
        linear = {n for n, m in base.named_modules() if isinstance(m, nn.Linear) and part_of(f"{n}.") == "vision"}
        assert found(vision=True) == language | linear and linear


def test_targets_that_cannot_be(backbone_folder):
    """Nothing matched, a block matched, no expression, no rank, both ways to name the tower: one line each."""
    folder = backbone_folder("qwen2")
    for lora, message in [
        (LoRA(targets="q_proj"), "matches the whole name of no layer; linear layers end in down_proj, gate_proj"),
        (LoRA(targets=r"layers\.0.*"), "matches layers.0, which is no linear layer"),
        (LoRA(targets="(q_proj"), "is no regular expression"),
        (LoRA(rank=0), "use a rank >= 1"),
        (LoRA(targets=".*q_proj", vision=True), "goes with the default targets"),
    ]:
        with pytest.raises(ValueError, match=message):
            Backbone(folder, lora=lora).load()


def test_without_the_extra_packages(backbone_folder, monkeypatch):
    """What needs them says so; a plain model is merged, that is left as it is, without them."""
    folder = backbone_folder("qwen2")
    for package in ("peft", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"backbone\.lora needs peft: pip install"):
        Backbone(folder, lora=LoRA()).load()
    with pytest.raises(ValueError, match=r"backbone\.quantize needs bitsandbytes: pip install"):
        Backbone(folder, freeze=["language"], quantize=Quantize()).load()
    base = Backbone(folder).load()
    before = list(base.modules())
    merge(base)
    assert list(base.modules()) == before


def test_injecting_changes_no_reward_yet(backbone_folder):
    """B starts at zero: rewards are those of the plain network, bit by bit."""
    folder = backbone_folder("qwen2_5_vl")
    plain, adapted = untrained(folder, lora=None), untrained(folder)
    adapted.model.head.load_state_dict(plain.model.head.state_dict())
    assert torch.equal(rewards(plain), rewards(adapted))
    moved = built(folder)
    moved.model.head.load_state_dict(plain.model.head.state_dict())
    assert (rewards(moved) - rewards(plain)).abs().max() > 1e-4


@pytest.mark.parametrize("quantize", [None, Quantize()])
def test_shared_layout_is_exact_with_adapters(backbone_folder, quantize):
    """Shared against padded: rewards to 1e-5, gradients of adapters, projector and head to 1e-5 of their norm."""
    module = built(backbone_folder("qwen2_5_vl"), quantize=quantize)
    assert module.layout == "shared"
    found = {}
    for layout in ("shared", "padded"):
        module.zero_grad()
        loss, out = module.loss(module._plain_collator(layout)(list(enumerate(preferences())), COUNTS))
        loss.backward()
        found[layout] = out["rewards"], {n: p.grad.clone() for n, p in module.named_parameters() if p.requires_grad}
    torch.testing.assert_close(found["shared"][0], found["padded"][0], rtol=0, atol=1e-5)
    total = torch.stack([g.norm() for g in found["padded"][1].values()]).norm()
    for name, gradient in found["padded"][1].items():
        assert (found["shared"][1][name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 1e-3 * total), name


def test_what_trains_and_how_it_is_stored(backbone_folder):
    """Gradients in adapters, projector and head alone, in float32; the frozen rest in bfloat16."""
    module = built(backbone_folder("qwen2_5_vl"), dtype="bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        module.loss(module.collator(True)(list(enumerate(preferences())), COUNTS))[0].backward()
    for name, parameter in module.named_parameters():
        trains = "lora_" in name or ".merger." in name or name.startswith("model.head.")
        assert (parameter.grad is not None) == trains == parameter.requires_grad, name
        assert parameter.dtype == (torch.float32 if trains else torch.bfloat16), name
    frozen = built(backbone_folder("qwen2_5_vl"), freeze=["vision", "projector"])
    assert not any(p.requires_grad for n, p in frozen.named_parameters() if ".merger." in n)


def test_quantize_stores_the_language_models_linear_layers_alone(backbone_folder):
    """All 14, and nothing else, in 4 bits; what trains or was never read cannot be."""
    for family in ("qwen2_5_vl", "qwen2"):
        base = Backbone(backbone_folder(family), lora=LoRA(rank=4), quantize=Quantize()).load()
        stored = {name for name, p in base.named_parameters() if hasattr(p, "quant_state")}
        assert len(stored) == 14 and all(name.endswith("base_layer.weight") for name in stored)
        others = {p.dtype for n, p in base.named_parameters() if n not in stored}
        assert others == {torch.float32}
    with pytest.raises(ValueError, match="4-bit weights cannot train"):
        Backbone(backbone_folder("qwen2"), quantize=Quantize()).load()
    with pytest.raises(ValueError, match="needs pretrained weights"):
        Backbone(backbone_folder("qwen2"), init="random", lora=LoRA(), quantize=Quantize()).load()


@pytest.mark.parametrize("quantize", [None, Quantize()])
def test_merged_rewards_are_the_unmerged_ones(backbone_folder, quantize):
    """To 1e-5, in plain layers. The weights before quantisation, with the same adapters, would give other rewards."""
    module = built(backbone_folder("qwen2_5_vl"), quantize=quantize)
    before = rewards(module)
    if quantize is not None:
        original = built(backbone_folder("qwen2_5_vl"))
        original.load_state_dict(lora_runs.trained(module), strict=False)
        assert (rewards(original) - before).abs().max() > 1e-3
    merge(module.model.base)
    torch.testing.assert_close(rewards(module), before, rtol=0, atol=1e-5)
    kinds = {type(layer) for layer in module.model.modules() if "Linear" in type(layer).__name__}
    assert kinds == {nn.Linear} and not is_quantized(module) and not any("lora" in n for n in module.state_dict())


@pytest.mark.slow
def test_stop_and_resume_with_an_8_bit_optimizer(backbone_folder, tmp_path):
    """4-bit backbone: 2 steps, a checkpoint, 2 more are bit-equal to 4 in one go, and the checkpoint is small.

    It holds adapters, projector and head alone, 28 + 5 + 3 tensors: 14 layers with A and B; a norm and two linear
    layers with bias; two linear layers, of which the last has no bias.
    """
    from bitsandbytes.optim import AdamW8bit

    folder = backbone_folder("qwen2_5_vl")
    # Tensors of fewer elements than this keep 32-bit state; ours are all tiny.
    optimizer = partial(AdamW8bit, lr=1e-2, weight_decay=0.0, min_8bit_size=64)
    options = {"optimizer": optimizer, "quantize": Quantize()}
    straight, first, second = (lora_runs.naive(folder, **options) for _ in range(3))
    lora_runs.fit(straight, tmp_path, steps=4)
    path = tmp_path / "two.ckpt"

    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(dirpath=tmp_path, filename="two", every_n_train_steps=2, save_top_k=-1)
    lora_runs.fit(first, tmp_path, steps=4, enable_checkpointing=True, callbacks=[keep])
    stored = torch.load(path, weights_only=True)
    state = first.optimizers().optimizer.state.values()
    assert any(value.dtype == torch.uint8 for each in state for value in each.values() if torch.is_tensor(value))
    assert set(stored["state_dict"]) == set(lora_runs.trained(first)) and len(stored["state_dict"]) == 36
    assert sum(value.numel() for value in stored["state_dict"].values()) < 0.3 * sum(
        p.numel() for p in Backbone(folder).load().parameters()
    )
    trainer = lora_runs.fit(second, tmp_path, steps=4, resume=str(path))
    assert trainer.global_step == 4
    start = untrained(folder, **options)
    for name, value in lora_runs.trained(straight).items():
        assert torch.equal(value, lora_runs.trained(second)[name]), name
        assert not torch.equal(value, lora_runs.trained(start)[name]), name


def test_checkpoints_refuse_what_they_are_not_for(backbone_folder, tmp_path):
    """Another backbone of the same shape, a missing head, a missing adapter: named. `load` scores the same."""
    folder = backbone_folder("qwen2_5_vl")
    module = lora_runs.naive(folder)
    path, row = tmp_path / "model.ckpt", preferences()[4]
    lora_runs.fit(module, tmp_path, steps=1).save_checkpoint(path)
    assert torch.equal(lit_basereward.load(path, "cpu").score_rows([row])[0], rewards(module, [row]))

    from lit_basereward.testing import tiny_backbone_folder

    other = tiny_backbone_folder(tmp_path / "other", "qwen2_5_vl", seed=1)
    with pytest.raises(ValueError, match=r"adapters of another backbone: .* frozen weights differ here, first"):
        lit_basereward.load(path, "cpu", backbone=other)
    stored = torch.load(path, weights_only=True)
    for gone in ("model.head.layers.2.weight", "model.base.language_model.layers.1.mlp.up_proj.lora_A.default.weight"):
        weights = {name: value for name, value in stored["state_dict"].items() if name != gone}
        torch.save({**stored, "state_dict": weights}, tmp_path / "lacking.ckpt")
        with pytest.raises(ValueError, match=f"lacks 1: {re.escape(gone)}"):
            lit_basereward.load(tmp_path / "lacking.ckpt", "cpu")


def test_a_4_bit_layer_tells_its_backbone(backbone_folder, tmp_path):
    """Of a copy of the backbone one layer that is stored in 4 bits, and nothing else, is turned round: refused."""
    folder = backbone_folder("qwen2")
    module = lora_runs.naive(folder, quantize=Quantize())
    path, row = tmp_path / "model.ckpt", preferences(images=False)[4]
    lora_runs.fit(module, tmp_path, steps=1, images=False).save_checkpoint(path)
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert torch.equal(
        lit_basereward.load(path, "cpu", backbone=str(copied)).score_rows([row])[0], rewards(module, [row])
    )

    weights = load_file(copied / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("layers.1.mlp.up_proj.weight"))
    save_file({**weights, name: -weights[name]}, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"another backbone: 1 of its .* first 'layers\.1\.mlp\.up_proj\.weight'"):
        lit_basereward.load(path, "cpu", backbone=str(copied))


def test_4_bit_layers_that_a_cpu_has_rearranged(backbone_folder):
    """As bitsandbytes does where it infers with AVX512: the fingerprints are the same, and so is what is merged."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu

    bases = [built(backbone_folder("qwen2"), quantize=Quantize()).model.base for _ in range(2)]
    for layer in bases[0].modules():
        if type(layer).__name__ == "Linear4bit" and not hasattr(layer, "lora_A"):
            weight = layer.weight
            before = weight.data
            weight.data, weight.quant_state = _convert_weight_packed_for_cpu(weight.data, weight.quant_state)
            assert not torch.equal(weight.data.flatten(), before.flatten())
    prints = [fingerprints(base) for base in bases]
    assert prints[0] == prints[1]
    assert sum(name.endswith("_proj.weight") for name in prints[0]) == 14
    for base in bases:
        merge(base)
    for name, value in bases[1].state_dict().items():
        torch.testing.assert_close(bases[0].state_dict()[name], value, rtol=0, atol=1e-2 * value.abs().max(), msg=name)


def test_a_random_backbone_is_kept_in_checkpoints(backbone_folder, tmp_path):
    """Nothing else could bring it back."""
    module = lora_runs.naive(backbone_folder("qwen2"), init="random")
    row = preferences(images=False)[4]
    path = tmp_path / "model.ckpt"
    lora_runs.fit(module, tmp_path, steps=1, images=False).save_checkpoint(path)
    assert torch.equal(lit_basereward.load(path, "cpu").score_rows([row])[0], rewards(module, [row]))


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(backbone_folder, tmp_path):
    """DDP with adapters on a 4-bit backbone: weights after 3 steps to 1e-6, far below what the steps change."""
    folder, backbone = backbone_folder("qwen2_5_vl"), {"quantize": Quantize()}
    one = lora_runs.naive(folder, **backbone)
    lora_runs.fit(one, tmp_path, steps=3)
    start = untrained(folder, **backbone)
    before, after = lora_runs.trained(start), lora_runs.trained(one)
    assert min((after[name] - before[name]).abs().max() for name in after) > 1e-5
    for rank in run_ranks(lora_runs.on_a_rank, folder, str(tmp_path), backbone):
        for name, value in after.items():
            torch.testing.assert_close(rank[name], value, rtol=0, atol=1e-6, msg=name)


class Built(RewardCLI):
    """Builds everything and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.mark.parametrize(("model", "overlay"), [("7b.yaml", "lora.yaml"), ("demo.yaml", "qlora.yaml")])
def test_overlays_merge_onto_any_model(model, overlay, tmp_path, monkeypatch):
    """A plain backbone section and one with a class; nothing else of the model's config is lost."""
    monkeypatch.chdir(tmp_path)
    cli = Built(["fit", "--config", str(CONFIGS / model), "--config", str(CONFIGS / "overlays" / overlay)])
    backbone = cli.model.backbone
    assert backbone.lora == LoRA(rank=16, alpha=32.0) and backbone.dtype == "bfloat16"
    assert (backbone.quantize == Quantize()) == (overlay == "qlora.yaml")
    assert backbone.freeze == (["vision"] if model == "7b.yaml" else [])
    optimizer = cli.model.make_optimizer([nn.Parameter(torch.zeros(2))])
    assert type(optimizer).__name__ == ("AdamW" if overlay == "lora.yaml" else "AdamW8bit")
    assert optimizer.defaults["lr"] == 1e-4 and optimizer.defaults["weight_decay"] == 0
    assert cli.trainer.precision == "bf16-mixed"
