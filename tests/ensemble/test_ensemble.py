"""EnsembleRM on real members of different families: invariances, routing, errors that name the member."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch

from lit_basereward import EnsembleRM, Scorer, load
from lit_basereward.benchmarks.evidence import is_inside_row
from lit_basereward.data.routing import Route, When
from lit_basereward.data.types import Preference, RowError
from lit_basereward.ensemble import LowerConfidenceBound, Mean, Minimum
from lit_basereward.testing import preferences

SEEING = [Route(["qwen", "intern"], When(modality="image"))]


def scorer(members: dict[str, str], routes=SEEING, **options) -> Scorer:
    return Scorer(EnsembleRM(members, routes=routes, **options), "cpu")


@pytest.fixture(scope="module")
def whole(members) -> Scorer:
    return scorer(members)


def test_mean_of_those_that_vote(members, whole):
    """Each row's rewards are the mean of what its voters give it alone, to 1e-6; all three vote on rows without images.

    ``evidence`` has the very same numbers, and cost is the members' sum: one forward per response and voter.
    """
    rows = preferences()
    alone = {
        name: load(path, "cpu").score_rows(rows if name != "text" else rows[::3]) for name, path in members.items()
    }
    whole.module.cost.forwards = 0
    rewards = whole.score_rows(rows)
    evidence = whole.module.evidence
    forwards = 0
    for i, row in enumerate(rows):
        voters = {name: alone[name][i] for name in ("qwen", "intern")}
        if not row.images:
            voters["text"] = alone["text"][i // 3]
        torch.testing.assert_close(rewards[i], torch.stack(list(voters.values())).mean(0), rtol=0, atol=1e-6)
        assert evidence[i]["members"].keys() == voters.keys()
        for name, given in voters.items():
            assert evidence[i]["members"][name] == pytest.approx(given.tolist(), abs=1e-6)
        forwards += len(voters) * len(row.responses)
    assert whole.module.cost.forwards == forwards


def test_text_member_leaves_rows_with_images_bit_equal(members, whole):
    """The paper's arrangement: with and without the text model, in one batch of both kinds."""
    without = scorer({name: path for name, path in members.items() if name != "text"}, routes=[])
    rows = preferences()
    for row, three, two in zip(rows, whole.score_rows(rows), without.score_rows(rows), strict=True):
        assert three.equal(two) if row.images else (three - two).abs().max() > 1e-3


def test_one_member_is_itself(members):
    """To 1e-6, with a combiner that looks at disagreement, too."""
    rows = preferences()
    expected = load(members["qwen"], "cpu").score_rows(rows)
    for combiner in (Mean(), Minimum(), LowerConfidenceBound(2.0)):
        found = scorer({"only": members["qwen"]}, [], combiner=combiner).score_rows(rows)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_order_of_members_and_rows_does_not_matter(members, whole):
    """Members the other way round, the batch the other way round, and every row alone: 1e-6."""
    rows = preferences()
    expected = whole.score_rows(rows)
    turned = scorer(dict(reversed(members.items()))).score_rows(rows)
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.score_rows(rows[::-1])[::-1], expected, rtol=0, atol=1e-6)
    for row, rewards in zip(rows, expected, strict=True):
        torch.testing.assert_close(whole.score_rows([row])[0], rewards, rtol=0, atol=1e-6)


def test_a_text_member_without_a_route_is_named(members):
    """Nothing is guessed: a row with an image is an error that says who cannot read it, and what to do."""
    with pytest.raises(RowError, match=r"member 'text'.*reads text only.*route"):
        scorer(members, routes=[]).score_rows(preferences())


