"""The doctor on critics and judges: nothing fails that is well, and what is broken is found."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from test_doctor import UNTRAINED, failed
from torch import nn

from lit_basereward import CriticRM, GenerativeRM
from lit_basereward.cli import main
from lit_basereward.doctor import flops
from lit_basereward.doctor.activations import SavedTensors, Sizes, estimate
from lit_basereward.doctor.gradients import gradients, training_batch
from lit_basereward.doctor.invariance import invariance
from lit_basereward.doctor.memory import stored
from lit_basereward.doctor.run import examine, planned
from lit_basereward.doctor.subject import Subject, made_up_rows
from lit_basereward.doctor.tokens import tokens
from lit_basereward.doctor.vision import positions
from lit_basereward.losses.language import chunked_cross_entropy
from lit_basereward.modules.base import RewardModule
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.lora import LoRA
from lit_basereward.scorer import Scorer
from lit_basereward.testing import tiny_backbone_folder

JUDGED = "read as the template renders them"  # a judge's branch is no conversation of one response


def built(kind: type[RewardModule], folder: str, layout: str = "shared", **options) -> RewardModule:
    torch.manual_seed(0)
    backbone = Backbone(folder, **{"freeze": [], "max_length": 2048, **options.pop("backbone", {})})
    module = kind(backbone, layout=layout, **options)
    module.configure_model()
    return module


def subject(module: RewardModule) -> Subject:
    scorer = Scorer(module)
    rows = made_up_rows(4, scorer.collator.chat.image_token is not None)
    return Subject(scorer, rows, [row for row in rows if row.images])


@pytest.mark.parametrize(
    ("kind", "family", "layout", "options", "skipped"),
    [
        (CriticRM, "qwen2_5_vl", "shared", {}, set()),
        (CriticRM, "qwen2", "padded", {"critique": "none"}, {"shared layout = padded layout"}),
        pytest.param(GenerativeRM, "qwen2_5_vl", "shared", {}, {JUDGED}, marks=pytest.mark.slow),
        pytest.param(
            GenerativeRM,
            "qwen2_5_vl",
            "padded",
            {"style": "reasoning"},
            {JUDGED, "shared layout = padded layout"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            GenerativeRM, "qwen2", "shared", {"backbone": {"lora": LoRA(rank=4)}}, {JUDGED}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_healthy_model_passes(backbone_folder, kind, family, layout, options, skipped):
    """Nothing fails, what cannot be is skipped; critiques and judgements are read, none is written."""
    patient = subject(built(kind, backbone_folder(family), layout, **options))
    for name, p in patient.module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.05)
    cost, checks = examine(patient)
    assert [check for check in checks if check.status == "FAIL"] == []
    skipped = skipped | {UNTRAINED} | ({"rewards move with the images"} if family == "qwen2" else set())
    if options.get("critique") == "none":
        skipped |= {"lm_head: tensors without a gradient"}
    assert {check.name for check in checks if check.status == "skip"} == skipped
    assert patient.module.cost.generated_tokens == 0
    assert cost is not None and json.dumps(cost.to_dict(), allow_nan=False)


@pytest.fixture(scope="module")
def healthy(backbone_folder) -> dict[type, Subject]:
    return {kind: subject(built(kind, backbone_folder("qwen2_5_vl"))) for kind in (CriticRM, GenerativeRM)}


@pytest.fixture(params=[CriticRM, GenerativeRM])
def broken(request, healthy) -> Subject:
    return copy.deepcopy(healthy[request.param])


def test_a_language_head_that_does_not_learn_is_caught(broken, monkeypatch):
    """Its weight reaches the loss by its values alone."""
    import lit_basereward.nn.language as language

    right, head = language.chunked_cross_entropy, type(broken.model.head)
    monkeypatch.setattr(language, "chunked_cross_entropy", lambda s, weight, *rest: right(s, weight.detach(), *rest))
    if isinstance(broken.module, GenerativeRM):
        monkeypatch.setattr(head, "forward", lambda self, states: states[:, 0].float())
    assert failed(gradients(broken)) == ["lm_head: tensors without a gradient"]


def test_pooling_one_token_early_is_caught(broken, monkeypatch):
    """Of branches of two responses, too, by the backbone alone."""
    score = broken.module.score

    def early(batch):
        batch.layout.pooled = batch.layout.pooled - 1
        return score(batch)

    monkeypatch.setattr(broken.module, "score", early)
    assert failed(invariance(broken)) == ["as the backbone alone, one response at a time"]


def test_positions_of_branches_are_compared(broken, monkeypatch):
    right = broken.model.positions
    assert failed(positions(broken)) == []
    monkeypatch.setattr(broken.model, "positions", lambda *a: right(*a) + 1)
    assert len(failed(positions(broken))) == 1


def test_a_critics_conversation_is_rendered_anew(healthy, monkeypatch):
    """Instructions that lack a word of the template's are no longer what the template makes of them."""
    patient = copy.deepcopy(healthy[CriticRM])
    assert failed(tokens(patient)) == []
    patient.collator._pieces[0] = patient.collator._pieces[0][1:]
    assert failed(tokens(patient)) == ["prompt + response read as the template renders them"]


