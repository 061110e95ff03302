"""Ctrl-C and SIGTERM end a training run with a checkpoint from which it goes on as if it had not been stopped."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from lit_basereward.checkpoint import beside, checkpoint_folder, put_in_place, remove


class Interrupted(SystemExit):
    """Ends the process with 130 after SIGINT and 143 after SIGTERM, as a shell would report the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class GracefulStop(Callback):
    """On SIGINT (Ctrl-C) or SIGTERM in ``fit``: finish the optimizer step, write ``interrupted.ckpt``, and exit.

    The checkpoint is written beside those of the first ModelCheckpoint, or in the trainer's ``default_root_dir``, and
    appears there only when it is whole. Between the micro-batches of a step nothing is saved, since their gradients
    are not part of a checkpoint. In a validation the run stops after the batch at hand, and does not repeat the
    validation when it is resumed; with several devices it stops after the next step. Before the first step there is
    nothing to save, so the run stops at once, as it does at a second signal.

    Callbacks that change weights after a step, such as averaging, stand before this one in the trainer's list.

    A signal handler is of the main thread only, so elsewhere this does nothing. Where SLURM requeues the job itself,
    SIGTERM is left to Lightning.
    """

    def __init__(self) -> None:
        self._trainer: pl.Trainer | None = None
        self._before: dict[int, Any] = {}  # handlers that were there
        self._process = 0
        self._received = 0
        self._first_step = -1  # optimizer steps when this run began
        self._steps = 0  # optimizer steps before the batch at hand
        self._saveable = True  # no gradients are waiting for the rest of their step

    # ------------------------------------------------------------------------------------------------ handlers
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen from here on."""
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen from here on."""
        self._listen(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._restore_handlers()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen no more, and hand on a signal that came when there was nothing left to finish."""
        self._restore_handlers()
        if self._received:
            late, self._received = self._received, 0
            signal.raise_signal(late)

    def _listen(self, trainer: pl.Trainer) -> None:
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        # After Lightning's own handlers, whose SIGTERM would stop between the micro-batches of a step.
        self._trainer, self._process, self._received = trainer, os.getpid(), 0
        self._first_step, self._saveable = trainer.global_step, True
        environment = trainer._accelerator_connector.cluster_environment
        requeued = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
        for signum in (signal.SIGINT,) if requeued else (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._handle)

    def _restore_handlers(self) -> None:
        for signum, handler in self._before.items():
            if signal.getsignal(signum) == self._handle:  # Lightning may have restored it already
                signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        trainer = self._trainer
        if os.getpid() != self._process or trainer is None:  # a child that was forked off
            if signum == signal.SIGTERM:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return  # Ctrl-C reaches data loader workers too, but the step still needs their batches
        if not self._received and trainer.global_step > self._first_step:
            self._received = signum
            _say("stopping after this step; a second signal stops at once")
            return
        _say("stopped at once; nothing was saved" if self._received else "stopped before the first step")
        if (kill := getattr(trainer.strategy.launcher, "kill", None)) is not None:
            kill(signum)  # the processes that Lightning started for other devices
        raise Interrupted(signum)

    # ---------------------------------------------------------------------------------------------------- steps
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here to the end of the optimizer step nothing can be saved."""
        self._steps, self._saveable = trainer.global_step, False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if this was the last batch of a step and any process was asked to."""
        self._saveable = trainer.global_step != self._steps
        if self._saveable and trainer.strategy.reduce_boolean_decision(bool(self._received), all=False):
            self._stop(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Stop here on one device; on several, each has its own number of batches and no one to agree with."""
        if self._received and self._saveable and trainer.world_size == 1:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        path = (checkpoint_folder(trainer) or Path(trainer.default_root_dir)) / "interrupted.ckpt"
        _write(path, trainer)
        _say(f"step {trainer.global_step} is saved; to go on, add --ckpt_path {shlex.quote(str(path))}")
        received, self._received = self._received or signal.SIGTERM, 0
        raise Interrupted(received)


def _write(path: Path, trainer: pl.Trainer) -> None:
    """Save under another name, then rename, so that what stood there is there until the new one is whole."""
    unfinished = beside(path)
    try:
        trainer.save_checkpoint(unfinished, weights_only=False)
        if trainer.is_global_zero:
            put_in_place(unfinished, path)
    finally:
        if trainer.is_global_zero:
            remove(unfinished)
    trainer.strategy.barrier()


@rank_zero_only
def _say(text: str) -> None:
    # Not print: a handler may run in the middle of another print, which may not be entered twice.
    os.write(2, f"\ninterrupted: {text}\n".encode())
