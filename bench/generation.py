"""Writing a critique behind each of K responses to one prompt: ours against plain `generate` of transformers.

    python bench/generation.py [--json FILE] [--pixels 280 560] [--responses 4 16] [--new 32] [--repeats 3]

The model, images and lengths are those of the training comparison (`train_throughput.py`): tiny random Qwen2.5-VL,
float32, one noise image a prompt. `one by one` generates for each response alone, as the released critics do; `batch`
takes all responses of a prompt at once, left-padded, each with the prompt and the image of its own; `ours` computes
prompt and image once. All write the same number of tokens, greedily. Seconds are those of the processor at one thread;
runs are interleaved. `first` is the time up to the first token, `all` that of all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from train_throughput import make_rows, write_backbone

from lit_basereward.data.collator import Collator
from lit_basereward.data.types import Preference
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.generation import generate
from lit_basereward.nn.heads import MLPHead
from lit_basereward.nn.language import LanguageRewardModel

Ways = dict[str, Callable[[int], list[list[int]]]]


def left_padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A padded batch as `generate` wants it."""
    shifts = (1 - inputs["attention_mask"]).sum(1).tolist()

    def rolled(values: Tensor) -> Tensor:
        return torch.stack([row.roll(shift) for row, shift in zip(values, shifts, strict=True)])

    per_token = {key: rolled(inputs[key]) for key in ("input_ids", "attention_mask", "mm_token_type_ids")}
    return inputs | per_token


def ways(backbone: Backbone, model: LanguageRewardModel, row: Preference) -> Ways:
    """Functions from a number of tokens to what is written behind each response."""
    shared, padded = (Collator(backbone.processor(), layout) for layout in ("shared", "padded"))
    ours = shared([(0, row)])
    batch = left_padded(padded([(0, row)]).inputs)
    alone = [padded([(0, Preference("", row.prompt, (text,), images=row.images))]).inputs for text in row.responses]

    def plain(inputs: dict[str, Tensor], new: int) -> list[list[int]]:
        settings: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        return model.generator.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()

    def shared_prompt(new: int) -> list[list[int]]:
        return [s[0] for s in generate(model, ours.inputs, ours.layout, end_ids=[], max_new_tokens=new).tokens]

    return {
        "one by one": lambda new: [plain(inputs, new)[0] for inputs in alone],
        "batch": partial(plain, batch),
        "ours": shared_prompt,
    }


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(made: list[Ways], new: int, repeats: int) -> dict[str, Any]:
    """Median seconds per prompt of each way, up to the first token and to the last."""
    texts = [{name: way(new) for name, way in each.items()} for each in made]  # warms up, too
    same = sum(each["ours"] == each["one by one"] for each in texts)

    def run(name: str, tokens: int) -> None:
        for each in made:
            each[name](tokens)

    found: dict[str, Any] = {"same": f"{same} of {len(made)}"}
    for key, tokens in (("first", 1), ("all", new)):
        times = [{name: seconds(partial(run, name, tokens)) / len(made) for name in made[0]} for _ in range(repeats)]
        found[key] = {name: statistics.median(each[name] for each in times) for name in made[0]}
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--pixels", type=int, nargs="+", default=[280, 560], help="edges of the image")
    parser.add_argument("--responses", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--new", type=int, default=32, help="tokens to write behind each response")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_backbone(Path(folder))
        backbone = Backbone(folder, init="random", max_length=4096)
        language_model = backbone.load(language_head=True)
        model = LanguageRewardModel(language_model, MLPHead(256)).eval()
        language_model.eval()
        print(f"{args.new} tokens behind each response, processor seconds per prompt, torch {torch.__version__}")
        print(f"{'px':<6}{'K':<5}{'':<7}{'one by one':>11}{'batch':>9}{'ours':>9}{'to one':>9}{'to batch':>10}")
        for pixels in args.pixels:
            for k in args.responses:
                rows = make_rows(args.prompts * k * (k - 1) // 2, k, pixels, ranked=True)
                found = results[f"{pixels}-{k}"] = measure(
                    [ways(backbone, model, row) for row in rows], args.new, args.repeats
                )
                for key in ("first", "all"):
                    one, batch, ours = (found[key][name] for name in ("one by one", "batch", "ours"))
                    line = f"{pixels:<6}{k:<5}{key:<7}{one:>11.2f}{batch:>9.2f}{ours:>9.2f}{one / ours:>9.2f}"
                    print(f"{line}{batch / ours:>10.2f}", flush=True)
                print(f"{'':<11}same text as one by one: {found['same']} prompts")
    print(f"load average {os.getloadavg()[0]:.1f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
