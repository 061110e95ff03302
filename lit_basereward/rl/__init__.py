"""Reinforcement learning: of judges by rules, with TRL as the engine."""

from lit_basereward.rl.judge_rewards import JudgeReward
from lit_basereward.rl.reward import Reward
from lit_basereward.rl.task import JudgeTask, Sample, Task
from lit_basereward.rl.warm_start import WarmStarted

__all__ = ["JudgeReward", "JudgeTask", "Reward", "Sample", "Task", "WarmStarted"]
