"""The report: rewards of one or two models on benchmarks as a table, one page of HTML, and its JSON twin."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from lit_basereward.benchmarks.base import Benchmark
from lit_basereward.benchmarks.combine import COMBINERS, CombinerName, combine_files, fit_on_files
from lit_basereward.benchmarks.mm_rlhf_rewardbench import MMRLHFRewardBench
from lit_basereward.benchmarks.multimodal_rewardbench import MultimodalRewardBench
from lit_basereward.benchmarks.rewardbench import RewardBench
from lit_basereward.benchmarks.rewardbench2 import RewardBench2
from lit_basereward.benchmarks.rewards import read_rewards
from lit_basereward.benchmarks.rm_bench import RMBench
from lit_basereward.benchmarks.rows import SourceRows
from lit_basereward.benchmarks.score import SCHEMA
from lit_basereward.benchmarks.section import Section, section
from lit_basereward.benchmarks.vl_rewardbench import VLRewardBench
from lit_basereward.data.routing import Route
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.ensemble.combiners import Combiner
from lit_basereward.ensemble.names import name_paths

Suite = Literal[
    "vl_rewardbench", "mm_rlhf_rewardbench", "multimodal_rewardbench", "rewardbench", "rewardbench2", "rm_bench"
]
SUITES: dict[str, type[Benchmark]] = {
    each.suite: each
    for each in (VLRewardBench, MMRLHFRewardBench, MultimodalRewardBench, RewardBench, RewardBench2, RMBench)
}


def format_section(part: Section) -> str:
    """Tables of the models, the paper's rows and the comparison as aligned text."""
    lines: list[str] = []
    for model in part.models:
        rows = model.table()
        width = max(len(label) for label, _ in rows)
        cost = model.account.cost_of_a_row()
        lines += [f"{part.title(model)}: {model.result.rows:,} rows{f'; {cost}' if cost else ''}"]
        lines += [f"{'':<{width}}  accuracy  correct/total    95 % interval  longer wins  shorter wins"]
        for label, figure in rows:
            counts = "" if figure.total is None else f"{figure.correct:g}/{figure.total}"
            interval = f"{_plain(figure.low)} to {_plain(figure.high)}"
            lines.append(
                f"{label:<{width}}  {_plain(figure.value, 4):>8}  {counts:>13}  {interval:>15}"
                f"  {_plain(figure.longer):>11}  {_plain(figure.shorter):>12}"
            )
        lines += [*model.notes(), *(f"note: {remark}" for remark in part.benchmark.remarks), ""]
    for each in part.benchmark.published:
        figures = "  ".join(f"{key} {value:.4f}" for key, value in each.figures.items())
        lines.append(f"paper: {each.model}  {figures}  [{each.source}]")
    if part.comparison:
        lines.append(f"{part.models[0].name} less {part.models[1].name}, paired bootstrap:")
        lines += [
            f"  {key}  {d.value:+.4f}  [{d.low:+.4f}, {d.high:+.4f}]  p = {d.p:.4f}"
            for key, d in part.comparison.items()
            if "/" not in key and not math.isnan(d.value)
        ]
    return "\n".join(lines).rstrip()


