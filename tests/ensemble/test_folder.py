"""Ensembles on disk and through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import user_combiner
import yaml

from lit_basereward import EnsembleRM, Scorer, load
from lit_basereward.benchmarks.rows import SourceRows
from lit_basereward.calibrate import calibrate
from lit_basereward.cli import main
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.sources.mmif import MMIF
from lit_basereward.data.sources.parquet import ParquetSource, ParquetWriter
from lit_basereward.data.types import Message, Preference
from lit_basereward.doctor.run import doctor
from lit_basereward.ensemble.fitting import draw, ensemble, fit
from lit_basereward.ensemble.folder import FILE, open_ensemble, write_ensemble
from lit_basereward.ensemble.origin import marked, origin, was_fitted_on
from lit_basereward.modules.recipe import recipe
from lit_basereward.serving.export import export
from lit_basereward.testing import ListSource, preferences

QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]


@pytest.fixture
def config(members, tmp_path, monkeypatch) -> str:
    """Two members, weighted by accuracy, not fitted; the checkpoints lie beside it."""
    monkeypatch.chdir(tmp_path)
    for name in ("qwen", "text"):
        (tmp_path / f"{name}.ckpt").write_bytes(Path(members[name]).read_bytes())
    path = tmp_path / "ensemble.yaml"
    arguments = {
        "members": {name: str(tmp_path / f"{name}.ckpt") for name in ("qwen", "text")},
        "combiner": {"class_path": "lit_basereward.ensemble.AccuracyWeighted"},
        "routes": [{"when": {"modality": "image"}, "members": ["qwen"]}],
    }
    path.write_text(yaml.safe_dump({"model": {"class_path": "lit_basereward.EnsembleRM", "init_args": arguments}}))
    return str(path)


def rows_file(path: Path, seed: int) -> str:
    rows = preferences(seed, images=False, responses=(2, 3, 2, 4))
    lines = [
        {"id": str(i), "prompt": f"row {i} of {seed}", "responses": row.responses, "ratings": row.ratings}
        for i, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_fit_write_load_and_refuse(config, tmp_path, capsys):
    """Weights are acc / sum of accs on the held-out rows; the folder scores as `test` and `predict` do, and moves.

    Then strictness: a changed member, a missing one, and the held-out rows as test rows are errors; the last may be
    forced.
    """
    held, rows = rows_file(tmp_path / "held.jsonl", 1), rows_file(tmp_path / "rows.jsonl", 2)
    with pytest.raises(ValueError, match="to be fitted first"):
        ensemble(config, str(tmp_path / "none"))
    folder = ensemble(config, str(tmp_path / "ens"), fit_on=[held], batch_size=3)
    stored = json.loads((folder / FILE).read_text())
    weights = stored["hyper_parameters"]["combiner"]["init_args"]["weights"]
    assert sum(weights.values()) == pytest.approx(1) and set(weights) == {"qwen", "text"}
    assert stored["members"]["qwen"]["path"] == "../qwen.ckpt"  # so that both can move together

    home = tmp_path / "moved"
    home.mkdir()
    for name in ("qwen.ckpt", "text.ckpt", "ens"):
        (tmp_path / name).rename(home / name)
    folder = home / "ens"
    main(
        ["predict", *QUIET, "--ckpt_path", str(folder), "--data.predict", rows, "--predictions.path", f"{home}/p.jsonl"]
    )
    main(["test", *QUIET, "--ckpt_path", str(folder), "--data.test", rows, "--trainer.default_root_dir", f"{home}/run"])
    predicted = [json.loads(line) for line in (home / "p.jsonl").read_text().splitlines()]
    tested = [json.loads(line) for line in (home / "run/rewards/rows.jsonl").read_text().splitlines()]
    scorer = load(folder, "cpu")
    for given, other in zip(predicted, tested, strict=True):
        assert given["members"].keys() == weights.keys()
        by_hand = sum(weights[name] * torch.tensor(given["members"][name]) for name in weights)
        torch.testing.assert_close(torch.tensor(given["rewards"]), by_hand, rtol=0, atol=1e-6)
        assert other["rewards"] == pytest.approx(given["rewards"], abs=1e-5)
    source = [json.loads(line) for line in Path(rows).read_text().splitlines()]
    found = scorer.score(source[1]["prompt"], source[1]["responses"])
    torch.testing.assert_close(found, torch.tensor(predicted[1]["rewards"]), rtol=0, atol=1e-5)
    assert "member qwen: " in capsys.readouterr().out
    report = json.loads((home / "run/report.json").read_text())
    assert (
        set(report["ensemble"]["members"]) == {"qwen", "text"}
        and report["ensemble"]["disagreement"]["comparisons"] == 11
    )

    seen = [
        "test",
        *QUIET,
        "--ckpt_path",
        str(folder),
        "--data.test",
        held,
        "--trainer.default_root_dir",
        f"{home}/seen",
    ]
    with pytest.raises(SystemExit):
        main(seen)
    assert "was fitted on held" in capsys.readouterr().err
    main([*seen, "--model.report_fitted", "true"])
    assert "fitted on these very rows" in capsys.readouterr().err
    assert "fitted on these very rows" in json.loads((home / "seen/report.json").read_text())["remarks"][0]
    assert "fitted on these very rows" in (home / "seen/report.html").read_text()
    place = ["--predictions.path", f"{home}/seen.jsonl"]
    main(["predict", *QUIET, "--ckpt_path", str(folder), "--data.predict", held, *place])
    assert "fitted on these very rows" in capsys.readouterr().err

    with (home / "text.ckpt").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=r"member 'text' of the ensemble .* was changed since"):
        load(folder, "cpu")
    (home / "text.ckpt").unlink()
    with pytest.raises(ValueError, match=r"member 'text' of the ensemble .* is not at"):
        load(folder, "cpu")


def test_calibration_is_stored_and_loaded(config, members, tmp_path):
    """In the ensemble's folder, by the tool that calibrates any model."""
    content = yaml.safe_load(Path(config).read_text())
    content["model"]["init_args"] |= {"combiner": {"class_path": "lit_basereward.ensemble.Mean"}}
    Path(config).write_text(yaml.safe_dump(content))
    folder = ensemble(config, str(tmp_path / "ens"))
    held = rows_file(tmp_path / "held.jsonl", 1)
    fitted = calibrate(str(folder), held, device="cpu")
    scorer = load(folder, "cpu")
    assert scorer.calibration.temperature == pytest.approx(fitted.temperature)
    rewards = scorer.score("row", ["a", "b"])
    expected = torch.sigmoid((rewards - fitted.offset) / fitted.temperature)
    torch.testing.assert_close(scorer.probability(rewards), expected, rtol=1e-5, atol=1e-6)


