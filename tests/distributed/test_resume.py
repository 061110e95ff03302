"""Adapters under DDP take the steps of one process, and every way of training goes on from its checkpoints.

One run of four steps in one process is what all others are held against; see `rank_runs.rows` for its rows.
"""

from __future__ import annotations

import pytest
import rank_runs
import resume_runs
import torch
from test_two_processes import check_same_run

from lit_basereward.testing import run_ranks

pytestmark = pytest.mark.slow

HALF = rank_runs.STEPS // 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def alone(place):
    """Checkpoints after the second step of one process."""
    return {kind: str(place / f"alone-{kind}.ckpt") for kind in (*resume_runs.KINDS, "sharded")}


@pytest.fixture(scope="module")
def together(place):
    """The same of two ranks."""
    return {kind: str(place / f"together-{kind}.ckpt") for kind in (*resume_runs.KINDS, "sharded")}


@pytest.fixture(scope="module")
def one(backbone_folder, place, alone):
    """By kind, the run that was not interrupted."""
    folder = backbone_folder("qwen2_5_vl")
    return {kind: resume_runs.fit(folder, str(place), kind, save=alone[kind], devices=1) for kind in resume_runs.KINDS}


@pytest.fixture(scope="module")
def two(backbone_folder, place, one, alone, together):
    folder = backbone_folder("qwen2_5_vl")
    run_ranks(resume_runs.shards_of_one, folder, str(place), alone["sharded"], world_size=1)
    return run_ranks(resume_runs.two_ranks, folder, str(place), alone, together)


def test_adapters_on_two_ranks_equal_one(backbone_folder, one, two):
    """Gradients before clipping and weights after 4 steps. The steps move each weight by far more than may differ."""
    start = rank_runs.naive(backbone_folder("qwen2_5_vl"), resume_runs.KINDS["lora"])
    start.configure_model()
    trained = {name: p for name, p in start.named_parameters() if p.requires_grad}
    assert min((trained[name] - value).abs().max().item() for name, value in one["lora"]["weights"].items()) > 1e-5
    # 14 linear layers with A and B, the projector's norm and two linear layers with bias, the head's three.
    assert len(one["lora"]["weights"]) == len(trained) == 28 + 5 + 3
    for rank in two:
        check_same_run(rank["lora"]["straight"], one["lora"])


@pytest.mark.parametrize("kind", resume_runs.KINDS)
@pytest.mark.parametrize("ranks", ["same ranks", "more ranks"])
def test_ddp_goes_on(one, two, kind, ranks):
    """From the second step of two ranks, and of one process."""
    for rank in two:
        check_same_run(rank[kind][ranks], one[kind], first_step=HALF)


@pytest.mark.parametrize("kind", resume_runs.KINDS)
def test_one_process_goes_on_from_ddp(backbone_folder, place, one, two, together, kind):
    resumed = resume_runs.fit(backbone_folder("qwen2_5_vl"), str(place), kind, together[kind], devices=1)
    check_same_run(resumed, one[kind], first_step=HALF)


def test_checkpoints_of_ddp_hold_what_trains(one, two, together):
    """Of adapters those, the projector and the head, and nothing of the frozen model; without adapters, all."""
    stored = torch.load(together["lora"], weights_only=True)
    assert set(stored["state_dict"]) == set(one["lora"]["weights"])
    assert len(stored["optimizer_states"][0]["state"]) == len(one["lora"]["weights"]) and stored["base"]
    assert set(torch.load(together["full"], weights_only=True)["state_dict"]) == set(one["full"]["weights"])


@pytest.mark.parametrize("source", ["same ranks", "more ranks", "a file"])
def test_fsdp_goes_on(one, two, source):
    """On two ranks from shards of two, from those of one, and from the file of a run without sharding."""
    for rank in two:
        check_same_run(rank["sharded"][source], one["full"], first_step=HALF)