@pytest.mark.parametrize("kind", [CriticRM, GenerativeRM])
@pytest.mark.parametrize("tied", [False, True])
def test_the_language_head_is_counted(tmp_path, kind, tied):
    """Its weights apart unless they are the embeddings'. T targets of hidden size 64 keep 4 * 64 T bytes of states and
    hold 8 T V of logits over V words, in float32, and their gradients; they take 6 * 64 V T operations, and 2 * 64 V T
    more that compute the logits again, which formulas leave out."""
    folder = tiny_backbone_folder(tmp_path / "qwen2", "qwen2", tie_word_embeddings=tied)
    module = built(kind, folder)
    batch = training_batch(module, made_up_rows(4, False), torch.device("cpu"))
    sizes, vocabulary = Sizes.of(batch, module.model.base.config, False), module.model.lm_head.weight.shape[0]
    assert sizes.targets == len(batch.targets.token) > 0
    parts = {each.part: each.parameters for each in stored(module.model)}
    assert parts.get("lm_head") == (None if tied else 64 * vocabulary)
    assert sum(parts.values()) == sum(p.numel() for p in module.model.parameters())
    with SavedTensors(module.model, batch) as kept:
        module.loss(batch)
    found = estimate(module.model, sizes, False)
    assert found.saved == pytest.approx(kept.bytes, rel=0.25)
    assert found.logits == 8 * sizes.targets * vocabulary
    without = flops.formula(module.model, replace(sizes, targets=0))
    assert flops.formula(module.model, sizes) - without == 6 * 64 * vocabulary * sizes.targets
    states = torch.randn(sizes.targets, 64, requires_grad=True)
    with flops.counter() as counted:
        chunked_cross_entropy(states, module.model.lm_head.weight, batch.targets.token).sum().backward()
    assert counted.get_total_flops() == 8 * 64 * vocabulary * sizes.targets


@pytest.mark.parametrize("kind", [CriticRM, GenerativeRM])
def test_planning_agrees_with_the_built_model(backbone_folder, kind):
    plan = planned(kind(Backbone(backbone_folder("qwen2"), max_length=2048)), [], 4, "32-true")
    cost, _ = examine(subject(built(kind, backbone_folder("qwen2"), backbone={"freeze": ["vision"]})), checks=False)
    assert (plan.weights, plan.gradients, plan.sizes) == (cost.weights, cost.gradients, cost.sizes)
    assert plan.activations == cost.activations and plan.flops_per_row == cost.flops_per_row


@pytest.mark.slow
def test_command_line(backbone_folder, tmp_path: Path):
    """A reasoning judge's config alone, then with checks; one response in a row of the data is left out."""
    backbone = {"name_or_path": backbone_folder("qwen2"), "max_length": 2048}
    model = {"class_path": "GenerativeRM", "init_args": {"backbone": backbone, "style": "reasoning"}}
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump({"model": model}))
    lines = [{"prompt": f"is it {n}", "responses": ["yes", "no"][: n % 3 or 2]} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = ["doctor", "--config", str(tmp_path / "judge.yaml"), "--output", str(tmp_path / "doctor.json")]
    for more in ([], ["--checks", "true", "--data", str(tmp_path / "rows.jsonl")]):
        main([*common, *more])
        report = json.loads((tmp_path / "doctor.json").read_text())
        assert report["costs"]["sizes"]["targets"] > 0
    assert report["counts"]["FAIL"] == 0 and report["counts"]["pass"] > 10
