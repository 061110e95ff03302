"""Pairs per second of training: the shared layout against padded sequences, through the real Trainer.

    python bench/train_throughput.py [--json FILE] [--cases K2-280 K2-560 K5-560] [--repeats 3] [--threads 2]

The workload is that of the peers' comparison: a tiny random Qwen2.5-VL (vision 4 x 128, language 6 x 256), float32,
full fine-tune with the vision tower, AdamW; one noise image per prompt, prompts of 24 to 64 tokens, responses lognormal
(4.2, 0.6) clipped to 16 to 256 tokens. `padded` is what pairwise trainers do: two full sequences per pair, the image
encoded for each, rows in arrival order, 4 pairs a step. `shared` computes prompt and image once per row; ranked rows
(K > 2) count K (K - 1) / 2 pairs, each response computed once. `ranked` is that in the padded layout: K sequences per
ranked row, the image encoded for each. Runs are interleaved; ratios are the result.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

PIXELS_PER_TOKEN = 28
WORDS = 2048
SPECIAL = ["<pad>", "<eos>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<bos>", "<unk>"]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<bos>{% endif %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}"
    "{% endfor %}{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
)
TARGETS = {"K2-280": 1.5, "K2-560": 1.65, "K5-560": 6.0}


def write_backbone(folder: Path) -> None:
    """The workload's model and a tokenizer of 2,048 words: one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig

    text = {
        "vocab_size": WORDS, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 6,
    }  # fmt: skip
    vision = {
        "depth": 4, "hidden_size": 128, "intermediate_size": 352, "num_heads": 4, "out_hidden_size": 256,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
        "fullatt_block_indexes": [1, 3], "tokens_per_second": 2,
    }  # fmt: skip
    ids = {"vision_start_token_id": 2, "vision_end_token_id": 3, "image_token_id": 4, "video_token_id": 5}
    Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids).save_pretrained(folder)
    vocabulary = {token: i for i, token in enumerate(SPECIAL)} | {f"w{i}": i for i in range(len(SPECIAL), WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        additional_special_tokens=SPECIAL[2:6], chat_template=TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 28 * 28, "max_pixels": 1_003_520, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def make_rows(pairs: int, k: int, pixels: int, ranked: bool, seed: int = 0) -> list:
    """Rows worth ``pairs`` comparisons: one per prompt if ``ranked``, else one per pair, in arrival order."""
    from PIL import Image

    from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference

    rng = np.random.default_rng(seed)
    words = lambda n: " ".join(f"w{i}" for i in rng.integers(10, 2000, n))  # noqa: E731
    rows = []
    for _ in range(-(-pairs // (k * (k - 1) // 2))):
        prompt = (Message("user", (ImagePart(), " " + words(rng.integers(24, 65)))),)
        lengths = np.clip(np.round(rng.lognormal(4.2, 0.6, k)), 16, 256).astype(int)
        responses = [words(n) for n in lengths]
        buffer = io.BytesIO()
        noise = rng.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
        image = (ImageRef(data=buffer.getvalue()),)
        groups = [range(k)] if ranked else itertools.combinations(range(k), 2)
        for group in groups:
            ratings = tuple(float(k - i) for i in group)
            rows.append(Preference("", prompt, tuple(responses[i] for i in group), ratings, image))
    return rows


def pairs_per_second(folder: Path, rows: list, layout: str, pairs_per_step: int, warm: int) -> float:
    """Train once over ``rows`` with the real Trainer and datamodule; the first ``warm`` steps are not counted."""
    import lightning.pytorch as pl

    from lit_basereward.data.datamodule import PreferenceDataModule
    from lit_basereward.modules.naive import NaiveRM
    from lit_basereward.nn.backbone import Backbone
    from lit_basereward.testing import ListSource

    times, done = [], []

    class Clock(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            times.append(time.perf_counter())
            done.append(batch.counts.comparisons)

    torch.manual_seed(0)
    module = NaiveRM(
        Backbone(str(folder), init="random", freeze=[], max_length=4096),
        layout=layout,
        optimizer=partial(torch.optim.AdamW, lr=1e-5),
    )
    data = PreferenceDataModule(train=ListSource(rows), global_batch_size=pairs_per_step, shuffle=False)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(**quiet, max_epochs=1, accelerator="cpu", gradient_clip_val=1.0, callbacks=[Clock()])
    with open(os.devnull, "w") as null:
        out, sys.stdout = sys.stdout, null
        try:
            trainer.fit(module, data)
        finally:
            sys.stdout = out
    return sum(done[warm:]) / (times[-1] - times[warm - 1])


def measure(case: str, pairs: int, repeats: int, folder: Path) -> dict:
    """One case, its two layouts in turn."""
    k, pixels = (int(part.lstrip("K")) for part in case.split("-"))
    per_row = k * (k - 1) // 2
    pairs = max(pairs, 3 * 2 * per_row)  # three steps of ranked rows, the first of which warms up
    ranked, step = make_rows(pairs, k, pixels, ranked=True), max(4, 2 * per_row if per_row > 1 else 4)
    ways = {
        "padded": (make_rows(pairs, k, pixels, ranked=False), "padded", 4, 2),
        "shared": (ranked, "shared", step, 1),
        "ranked": (ranked, "padded", step, 1),
    }
    if k == 2:  # a pair is a ranking of two
        del ways["ranked"]
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(repeats):
        for name, settings in ways.items():
            speeds[name].append(pairs_per_second(folder, *settings))
            print(f"{case} run {n + 1} {name}: {speeds[name][-1]:.3f} pairs/s", file=sys.stderr, flush=True)
    ratios = {
        name: [shared / slow for shared, slow in zip(speeds["shared"], speeds[name], strict=True)]
        for name in ways.keys() - {"shared"}
    }
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    result = {**medians, "ratio": statistics.median(ratios["padded"]), "ratios": ratios["padded"]}
    if "ranked" in ratios:
        result |= {"ranked_ratio": statistics.median(ratios["ranked"]), "ranked_ratios": ratios["ranked"]}
    return {**result, "target": TARGETS.get(case)}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--cases", nargs="+", default=list(TARGETS), help="K<responses>-<image edge in pixels>")
    parser.add_argument("--pairs", type=int, default=40, help="comparisons per run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each layout")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        write_backbone(Path(folder))
        results = {case: measure(case, args.pairs, args.repeats, Path(folder)) for case in args.cases}
    print(f"\n{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}, pairs/s")
    print(f"{'case':<8}{'padded':>9}{'shared':>9}{'ratio':>8}{'target':>8}   ratios")
    for case, r in results.items():
        listed = " ".join(f"{ratio:.2f}" for ratio in r["ratios"])
        print(f"{case:<8}{r['padded']:>9.3f}{r['shared']:>9.3f}{r['ratio']:>8.2f}{r['target'] or '':>8}   {listed}")
        if "ranked" in r:
            listed = " ".join(f"{ratio:.2f}" for ratio in r["ranked_ratios"])
            print(f"{'ranked':<8}{r['ranked']:>9.3f}{r['shared']:>9.3f}{r['ranked_ratio']:>8.2f}{'':>8}   {listed}")
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
