"""Every command of the README, in its order and in one folder, as it stands there plus options that make it small."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from lit_basereward.__main__ import main
from lit_basereward.demo.files import write_files

ROOT = Path(__file__).parents[1]
BENCHMARK = [{"id": f"RLHF-{n}", "query": f"q{n}", "response": ["x", "y"], "human_ranking": [0, 1]} for n in range(4)]
STEP = "--trainer.max_steps 1 --data.num_workers 0 --trainer.accelerator cpu --trainer.enable_progress_bar false"
SHORT = "--trainer.limit_val_batches 0 --data.global_batch_size 4 --data.train digits/train.jsonl"
TINY = "--model.backbone.name_or_path BACKBONE --data.global_batch_size 4 --trainer.accumulate_grad_batches 1"
# what a command begins with -> what is put behind it; the longest that fits
OPTIONS = {
    "fit --config configs/demo": f"{STEP} {SHORT}",
    "fit --config configs/demo.yaml --data.train": STEP,  # with validation: later commands take its best.ckpt
    "fit --config configs/7b.yaml": f"{STEP} {TINY}",
    "fit --config configs/7b.yaml --config configs/overlays/qlora.yaml": "--print_config",
    "fit --config configs/7b.yaml --config configs/overlays/fsdp.yaml": "--print_config",  # tests/distributed runs it
    "fit --config configs/critic_7b.yaml": f"{STEP} {TINY} --trainer.limit_val_batches 0",
    "fit --config configs/generative_7b.yaml": f"{STEP} {TINY} --trainer.limit_val_batches 0",
    "test --config configs/7b.yaml": "--print_config",
    "test --config configs/ensemble.yaml": "--print_config",
    "test --ckpt_path": "--trainer.accelerator cpu",
    "predict --ckpt_path": "--trainer.accelerator cpu",
    "report": "",
    "doctor": "",
    "export": "",
    "calibrate": "--help",
    "curate --config configs/data/paper_curate.yaml": "--print_config",
    "serve": "--print_config",  # tests/serving/ runs it
    "grpo": "--print_config",  # tests/rl/ run it
}


def blocks(language: str) -> list[str]:
    """The README's blocks of code in a language; ``""`` is the shell."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[list[str]]:
    """Arguments of each ``python -m lit_basereward`` (or ``torchrun``) in the README's blocks, comments taken off."""
    lines = "".join(blocks("")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "-m lit_basereward " in line]
    return [words[words.index("lit_basereward") + 1 :] for words in found]


def options(words: list[str]) -> list[str]:
    """What makes a command small."""
    fitting = [start for start in OPTIONS if " ".join(words).startswith(start)]
    assert fitting, f"no test runs `python -m lit_basereward {' '.join(words)}` of the README"
    return OPTIONS[max(fitting, key=len)].split()


def test_commands(tmp_path, monkeypatch, backbone_folder: Callable[[str], str], capsys):
    """Each ends without an error; those for GPUs on a tiny backbone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    Path("configs").symlink_to(ROOT / "configs")
    for file in write_files(Path("digits")):
        file.write_text("".join(file.open().readlines()[:8]))
    for name, split in (("pairs", "train"), ("val", "val")):
        Path(f"{name}.jsonl").write_text(Path(f"digits/{split}.jsonl").read_text().replace("images/", "digits/images/"))
    Path("VL-RewardBench.jsonl").write_text("".join(json.dumps(record) + "\n" for record in BENCHMARK))
    for model in "ab":
        Path(f"{model}.jsonl").write_text('{"rewards": [1.0, 0.0]}\n' * len(BENCHMARK))
    for words in commands():
        given = [word.replace("BACKBONE", backbone_folder("qwen2_5_vl")) for word in options(words)]
        try:
            main([*words, *given])
        except SystemExit as end:
            assert not end.code, f"{' '.join(words)}: {end.code} {capsys.readouterr().err[-2000:]}"
    shutil.copytree("runs/mine", "runs/demo", dirs_exist_ok=True)  # `make demo`, which the README begins with
    Path("runs/demo/digit.png").write_bytes(Path("digits/images/test-0.png").read_bytes())
    exec(blocks("python")[0], {})
    chance = float(capsys.readouterr().out.splitlines()[-1].removeprefix("tensor(").rstrip(")"))
    assert 0 < chance < 1


def test_the_head_is_that_of_the_examples():
    """The README's class stands in the file that its command names."""
    shown = next(text for text in blocks("python") if "QuantileHead" in text)
    assert shown in (ROOT / "examples/quantile_head.py").read_text()
