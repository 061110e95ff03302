"""Ensembles on disk and through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import user_combiner
import yaml
from row_files import rows_file

from lit_basereward import EnsembleRM, load
from lit_basereward.calibrate import calibrate
from lit_basereward.cli import main
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.doctor.run import doctor
from lit_basereward.ensemble import Minimum
from lit_basereward.ensemble.fitting import ensemble
from lit_basereward.ensemble.folder import FILE, read_ensemble, write_ensemble
from lit_basereward.ensemble.origin import marked, origin
from lit_basereward.modules.recipe import recipe
from lit_basereward.scorer import build
from lit_basereward.serving.export import export

QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]


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


def test_a_calibration_is_of_what_it_was_fitted_for(config, tmp_path, capsys):
    """With another combiner, other routes or another member it is left out, and told; elsewhere, it stays.

    Of a copy in another folder, too, which names the members by other paths.
    """
    content = yaml.safe_load(Path(config).read_text())
    content["model"]["init_args"] |= {"combiner": "Mean"}
    Path(config).write_text(yaml.safe_dump(content))
    folder, copy = ensemble(config, str(tmp_path / "ens")), tmp_path / "deep/copy"
    calibrate(str(folder), rows_file(tmp_path / "held.jsonl", 1), output=str(copy), device="cpu")
    (arguments,) = read_ensemble(copy).values()
    del arguments["_class_path"]
    capsys.readouterr()

    def calibration(**others):
        return build({"_class_path": "lit_basereward.EnsembleRM", **arguments, **others}).calibration

    swapped = dict(zip(arguments["members"], reversed(arguments["members"].values()), strict=True))
    assert calibration() == calibration(devices=["cpu", "cpu"]) == load(copy, "cpu").calibration != None  # noqa: E711
    assert not capsys.readouterr().err
    for other in ({"combiner": {"class_path": "Minimum"}}, {"routes": []}, {"members": swapped}):
        assert calibration(**other) is None
        assert "calibration: left out" in capsys.readouterr().err
    rows = rows_file(tmp_path / "rows.jsonl", 2)
    for given in ([], ["--model.combiner", "Minimum"]):
        test = ["test", *QUIET, "--ckpt_path", str(copy), "--data.test", rows]
        main([*test, "--trainer.default_root_dir", f"{tmp_path}/run", *given])
        assert ("calibration: left out" in capsys.readouterr().err) == bool(given)


def test_a_yaml_with_short_names(members, tmp_path):
    """What the command line takes loads, too; mistakes are told of the file, and not of a checkpoint."""
    path = tmp_path / "short.yaml"

    def written(name: str, combiner: object) -> Path:
        model = {"class_path": name, "init_args": {"members": {"text": members["text"]}, "combiner": combiner}}
        path.write_text(yaml.safe_dump({"model": model}))
        return path

    for name in ("EnsembleRM", "lit_basereward.EnsembleRM"):
        for combiner in ("Minimum", {"class_path": "Minimum"}, "lit_basereward.ensemble.Minimum"):
            assert type(load(written(name, combiner), "cpu").module.combiner) is Minimum
    assert (
        load(written("EnsembleRM", {"class_path": "LowerConfidenceBound", "init_args": {"k": 2}})).module.combiner.k
        == 2
    )
    for name, combiner, message in (
        ("Ensemble", "Mean", r"short.yaml' names the class 'Ensemble'; accepted: .*my_pkg.*EnsembleRM"),
        ("EnsembleRM", "Man", r"short.yaml' names the class 'Man'; accepted: .*Mean"),
        ("EnsembleRM", "my_pkg.Mine", r"short.yaml names the class my_pkg.Mine; to run it, load with allow"),
        ("EnsembleRM", {"class_path": "Mean", "init_args": {"k": 1}}, r"short.yaml's settings do not fit"),
    ):
        with pytest.raises(ValueError, match=message) as told:
            load(written(name, combiner), "cpu")
        assert "checkpoint" not in str(told.value)
    with pytest.raises(ValueError, match=r"there is no '.*none.yaml'"):
        load(tmp_path / "none.yaml", "cpu")


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
