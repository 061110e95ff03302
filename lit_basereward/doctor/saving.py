"""What is written is what is read: checkpoints, and the exported folder."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_basereward.doctor.check import Check, at_most, skipped
from lit_basereward.doctor.subject import Subject, difference, reading
from lit_basereward.modules.generative import GenerativeRM
from lit_basereward.scorer import load, load_checkpoint
from lit_basereward.serving.folder import HEAD, head_weights, is_export

FAMILY = "saving"


def saving(subject: Subject) -> Iterator[Check]:
    """The file's tensors are the model's; saved and read again, or exported, it gives the same rewards."""
    yield _as_stored(subject)
    rewards = subject.rewards(subject.rows)
    with tempfile.TemporaryDirectory() as folder:
        path, allow = _save(subject, Path(folder))
        other = reading(load(path, device=subject.scorer.device, allow=allow))
        yield at_most(
            FAMILY, "saved and loaded: same rewards", difference(other.score_rows(subject.rows), rewards), 1e-6
        )
        del other
        yield _exported(subject, path, Path(folder), allow)


def _as_stored(subject: Subject) -> Check:
    """A head that was made anew on the way in differs here, even where it is made the same each time."""
    name = "weights as in the checkpoint (tensors that differ)"
    if subject.checkpoint is None:
        return skipped(FAMILY, name, "no checkpoint was given")
    stored, own = _stored(subject, Path(subject.checkpoint)), subject.module.state_dict()
    if not stored:
        return skipped(FAMILY, name, "the export of a judge has no head, and its files were held against hashes")
    wrong = sorted(
        name for name, tensor in stored.items() if name not in own or not torch.equal(tensor, own[name].cpu())
    )
    wrong += sorted(name for name in own if name.startswith("model.head.") and name not in stored)
    note = f"{len(stored)} in the file" + (f"; not so: {', '.join(wrong[:3])}" if wrong else "")
    return at_most(FAMILY, name, len(wrong), 0, note)


def _stored(subject: Subject, path: Path) -> dict[str, Tensor]:
    """Weights in the file under the module's names; of an export the head, and what trained beside adapters.

    The rest of an export is read by transformers, under names of its own, and was held against hashes before.
    """
    if not is_export(path):
        return load_checkpoint(path)["state_dict"]
    if isinstance(subject.module, GenerativeRM) and not (path / HEAD).is_file():  # its head has no weights
        return {}
    return {f"model.{name}": value for name, value in head_weights(path).items()}


def _save(subject: Subject, folder: Path) -> tuple[Path, list[str]]:
    """A checkpoint as the module writes it, and the modules that its classes are of, which run here already."""
    checkpoint: dict[str, Any] = {"state_dict": subject.module.state_dict()}
    subject.module.on_save_checkpoint(checkpoint)
    path = folder / "model.ckpt"
    torch.save(checkpoint, path)
    return path, sorted(packages(checkpoint["hyper_parameters"]))


def packages(value: Any) -> set[str]:
    """Modules of the classes that hyper-parameters name."""
    found: set[str] = set()
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found |= {str(item).rpartition(".")[0]} if key in ("class_path", "_class_path") else packages(item)
    return found


def _exported(subject: Subject, path: Path, folder: Path, allow: list[str]) -> Check:
    from lit_basereward.serving.export import export, to_float32
    from lit_basereward.serving.read_back import TOLERANCE, lost

    backbone, device = subject.module.backbone, subject.scorer.device
    name = "adapters merged and exported: same rewards" if backbone.lora else "exported: same rewards"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        target = export(str(path), str(folder / "export"), allow=allow)
    exported = torch.cat(reading(load(target, device=device, allow=allow)).score_rows(subject.rows))
    here, note = torch.cat(subject.rewards(subject.rows)), ""
    if backbone.dtype != "float32":  # an export computes in float32, so what it was made from does here too
        whole = reading(load(path, device=device, allow=allow))
        moved = lost(exported, here)
        to_float32(whole.module)
        here, note = torch.cat(whole.score_rows(subject.rows)), f"both in float32; from those in bfloat16 {moved:.2g}"
    return at_most(FAMILY, name, lost(exported, here), TOLERANCE, note)
