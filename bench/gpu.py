"""One large GPU: attention kernels, then training and scoring of a random-weight Qwen2.5-VL-7B, shared against padded.

    python bench/gpu.py [--json FILE] [--parts attention lora full scoring] [--rows 8] [--pixels 784] [--steps 4]
    python bench/gpu.py --tiny      # the same code on a CPU, with a model of toy size: its figures mean nothing

`attention`: `branch_attention` in bfloat16 (two calls of the varlen kernel) and float32 against a dense masked softmax
in float64, forward and backward; a failure ends with exit code 1. `lora` and `full`: steps of bf16-mixed with K = 2,
one image a row; tokens/s of the unique tokens, peak memory, and model FLOPs of the unique tokens, recomputation not
counted, over the rate of an 8192^3 bfloat16 product measured in this process. `scoring`: 16 responses a row.

What fits `full` on a card of 139 GiB: vision tower frozen in bfloat16, the rest (weights, gradients and both moments of
a fused AdamW) in float32, 113.8 GB, and in the forward pass 13.1 GB of bfloat16 copies that autocast keeps; activations
recomputed. An unfused AdamW needs copies of the weights besides.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
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

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.collator import Item
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.attention import branch_attention
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.layout import Layout
from lit_basereward.nn.lora import LoRA

GOAL = 0.45  # of the product's rate
# Of Qwen/Qwen2.5-VL-7B-Instruct
TEXT_7B = {
    "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128_000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
VISION_7B = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
    "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
WINDOW_PATCHES = 64  # of 14 x 14 pixels, in a window of 112 x 112


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call, the GPU's work included."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def product_rate(device: str, size: int) -> float:
    """FLOP/s of a square bfloat16 product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    work = partial(torch.matmul, a, b)
    for _ in range(3):
        work()
    return 2 * size**3 / statistics.median(seconds(work) for _ in range(10))


# --------------------------------------------------------------------------------------------------------- attention
def dense(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Masked softmax attention over the packed sequence, written out. [T, heads, dim]"""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def visibility(prefixes: list[int], branches: list[int], row: list[int]) -> Tensor:
    """[T, T] True where a token sees another, straight from the definition."""
    spans = [(("prefix", r), n) for r, n in enumerate(prefixes)] + [((b, row[b]), n) for b, n in enumerate(branches)]
    part = [owner for owner, n in spans for _ in range(n)]
    visible = torch.zeros(len(part), len(part), dtype=torch.bool)
    for q, (owner, r) in enumerate(part):
        for k in range(q + 1):
            visible[q, k] = part[k] == (owner, r) or part[k] == ("prefix", r)
    return visible


def attention_errors(device: str, dtype: torch.dtype, scale: int) -> dict[str, float]:
    """Relative errors of the output and of all gradients."""
    prefixes, branches, row = [7 * scale, scale, 12 * scale + 3], [scale, 5 * scale + 1, 1, 3 * scale], [0, 0, 1, 2]
    layout = Layout.shared_prefix(prefixes, branches, row).to(device)
    torch.manual_seed(0)
    shapes = [(layout.num_tokens, heads, 128) for heads in (28, 4, 4)]
    ours = [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]
    theirs = [x.detach().double().requires_grad_() for x in ours]  # the same rounded numbers
    upstream = torch.randn(shapes[0], device=device).to(dtype)
    visible = visibility(prefixes, branches, row).to(device)
    out, expected = branch_attention(*ours, layout), dense(*theirs, visible)
    out.backward(upstream)
    expected.backward(upstream.double())
    pairs = {"output": (out, expected)} | {
        name: (x.grad, y.grad) for name, x, y in zip(("dq", "dk", "dv"), ours, theirs, strict=True)
    }
    return {name: ((x.double() - y).norm() / y.norm()).item() for name, (x, y) in pairs.items()}


# ------------------------------------------------------------------------------------------------------------- model
def write_folder(folder: Path, tiny: bool) -> None:
    """The backbone's folder: tokenizer and image settings of the training comparison, config of the 7B model."""
    from transformers import Qwen2_5_VLConfig

    write_backbone(folder)
    if tiny:
        return
    small = Qwen2_5_VLConfig.from_pretrained(folder)
    ids = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    text = {**TEXT_7B, **{key: getattr(small.text_config, key) for key in ("pad_token_id", "eos_token_id")}}
    kept = {key: getattr(small, key) for key in ids if hasattr(small, key)}
    Qwen2_5_VLConfig(text_config=text, vision_config=VISION_7B, **kept).save_pretrained(folder)


def make_module(folder: Path, layout: str, device: str, lora: bool, mixed: bool) -> NaiveRM:
    """A random-weight model made on the device, frozen parts in bfloat16."""
    backbone = Backbone(
        str(folder),
        init="random",
        dtype="bfloat16" if mixed else "float32",
        lora=LoRA() if lora else None,
        gradient_checkpointing=True,
        max_length=16_384,
    )
    module = NaiveRM(backbone, layout=layout)
    with torch.device(device):
        module.configure_model()
    return module.to(device)


def model_flops(base: Any, items: list[Item], training: str | None) -> float:
    """FLOPs of the unique tokens: one forward pass, and in training the backward pass without recomputation.

    Linear layers take 2 FLOPs a weight and token, attention 4 a channel, query and key. The backward pass takes as much
    again for gradients of activations, and again for those of weights, which ``lora`` leaves out. The frozen vision
    tower has no backward pass. Adapters, projector, norms and head are not counted.
    """
    config, vision = base.config.get_text_config(), base.config.vision_config
    decoder = [p for n, p in base.get_decoder().layers.named_parameters() if p.ndim == 2 and "lora_" not in n]
    tower = sum(p.numel() for p in base.visual.blocks.parameters() if p.ndim == 2)
    tokens = seen = patches = 0
    tower_attention = 0.0
    for item in items:
        prompt, branches = len(item.prefix), [len(branch) for branch in item.branches]
        tokens += prompt + sum(branches)
        seen += prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in branches)
        for image in item.vision["image_grid_thw"].prod(-1).tolist():
            full = len(vision.fullatt_block_indexes)
            keys = full * image + (vision.depth - full) * min(WINDOW_PATCHES, image)
            tower_attention += 4 * vision.hidden_size * image * keys
            patches += image
    width = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    linear = 2 * sum(p.numel() for p in decoder) * tokens
    attention = 4 * width * config.num_hidden_layers * seen
    times = {None: (1, 1), "lora": (2, 3), "full": (3, 3)}[training]
    return times[0] * linear + times[1] * attention + 2 * tower * patches + tower_attention


