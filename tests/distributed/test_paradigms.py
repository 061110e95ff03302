"""Critics and judges on two processes: the steps of one, and texts of unequal length written side by side."""

from __future__ import annotations

import paradigm_runs
import pytest
import rank_runs
from test_two_processes import differing

from lit_basereward.testing import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return str(tmp_path_factory.mktemp("paradigms"))


@pytest.fixture(scope="module")
def one(backbone_folder, place):
    """The reference: one process, one micro-batch a step."""
    return paradigm_runs.runs(backbone_folder("qwen2_5_vl"), place, "one")


@pytest.fixture(scope="module")
def two(backbone_folder, place):
    return run_ranks(paradigm_runs.two_ranks, backbone_folder("qwen2_5_vl"), place)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("paradigm", ["critic", "judge"])
def test_two_ranks_equal_one(one, two, strategy, paradigm):
    """Gradients of each step, the language head's among them, and the loss; a critic's second device has no critique
    in any step."""
    for rank, result in enumerate(two):
        run, reference = result[strategy][paradigm], one[paradigm]
        assert run["taught"] == [paradigm == "judge" or rank == 0] * rank_runs.STEPS
        for found, expected in zip(run["gradients"], reference["gradients"], strict=True):
            assert expected["model.lm_head.weight"].norm() > 0
            assert differing(found, expected) == []
        for name in ("val/list/margin", "train/loss", "train/grad_norm"):
            assert run["logged"][name] == pytest.approx(reference["logged"][name], rel=1e-4), name


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_critiques_are_written_side_by_side(one, two, strategy):
    """In validation before training, of 2, 3 and 2 responses dealt out over two devices, the last beside a filler: the
    texts of one process, which are of unequal lengths."""
    expected = one["critic"]["evidence"]
    lengths = {len(text) for row in expected.values() for texts in row["critiques"] for text in texts}
    assert len(lengths) > 1 and expected.keys() == {0, 1, 2}
    ranks = [result[strategy]["critic"]["evidence"] for result in two]
    assert not ranks[0].keys() & ranks[1].keys()
    assert ranks[0] | ranks[1] == expected


def test_votes_are_cast_equally_often_on_sharded_weights(two):
    """3 votes in either order of 1, 3 and 1 pairs. With none of them decided early no device waits for another."""
    found = two[0]["votes"] | two[1]["votes"]
    assert [len(found[n]["votes"]) for n in range(3)] == [2, 6, 2]
    assert all(sum(counts) == 3 for row in found.values() for _, _, *counts in row["votes"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_rank_without_critiques_has_to_reach_the_language_head(backbone_folder, strategy):
    """The negative control: where it does not, its collectives are not those of the other rank, or gradients differ."""
    folder = backbone_folder("qwen2_5_vl")
    whole = run_ranks(paradigm_runs.by_hand, folder, strategy, False, timeout=100)
    assert differing(whole[1], whole[0]) == []
    try:
        broken = run_ranks(paradigm_runs.by_hand, folder, strategy, True, timeout=100)
    except RuntimeError as raised:
        assert "did not end in time" not in str(raised)
        return
    assert "model.lm_head.weight" in differing(broken[1], whole[0])
