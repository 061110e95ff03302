"""Policies of the GRPO demo on the third split: python bench/rl_demo.py --model BEST.ckpt FOLDER [FOLDER ...]

Each folder is a policy: the warm start, and the `policy` folders of runs. All 720 prompts are answered once, sampled at
temperature 1 with the same seed; differences to the first folder come with the standard error of paired differences.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lit_basereward.demo import Digits
from lit_basereward.nn.backbone import Backbone
from lit_basereward.rl import HybridReward, PromptTask, Sample
from lit_basereward.rl.prompts import Prompts


def answers(folder: str, samples: list[Sample], batch_size: int = 180) -> list[str]:
    """What the policy writes, once for each prompt."""
    backbone = Backbone(folder, freeze=[], max_pixels=112 * 112)
    prompts, model, texts = Prompts(backbone), backbone.load(language_head=True).eval(), list[str]()
    torch.manual_seed(0)
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        asked = prompts.processor.apply_chat_template(
            [prompts.turns(sample) for sample in batch], tokenize=False, add_generation_prompt=True
        )
        images = [prompts.images(sample) for sample in batch]
        inputs = prompts.processor(images=images, text=asked, padding=True, return_tensors="pt")
        with torch.inference_mode():
            written = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=16)
        texts += prompts.tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def main() -> None:
    """Print a line for each policy and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the demo's reward model")
    parser.add_argument("folders", nargs="+")
    arguments = parser.parse_args()
    task, reward = PromptTask([Digits("test")]), HybridReward(arguments.model)
    task.prepare()
    samples = [task[index] for index in range(len(task))]
    first: dict[str, torch.Tensor] = {}
    for folder in arguments.folders:
        texts = answers(folder, samples)
        print(f"{Path(folder)}: {len(set(texts))} different answers, such as {texts[:3]}")
        for name, values in reward(texts, samples).items():
            now = torch.tensor(values)
            change = now - first.setdefault(name, now)
            error = change.std() / len(change) ** 0.5
            print(f"  {name:<12} {now.mean():7.3f}   change {change.mean():+.3f} +- {error:.3f}")


if __name__ == "__main__":
    main()
