"""Fitting a combiner: which rows are drawn, which are left out, and how they are known again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import user_combiner
from row_files import rows_file, write_lines

from lit_basereward import Scorer, load
from lit_basereward.benchmarks.combine import fit_on_files
from lit_basereward.benchmarks.rows import SourceRows
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.sources.mmif import MMIF
from lit_basereward.data.sources.parquet import ParquetSource, ParquetWriter
from lit_basereward.data.types import Message, Preference
from lit_basereward.ensemble import AccuracyWeighted, StandardisedMean
from lit_basereward.ensemble.fitting import draw, ensemble, fit
from lit_basereward.ensemble.folder import FILE, open_ensemble
from lit_basereward.ensemble.origin import marked, origin, was_fitted_on
from lit_basereward.testing import ListSource, preferences


@pytest.mark.parametrize(
    "source",
    [
        lambda path: JSONLSource(path, limit=2),
        lambda path: JSONLSource(path, image_root="/", name="other"),
        lambda path: BlankImages(JSONLSource(path)),
        SourceRows,
    ],
)
def test_rows_are_known_by_their_file(source, tmp_path):
    """However they are read; a second file of the same name is another."""
    first, second = (tmp_path / name / "held.jsonl" for name in "ab")
    for seed, path in enumerate((first, second)):
        path.parent.mkdir()
        rows_file(path, seed)
    wrapped = source(str(first)) if source is not SourceRows else SourceRows(JSONLSource(str(first)))
    assert origin(wrapped) == origin(JSONLSource(str(first))) != origin(JSONLSource(str(second)))


def test_rows_in_shards_are_known_by_each_file(tmp_path):
    """A folder, a limit, a pattern, one shard alone and JSON lines of a suite: any file in common is seen.

    Two splits of one folder have none in common.
    """
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, text in (("a", "one"), ("b", "two")):
        with ParquetWriter(folder / f"{name}.parquet") as writer:
            writer.write(Preference(text, (Message("user", (text,)),), ("x", "y"), (1.0, 0.0)))
    fitted = marked(user_combiner.Fitted(), ParquetSource(str(folder)))
    assert list(fitted.fitted_on) == ["shards", "shards 2"]
    for path, limit in ((folder, 1), (folder / "*.parquet", None), (folder / "b.parquet", None)):
        assert was_fitted_on(fitted, BlankImages(ParquetSource(str(path), limit=limit)))
    assert not was_fitted_on(marked(fitted, ParquetSource(str(folder / "a.parquet"))), ParquetSource(f"{folder}/b*"))
    for part in ("train", "test"):
        (folder / f"{part}-00000-of-00001.parquet").write_bytes(
            (folder / f"{'ab'[part == 'test']}.parquet").read_bytes()
        )
        (folder / f"{'ab'[part == 'test']}.parquet").unlink()
    held, rows = (MMIF(str(folder), split=split) for split in ("train", "test"))
    assert origin(held).isdisjoint(origin(rows)) and origin(held) | origin(rows) == set(fitted.fitted_on.values())


def test_all_files_are_remembered_that_have_one_name(config, tmp_path):
    """Fitted on a/held.jsonl and b/held.jsonl: both are known as seen."""
    files = []
    for seed, name in enumerate("ab", 1):
        (tmp_path / name).mkdir()
        files.append(rows_file(tmp_path / name / "held.jsonl", seed))
    folder = ensemble(config, str(tmp_path / "ens"), fit_on=files)
    seen = json.loads((folder / FILE).read_text())["hyper_parameters"]["combiner"]["init_args"]["fitted_on"]
    assert [{each} for each in seen.values()] == [origin(JSONLSource(file)) for file in files]
    assert list(seen) == ["held", "held_2"]
    with pytest.raises(ValueError, match="fit_on has rows of held twice, also as held; give each file once"):
        ensemble(config, str(tmp_path / "twice"), fit_on=[files[0], f"{tmp_path}/b/../a/held.jsonl"])


def test_rows_are_drawn_uniformly_from_all_sources():
    """Sources of 300 and 100 rows, 200 drawn without repeats: 150 of the first are expected, 6.1 is the deviation.

    Rows without a comparison are passed over; the draw is one of the seed.
    """
    rows = preferences(0, images=False, responses=(2,))
    first, second = ListSource(rows * 300), ListSource(rows * 100)
    tied = ListSource(preferences(1, images=False, responses=(1,)) * 50)
    drawn = list(draw([first, second, tied], 200, 0, lambda number, row: number))
    assert [number for _, number in drawn] == list(range(200)) and all(row.comparisons() for row, _ in drawn)
    marked = [ListSource([_with_id(rows[0], f"{name}{i}") for i in range(n)]) for name, n in (("a", 300), ("b", 100))]
    ids, again, others = ([row.id for row, _ in draw(marked, 200, s, lambda *_: None)] for s in (0, 0, 1))
    assert len(set(ids)) == 200 and 125 <= sum(name.startswith("a") for name in ids) <= 175
    assert ids == again != others


@pytest.mark.parametrize("combiner", [AccuracyWeighted(), StandardisedMean()])
def test_report_fits_as_the_ensemble_does(combiner, config, members, tmp_path):
    """Of the same rows, one with an unrated response and one without a comparison, to 1e-6; and marked alike."""
    lines = [json.loads(line) for line in Path(rows_file(tmp_path / "held.jsonl", 1)).read_text().splitlines()]
    lines[1]["ratings"][2] = None
    lines[2]["ratings"] = [1, 1]
    write_lines(held := tmp_path / "held.jsonl", lines)
    source, names = JSONLSource(str(held)), ["qwen", "text"]
    files = [tmp_path / f"{name}.jsonl" for name in names]
    for name, file in zip(names, files, strict=True):
        rewards = load(members[name], "cpu").score_rows(source)
        write_lines(file, [{"rewards": each.tolist()} for each in rewards])
    module = open_ensemble(config)
    module.combiner = combiner
    expected = fit(Scorer(module, "cpu"), [source], batch_size=2)
    other = SourceRows(JSONLSource(rows_file(tmp_path / "rows.jsonl", 2)))
    found = fit_on_files(combiner, other, names, str(held), [str(file) for file in files])
    assert found.fitted_on == expected.fitted_on
    for part in {"weights", "means", "stds"} & vars(found).keys():
        assert getattr(found, part) == pytest.approx(getattr(expected, part), rel=1e-6)


def test_rows_that_cannot_be_used_are_told(config, tmp_path, capsys):
    """Of 6 rows one has an image outside ``image_root``, one an image that is none, one is too long for both members.

    They are left out and others take their place: 3 are asked for, so all 3 good ones are drawn, and the weights are
    those of a file that has these alone. With too long rows dropped it is the same.
    """
    good = rows_file(tmp_path / "good.jsonl", 1)
    lines = [json.loads(line) for line in Path(good).read_text().splitlines()]
    del lines[3]
    write_lines(Path(good), lines)
    (tmp_path / "broken.png").write_text("hello")
    wrong = [{"images": ["/elsewhere/a.png"]}, {"images": ["broken.png"]}, {"responses": ["red " * 3000, "b"]}]
    bad = [
        {"id": str(n), "prompt": "see", "responses": ["a", "b"], "ratings": [1, 0], **w} for n, w in enumerate(wrong)
    ]
    held = tmp_path / "held.jsonl"
    write_lines(held, [bad[0], lines[0], bad[1], lines[1], bad[2], lines[2]])

    def fitted(path, seed=0, policy=None):
        module = open_ensemble(config)
        if policy:
            module.set_too_long(policy)
        return fit(Scorer(module, "cpu"), [JSONLSource(str(path))], num_rows=3, seed=seed).weights

    expected = fitted(good)
    capsys.readouterr()
    told = []
    for seed, policy in ((0, None), (1, None), (2, "drop")):
        assert fitted(held, seed, policy) == pytest.approx(expected)
        told.append(capsys.readouterr().out)
    assert any("3 of the rows that were drawn cannot be used and are left out, such as: " in each for each in told)
    write_lines(held, bad)
    with pytest.raises(ValueError, match="no row with a comparison to use"):
        fitted(held)


def _with_id(row, name):
    from dataclasses import replace

    return replace(row, id=name)