def training_step(module: NaiveRM, optimizer: Any, batches: list[Batch], device: str, mixed: bool) -> None:
    """One optimizer step over micro-batches, as the Trainer makes it in bf16-mixed."""
    for batch in batches:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed):
            loss, _ = module.loss(batch)
        loss.backward()
    trained = [p for p in module.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train(folder: Path, kind: str, layout: str, args: argparse.Namespace) -> dict[str, float]:
    """Steps of one kind in one layout."""
    device, mixed = args.device, not args.tiny
    module = make_module(folder, layout, device, kind == "lora", mixed)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-6, fused=mixed)
    collator = module.collator(training=True)
    rows = make_rows(args.rows * args.accumulate, 2, args.pixels, ranked=True)
    items = [collator.prepare(n, row) for n, row in enumerate(rows)]
    counts = StepCounts(rows=len(rows), comparisons=len(rows))
    batches = [collator.collate(items[n :: args.accumulate], counts).to(device) for n in range(args.accumulate)]
    step = partial(training_step, module, optimizer, batches, device, mixed)
    step()  # makes the optimizer's state
    step()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    took = statistics.median(seconds(step) for _ in range(args.steps))
    tokens = sum(len(item.prefix) + sum(map(len, item.branches)) for item in items)
    flops = model_flops(module.model.base, items, kind)
    return {
        "unique tokens/s": tokens / took,
        "pairs/s": len(rows) / took,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan"),
        "share of the product's rate": flops / took / args.rate,
    }


def score(folder: Path, layout: str, args: argparse.Namespace) -> dict[str, float]:
    """Scoring of 16 responses a row, weights in bfloat16."""
    device, mixed = args.device, not args.tiny
    module = make_module(folder, layout, device, lora=False, mixed=False).eval()
    if mixed:
        module.model.base.to(torch.bfloat16)  # the head stays in float32
    collator = module.collator(training=False)
    k = 3 if args.tiny else 16
    rows = make_rows(2 * k * (k - 1) // 2, k, args.pixels, ranked=True)
    items = [collator.prepare(n, row) for n, row in enumerate(rows)]
    batches = [collator.collate([item]).to(device) for item in items]

    def work() -> None:
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed):
            for batch in batches:
                module.score(batch)

    work()
    took = statistics.median(seconds(work) for _ in range(args.steps))
    flops = model_flops(module.model.base, items, None)
    return {
        "rows/s": len(rows) / took,
        "responses/s": k * len(rows) / took,
        "share of the product's rate": flops / took / args.rate,
    }


def check_attention(args: argparse.Namespace) -> dict[str, Any]:
    """Errors of both number formats, and whether they are within bounds."""
    cases = {"float32": (torch.float32, 1e-4)} | ({} if args.tiny else {"bfloat16": (torch.bfloat16, 2e-2)})
    found: dict[str, Any] = {}
    for name, (dtype, bound) in cases.items():
        errors = attention_errors(args.device, dtype, 4 if args.tiny else 64)
        found[name] = {**errors, "bound": bound, "passed": max(errors.values()) <= bound}
        print(f"attention {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    """Run the parts and print what they find."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--parts", nargs="+", default=["attention", "lora", "full", "scoring"])
    parser.add_argument("--rows", type=int, default=8, help="rows of a micro-batch")
    parser.add_argument("--accumulate", type=int, default=4, help="micro-batches of a step")
    parser.add_argument("--pixels", type=int, default=784, help="edge of the image; 784 is 784 tokens")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="toy sizes on a CPU, to try the script")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        sys.exit("error: there is no GPU; --tiny tries the script on a CPU")
    args.device = "cpu" if args.tiny else "cuda"
    if args.tiny:
        args.rows, args.accumulate, args.pixels, args.steps = 2, 2, 56, 1
    warnings.filterwarnings("ignore")
    args.rate = product_rate(args.device, 256 if args.tiny else 8192)
    name = torch.cuda.get_device_name() if not args.tiny else platform.machine()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{name}, torch {torch.__version__}, commit {commit}, bfloat16 product {args.rate / 1e12:.1f} TFLOP/s")
    results: dict[str, Any] = {"device": name, "commit": commit, "product FLOP/s": args.rate}
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), args.tiny)
        for part in args.parts:
            if part == "attention":
                results[part] = check_attention(args)
                continue
            for layout in ("padded", "shared"):
                key = f"{part} {layout}"
                try:
                    work = score if part == "scoring" else partial(train, kind=part)
                    results[key] = work(Path(folder), layout=layout, args=args)
                except torch.cuda.OutOfMemoryError as error:
                    results[key] = {"out of memory": str(error).splitlines()[0]}
                print(f"{key}: {results[key]}", flush=True)
                gc.collect()
                torch.cuda.empty_cache()
                if args.json:
                    args.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"goal: {GOAL:.0%} of the product's rate in training")
    if not all(case["passed"] for case in results.get("attention", {}).values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
