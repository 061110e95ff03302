"""Reinforcement learning: rewards for policies and for judges, and GRPO with TRL as the engine."""

from lit_basereward.rl.judge_rewards import JudgeReward
from lit_basereward.rl.prompt_task import PromptTask
from lit_basereward.rl.reward import Reward
from lit_basereward.rl.rewards import HybridReward, ModelReward, RuleReward, WeightedSum
from lit_basereward.rl.task import JudgeTask, Sample, Task
from lit_basereward.rl.warm_start import WarmStarted

__all__ = [
    "HybridReward", "JudgeReward", "JudgeTask", "ModelReward", "PromptTask", "Reward", "RuleReward", "Sample", "Task",
    "WarmStarted", "WeightedSum",
]  # fmt: skip
