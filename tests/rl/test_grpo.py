"""The tool `grpo`: settings, errors, and a tiny judge that learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lit_basereward.cli_tools import TOOLS
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.lora import LoRA, Quantize
from lit_basereward.rl import (
    HybridReward,
    JudgeReward,
    JudgeTask,
    ModelReward,
    PromptTask,
    Reward,
    RuleReward,
    Sample,
    Task,
    WarmStarted,
)
from lit_basereward.testing import ListSource, preferences

pytest.importorskip("trl")
from lit_basereward.rl.grpo import check_groups, grpo, trl_config
from lit_basereward.rl.progress import Progress, draw_curves

ROOT = Path(__file__).parents[2]
TEMPLATE = str(ROOT / "lit_basereward/demo/templates/reasoning.txt")


def settings(tmp_path: Path, **given) -> object:
    return trl_config(given, tmp_path, Backbone("x"), evaluates=False)


def test_settings_are_trls_typed(tmp_path):
    """YAML reads 1e-6 as a string; TRL's field is a number. Ours win over TRL's defaults, given ones over ours."""
    made = settings(tmp_path, learning_rate="1e-6", num_generations=4, per_device_train_batch_size=8, logging_steps=5)
    assert made.learning_rate == 1e-6 and made.num_generations == 4 and made.logging_steps == 5
    assert made.bf16 == torch.cuda.is_available() and made.report_to == [] and not made.gradient_checkpointing


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1e-6}, "settings.learning_rat is no setting of TRL's GRPOConfig; did you mean learning_rate"),
        ({"zzzz": 1}, "its documentation lists them"),
        ({"learning_rate": "fast"}, "settings.learning_rate is 'fast'"),
        ({"output_dir": "there"}, "settings.output_dir follows from output; leave it out"),
        ({"gradient_checkpointing": True}, "follows from policy.gradient_checkpointing"),
        ({"num_generations": 3, "per_device_train_batch_size": 8}, "settings: .*divisible by num_generations"),
    ],
)
def test_settings_that_cannot_be(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **given)


def test_errors_before_anything_is_loaded(tmp_path):
    task = JudgeTask([])
    (tmp_path / "there/policy").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds a policy already"):
        grpo(Backbone("x"), task, [JudgeReward()], str(tmp_path / "there"))
    with pytest.raises(ValueError, match="there is no reward"):
        grpo(Backbone("x"), task, [], str(tmp_path / "new"))
    with pytest.raises(ValueError, match="no reward model at"):  # before the task is read, which has no prompt
        grpo(Backbone("x"), task, [ModelReward(str(tmp_path / "none.ckpt"))], str(tmp_path / "new"))
    with pytest.raises(ValueError, match="4-bit policy"):
        grpo(Backbone("x", quantize=Quantize(), lora=LoRA()), task, [JudgeReward()], str(tmp_path / "new"))
    with pytest.raises(ValueError, match="give a task to imitate"):
        WarmStarted(name_or_path=str(tmp_path / "none")).folder()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "configs/rl").glob("*.yaml")))
def test_configs(config, tmp_path, monkeypatch):
    """Every config of the tool parses, builds its parts, has settings that TRL takes, and a header."""
    monkeypatch.chdir(ROOT)  # templates are named from there
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(grpo, sub_configs=False)
    text = (ROOT / "configs/rl" / config).read_text()
    built = parser.instantiate_classes(parser.parse_object(yaml.safe_load(text)))
    assert isinstance(built.task, Task) and all(isinstance(reward, Reward) for reward in built.rewards)
    made = trl_config(built.settings, tmp_path, built.policy, evaluates=built.held_out is not None)
    assert made.beta == 0 and made.num_generations == 8
    for word in ("# Purpose ", "# Hardware ", "# Licence ", "# Command "):
        assert word in text
    assert f"grpo --config configs/rl/{config}" in text and TOOLS["grpo"] == "lit_basereward.rl.grpo:grpo"


class Compares(JudgeReward):
    """As a reward model that only compares."""

    comparable_across_rows = False


@pytest.mark.parametrize(
    ("given", "evaluates", "message"),
    [
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, False, None),  # 8: one group
        (
            {"per_device_train_batch_size": 4, "steps_per_generation": 3, "num_generations": 3},
            True,
            "num_generations_eval",
        ),
        (
            {"per_device_train_batch_size": 9, "num_generations": 3, "num_generations_eval": 3},
            True,
            "num_generations_eval",
        ),
        ({"per_device_train_batch_size": 8, "num_generations_eval": 4}, True, None),
    ],
)
def test_a_model_that_compares_gets_whole_groups(tmp_path, given, evaluates, message):
    """8 of train, and 8 (TRL's default) of held-out completions at a time: 8 / 3 is no whole number."""
    config = trl_config(given, tmp_path, Backbone("x"), evaluates)
    check_groups([JudgeReward()], config)
    if message:
        with pytest.raises(ValueError, match=message):
            check_groups([JudgeReward(), Compares()], config)
    else:
        check_groups([Compares()], config)


@pytest.mark.parametrize(("overlay", "kind"), [(None, HybridReward), ("rule", RuleReward), ("model", ModelReward)])
def test_the_demo_with_each_reward(overlay, kind):
    """A second config replaces the rewards of the first, as `grpo --config ... --config ...` does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(grpo, sub_configs=False)
    files = [ROOT / "configs/rl/grpo_demo.yaml", *([ROOT / f"configs/rl/rewards/{overlay}.yaml"] if overlay else [])]
    parsed = parser.parse_args([argument for file in files for argument in ("--config", str(file))])
    assert [type(reward) for reward in parser.instantiate_classes(parsed).rewards] == [kind]


def test_progress_writes_trls_logs_under_our_names(tmp_path):
    """Training, held-out and the summary of the run, as TRL logs them; only the first two are lines."""

    class State:
        global_step, is_world_process_zero = 3, True

    progress = Progress(tmp_path / "metrics.jsonl", {"accuracy"})
    progress.on_log(None, State, None, {"eval_reward": 1.0, "eval_accuracy": 0.5, "eval_completions/mean_length": 7.0})
    progress.on_log(None, State, None, {"reward": 1.5, "accuracy": 0.75, "loss": 0.1, "unknown": 9, "kl": None})
    progress.on_log(None, State, None, {"train_runtime": 1.0})
    expected = [
        {"step": 3, "split": "held_out", "reward": 1.0, "length": 7.0, "accuracy": 0.5},
        {"step": 3, "split": "train", "reward": 1.5, "loss": 0.1, "accuracy": 0.75},
    ]
    assert progress.lines == expected and progress.last_evaluated == 3
    assert [json.loads(line) for line in progress.path.read_text().splitlines()] == expected
    draw_curves(tmp_path / "curves.png", progress.lines, progress.parts)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


class SaysFirst(JudgeReward):
    """1 for the verdict that the first response is better, right or wrong."""

    def __call__(self, completions: list[str], samples: list[Sample]) -> dict[str, list[float]]:
        parts = super().__call__(completions, samples)
        return {**parts, "reward": parts["says_first"]}


@pytest.mark.slow
def test_a_judge_learns(tmp_path, capsys, monkeypatch):
    """Warm start, GRPO on rows with and without images, and the policy as the backbone of a GenerativeRM.

    Rewarded for one verdict whatever the pair, which takes no seeing, a judge says it more often after some steps: 64
    held-out verdicts of a coin have a standard error of 0.06, and 0.25 is four of them. (That the reward for being
    right rises takes minutes: configs/rl/judge_demo.yaml.)
    """
    from lit_basereward.demo import Digits, Sums
    from lit_basereward.demo.backbone import TinyQwen2_5VL
    from lit_basereward.modules.generative import GenerativeRM

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def task(rows: int, split: str, orders: str = "balanced", limit: int | None = None) -> JudgeTask:
        return JudgeTask([Digits(split, rows), Sums(split, rows)], template=TEMPLATE, orders=orders, limit=limit)

    start = WarmStarted(str(tmp_path / "warm"), task=task(160, "train", "both"), steps=40, batch_size=16)
    policy = grpo(
        start,
        task(160, "train"),
        [SaysFirst()],
        str(tmp_path / "run"),
        held_out=task(80, "val", "both", limit=32),
        settings={
            "max_steps": 12, "per_device_train_batch_size": 32, "num_generations": 8, "per_device_eval_batch_size": 64,
            "max_completion_length": 40, "learning_rate": 3e-4, "lr_scheduler_type": "constant",
        },
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if line["split"] == "held_out"]
    assert [line["step"] for line in held_out] == [0, 12] and len(lines) == 14
    assert held_out[1]["reward"] > held_out[0]["reward"] + 0.25
    assert "policy in" in capsys.readouterr().out.splitlines()[-1] and (tmp_path / "run/curves.png").exists()

    names = {path.name for path in policy.iterdir()}
    assert "model.safetensors" in names and not {name for name in names if name.endswith((".bin", ".pt"))}
    before, after = (Backbone(str(folder), freeze=[]).load(language_head=True) for folder in (start.folder(), policy))
    assert any(not a.equal(b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    judge = GenerativeRM(TinyQwen2_5VL(str(policy)), style="reasoning", template=TEMPLATE, max_new_tokens=40)
    judge.backbone = Backbone(str(policy), freeze=[], max_pixels=112 * 112)
    judge.configure_model()
    collator = judge.collator(training=False)
    with torch.no_grad():
        scores = judge.eval().score(collator([(0, Digits("val", 80)[0])]))
    assert len(scores) == 2 and scores.sum() == 0
    assert all("<answer>" in text for text in judge.evidence[0]["judgements"])


class SaysA(Reward):
    """Share of the letter a; any text earns something, so that every group has a signal."""

    def __call__(self, completions: list[str], samples: list[Sample]) -> dict[str, list[float]]:
        assert all(sample.answer in "12" for sample in samples)
        return {"reward": [text.count("a") / (1 + len(text)) for text in completions]}


@pytest.mark.slow
def test_adapters_of_a_text_only_policy_are_merged(backbone_folder, tmp_path):
    """A reward of the user's own, and a folder of whole weights, of which those with adapters have changed."""
    folder = backbone_folder("qwen2")
    task = JudgeTask([ListSource(preferences(images=False, responses=(2, 2, 2, 3)))])
    policy = grpo(
        Backbone(folder, lora=LoRA(rank=2)), task, [SaysA()], str(tmp_path / "run"),
        settings={"max_steps": 2, "per_device_train_batch_size": 8, "max_completion_length": 6, "learning_rate": 1e-2},
    )  # fmt: skip
    before, after = (dict(Backbone(at).load(language_head=True).named_parameters()) for at in (folder, str(policy)))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert before.keys() == after.keys() and changed and all("_proj" in name for name in changed)


class Ones(RuleReward):
    """As the rule, but what is rewarded is the word "one"; the rule's accuracy is a part."""

    def __call__(self, completions: list[str], samples: list[Sample]) -> dict[str, list[float]]:
        return {"reward": [float("one" in text) for text in completions], **self.accuracy(completions, samples)}


@pytest.mark.slow
def test_a_policy_learns(tmp_path, monkeypatch):
    """Captions of digits, a short warm start, and GRPO for one word; that the reward is not accuracy is seen.

    A tenth of 160 answers are "one" at first; after it more than half: 0.4 are ten standard errors of the difference.
    """
    from lit_basereward.demo import Digits

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def task(split: str, rows: int) -> PromptTask:
        return PromptTask([Digits(split, rows)])

    start = WarmStarted(str(tmp_path / "warm"), task=task("train", 160), steps=15, batch_size=16)
    grpo(
        start,
        task("train", 160),
        [Ones()],
        str(tmp_path / "run"),
        held_out=task("val", 160),
        settings={
            "max_steps": 12, "per_device_train_batch_size": 64, "num_generations": 8, "per_device_eval_batch_size": 160,
            "max_completion_length": 8, "learning_rate": 3e-4, "lr_scheduler_type": "constant",
        },
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    before, after = [line for line in lines if line["split"] == "held_out"]
    assert after["reward"] > before["reward"] + 0.4
    assert after["accuracy"] < 0.3