def test_routes_by_category_and_source(members, whole):
    """Rows of a category go to one member: its rewards to 1e-6, and a batch in which the others have nothing to do."""
    routes = [Route(["text"], When(category="sums", source="quiz"))]
    rows = [replace(row, source="quiz") for row in preferences(images=False)[:3]]
    rows[1] = replace(rows[1], category="sums")
    routed = scorer(members, routes)
    routed.score_rows(rows)
    assert [list(each["members"]) for each in routed.module.evidence] == [list(members), ["text"], list(members)]
    alone = load(members["text"], "cpu").score_rows(rows[1:2])[0]
    torch.testing.assert_close(routed.score_rows(rows[1:2])[0], alone, rtol=0, atol=1e-6)


def test_score_members_has_nan_where_there_is_no_vote(members, whole):
    """[M, N], NaN for the text model on rows with images, and nowhere else."""
    rows = preferences()
    batch = whole.collator(list(enumerate(rows)))
    with torch.inference_mode():
        scores = whole.module.score_members(batch)
    assert scores.shape == (3, sum(len(row.responses) for row in rows))
    seen = torch.tensor([bool(row.images) for row in rows])[batch.row]
    assert not scores[:2].isnan().any() and scores[2].isnan().equal(seen)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda rewards: rewards.masked_fill(torch.arange(len(rewards)) == 3, math.nan), "NaN or infinity in row 1"),
        (lambda rewards: rewards[:-1], r"gave rewards \[15\] for 16 responses"),
    ],
)
def test_a_member_that_goes_wrong_is_named(members, broken, message):
    """NaN where it votes (response 3 is of row 1, as row 0 has two), and another number of rewards."""
    wrong = scorer(members)
    member = wrong.module.members[1]
    right = member.score
    member.score = lambda batch: broken(right(batch))
    with pytest.raises(ValueError, match=f"member 'intern' of the ensemble.*{message}"):
        wrong.score_rows(preferences())


def test_a_member_that_cannot_be_loaded_is_named(members, tmp_path):
    """A missing file, a broken one, and an ensemble inside an ensemble."""
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "inner.yaml").write_text(
        f"model: {{class_path: lit_basereward.EnsembleRM, init_args: {{members: {members}}}}}"
    )
    for file, message in (
        ("none.ckpt", "is no file"),
        ("text.ckpt", "is no checkpoint"),
        ("inner.yaml", "is an ensemble itself"),
    ):
        with pytest.raises(ValueError, match=f"member 'bad' of the ensemble .*{message}"):
            scorer({**members, "bad": str(tmp_path / file)})


def test_settings_that_do_not_go_together(members):
    """No members, one path twice, devices for some of them, an unknown name in a route, training."""
    with pytest.raises(ValueError, match="has no members"):
        EnsembleRM({})
    with pytest.raises(ValueError, match="is given twice"):
        EnsembleRM([members["qwen"], members["qwen"]])
    with pytest.raises(ValueError, match="is given twice"):
        EnsembleRM({"a": members["qwen"], "b": members["qwen"]})
    with pytest.raises(ValueError, match="3 members, but 1 devices"):
        EnsembleRM(members, devices=["cpu"])
    with pytest.raises(ValueError, match="member 'text' has the device 'gpu', which is none"):
        EnsembleRM(members, devices=["cpu", "cpu", "gpu"])
    with pytest.raises(ValueError, match="member 'text' of the ensemble cannot be moved to the device 'cuda:99'"):
        EnsembleRM(members, devices=["cpu", "cpu", "cuda:99"]).configure_model()
    with pytest.raises(ValueError, match="route 1 names the member 'x'"):
        EnsembleRM(members, routes=[Route(["x"])])
    with pytest.raises(ValueError, match="is not trained: run `fit` for each"):
        EnsembleRM(members).collator(training=True)


def test_names_of_a_list_and_devices(members):
    """Files of one folder are named by their stems; members with devices of their own score as others do."""
    module = EnsembleRM(list(members.values()), routes=SEEING, devices=["cpu"] * 3)
    assert module.names == ["qwen", "intern", "text"]
    rows = preferences()
    torch.testing.assert_close(Scorer(module, "cpu").score_rows(rows), scorer(members).score_rows(rows), rtol=0, atol=0)


