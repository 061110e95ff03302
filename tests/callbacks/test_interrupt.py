"""Stopping a fit by a signal at any moment and resuming it gives the weights of a fit that was not stopped.

The signals are real, sent to this process. tests/test_cli.py does the same to a process of its own.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lit_basereward.callbacks.interrupt import GracefulStop, Interrupted

BATCHES = 6  # an epoch; with accumulation over 2, a step is batches 0-1, 2-3 and 4-5
STEPS = 6  # two epochs


class Batches:
    """Six fixed batches, resumable; ``seen`` is what was handed out."""

    def __init__(self) -> None:
        self.done = 0
        self.seen: list[int] = []

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.done % BATCHES, BATCHES):
            self.done += 1
            self.seen.append(number)
            yield torch.full((1, 3), 1.0 + number)

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


class Tiny(pl.LightningModule):
    """A linear regression that calls ``moment(stage, number of the call)`` in every step."""

    def __init__(self, moment: Callable[[str, int], None] = lambda stage, number: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)
        self.moment = moment
        self.calls = {"train": 0, "val": 0, "sanity": 0}

    def _call(self, stage: str) -> None:
        self.calls[stage] += 1
        self.moment(stage, self.calls[stage])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._call("train")
        return (self.layer(batch) - 1).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._call("sanity" if self.trainer.sanity_checking else "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def fit(folder: Path, module: Tiny, ckpt: str | None = None, **settings: Any) -> tuple[pl.Trainer, Batches]:
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=STEPS,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"callbacks": [GracefulStop()], "enable_checkpointing": False, "num_sanity_val_steps": 0, **settings},
    )
    batches = Batches()
    trainer.fit(module, batches, DataLoader(torch.zeros(3, 3)), ckpt_path=ckpt)
    return trainer, batches


def send(stage: str, number: int, signum: int = signal.SIGINT, times: int = 1) -> Callable[[str, int], None]:
    """A moment that sends the signal in the given call of a step, as often as said."""

    def moment(at: str, count: int) -> None:
        if (at, count) == (stage, number):
            for _ in range(times):
                signal.raise_signal(signum)

    return moment


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    module = Tiny()
    fit(tmp_path_factory.mktemp("unstopped"), module)
    return module.state_dict()


@pytest.mark.parametrize(
    ("stage", "number", "steps"),
    [
        ("train", 3, 2),  # in the first half of the second step: it is finished, with batch 3
        ("train", 4, 2),  # in its second half
        ("train", 6, 3),  # in the last batch of the first epoch
        ("train", 7, 4),  # in the first batch of the second epoch
        ("val", 2, 3),  # in the validation after the first epoch
        ("train", 12, 6),  # in the very last batch
    ],
)
def test_resumed_run_equals_unstopped_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], unstopped: dict[str, Tensor], stage: str, number: int, steps: int
) -> None:
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, Tiny(send(stage, number)))
    assert stopped.value.code == 130
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers

    path = tmp_path / "interrupted.ckpt"
    assert os.listdir(tmp_path) == ["interrupted.ckpt"]  # the temporary file is gone
    assert f"step {steps} is saved; to go on, add --ckpt_path {path}" in capfd.readouterr().err
    assert torch.load(path, weights_only=True)["global_step"] == steps

    module = Tiny()
    trainer, batches = fit(tmp_path, module, str(path))
    assert trainer.global_step == STEPS
    assert batches.seen == [batch % BATCHES for batch in range(2 * steps, 2 * STEPS)]
    for name, weight in unstopped.items():
        assert torch.equal(module.state_dict()[name], weight), name


def test_checkpoint_lies_beside_those_of_model_checkpoint_and_sigterm_exits_with_143(tmp_path: Path) -> None:
    callbacks = [GracefulStop(), ModelCheckpoint(tmp_path / "best", save_top_k=0)]
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, Tiny(send("train", 5, signal.SIGTERM)), callbacks=callbacks, enable_checkpointing=True)
    assert stopped.value.code == 143
    assert torch.load(tmp_path / "best" / "interrupted.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize(
    ("stage", "number", "times"),
    [("sanity", 1, 1), ("train", 1, 1), ("train", 2, 1), ("train", 5, 2)],
    ids=["sanity check", "first micro-batch", "first step", "second signal"],
)
def test_stops_at_once_and_saves_nothing(tmp_path: Path, stage: str, number: int, times: int) -> None:
    module = Tiny(send(stage, number, times=times))
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, module, num_sanity_val_steps=2)
    assert stopped.value.code == 130
    assert module.calls[stage] == number
    assert os.listdir(tmp_path) == []


def test_earlier_checkpoint_survives_a_save_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted.ckpt").write_bytes(b"earlier")

    def half(self: pl.Trainer, path: Path, **settings: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", half)
    with pytest.raises(OSError, match="No space"):
        fit(tmp_path, Tiny(send("train", 3)))
    assert (tmp_path / "interrupted.ckpt").read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["interrupted.ckpt"]


def test_earlier_folder_survives_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under FSDP2 checkpoints are folders, which no rename replaces: the old one stays until the new has its name."""
    earlier, rename = tmp_path / "interrupted.ckpt", os.replace
    earlier.mkdir()
    (earlier / "shard").write_bytes(b"earlier")

    def folder(self: pl.Trainer, path: Path, **settings: Any) -> None:
        path.mkdir()
        (path / "shard").write_bytes(b"new")

    def fails(source: Path, target: Path) -> None:
        if target == earlier:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", folder)
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="Input/output"):
            fit(tmp_path, Tiny(send("train", 3)))
    assert (tmp_path / "interrupted.ckpt.old" / "shard").read_bytes() == b"earlier"
    with pytest.raises(Interrupted):
        fit(tmp_path, Tiny(send("train", 3)))
    assert (earlier / "shard").read_bytes() == b"new" and os.listdir(tmp_path) == ["interrupted.ckpt"]


def test_signal_after_the_last_step_is_handed_on(tmp_path: Path) -> None:
    """It comes in ``on_train_end``, when all is done: the handler that was there before gets it, after the clean-up."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))

    class Late(pl.Callback):
        def on_train_end(self, *args: Any) -> None:
            signal.raise_signal(signal.SIGTERM)
            assert received == []

    try:
        trainer, _ = fit(tmp_path, Tiny(), callbacks=[GracefulStop(), Late()])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (trainer.global_step, received) == (STEPS, [signal.SIGTERM])


def test_handlers_are_left_alone_in_a_thread_and_sigterm_where_slurm_requeues(tmp_path: Path) -> None:
    handlers: dict[str, list[Any]] = {}

    def note(name: str) -> Callable[[str, int], None]:
        return lambda stage, number: handlers.update(
            {name: [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]}
        )

    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=fit, args=(tmp_path, Tiny(note("thread"))))
    thread.start()
    thread.join()
    assert handlers["thread"] == before

    stop = GracefulStop()
    fit(tmp_path, Tiny(note("main")), callbacks=[stop])
    assert handlers["main"] == [stop._handle, stop._handle]

    slurm = GracefulStop()
    fit(tmp_path, Tiny(note("slurm")), callbacks=[slurm], plugins=[SLURMEnvironment(auto_requeue=True)])
    assert handlers["slurm"][0] == slurm._handle
    assert handlers["slurm"][1] != slurm._handle
