"""The tool: ``python -m lit_basereward doctor --ckpt_path best.ckpt``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.types import Preference
from lit_basereward.doctor.arithmetic import Costs, costs, measured, table
from lit_basereward.doctor.check import Check, run_checks, skipped
from lit_basereward.doctor.gradients import float32, gradients, training_batch
from lit_basereward.doctor.invariance import invariance
from lit_basereward.doctor.saving import packages, saving
from lit_basereward.doctor.subject import Subject, reads_images, row_sets
from lit_basereward.doctor.tokens import tokens
from lit_basereward.doctor.vision import images, positions
from lit_basereward.ensemble.folder import is_ensemble
from lit_basereward.modules.base import RewardModule
from lit_basereward.modules.ensemble import EnsembleRM
from lit_basereward.modules.generative import GenerativeRM
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.modules.recipe import class_path
from lit_basereward.nn.reward_model import SHARED_LAYOUT, RewardModel
from lit_basereward.scorer import Scorer, load, load_checkpoint, restore
from lit_basereward.serving.folder import is_export
from lit_basereward.strategy import FSDP2Strategy

SCHEMA = 1
FAMILIES = {
    "tokens": tokens,
    "positions": positions,
    "invariance": invariance,
    "images": images,
    "precision": float32,
    "gradients": gradients,
    "saving": saving,
}


def doctor(
    ckpt_path: str | None = None,
    config: list[str] | None = None,
    data: str | Source | None = None,
    rows: int = 8,
    output: str = "doctor.json",
    checks: bool | None = None,
    train_rows: int = 2_850_000,
    tflops: float = 400.0,
    device: str | None = None,
    allow: list[str] | None = None,
) -> None:
    """Prove on your own model what can be proven, and say what training it costs.

    Exits with 1 where a check fails. A config alone is looked at without weights: memory and arithmetic only.

    Args:
        ckpt_path: the model: a checkpoint or an exported folder.
        config: a YAML of `fit`, for its model and precision; repeated, later ones go over earlier ones, as in `fit`.
            With `ckpt_path` the checkpoint gives the weights; an exported folder has its own model and takes none.
        data: a JSONL file or a source. The checks run on its first rows, and accuracies with other images are told.
            None makes rows up.
        rows: how many, at least 2.
        output: where numbers go, as JSON.
        checks: run the checks; None is where `ckpt_path` is given. `true` with a config alone builds its untrained
            model, weights of the backbone included.
        train_rows: rows that the days are told for. The paper trains on 2.85 million.
        tflops: operations a second for the same, in 10^12. 400 is 40 % of what an H100 is specified to do in bfloat16.
        device: where it computes. None is the first GPU, else the CPU.
        allow: modules of yours, such as ``my_pkg.heads``, whose classes the checkpoint may name.

    Raises:
        ValueError: if there is no model or two of them, or too few rows.
        SystemExit: if a check fails.
    """
    if rows < 2:
        raise ValueError(f"rows is {rows}; use 2 or more, since rows are compared with each other")
    started = time.perf_counter()
    given = _rows(data, rows)
    module, precision, sharded = from_config(config) if config else (None, "32-true", None)
    if ckpt_path is None and module is None:
        raise ValueError("no model; give --ckpt_path, or the --config of a training run")
    if isinstance(module, EnsembleRM) or (ckpt_path is not None and is_ensemble(ckpt_path)):
        raise ValueError("an ensemble is not examined as a whole; give --ckpt_path of one of its members at a time")
    done: list[Check] = []
    if ckpt_path is None and not checks:
        assert module is not None
        cost: Costs | None
        cost = plan = planned(module, given, rows, precision, sharded)
        print("\n".join(table(plan, train_rows, tflops)))
        print("\nThe checks need a model: give --ckpt_path, or --checks true for this config's own, untrained.")
    else:
        subject, told = examined(module, ckpt_path, given, rows, precision, sharded, device, allow or [])
        print(told)
        cost, done = examine(subject, train_rows, tflops, checks is not False)
    counts = {status: sum(check.status == status for check in done) for status in ("pass", "FAIL", "skip")}
    report = {
        "schema": SCHEMA,
        "model": ckpt_path or config,
        "costs": None if cost is None else cost.to_dict() | {"days": cost.days(train_rows, tflops)},
        "checks": [check.to_dict() for check in done],
        "counts": counts,
        "seconds": time.perf_counter() - started,
    }
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    passed, failed, skips = counts.values()
    print(f"\n{passed} passed, {failed} failed, {skips} skipped in {report['seconds']:.0f} s; numbers in {output}")
    if failed:
        raise SystemExit(1)


def examine(
    subject: Subject, train_rows: int = 2_850_000, tflops: float = 400.0, checks: bool = True
) -> tuple[Costs | None, list[Check]]:
    """Costs and all checks of a model that is built; told on the way.

    Args:
        subject: the model and its rows.
        train_rows: rows that the days are told for.
        tflops: operations a second for the same, in 10^12.
        checks: False is the costs alone.
    """
    cost, done = None, []
    if subject.model is None:
        done.append(skipped("arithmetic", "memory and arithmetic", "this module has no single backbone and head"))
    else:
        cost, check = measured(subject)
        print("\n".join(table(cost, train_rows, tflops)) + "\n")
        done += run_checks("arithmetic", lambda: [check])
    if checks:
        for family, run in FAMILIES.items():
            done += run_checks(family, lambda run=run: run(subject))  # type: ignore[misc]  # bound now, not later
    return cost, done


def _rows(data: str | Source | None, number: int) -> list[Preference]:
    if data is None:
        return []
    source = JSONLSource(data) if isinstance(data, str) else data
    source.prepare()
    if len(source) < 2:
        raise ValueError(f"data has {len(source)} rows; give 2 or more, since rows are compared with each other")
    return [source[index] for index in range(min(number, len(source)))]


def from_config(files: Sequence[str]) -> tuple[RewardModule, str, dict[str, Any] | None]:
    """The module that YAML files of `fit` describe, without network, the trainer's precision, and settings of FSDP2.

    Returns:
        module; precision; arguments of :class:`FSDP2Strategy`, None where another strategy is named.

    Raises:
        ValueError: if they name no model.
    """
    from jsonargparse import Namespace
    from lightning.pytorch import Trainer

    from lit_basereward.callbacks.predictions import PredictionWriter
    from lit_basereward.cli_parser import RewardParser
    from lit_basereward.data.datamodule import PreferenceDataModule

    parser = RewardParser(prog="python -m lit_basereward doctor")
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=int | bool, default=0)
    parser.add_argument("--ckpt_path", type=str | None, default=None)
    parser.add_argument("--weights_only", type=bool | None, default=None)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(RewardModule, "model", subclass_mode=True, required=False)
    parser.add_class_arguments(PreferenceDataModule, "data", fail_untyped=False, sub_configs=False)
    parser.add_lightning_class_args(PredictionWriter, "predictions")
    parsed = parser.parse_args([argument for file in files for argument in ("--config", file)])
    if parsed.model is None:
        raise ValueError(f"no model in {', '.join(files)}; give a config with a model section")
    built = parser.instantiate(Namespace(model=parsed.model)).model
    strategy = parsed.trainer.strategy
    sharded = getattr(strategy, "class_path", None) == class_path(FSDP2Strategy)
    return built, str(parsed.trainer.precision or "32-true"), strategy.init_args.as_dict() if sharded else None


def _as_sharded(model: RewardModel | None, sharded: dict[str, Any] | None, precision: str) -> str:
    """Checkpoint activations as FSDP2 does; the precision of the trainer that comes next to what it computes in."""
    if sharded is None:
        return precision
    if sharded["activation_checkpointing"] and model is not None:
        model.base.get_decoder().activation_checkpointing_enable({"use_reentrant": False})
    if sharded["compute_dtype"] == "float32":
        return precision
    print(
        "FSDP2 computes in bfloat16, counted here as autocast to it, which keeps somewhat more; figures are those of "
        "one device before weights, gradients and optimizer state are dealt out"
    )
    return "bf16-mixed"


def planned(
    module: RewardModule,
    given: Sequence[Preference],
    rows: int,
    precision: str,
    sharded: dict[str, Any] | None = None,
) -> Costs:
    """Costs of a model that is not built: on `meta`, where nothing is allocated and no weights are read.

    Args:
        module: without network.
        given: rows, made up where there are none.
        rows: how many to make up.
        precision: the trainer's.
        sharded: arguments of :class:`FSDP2Strategy`, if it is trained by that.

    Raises:
        ValueError: for a module with more than a backbone and a head.
    """
    if not isinstance(module, NaiveRM | GenerativeRM):
        raise ValueError(
            f"{type(module).__name__} has more than a backbone and a head, which are not planned from a config; "
            "set --checks true to build it"
        )
    with torch.device("meta"):
        recipe, module.backbone = module.backbone, replace(module.backbone, init="random", quantize=None)
        model = module.model = module.network(weights=False)
        base, module.backbone = model.base, recipe
    if base.config.model_type not in SHARED_LAYOUT:
        module.layout = "padded"  # what it would be found to need is only known once it is built
    chosen, with_images, told = row_sets(given, rows, reads_images(base.config))
    print(f"from the config alone, no weights read; {told}")
    precision = _as_sharded(model, sharded, precision)
    compared = [row for row in [*chosen, *(r for r in with_images if r not in chosen)] if len(row.responses) > 1]
    batch = training_batch(module, compared, torch.device("cpu"))
    mixed = precision.startswith(("bf16", "16"))
    cost = costs(module, model, batch, precision, varlen=mixed)
    if sharded is None:
        return cost
    # what autocast casts and keeps FSDP2 gathers, block by block, and lets go
    return replace(cost, activations=replace(cost.activations, weight_copies=0.0, cached_copies=0.0))


def examined(
    module: RewardModule | None,
    ckpt_path: str | None,
    given: Sequence[Preference],
    rows: int,
    precision: str,
    sharded: dict[str, Any] | None,
    device: str | None,
    allow: Sequence[str],
) -> tuple[Subject, str]:
    """The built model with rows to try it on, and one line about them.

    Raises:
        ValueError: for an export with a config beside it.
    """
    exported = ckpt_path is not None and is_export(ckpt_path)
    if exported and module is not None:
        raise ValueError(
            f"{ckpt_path!r} is an export, which has its own model: leave out --config, or give the checkpoint that it "
            "was made from"
        )
    if ckpt_path is None:
        assert module is not None
        module.configure_model()
        scorer = Scorer(module, device)
    elif module is None:
        scorer = load(ckpt_path, device=device, allow=allow)
    else:  # the model of the config, the weights of the checkpoint
        described = module.described()
        checkpoint = load_checkpoint(Path(ckpt_path)) | {"hyper_parameters": described}
        scorer = Scorer(restore(checkpoint, [*allow, *packages(described)]), device)
    chosen, with_images, told = row_sets(given, rows, scorer.collator.chat.image_token is not None)
    if exported and scorer.module.backbone.lora is None:
        told += (
            "\nan export is read with its backbone frozen, so costs and gradients below are those of training what is "
            "left; those of its training are told for its checkpoint"
        )
    subject = Subject(scorer, chosen, with_images, precision, ckpt_path, allow)
    subject.precision = _as_sharded(subject.model, sharded, precision)
    return subject, told
