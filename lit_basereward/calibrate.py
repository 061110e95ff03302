"""Fit the calibration of a trained model on held-out rows and store it in its checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lit_basereward.checkpoint import META, read_checkpoint
from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.types import Preference
from lit_basereward.ensemble.folder import is_ensemble
from lit_basereward.ensemble.folder import store_calibration as store_ensemble_calibration
from lit_basereward.metrics.calibration import Calibration, OffsetRule
from lit_basereward.metrics.reliability import pair_calibration
from lit_basereward.scorer import Scorer, load
from lit_basereward.serving.folder import is_export, store_calibration


def calibrate(
    ckpt_path: str,
    data: str | Source,
    rule: OffsetRule = "median",
    output: str | None = None,
    batch_size: int = 8,
    device: str | None = None,
    allow: list[str] | None = None,
) -> Calibration:
    """Fit temperature and offset on held-out rows and store them in the checkpoint.

    The temperature is fitted by log loss on the rows' comparisons, the offset by a named rule. `fit` does this at every
    validation, with the rule ``median``; this is for other rows, or for the rule ``labels``.

    Args:
        ckpt_path: the model's ``.ckpt`` file, the folder of a sharded checkpoint, an export, or an ensemble's folder.
        data: held-out rows: a JSONL file or a source. Not a benchmark that is reported afterwards.
        rule: ``median`` maps the median reward to 0.5; ``labels`` fits right and wrong answers, which are those with
            ratings 1 and 0.
        output: where the checkpoint with its calibration goes. None writes it in the place of ``ckpt_path``.
        batch_size: rows scored at once.
        device: where it computes. None is the first GPU, else the CPU.
        allow: modules of yours, such as ``my_pkg.heads``, whose classes the checkpoint may name.

    Raises:
        ValueError: if the checkpoint or the data cannot be read, or do not settle a calibration.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it counts rows, so use 1 or more")
    if is_ensemble(ckpt_path) and Path(ckpt_path).is_file():
        raise ValueError(f"{ckpt_path} is a config; write the ensemble with `python -m lit_basereward ensemble` first")
    scorer = load(ckpt_path, device=device, allow=allow or [])
    if rule == "labels" and not scorer.module.comparable_across_rows:
        raise ValueError(
            "rewards of this model are comparable inside a row only, so no offset tells right from wrong; leave the "
            "rule out, and the temperature alone is fitted"
        )
    source = JSONLSource(data) if isinstance(data, str) else data
    source.prepare()
    rows = [source[index] for index in range(len(source))]
    rewards = _score(scorer, rows, batch_size)
    labels = _labels(rows) if rule == "labels" else None
    margins = [r[i] - r[j] for row, r in zip(rows, rewards, strict=True) for i, j in row.comparisons()]
    if not margins:
        raise ValueError(f"{source.name} has no comparison; the temperature needs responses that are rated differently")
    calibration = Calibration.fit(
        torch.stack(margins),
        torch.cat(rewards) if scorer.module.comparable_across_rows else None,
        rule=rule,
        labels=labels,
        source=source.name,
    )
    target = _store(Path(ckpt_path), Path(output or ckpt_path), calibration)
    print(_told(torch.stack(margins), calibration))
    print(f"stored in {target}")
    return calibration


def _score(scorer: Scorer, rows: Sequence[Preference], batch_size: int) -> list[Tensor]:
    """[K] rewards of each row."""
    rewards: list[Tensor] = []
    with tqdm(total=len(rows), desc="calibrate", unit=" rows") as bar:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            rewards += scorer.score_rows(batch)
            bar.update(len(batch))
    return rewards


def _labels(rows: Sequence[Preference]) -> Tensor:
    """[N] ratings, which must say right or wrong."""
    for row in rows:
        if not row.ratings or set(row.ratings) - {0.0, 1.0}:
            raise row.error(
                f"has the ratings {list(row.ratings)}; the rule labels needs 1 (right) or 0 (wrong) for each response"
            )
    if all(len(row.ratings) == 2 and sum(row.ratings) == 1 for row in rows):
        print(
            "note: every row has one answer with rating 1 and one with 0, as pairs of better and worse have; the rule "
            "labels takes 1 for right and 0 for wrong"
        )
    return torch.tensor([rating for row in rows for rating in row.ratings])


def _store(path: Path, target: Path, calibration: Calibration) -> Path:
    """The checkpoint with its calibration, whole or not at all; an export in its place, or as a copy."""
    if is_ensemble(path):
        store_ensemble_calibration(path, calibration.to_dict(), target)
        return target
    if is_export(path):
        if target != path:
            shutil.copytree(path, target)
        store_calibration(target, calibration.to_dict())
        return target
    if path.is_dir() and target == path:  # its calibration is beside the shards
        path = target = path / META
    checkpoint = read_checkpoint(path)
    checkpoint["calibration"] = calibration.to_dict()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.tmp")
    torch.save(checkpoint, temporary)
    os.replace(temporary, target)
    return target


def _told(margins: Tensor, calibration: Calibration) -> str:
    """Both numbers, and what the temperature does to the confidence in comparisons."""
    lines = [f"calibration: {calibration}", f"{'on these rows':<22} ECE     Brier  log loss"]
    for name, temperature in (("as scored", 1.0), ("with the temperature", calibration.temperature)):
        found = pair_calibration(margins, temperature)
        lines.append(f"{name:<22} {found.ece:.3f}   {found.brier:.3f}     {found.log_loss:.3f}")
    return "\n".join(lines)
