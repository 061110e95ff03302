"""Two processes on the CPU take the very steps that one takes, under DDP and FSDP2, and shards go where they should.

Two launches hold it all, since a launch costs seconds; their results are shared by the tests.
"""

from __future__ import annotations

import time

import pytest
import rank_runs
import torch

import lit_basereward
from lit_basereward.testing import preferences, run_ranks


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def one(backbone_folder, place):
    """The reference: one process, one micro-batch a step."""
    return rank_runs.fit(backbone_folder("qwen2_5_vl"), str(place), save=str(place / "file.ckpt"), devices=1)


@pytest.fixture(scope="module")
def two(backbone_folder, place):
    return run_ranks(rank_runs.two_ranks, backbone_folder("qwen2_5_vl"), str(place), str(place / "half.ckpt"))


@pytest.fixture(scope="module")
def resumed(backbone_folder, place, one, two):
    checkpoints = [str(place / "half.ckpt"), str(place / "file.ckpt")]
    return run_ranks(rank_runs.one_rank, backbone_folder("qwen2_5_vl"), str(place), *checkpoints, world_size=1)[0]


def differing(found: dict, expected: dict) -> list[str]:
    """Parameters whose gradients differ by more than rounding: 1e-5 of their own norm, or of a share of all."""
    share = 1e-3 * torch.stack([g.norm() for g in expected.values()]).norm() / len(expected) ** 0.5
    return [n for n, g in expected.items() if (found[n] - g).norm() > 1e-5 * max(g.norm(), share)]


def check_same_run(run: dict, reference: dict, first_step: int = 0) -> None:
    assert len(run["gradients"]) == rank_runs.STEPS - first_step
    for step, found in enumerate(run["gradients"], first_step):
        assert differing(found, reference["gradients"][step]) == [], f"step {step}"
    for name, weight in reference["weights"].items():
        torch.testing.assert_close(run["weights"][name], weight, rtol=0, atol=1e-6, msg=name)
    for name in ("val/list/margin", "train/loss", "train/grad_norm"):
        assert run["logged"][name] == pytest.approx(reference["logged"][name], rel=1e-4), name


def test_accumulation_on_one_process(backbone_folder, place, one):
    """1 x 1 = 1 x 4; and the run moves every parameter by far more than `check_same_run` lets through."""
    four = rank_runs.fit(backbone_folder("qwen2_5_vl"), str(place), devices=1, accumulate_grad_batches=4)
    check_same_run(four, one)
    start = rank_runs.naive(backbone_folder("qwen2_5_vl"))
    start.configure_model()
    moved = [(p - one["weights"][name]).abs().max().item() for name, p in start.named_parameters()]
    assert min(moved) > 1e-5


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_equal_one(one, two, strategy):
    """Gradients before clipping, weights after 4 clipped steps, loss, norm and validation; FSDP2 as 2 ranks x 2.

    In every step one rank has the row with an image and the other has text alone.
    """
    ranks = [result[strategy] for result in two]
    per_step = len(ranks[0]["images"]) // rank_runs.STEPS
    assert per_step == {"ddp": 1, "fsdp": 2}[strategy]
    for first, second in zip(ranks[0]["images"][::per_step], ranks[1]["images"][::per_step], strict=True):
        assert first and not second
    for run in ranks:
        check_same_run(run, one)


def test_a_head_outside_any_unit_is_found_out(two):
    """The negative control: FSDP2 does not reduce its gradients, and the comparison sees that, of the head alone."""
    heads = {name for name in two[0]["whole"] if ".head." in name}
    assert differing(two[1]["whole"], two[0]["whole"]) == []
    for result in two:
        assert set(differing(result["broken"], result["whole"])) == heads


