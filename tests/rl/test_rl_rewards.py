"""Rewards of a rule and of a real, tiny reward model: their arithmetic, their groups, and what is refused."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import lit_basereward
from lit_basereward.data.types import ImagePart, Message, Preference, RowError
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.modules.generative import GenerativeRM
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.rl import HybridReward, ModelReward, Reward, RuleReward, Sample, WeightedSum, scoring
from lit_basereward.testing import random_image

CALIBRATION = Calibration(temperature=2.0, offset=0.5, rule="median", comparisons=30, responses=40, source="held-out")


def save(module: lit_basereward.RewardModule, path: Path, calibration: Calibration | None) -> str:
    torch.manual_seed(0)
    module.configure_model()
    for name, parameter in module.named_parameters():
        if ".head." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    module.calibration = calibration
    stored: dict = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(stored)
    torch.save(stored, path)
    return str(path)


@pytest.fixture(scope="module")
def model(backbone_folder, tmp_path_factory) -> str:
    """A checkpoint that is calibrated."""
    folder = tmp_path_factory.mktemp("model")
    return save(NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=64)), folder / "m.ckpt", CALIBRATION)


@pytest.fixture(scope="module")
def judge(backbone_folder, tmp_path_factory) -> str:
    """A model that only compares."""
    folder = tmp_path_factory.mktemp("judge")
    backbone = Backbone(backbone_folder("qwen2_5_vl"), max_length=2048)
    return save(GenerativeRM(backbone, style="verdict"), folder / "j.ckpt", None)


def sample(seed: int, answer: str = "") -> Sample:
    return Sample((Message("user", (ImagePart(), "what is it")),), (random_image(28, seed),), answer, where=f"s{seed}")


# Two groups in turns, as a shuffled batch has them; the same texts, so that only the image tells them apart.
TEXTS = ["yes", "yes", "no it is not", "no it is not", "a cat", "a cat"]
SAMPLES = [sample(1, "yes"), sample(2, "a cat")] * 3
RIGHT = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def expected(model: str) -> torch.Tensor:
    """Rewards of TEXTS, each scored alone."""
    scorer = lit_basereward.load(model, "cpu")
    rows = [Preference("", s.prompt, (t,), images=s.images) for t, s in zip(TEXTS, SAMPLES, strict=True)]
    return torch.cat([scorer.score_rows([row])[0] for row in rows])


def test_groups_are_scored_in_one_pass_and_in_place(model):
    """Each completion has the reward it has alone, to float32 rounding; two prompts are two passes, not six."""
    reward = ModelReward(model, device="cpu")
    reward.prepare()
    passes = []
    scorer = reward._opened.scorer
    whole = scorer.score_rows
    scorer.score_rows = lambda rows: passes.append(len(rows[0].responses)) or whole(rows)
    found = reward(TEXTS, SAMPLES)
    assert passes == [3, 3]
    torch.testing.assert_close(torch.tensor(found["reward"]), expected(model), rtol=0, atol=1e-5)
    assert found["model"] == found["reward"] and found["accuracy"] == RIGHT
    assert abs(found["reward"][0] - found["reward"][1]) > 1e-4  # the image reaches the model


def test_standardise_clip_and_length(model):
    """((r - 0.5) / 2 bounded by 0.01) - 2 * max(0, characters - 3) / 1000."""
    raw = expected(model)
    assert (raw - 0.5).abs().min() > 0.03  # so that all are clipped
    settings = {"standardize": True, "clip": 0.01, "length_penalty": 2.0, "free_length": 3, "device": "cpu"}
    found = ModelReward(model, **settings)(TEXTS, SAMPLES)["reward"]
    for text, r, got in zip(TEXTS, raw.tolist(), found, strict=True):
        assert got == pytest.approx(math.copysign(0.01, r - 0.5) - 0.002 * max(0, len(text) - 3), abs=1e-6)
    unclipped = ModelReward(model, standardize=True, device="cpu")(TEXTS, SAMPLES)["reward"]
    assert unclipped == pytest.approx(((raw - 0.5) / 2).tolist(), abs=1e-5)


def test_hybrid(model):
    """1 where the rule says right, else sigmoid((r - 0.5) / 2)."""
    found = HybridReward(model, device="cpu")(TEXTS, SAMPLES)
    p = torch.sigmoid((expected(model) - 0.5) / 2).tolist()
    assert found["reward"] == pytest.approx([1.0 if right else q for right, q in zip(RIGHT, p, strict=True)], abs=1e-5)
    assert found["accuracy"] == RIGHT and found["probability"] == pytest.approx(p, abs=1e-5)


def test_accuracy_of_some_answers(model):
    """Logged where there is an answer; nothing where there is none."""
    reward = ModelReward(model, device="cpu")
    some = reward(["yes", "no"], [sample(1, "yes"), sample(1)])["accuracy"]
    assert some[0] == 1.0 and math.isnan(some[1])
    assert "accuracy" not in reward(["yes"], [sample(1)])


def test_long_completions_are_cut(model):
    """Over max_length 64 the end is left out, so what stands there does not count; a run does not end by it."""
    long = "the cat sits on the table " * 20
    first, second = ModelReward(model, device="cpu")([long + "yes", long + "no"], [sample(1)] * 2)["reward"]
    assert first == pytest.approx(second, abs=1e-5)


@pytest.mark.parametrize("kind", ["checkpoint", "ensemble"])
def test_long_completions_do_not_end_a_run(model, kind, tmp_path):
    """Neither those of a model nor of an ensemble, whose members have to cut them."""
    if kind == "ensemble":
        (tmp_path / "both.yaml").write_text(
            f"model: {{class_path: lit_basereward.EnsembleRM, init_args: {{members: {{a: {model}}}}}}}\n"
        )
    reward = ModelReward(model if kind == "checkpoint" else str(tmp_path / "both.yaml"), device="cpu")
    short, long = reward(["yes", "the cat sits on the table " * 20], [sample(1)] * 2)["reward"]
    assert short == pytest.approx(expected(model)[0].item(), abs=1e-5) and math.isfinite(long)


def test_rewards_that_are_no_numbers(backbone_folder, tmp_path):
    """NaN would be no reward to a trainer, and so one of 0 beside others; infinity makes NaN of its group: an error
    that names the prompt. Weights of 3e38 are finite, their sums are not."""
    module = NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=64))
    path = save(module, tmp_path / "m.ckpt", CALIBRATION)
    stored = torch.load(path, weights_only=True)
    stored["state_dict"]["model.head.layers.2.weight"].sign_().mul_(3e38)
    torch.save(stored, path)
    with pytest.raises(RowError, match=r"s1 was given rewards that are no numbers, \[-?(inf|nan)"):
        ModelReward(path, device="cpu")(["yes", "no"], [sample(1)] * 2)


def test_a_model_that_compares(judge):
    """Inside a group it serves; a completion alone, or a scale across prompts, is refused."""
    reward = ModelReward(judge, device="cpu")
    found = reward(TEXTS, SAMPLES)["reward"]
    assert not reward.comparable_across_rows
    assert sum(found[::2]) == pytest.approx(0, abs=1e-4)  # a judge's scores of a row sum to 0
    with pytest.raises(ValueError, match=r"here a prompt has one completion; give every prompt a group"):
        reward(["yes"], [sample(1)])
    with pytest.raises(ValueError, match="no common scale; leave standardize out"):
        ModelReward(judge, standardize=True, device="cpu").prepare()
    with pytest.raises(ValueError, match="no probability of being good"):
        HybridReward(judge, device="cpu").prepare()
    total = WeightedSum([reward, RuleReward()], [1.0, 1.0])
    total.prepare()
    assert not total.comparable_across_rows


def test_without_calibration(backbone_folder, tmp_path):
    path = save(NaiveRM(Backbone(backbone_folder("qwen2"))), tmp_path / "m.ckpt", None)
    text_only = Sample((Message("user", ("what is it",)),), answer="no")
    for reward in (HybridReward(path, device="cpu"), ModelReward(path, standardize=True, device="cpu")):
        with pytest.raises(ValueError, match=r"no calibration.*lit_basereward calibrate"):
            reward(["yes"], [text_only])
    assert len(ModelReward(path, device="cpu")(["yes"], [text_only])["reward"]) == 1


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"no reward model at .*made by `python -m lit_basereward fit"):
        ModelReward(str(tmp_path / "none.ckpt")).prepare()
    with pytest.raises(ValueError, match="clip is 0"):
        ModelReward("m", clip=0)
    with pytest.raises(ValueError, match="cannot be below 0"):
        ModelReward("m", length_penalty=-1.0)
    with pytest.raises(ValueError, match="2 rewards and 1 weights"):
        WeightedSum([RuleReward(), RuleReward()], [1.0])
    with pytest.raises(ValueError, match="length_penalty is nan"):
        ModelReward("m", length_penalty=math.nan)
    with pytest.raises(ValueError, match=r"the weights are .*use finite numbers"):
        WeightedSum([RuleReward(), RuleReward()], [1.0, math.nan])
    with pytest.raises(ValueError, match="2 completions and 1 samples"):
        ModelReward("m")(["yes", "no"], [sample(1)])
    with pytest.raises(ValueError, match="0 completions and 0 samples"):
        ModelReward("m")([], [])
    with pytest.raises(RowError, match="s1 has no answer to compare with"):
        RuleReward()(["yes"], [sample(1)])
    with pytest.raises(RowError, match="s1 has no answer to compare with"):
        RuleReward()(["yes"], [sample(1, "<answer> </answer>")])
    with pytest.raises(ValueError, match="form is 'boxxed'; use one of: any, boxed, tagged"):
        RuleReward(form="boxxed")
    with pytest.raises(ValueError, match="tolerance is 1"):
        RuleReward(tolerance=1)


class Length(Reward):
    """Characters."""

    def __call__(self, completions, samples):
        return {"reward": [float(len(text)) for text in completions], "accuracy": [0.5] * len(completions)}


def test_weighted_sum():
    """2 * rule + 0.1 * characters; the second `accuracy` gets a number."""
    found = WeightedSum([RuleReward(), Length()], [2.0, 0.1])(["yes", "nope"], [sample(1, "yes")] * 2)
    assert found["reward"] == pytest.approx([2 * 1 + 0.1 * 3, 2 * 0 + 0.1 * 4])
    assert found["accuracy"] == [1.0, 0.0] and found["accuracy_2"] == [0.5, 0.5]


def test_rule_reads_the_options_of_the_prompt():
    asked = Sample((Message("user", ("Which?\nA. a cat\nB. a dog",)),), answer="B")
    assert RuleReward()(["It is a dog.", "A", "(B)"], [asked] * 3)["reward"] == [1.0, 0.0, 1.0]
    assert RuleReward("boxed")([r"\boxed{B}", "B"], [asked] * 2)["reward"] == [1.0, 0.0]


# ------------------------------------------------------------------------------------------------------ other trainers
def test_as_trl(model):
    """Prompts as texts and as TRL's turns with Pillow images in place, completions as texts and turns: one reward."""
    image = random_image(28, 1)
    pil = Image.open(io.BytesIO(image.data))
    one, two = expected(model)[[0, 2]].tolist()
    function = ModelReward(model, device="cpu").as_trl(answer="solution")
    assert function.__name__ == "ModelReward"
    turns = [{"role": "user", "content": "what is it"}]
    placed = [{"role": "user", "content": [{"type": "image", "image": pil}, {"type": "text", "text": "what is it"}]}]
    logged: dict[str, float] = {}
    for prompt, columns in (
        ("what is it", {"image": [pil, pil]}),
        (turns, {"images": [[pil], [pil]]}),
        (placed, {"images": [[pil], [pil]]}),  # as TRL 1.16 calls it: in both places
    ):
        for texts in (TEXTS[:3:2], [[{"role": "assistant", "content": text}] for text in TEXTS[:3:2]]):
            rewards = function(
                prompts=[prompt] * 2, completions=texts, completion_ids=[[1], [2]], trainer_state=None,
                solution=["yes", None], log_metric=logged.__setitem__, **columns,
            )  # fmt: skip
            assert rewards == pytest.approx([one, two], abs=1e-5)
    assert logged["accuracy"] == 1.0 and logged["model"] == pytest.approx((one + two) / 2, abs=1e-5)
    assert RuleReward().as_trl()(prompts=["2 + 2 = ?"], completions=["4"], answer=[4]) == [1.0]  # without log_metric


