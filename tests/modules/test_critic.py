"""Critic-RM: its loss against a hand-written one, Naive-RM as its special case, and reading what it has written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lit_basereward import CriticRM, NaiveRM
from lit_basereward.data.batch import StepCounts
from lit_basereward.data.types import Preference
from lit_basereward.losses import TieSquared, ZeroCoefficient
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import preferences

COUNTS = StepCounts(rows=3, comparisons=14)


def critic(folder: str, kind: type[NaiveRM] = CriticRM, **options) -> NaiveRM:
    torch.manual_seed(0)
    module = kind(Backbone(folder, freeze=[], max_length=2048), **options)
    module.configure_model()
    torch.manual_seed(1)
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    return module


def rows() -> list[Preference]:
    """K of 2, 5, 3 with none, one and two images; all but the second row have critiques."""
    found = preferences(responses=(2, 5, 3))
    words = ("it is right", "wrong: the cat is red", "a table is not there")
    return [replace(row, critiques=() if n == 1 else words[: len(row.responses)]) for n, row in enumerate(found)]


def batch(module: NaiveRM, training: bool, given: list[Preference] | None = None, counts: StepCounts = COUNTS):
    return module.collator(training)(list(enumerate(given or rows())), counts)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_without_critiques_it_is_naive_rm(backbone_folder, layout):
    """Loss and gradients of backbone and head, with a regularizer, on rows that do have critiques: equal to 1e-6."""
    folder, options = backbone_folder("qwen2_5_vl"), {"layout": layout, "regularizers": [ZeroCoefficient(0.1)]}
    naive, without = critic(folder, NaiveRM, **options), critic(folder, critique="none", **options)
    without.model.load_state_dict(naive.model.state_dict(), strict=False)
    losses = [module.loss(batch(module, True))[0] for module in (naive, without)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    theirs = dict(without.model.named_parameters())
    for name, parameter in naive.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-6, atol=1e-6, msg=name)
    evaluated = [module.score(batch(module, False)) for module in (naive, without)]
    torch.testing.assert_close(*evaluated, rtol=0, atol=1e-6)


def test_loss_is_bradley_terry_and_both_critiques_cross_entropy(backbone_folder):
    """Each branch alone through transformers' own model with its language head: rewards at its last token, and the mean
    of -log p over the critique's tokens, end of turn included. The loss is, over the step's 14 comparisons,
    sum(-log sigmoid(r_b - r_w) + ce_b + ce_w) / 14, where ce is 0 in the row without critiques."""
    module = critic(backbone_folder("qwen2_5_vl"))
    collator, given = module.collator(True), rows()
    language_model = Backbone(backbone_folder("qwen2_5_vl"), freeze=[]).load(language_head=True)
    total = 0.0
    for n, row in enumerate(given):
        rewards, entropies = [], []
        item = collator.prepare(n, row)
        types = [int(i == language_model.config.image_token_id) for i in item.prefix]
        for branch in item.branches:
            ids = torch.tensor([item.prefix + branch])
            kinds = torch.tensor([types + [0] * len(branch)])
            with torch.no_grad():
                out = language_model(
                    input_ids=ids, mm_token_type_ids=kinds, **item.vision, output_hidden_states=True, use_cache=False
                )
                rewards.append(module.model.head(out.hidden_states[-1][0, -1:])[0])
            num = len(collator.chat.text("it is right")) if row.critiques else 0
            num = len(collator.chat.text(row.critiques[len(entropies)])) + 1 if num else 0
            entropies.append(F.cross_entropy(out.logits[0, -num - 1 : -1], ids[0, -num:]) if num else torch.tensor(0.0))
        for better, worse in row.comparisons():
            total = total - F.logsigmoid(rewards[better] - rewards[worse]) + entropies[better] + entropies[worse]
    loss, out = module.loss(batch(module, True))
    torch.testing.assert_close(loss, total / 14, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out["share"], loss.detach())


def test_language_head_learns_from_critiques_alone(backbone_folder):
    """Its gradient is there with critiques, and not there with weight 0; ties and centre are added as in Naive-RM."""
    folder = backbone_folder("qwen2_5_vl")
    for weight, learns in ((1.0, True), (0.0, False)):
        module = critic(folder, critique_weight=weight)
        module.loss(batch(module, True))[0].backward()
        gradient = module.model.lm_head.weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == learns
    tied = [replace(rows()[0], ratings=(1.0, 1.0))]
    module = critic(folder, regularizers=[TieSquared(0.5)])
    assert module.uses_ties
    tied_batch = batch(module, True, tied, StepCounts(tied_rows=1, ties=1))
    first, second = module.score(tied_batch)
    loss, _ = module.loss(tied_batch)
    torch.testing.assert_close(loss, 0.5 * (first - second) ** 2)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_written_critiques_are_read_as_given_ones(backbone_folder, layout):
    """Rewards behind what the model writes equal those of the branch with these tokens laid out from the start, and a
    row's rewards do not hang on what else is in the batch."""
    module = critic(backbone_folder("qwen2_5_vl"), max_new_tokens=5, layout=layout).eval()
    with torch.no_grad():
        together = module.score(batch(module, False))
        assert module.cost.forwards == 2 * 10  # each response is written behind, then read
        evidence = module.evidence
        assert [len(row["critiques"]) for row in evidence] == [2, 5, 3]
        assert module.cost.generated_tokens <= 5 * 10
        written = []
        for n, row in enumerate(rows()):
            written.append(module.score(batch(module, False, [row])))
            assert module.evidence[0] == evidence[n]
        torch.testing.assert_close(together, torch.cat(written), rtol=0, atol=1e-5)
        assert not torch.allclose(together, critic(backbone_folder("qwen2_5_vl"), critique="none").score(batch(
            critic(backbone_folder("qwen2_5_vl"), critique="none"), False)), atol=1e-3)  # fmt: skip


