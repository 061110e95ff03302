"""``python -m lit_basereward grpo``: a language model learns from rewards of what it writes, with TRL as the engine."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch

from lit_basereward.benchmarks.plots import can_draw
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.lora import merge
from lit_basereward.rl.prompts import Prompts
from lit_basereward.rl.reward import Reward, means
from lit_basereward.rl.task import Sample, Task
from lit_basereward.serving.export import PROCESSOR_FILES, copy_processor, source_folder

POLICY, METRICS, CURVES = "policy", "metrics.jsonl", "curves.png"
_OURS = {
    "output_dir": "output",
    "gradient_checkpointing": "policy.gradient_checkpointing",
    "activation_checkpointing": "policy.gradient_checkpointing",
    "model_init_kwargs": "policy",
    "trust_remote_code": "policy.trust_remote_code",
    "remove_unused_columns": "nothing: reward functions read the columns",
}
"""TRL's settings that follow from our parameters, and from which."""


def grpo(
    policy: Backbone,
    task: Task,
    rewards: list[Reward],
    output: str,
    held_out: Task | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Train a language model by GRPO on rewards of what it writes.

    For each prompt it writes a group of completions; those above the group's mean reward become more likely. Held-out
    prompts are answered before and after, once each, sampled as in training. Launch it with `accelerate launch` or
    `torchrun` for several devices.

    Args:
        policy: the model: hub id or folder of a language model, with its language head, such as the export of a judge.
            What trains is stored in float32.
        task: prompts to learn on.
        rewards: what completions are worth, summed; ``settings.reward_weights`` weighs them. Their parts are logged.
        output: folder to write: ``policy`` (a Hugging Face folder with its processor), ``metrics.jsonl``,
            ``curves.png`` and, where ``settings`` ask for them, TRL's checkpoints.
        held_out: prompts to evaluate on.
        settings: of TRL's GRPOConfig, by their names there: ``learning_rate``, ``num_generations``,
            ``max_completion_length``, ``use_vllm``, ``fsdp``, ``deepspeed`` and all others.

    Raises:
        ValueError: for settings that TRL does not have, a policy or task that cannot be used, or an ``output`` that
            holds a policy already.
    """
    target = Path(output)
    if (target / POLICY).exists():
        raise ValueError(f"output {output!r} holds a policy already; name a new folder, or remove it first")
    if not rewards:
        raise ValueError("there is no reward; give rewards, such as lit_basereward.rl.JudgeReward")
    if policy.quantize is not None:
        raise ValueError("policy.quantize: a 4-bit policy is not supported here; use lora with dtype: bfloat16")
    config = trl_config(settings or {}, target, policy, evaluates=held_out is not None)
    for each in (*rewards, task, held_out):
        if each is not None:
            each.prepare()
    check_groups(rewards, config)
    target.mkdir(parents=True, exist_ok=True)
    if config.resume_from_checkpoint is None:
        (target / METRICS).unlink(missing_ok=True)
    # TRL's settings have the older of two names
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    trainer, progress = _trainer(policy, task, rewards, held_out, config, target / METRICS)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    if held_out is not None and progress.last_evaluated != trainer.state.global_step:
        trainer.evaluate()
    _save(trainer, policy, target / POLICY)
    if trainer.is_world_process_zero():
        print(progress.summary())
        curves = "no curves: matplotlib is not installed"
        if can_draw():
            from lit_basereward.rl.progress import draw_curves

            draw_curves(target / CURVES, progress.lines, progress.parts)
            curves = f"curves in {target / CURVES}"
        print(f"policy in {target / POLICY}, metrics in {target / METRICS}, {curves}")
    return target / POLICY


def trl_config(settings: dict[str, Any], output: Path, policy: Backbone, evaluates: bool) -> Any:
    """TRL's GRPOConfig from settings by name, each checked and typed as TRL declares it.

    Args:
        settings: they win over our defaults.
        output: for TRL's own files.
        policy: says whether activations are recomputed.
        evaluates: whether there are held-out prompts.

    Raises:
        ValueError: for a name or a value that TRL does not take.
    """
    try:
        from trl import GRPOConfig
    except ImportError as error:
        raise ValueError('grpo needs TRL: pip install "lit_basereward[rl]"') from error
    known = {field.name for field in fields(GRPOConfig) if field.init}
    for name in settings:
        if name in _OURS:
            raise ValueError(f"settings.{name} follows from {_OURS[name]}; leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            raise ValueError(
                f"settings.{name} is no setting of TRL's GRPOConfig; "
                + (f"did you mean {', '.join(near)}?" if near else "its documentation lists them")
            )
    on_gpu = torch.cuda.is_available()
    defaults: dict[str, Any] = {
        "bf16": on_gpu,  # TRL's is True on CPUs as well
        "use_cpu": not on_gpu,
        "report_to": "none",
        "save_strategy": "no",  # the policy is written at the end
        "logging_steps": 1,
        "num_generations_eval": 1,
        "eval_on_start": evaluates,
        "dataloader_pin_memory": on_gpu,
    }
    given = defaults | {name: _typed(GRPOConfig, name, value) for name, value in settings.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return GRPOConfig(
                output_dir=str(output / "checkpoints"),
                gradient_checkpointing=policy.gradient_checkpointing,
                trust_remote_code=policy.trust_remote_code,
                **given,
            )
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings: {error}") from error


def _typed(config_class: Any, name: str, value: Any) -> Any:
    """``value`` as the type that TRL declares: ``1e-6`` is a string to YAML."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=get_type_hints(config_class)[name])
    try:
        return parser.parse_object({"value": value}).value
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"settings.{name} is {value!r}: {str(error).strip().splitlines()[-1].strip()}") from error