def test_members_that_are_judges(members, backbone_folder, tmp_path):
    """A judge is taken by the mean, which then is comparable inside a row only, and refused by the minimum.

    It needs two responses: one alone is an error that names it.
    """
    import lightning.pytorch as pl

    from lit_basereward import GenerativeRM
    from lit_basereward.nn.backbone import Backbone

    judge = GenerativeRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048))
    judge.configure_model()
    trainer = pl.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(judge)
    trainer.save_checkpoint(tmp_path / "judge.ckpt")
    both = {"qwen": members["qwen"], "judge": str(tmp_path / "judge.ckpt")}
    rows = [row for row in preferences() if len(row.responses) > 1]
    found = scorer(both, [])
    assert not found.module.comparable_across_rows
    parts = [load(path, "cpu").score_rows(rows) for path in both.values()]
    for rewards, *given in zip(found.score_rows(rows), *parts, strict=True):
        torch.testing.assert_close(rewards, torch.stack(given).mean(0), rtol=0, atol=1e-5)
    assert all(is_inside_row(each) for each in found.module.evidence)  # so that files tell it, too
    with pytest.raises(ValueError, match=r"member 'judge'.*Minimum compares them across rows"):
        scorer(both, [], combiner=Minimum())
    with pytest.raises(RowError, match=r"member 'judge'"):
        found.score_rows([Preference("one", rows[0].prompt, rows[0].responses[:1], images=rows[0].images)])


def test_through_the_trainer_with_a_worker(members, whole, tmp_path):
    """Built in Python, batches packed by a worker: `test` writes what the scorer gives, to 1e-5."""
    import json

    import lightning.pytorch as pl

    from lit_basereward.data.datamodule import PreferenceDataModule
    from lit_basereward.testing import ListSource

    rows = preferences(responses=(2, 3, 2, 4, 2, 3))
    data = PreferenceDataModule(test=ListSource(rows), eval_batch_size=4, num_workers=1)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    pl.Trainer(**quiet).test(EnsembleRM(members, routes=SEEING), data, verbose=False)
    (written,) = (tmp_path / "rewards").glob("*.jsonl")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    for line, rewards in zip(lines, whole.score_rows(rows), strict=True):
        assert line["rewards"] == pytest.approx(rewards.tolist(), abs=1e-5)
    assert [len(line["members"]) for line in lines] == [3, 2, 2, 3, 2, 2]


def test_routes_and_members_without_rows_are_told(members, tmp_path, capsys):
    """Four rows of text: the route for images and the one with a typo decide on none; text votes alone.

    A source that is not of this run is told before any is scored, and stops nothing.
    """
    import lightning.pytorch as pl

    from lit_basereward.data.datamodule import PreferenceDataModule
    from lit_basereward.testing import ListSource

    rows = [replace(row, category="sums") for row in preferences(images=False, responses=(2, 2, 2, 2))]
    routes = [
        Route(["qwen", "intern"], When(modality="image")),
        Route(["intern"], When(category="sum")),
        Route(["text"], When(category=["sums", "more"])),
        Route(["qwen"], When(source="quiz")),
    ]
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    trainer, module = pl.Trainer(**quiet), EnsembleRM(members, routes=routes)
    trainer.test(module, PreferenceDataModule(test=ListSource(rows)), verbose=False)
    told = capsys.readouterr().err
    assert "warning: route 4 is for the source quiz, and the sources here are list\n" in told
    silent = [1, 2, 4]
    assert [n for n in range(1, 5) if re.search(f"warning: route {n} .* decided on none of the rows", told)] == silent
    assert "route 2 (category sum) decided" in told
    assert re.findall(r"warning: member (\w+) votes on none of the rows", told) == ["qwen", "intern"]
    module.routes = []
    trainer.validate(module, PreferenceDataModule(val=ListSource(rows)), verbose=False)
    assert "on none of the rows" not in capsys.readouterr().err