def test_a_calibrated_copy_finds_the_members(config, tmp_path):
    """In a folder at another depth; a config is refused before anything is scored."""
    content = yaml.safe_load(Path(config).read_text())
    content["model"]["init_args"] |= {"combiner": {"class_path": "lit_basereward.ensemble.Mean"}}
    Path(config).write_text(yaml.safe_dump(content))
    folder, copy = ensemble(config, str(tmp_path / "ens")), tmp_path / "deep/down/copy"
    held = rows_file(tmp_path / "held.jsonl", 1)
    calibrate(str(folder), held, output=str(copy), device="cpu")
    assert load(copy, "cpu").calibration is not None and load(folder, "cpu").calibration is None
    with pytest.raises(ValueError, match="holds an ensemble already"):
        calibrate(str(folder), held, output=str(copy), device="cpu")
    with pytest.raises(ValueError, match="is a config"):
        calibrate(config, str(tmp_path / "none.jsonl"), device="cpu")


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


def test_a_combiner_of_the_users_own(members, tmp_path):
    """A class that is no dataclass is written with its arguments, and read back where it is allowed."""
    combiner = user_combiner.Trimmed(share=0.25)
    folder = write_ensemble(EnsembleRM({"qwen": members["qwen"]}, combiner), tmp_path / "ens").parent
    with pytest.raises(ValueError, match=r"names the class user_combiner\.Trimmed"):
        load(folder, "cpu")
    assert load(folder, "cpu", allow=["user_combiner"]).module.combiner.share == 0.25
    rows = JSONLSource(rows_file(tmp_path / "held.jsonl", 1))
    seen = dict(zip(["held"], origin(rows), strict=True))
    fitted = marked(user_combiner.Fitted(), rows)
    assert fitted.fitted_on == seen and recipe(fitted)["init_args"] == {"fitted_on": seen}
    assert marked(combiner, rows) is combiner


def test_tools_for_one_model_say_so(config, tmp_path):
    """Before any member is read; so does fitting a combiner that has nothing to fit."""
    with pytest.raises(ValueError, match="export its members"):
        export(config, str(tmp_path / "exported"))
    for arguments in ({"ckpt_path": config}, {"config": [config]}):
        with pytest.raises(ValueError, match="one of its members at a time"):
            doctor(**arguments)
    content = yaml.safe_load(Path(config).read_text())
    content["model"]["init_args"] |= {
        "combiner": {"class_path": "lit_basereward.ensemble.Mean"},
        "members": {"a": "no"},
    }
    content["model"]["init_args"]["routes"] = []
    Path(config).write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="Mean has nothing to fit"):
        ensemble(config, str(tmp_path / "ens"), fit_on=["none.jsonl"])


def test_validate_from_yaml_and_refusal_to_fit(config, tmp_path, capsys):
    """A config is enough to validate; `fit` says what to do instead, before it reads any data."""
    rows = rows_file(tmp_path / "rows.jsonl", 2)
    mean = ["--model.combiner", "Mean"]
    main(
        ["validate", *QUIET, "--config", config, *mean, "--data.val", rows, "--trainer.default_root_dir", str(tmp_path)]
    )
    assert "calibration: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", *QUIET, "--config", config, "--trainer.max_steps", "1"])
    assert "an ensemble is not trained: run `fit` for each of its members" in capsys.readouterr().err


def test_a_folder_brings_no_permissions(config, members, tmp_path):
    """Who loads it says which classes may run: a folder that allows itself something is no ensemble of ours."""
    content = yaml.safe_load(Path(config).read_text())
    content["model"]["init_args"] |= {"combiner": {"class_path": "lit_basereward.ensemble.Mean"}}
    Path(config).write_text(yaml.safe_dump(content))
    folder = ensemble(config, str(tmp_path / "ens"))
    stored = json.loads((folder / FILE).read_text())
    for key, value in (("allow", ["os"]), ("trust_remote_code", True)):
        bad = {**stored, "hyper_parameters": {**stored["hyper_parameters"], key: value}}
        (folder / FILE).write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=f"it holds {key}"):
            load(folder, "cpu")
    bad = {**stored, "hyper_parameters": {**stored["hyper_parameters"], "combiner": {"class_path": "subprocess.Popen"}}}
    (folder / FILE).write_text(json.dumps(bad))
    with pytest.raises(ValueError, match=r"names the class subprocess\.Popen"):
        load(folder, "cpu")
    (folder / FILE).write_text("{")
    with pytest.raises(ValueError, match="holds no whole ensemble"):
        load(folder, "cpu")


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


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _with_id(row, name):
    from dataclasses import replace

    return replace(row, id=name)