def check_groups(rewards: Sequence[Reward], config: Any) -> None:
    """A model that compares needs all completions of a prompt in one process, and at least two of them.

    Raises:
        ValueError: where it would get a part of them.
    """
    if all(reward.comparable_across_rows for reward in rewards):
        return
    batch = config.per_device_train_batch_size * config.steps_per_generation
    if batch % config.num_generations:
        raise ValueError(
            f"the reward model compares the completions of a prompt, but a process gets {batch} of them, which are no "
            f"whole groups of num_generations {config.num_generations}; make settings.per_device_train_batch_size "
            "times settings.steps_per_generation (or gradient_accumulation_steps) a multiple of it"
        )
    if config.eval_on_start and (
        config.num_generations_eval < 2 or config.per_device_eval_batch_size % config.num_generations_eval
    ):
        raise ValueError(
            "the reward model compares the completions of a prompt, but held-out prompts are not answered in whole "
            "groups; set settings.num_generations_eval to 2 or more, and settings.per_device_eval_batch_size to a "
            "multiple of it"
        )


def _trainer(
    policy: Backbone, task: Task, rewards: Sequence[Reward], held_out: Task | None, config: Any, metrics: Path
) -> tuple[Any, Any]:
    """TRL's trainer over our model, processor and data, and what keeps its metrics."""
    from transformers import PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK  # in a notebook a table, else a bar
    from trl import GRPOTrainer

    from lit_basereward.rl.progress import Progress

    torch.manual_seed(config.seed)
    prompts = Prompts(policy)
    model = replace(policy, gradient_checkpointing=False).load(language_head=True)  # TRL switches it on and off
    parts: set[str] = set()
    progress = Progress(metrics, parts)
    functions: list[Any] = [_for_trl(reward, prompts.tokenizer, parts) for reward in rewards]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=functions,
        args=config,
        train_dataset=prompts.dataset(task),
        eval_dataset=None if held_out is None else prompts.dataset(held_out),
        processing_class=prompts.processor,
        callbacks=[progress],
    )
    for noisy in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(noisy)
    return trainer, progress


def _for_trl(reward: Reward, tokenizer: Any, parts: set[str]) -> Callable[..., list[float]]:
    """A reward as TRL calls it; the parts are logged, and their names put into ``parts``."""

    def function(completion_ids: list[list[int]], sample: list[Sample], log_metric: Any, **_: Any) -> list[float]:
        # decoded here: TRL's own text lacks the thoughts where a model has a schema for its responses
        found = reward(tokenizer.batch_decode(completion_ids, skip_special_tokens=True), sample)
        for name, mean in means(found).items():
            parts.add(name)
            log_metric(name, mean)
        return found["reward"]

    function.__name__ = type(reward).__name__
    return function


def _save(trainer: Any, policy: Backbone, folder: Path) -> None:
    """The policy as a Hugging Face folder: whole weights, and the files of its processor as they were."""
    if policy.lora is not None:
        merge(trainer.accelerator.unwrap_model(trainer.model).base_model)
    trainer.save_model(str(folder))  # gathers sharded weights, so on all processes
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink()  # a pickle, which nobody needs
        # written anew, a processor without its video half would not load elsewhere
        for pattern in PROCESSOR_FILES:
            for path in folder.glob(pattern):
                path.unlink()
        copy_processor(source_folder(policy), folder, code=policy.trust_remote_code)