def test_bfloat16_is_for_computing(backbone_folder, two):
    """Storage and gradients of what trains stay float32, frozen parts bfloat16; rewards are float32, near the exact."""
    found = two[0]["bfloat16"]
    assert found["trainable"] == found["gradients"] == ["torch.float32"] and found["frozen"] == ["torch.bfloat16"]
    module = rank_runs.naive(backbone_folder("qwen2_5_vl"))
    module.configure_model()
    with torch.no_grad():
        expected = module.score(module.collator(True)(list(enumerate(rank_runs.rows()[:2]))))
    assert found["rewards"].dtype == torch.float32 and not torch.equal(found["rewards"], expected)
    torch.testing.assert_close(found["rewards"], expected, rtol=0, atol=5e-2)


@pytest.mark.slow
def test_resumed_on_another_number_of_ranks(one, resumed):
    """Two ranks save after step 2; one goes on with their weights, moments, schedule and rows."""
    check_same_run(resumed["resumed"], one, first_step=2)


def test_files_cross_over(backbone_folder, place, one, resumed):
    """FSDP2 goes on from an unsharded run's file after step 2, and an unsharded run from its file after step 3."""
    check_same_run(resumed["from_file"], one, first_step=2)
    file = str(place / "file.ckpt.next.ckpt")
    check_same_run(rank_runs.fit(backbone_folder("qwen2_5_vl"), str(place), file, devices=1), one, first_step=3)


def test_sharded_checkpoint_elsewhere(backbone_folder, place, two, resumed):
    """`load`, a test on one device and one under FSDP2 read it; it holds hyper-parameters, data state, calibration."""
    folder = place / "half.ckpt"
    assert sorted(p.name for p in folder.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"]
    assert not folder.with_name("half.ckpt.tmp").exists()
    scorer = lit_basereward.load(folder)
    rewards = scorer.score_rows(preferences(9, responses=(2, 3, 2)))
    margins = [
        float(r[i] - r[j])
        for row, r in zip(preferences(9, responses=(2, 3, 2)), rewards, strict=True)
        for i, j in row.comparisons()
    ]
    runner = rank_runs.trainer(str(place), devices=1)
    runner.test(rank_runs.naive(backbone_folder("qwen2_5_vl")), rank_runs.data(), ckpt_path=folder)
    assert float(runner.callback_metrics["test/list/margin"]) == pytest.approx(sum(margins) / len(margins), rel=1e-4)
    assert resumed["test"] == pytest.approx(sum(margins) / len(margins), rel=1e-4)
    checkpoint = torch.load(folder / "meta.pt", weights_only=True)
    assert checkpoint["hyper_parameters"]["_class_path"] == "lit_basereward.modules.naive.NaiveRM"
    assert checkpoint["PreferenceDataModule"]["done"] == 4


def test_sharded_checkpoint_of_another_network(backbone_folder, place, resumed):
    """The error names the head's parameters, under FSDP2 too; and no fit on one device loses the optimizer's state."""
    for told in ("of another network (lacks 2: model.head.layers.2.bias", "model.head.layers.4.weight", "differs 1"):
        assert told in resumed["errors"][0]
    with pytest.raises(ValueError, match=r"sharded checkpoint.*overlays/fsdp\.yaml"):
        rank_runs.fit(backbone_folder("qwen2_5_vl"), str(place), resume=str(place / "half.ckpt"), devices=1)


def test_a_parameter_beside_the_network(resumed):
    """No unit would hold it, so that ranks would train different ones."""
    assert "does not reduce the gradients of temperature; put them into the network" in resumed["errors"][1]


def test_a_killed_rank_ends_the_others(backbone_folder, place):
    """Not by the harness's timeout: the other one raises."""
    begun = time.monotonic()
    with pytest.raises(RuntimeError) as told:
        run_ranks(rank_runs.killed, backbone_folder("qwen2_5_vl"), str(place), timeout=100)
    assert time.monotonic() - begun < 100
    assert "rank 1 ended with code -9" in str(told.value) and "rank 0 ended with code 1: " in str(told.value)
    assert "Connection" in str(told.value) or "gloo" in str(told.value)