def test_a_critique_that_never_ends_and_one_that_says_nothing(backbone_folder):
    """At most two tokens end no critique: counted, and read without an end of turn. A stop string at the very start
    leaves nothing of it: counted as empty, and it has ended."""
    module = critic(backbone_folder("qwen2_5_vl"), max_new_tokens=2).eval()
    with torch.no_grad():
        rewards = module.score(batch(module, False))
    assert rewards.isfinite().all() and sum(row["unfinished"] for row in module.evidence) == 10
    begins = {texts[0][:1] for row in module.evidence for texts in row["critiques"]}
    module = critic(backbone_folder("qwen2_5_vl"), max_new_tokens=2, stop=sorted(begins - {""})).eval()
    with torch.no_grad():
        module.score(batch(module, False))
    assert sum(row["empty"] for row in module.evidence) == 10
    assert sum(row["unfinished"] for row in module.evidence) == 0


def test_given_critiques_are_evidence(backbone_folder):
    """Of the two rows with critiques, as they stand there; the row without has none."""
    module = critic(backbone_folder("qwen2_5_vl"), critique="given").eval()
    with torch.no_grad():
        module.score(batch(module, False))
    given = [[[text] for text in row.critiques] for row in rows()]
    assert [row.get("critiques", []) for row in module.evidence] == given


def test_several_critiques_are_averaged(backbone_folder):
    """Three sampled critiques a response: the reward is the mean of the three rewards, each of which is that of the
    critique alone (read again with ``given``; texts that this tokenizer does not reproduce are left out)."""
    module = critic(backbone_folder("qwen2_5_vl"), num_critiques=3, temperature=1.0, max_new_tokens=4).eval()
    given = [rows()[0]]
    with torch.no_grad():
        torch.manual_seed(3)
        mean = module.score(batch(module, False, given))
    texts = module.evidence[0]["critiques"]
    assert [len(some) for some in texts] == [3, 3] and len({text for some in texts for text in some}) > 1
    assert module.cost.forwards == 2 * 4 and mean.shape == (2,)
    with pytest.raises(ValueError, match="set temperature"):
        critic(backbone_folder("qwen2_5_vl"), num_critiques=3)


def test_critiques_never_hold_placeholders_of_images(backbone_folder):
    """A language head that writes nothing but image placeholders where it may: they are suppressed, and the critique is
    read; without that the second pass would find more placeholders than images."""
    module = critic(backbone_folder("qwen2_5_vl"), num_critiques=4, temperature=5.0, max_new_tokens=40).eval()
    with torch.no_grad():
        module.model.lm_head.weight[module.model.base.config.image_token_id] *= 30
        assert module.score(batch(module, False)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_critiques": 0}, "num_critiques is 0"),
        ({"num_critiques": 2, "temperature": 1.0, "critique": "given"}, "leave out num_critiques"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"stop": [""]}, "stop is"),
        ({"stop": None}, "stop is None"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(options, words):
    with pytest.raises(ValueError, match=words):
        CriticRM(Backbone("nowhere"), **options)
