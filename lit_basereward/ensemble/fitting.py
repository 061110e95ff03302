"""Fit an ensemble's combiner on held-out rows, and write the ensemble."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from tqdm import tqdm

from lit_basereward.data.sources.base import Source
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.types import Preference, RowError
from lit_basereward.ensemble.combiners import Combiner, check_fits
from lit_basereward.ensemble.folder import FILE, is_ensemble, open_ensemble, write_ensemble
from lit_basereward.ensemble.origin import marked, origin
from lit_basereward.ensemble.votes import all_pairs
from lit_basereward.modules.ensemble import EnsembleRM
from lit_basereward.scorer import Scorer

T = TypeVar("T")


def ensemble(
    config: str,
    output: str,
    fit_on: list[str | Source] | None = None,
    num_rows: int = 1000,
    seed: int = 0,
    batch_size: int = 8,
    device: str | None = None,
    allow: list[str] | None = None,
) -> Path:
    """Write reward models and a combiner as one, and fit the combiner on held-out rows.

    Writes a small folder, which names the members by path and content. `test`, `predict` and `validate` take it as
    --ckpt_path, `calibrate` and `lit_basereward.load` by its path.

    Args:
        config: YAML whose model section is an EnsembleRM, such as configs/ensemble.yaml; or an ensemble's folder.
        output: folder to write.
        fit_on: held-out rows: JSONL files or sources. Not a benchmark that is reported afterwards. May be repeated.
        num_rows: drawn from all of them together, each row as likely as another (the paper draws 1,000 from its
            training sets).
        seed: of the draw.
        batch_size: rows scored at once.
        device: where it computes. None is the first GPU, else the CPU.
        allow: modules of yours, such as ``my_pkg.heads``, whose classes members may name.

    Raises:
        ValueError: if a member cannot be loaded, or the rows do not settle the combiner.
    """
    if batch_size < 1 or num_rows < 1:
        raise ValueError(f"batch_size is {batch_size} and num_rows {num_rows}; both count rows, so use 1 or more")
    if (Path(output) / FILE).exists():
        raise ValueError(f"output {output!r} holds an ensemble already; name a new folder, or remove it first")
    if not is_ensemble(config):
        raise ValueError(f"config {config!r} is no ensemble; give a YAML file, or the folder of one")
    module = open_ensemble(config, allow or [])
    if fit_on:
        check_fits(module.combiner)
        sources = [JSONLSource(each) if isinstance(each, str) else each for each in fit_on]
        module.combiner = fit(Scorer(module, device), sources, num_rows, seed, batch_size)
        module.calibration = None  # that of another combiner
        print(f"combiner: {module.combiner}")
    else:
        module.combiner.check(module.names)
        module.configure_model()  # members that cannot be loaded are told now
    path = write_ensemble(module, output)
    print(f"ensemble of {', '.join(module.names)}: {path}")
    return path.parent


def fit(
    scorer: Scorer, sources: Sequence[Source], num_rows: int = 1000, seed: int = 0, batch_size: int = 8
) -> Combiner:
    """The combiner of an ensemble, fitted.

    Args:
        scorer: of an :class:`EnsembleRM`.
        sources: held-out rows.
        num_rows: how many of them, drawn uniformly from those of all sources that have a comparison.
        seed: of the draw.
        batch_size: rows scored at once.

    Raises:
        ValueError: if the rows do not settle it.
    """
    module = scorer.module
    assert isinstance(module, EnsembleRM)
    for source in sources:
        source.prepare()
    _check_apart(sources)
    scores, pairs, sizes = [], [], []
    drawn = draw(sources, num_rows, seed, scorer.collator.prepare)
    with tqdm(total=min(num_rows, sum(map(len, sources))), desc="ensemble", unit=" rows") as bar:
        while some := list(itertools.islice(drawn, batch_size)):
            rows, items = zip(*some, strict=True)
            batch = scorer.collator.collate(items).to(scorer.device)
            with torch.inference_mode():
                scores.append(module.score_members(batch).cpu())
            pairs += [row.comparisons() for row in rows]
            sizes += [len(row.responses) for row in rows]
            bar.update(len(rows))
    row = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    fitted = module.combiner.fit(torch.cat(scores, dim=1), row, all_pairs(pairs, sizes), module.names)
    return marked(fitted, *sources)


def _check_apart(sources: Sequence[Source]) -> None:
    """A file that is given twice would count twice."""
    known = [(source.name, origin(source)) for source in sources]
    for (first, files), (second, others) in itertools.combinations(known, 2):
        if not files.isdisjoint(others):
            raise ValueError(f"fit_on has rows of {first} twice, also as {second}; give each file once")


def draw(
    sources: Sequence[Source], num_rows: int, seed: int, prepare: Callable[[int, Preference], T]
) -> Iterator[tuple[Preference, T]]:
    """Rows with a comparison, drawn uniformly from those of all sources together; all where there are fewer.

    Rows that cannot be used are left out, and told: another is drawn in their place.

    Args:
        sources: of the rows.
        num_rows: how many of them.
        seed: of the draw.
        prepare: what a row is to be made into, from its number and itself; one that cannot be is a RowError.
    """
    places = [(source, index) for source in sources for index in range(len(source))]
    random.Random(seed).shuffle(places)

    found = 0
    left_out: list[RowError] = []
    for source, index in places:
        if found == num_rows:
            break
        try:
            row = source[index]
            if not row.comparisons():
                continue
            prepared = prepare(found, row)
        except RowError as error:
            left_out.append(error)
            continue
        found += 1
        yield row, prepared
    if left_out:
        print(f"{len(left_out)} of the rows that were drawn cannot be used and are left out, such as: {left_out[0]}")
    if not found:
        raise ValueError("fit_on has no row with a comparison to use; give rows whose responses are rated differently")