def test_true_answers_as_data_sets_store_them():
    answers = ["<answer> 3 </answer>", r"\boxed{3}", "6/2 = <<6/2=3>>3\n#### 3", ["3", "three"]]
    function = RuleReward().as_trl(answer="solution")
    for completion, reward in (("three", 1.0), ("It is 3.", 1.0), ("4", 0.0)):
        found = function(prompts=["6 / 2?"] * len(answers), completions=[completion] * len(answers), solution=answers)
        assert found == [reward] * len(answers)


def test_as_trl_with_several_images_and_odd_completions(model):
    """Two images before the text; no completion at all, and turns without any text, are an empty response."""
    images = tuple(random_image(28, seed) for seed in (1, 2))
    pils = [Image.open(io.BytesIO(image.data)) for image in images]
    function = ModelReward(model, device="cpu").as_trl()
    turns = [[{"role": "assistant", "content": content}] for content in (None, [])]
    completions = ["yes", "", None, [], *turns]
    prompts = [[{"role": "user", "content": "what is it"}]] * len(completions)
    found = function(prompts=prompts, completions=completions, images=[pils] * len(completions))
    prompt = (Message("user", (ImagePart(), ImagePart(), "what is it")),)
    (rewards,) = lit_basereward.load(model, "cpu").score_rows([Preference("", prompt, ("yes", ""), images=images)])
    assert found == pytest.approx(rewards[[0, 1, 1, 1, 1, 1]].tolist(), abs=1e-5)


def test_as_trl_with_images_that_are_made_when_they_are_read(model):
    """A column that decodes each image anew: once the first is gone, its place in memory is the second's."""

    class Column(list):
        def __getitem__(self, n: int) -> Image.Image:
            return Image.open(io.BytesIO(random_image(28, super().__getitem__(n)).data))

    seeds = list(range(1, 9))
    function = ModelReward(model, device="cpu").as_trl()
    found = function(prompts=["what is it"] * 8, completions=["yes"] * 8, image=Column(seeds))
    scorer = lit_basereward.load(model, "cpu")
    own = [scorer.score("what is it", ["yes"], [random_image(28, seed).data])[0].item() for seed in seeds]
    assert found == pytest.approx(own, abs=1e-5)


def test_no_server(monkeypatch):
    monkeypatch.setattr(scoring.time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError, match=r"did not answer in 8 attempts.*refused"):
        ModelReward("http://127.0.0.1:9").prepare()