def _plain(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def write_report(sections: Sequence[Section], folder: str | Path, title: str = "Reward report") -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json``, each whole or not at all.

    Args:
        sections: one or more; the JSON of several has them under ``suites``.
        folder: made if it is not there.
        title: of the page.

    Returns:
        the paths of the two.

    Raises:
        ValueError: if two sections have the same name.
    """
    from lit_basereward.benchmarks.html import render

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = [part.to_json() for part in sections]
    suites = {part.benchmark.name: each for part, each in zip(sections, content, strict=True)}
    if len(suites) < len(sections):
        raise ValueError(f"two benchmarks have the same name among {', '.join(suites)}; give each its own name")
    whole = content[0] if len(content) == 1 else {"schema": SCHEMA, "suites": suites}
    text = json.dumps(strict(whole), indent=1, allow_nan=False) + "\n"
    page = render(sections, title)
    paths = folder / "report.html", folder / "report.json"
    for path, written in zip(paths, (page, text), strict=True):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(written.encode("utf-8", errors="replace"))  # half an emoji in a text is no UTF-8
        temporary.replace(path)
    return paths


def strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(
    suite: Suite | Literal["rows"],
    /,
    data: str,
    rewards: list[str],
    output: str,
    image_root: str | None = None,
    grouping: Literal["official", "pre_fix", "r1_reward"] = "official",
    combine: CombinerName | None = None,
    routes: list[Route] | None = None,
    fit_on: str | None = None,
    fit_rewards: list[str] | None = None,
    force: bool = False,
) -> None:
    """Score the rewards of any model on a benchmark, compare two models, or combine several as an ensemble.

    Prints the table of official figures, with intervals and what looking at length alone would reach, and writes
    report.html and report.json.

    Args:
        suite: the benchmark; ``rows`` for rows of yours, of docs/data_format.md.
        data: the benchmark's file, or the folder of a download of it; of ``rows`` JSON lines with ratings.
        rewards: JSON lines, one object a row in the benchmark's order, such as {"rewards": [1.5, -0.2]}, in the row's
            own order of responses; what `test` and `predict` write is that, with critiques, verdicts and cost. Repeat
            the option to compare a second model, or for each member of an ensemble.
        output: folder to write to.
        image_root: folder of the images, which the page shows; without them it has the texts alone.
        grouping: of vl_rewardbench: which of the three groupings in use.
        combine: report the ensemble of the files, by this combiner, beside its members.
        routes: of the ensemble: which members, named as in the report, vote on which rows, such as
            [{when: {modality: image}, members: [a, b]}].
        fit_on: JSON lines with held-out rows and their ratings, for a combiner that is fitted.
        fit_rewards: JSON lines that each member gave those rows; repeat the option, in the order of --rewards.
        force: fit the combiner on the very benchmark that is reported, and mark the report.
    """
    if image_root is not None and not Path(image_root).is_dir():
        raise ValueError(f"there is no folder {image_root}; correct --image_root or leave it out")
    benchmark = _open(suite, data, image_root, grouping)
    names = model_names(rewards, most=None if combine else 2)
    files = {name: read_rewards(path, benchmark, bool(combine)) for name, path in zip(names, rewards, strict=True)}
    if combine:
        combiner: Combiner = COMBINERS[combine]()
        if fit_on is None and (fit_rewards or force):
            raise ValueError("fit_rewards and force are of held-out rows; give these as --fit_on, or leave them out")
        if fit_on is not None:
            combiner = fit_on_files(combiner, benchmark, names, fit_on, fit_rewards or [], routes or [], force)
            print(f"combiner: {combiner}\n")
        files = {f"{combine} of {', '.join(names)}": combine_files(benchmark, files, combiner, routes or [])}
    elif fit_on or fit_rewards or routes or force:
        raise ValueError("routes, fit_on, fit_rewards and force are of an ensemble; give --combine, or leave them out")
    part = section(
        benchmark,
        {name: file.rewards for name, file in files.items()},
        text_only=[name for name, file in files.items() if file.text_only],
        votes={name: file.votes for name, file in files.items() if file.votes is not None},
        accounts={name: file.account for name, file in files.items()},
    )
    print(format_section(part))
    page, twin = write_report([part], output, f"{benchmark.title}: {' and '.join(files)}")
    print(f"\nreport: {page}\nfigures: {twin}")


def _open(suite: str, data: str, image_root: str | None, grouping: str) -> Benchmark:
    """The suite's file, or a user's own rows as a suite."""
    settings: dict[str, Any] = {}
    if grouping != "official":
        if suite == "rows" or "grouping" not in signature(SUITES[suite]).parameters:
            raise ValueError(f"{suite} has one grouping only; leave --grouping out")
        settings["grouping"] = grouping
    if suite == "rows":
        return SourceRows(JSONLSource(data, image_root))
    return SUITES[suite](path=data, images="optional", image_root=image_root, **settings)


def model_names(paths: Sequence[str], most: int | None = 2) -> list[str]:
    """A name for each rewards file: its stem, with as many of its folders in front as tell it from the others.

    Args:
        paths: of the files.
        most: how many there may be; None is any number.

    Raises:
        ValueError: for none, for too many, and if a file is given twice.
    """
    if not paths or (most and len(paths) > most):
        raise ValueError(
            f"{len(paths)} rewards files; give that of one model, or of two to compare them, or --combine for more"
        )
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError("the same rewards file is given twice; give the files of two models")
    return name_paths(paths)
