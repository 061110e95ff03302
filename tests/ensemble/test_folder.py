"""Ensembles on disk and through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import user_combiner
import yaml

from lit_basereward import EnsembleRM, load
from lit_basereward.benchmarks.rows import SourceRows
from lit_basereward.calibrate import calibrate
from lit_basereward.cli import main
from lit_basereward.data.sources.blank import BlankImages
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.doctor.run import doctor
from lit_basereward.ensemble.fitting import draw, ensemble, marked
from lit_basereward.ensemble.folder import FILE, write_ensemble
from lit_basereward.modules.ensemble import origin
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


def test_all_files_are_remembered_that_have_one_name(config, tmp_path):
    """Fitted on a/held.jsonl and b/held.jsonl: both are known as seen."""
    files = []
    for seed, name in enumerate("ab", 1):
        (tmp_path / name).mkdir()
        files.append(rows_file(tmp_path / name / "held.jsonl", seed))
    folder = ensemble(config, str(tmp_path / "ens"), fit_on=files)
    seen = json.loads((folder / FILE).read_text())["hyper_parameters"]["combiner"]["init_args"]["fitted_on"]
    assert seen == {"held": origin(JSONLSource(files[0])), "held_2": origin(JSONLSource(files[1]))}


def test_a_combiner_of_the_users_own(members, tmp_path):
    """A class that is no dataclass is written with its arguments, and read back where it is allowed."""
    combiner = user_combiner.Trimmed(share=0.25)
    folder = write_ensemble(EnsembleRM({"qwen": members["qwen"]}, combiner), tmp_path / "ens").parent
    with pytest.raises(ValueError, match=r"names the class user_combiner\.Trimmed"):
        load(folder, "cpu")
    assert load(folder, "cpu", allow=["user_combiner"]).module.combiner.share == 0.25
    fitted = marked(user_combiner.Fitted(), {"held": "abc"})
    assert fitted.fitted_on == {"held": "abc"} and recipe(fitted)["init_args"] == {"fitted_on": {"held": "abc"}}
    assert marked(combiner, {"held": "abc"}) is combiner


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
    drawn = draw([first, second, tied], 200, seed=0)
    assert len(drawn) == 200 and all(row.comparisons() for row in drawn)
    marked = [ListSource([_with_id(rows[0], f"{name}{i}") for i in range(n)]) for name, n in (("a", 300), ("b", 100))]
    ids = [row.id for row in draw(marked, 200, seed=0)]
    assert len(set(ids)) == 200 and 125 <= sum(name.startswith("a") for name in ids) <= 175
    assert ids == [row.id for row in draw(marked, 200, seed=0)] != [row.id for row in draw(marked, 200, seed=1)]


def test_rows_that_cannot_be_read_are_told(tmp_path, capsys):
    """Of 4 rows 1 has an image outside ``image_root``; with 3 that are good none is missing unsaid."""
    path = Path(rows_file(tmp_path / "held.jsonl", 1))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["images"] = ["/elsewhere/a.png"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = draw([JSONLSource(str(path))], 10, seed=0)
    assert sorted(row.id for row in rows) == ["0", "1", "3"]
    assert "1 of the rows that were drawn cannot be read and are left out, such as: " in capsys.readouterr().out


def _with_id(row, name):
    from dataclasses import replace

    return replace(row, id=name)
