"""Checkpoints on disk: whole or refused, the previous one where a write was interrupted, and nothing unpickled."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest
import torch
from torch import nn

from lit_basereward.checkpoint import (
    WholeCheckpointIO,
    check_weights,
    is_sharded,
    newest_whole,
    put_in_place,
    read_checkpoint,
    read_index,
)


def sharded(folder):
    """What one process writes, as a strategy does."""
    from torch.distributed.checkpoint import save

    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    network.scale = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    save({"state_dict": network.state_dict(), "optimizer_0": {"lr": 0.5}}, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 7, "hyper_parameters": {"a": [1]}}, folder / "meta.pt")
    return network.state_dict()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_are_read_whole(tmp_path):
    """Weights to the bit, in their types; all else beside them; without weights, shapes alone."""
    weights = sharded(tmp_path / "a.ckpt")
    assert is_sharded(tmp_path / "a.ckpt") and not is_sharded(tmp_path)
    found = read_checkpoint(tmp_path / "a.ckpt")
    assert found.keys() == {"state_dict", "global_step", "hyper_parameters"} and found["global_step"] == 7
    assert found["state_dict"].keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(found["state_dict"][name], value) and found["state_dict"][name].dtype == value.dtype
    shapes = read_checkpoint(tmp_path / "a.ckpt", weights=False)["state_dict"]
    assert shapes["weight"].is_meta and shapes["weight"].shape == (2, 3)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("broken", ["index", "meta", "shard", "cut index", "cut meta", "cut shard"])
def test_parts_of_shards_are_refused(tmp_path, broken):
    """Any file of the folder missing, or cut to half its bytes."""
    folder = tmp_path / "a.ckpt"
    sharded(folder)
    file = folder / {"index": ".metadata", "meta": "meta.pt", "shard": "__0_0.distcp"}[broken.split()[-1]]
    if broken.startswith("cut"):
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    assert is_sharded(folder)
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        read_checkpoint(folder)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_no_code_of_a_checkpoint_runs(tmp_path):
    """In the index, which torch would unpickle, in meta.pt, and in a value beside the tensors of a shard."""
    from torch.distributed.checkpoint import save

    from lit_basereward.checkpoint import load_shards

    folder, ran = tmp_path / "a.ckpt", str(tmp_path / "ran")
    sharded(folder)
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(ran)))
    with pytest.raises(ValueError, match=r"names posix\.mkdir, which is no part of the format"):
        read_index(folder)
    (folder / "__0.metadata").write_bytes(pickle.dumps(Evil(ran)))  # where PyTorch would look next
    with pytest.raises(ValueError, match=r"names posix\.mkdir"):
        load_shards({"lr": 0.1}, folder, alone=True)
    shutil.rmtree(folder)
    sharded(folder)
    torch.save({"global_step": Evil(ran)}, folder / "meta.pt")
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        read_checkpoint(folder)
    shutil.rmtree(folder)
    save({"lr": Evil(ran)}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(ValueError, match="cannot be read: Weights only load failed"):
        load_shards({"lr": 0.1}, folder, alone=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("elsewhere", ["../b.ckpt/__0_0.distcp", "/{}/b.ckpt/__0_0.distcp", "./../b.ckpt/__0_0.distcp"])
def test_shards_lie_in_their_folder(tmp_path, elsewhere):
    """An index whose paths lead out of it is refused, though a whole shard is there."""
    folder = tmp_path / "a.ckpt"
    sharded(folder)
    sharded(tmp_path / "b.ckpt")
    index = read_index(folder)
    for place in index.storage_data.values():
        place.relative_path = elsewhere.format(str(tmp_path).strip("/"))
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match="which is no file of the folder"):
        read_checkpoint(folder)


def test_weights_that_are_no_numbers_are_named():
    """NaN, and both infinities; all that is finite passes, as do empty tensors and those without content."""
    module = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("a", "b", "c")})
    module["d"] = nn.Embedding(0, 2)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    weights["c.bias"] = torch.full((2,), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)
    check_weights(module, weights)
    check_weights(module, {name: value.to("meta") for name, value in weights.items()})
    for name, wrong in (("a.weight", "nan"), ("b.bias", "inf"), ("c.weight", "-inf")):
        weights[name].view(-1)[-1] = float(wrong)
        with pytest.raises(ValueError, match=name):
            check_weights(module, weights)
    with pytest.raises(ValueError, match=r"in 3 of its 7 parameters: a\.weight, b\.bias, c\.weight; its run diverged"):
        check_weights(module, weights)


def test_a_write_that_fails_leaves_the_previous(tmp_path):
    """The new checkpoint cannot be written to its end: the old one is there, whole."""

    class Full:
        def __reduce__(self):
            raise OSError("no space left on device")

    storage, path = WholeCheckpointIO(), tmp_path / "sub" / "last.ckpt"
    storage.save_checkpoint({"state_dict": {"a": torch.ones(2)}}, path)
    with pytest.raises(OSError, match="no space"):
        storage.save_checkpoint({"state_dict": {"a": torch.zeros(2)}, "b": Full()}, path)
    assert torch.equal(storage.load_checkpoint(path)["state_dict"]["a"], torch.ones(2))
    assert newest_whole([tmp_path / "sub"]) == (path, [])  # what is left beside it does not count
    storage.save_checkpoint({"state_dict": {"a": torch.zeros(2)}}, path)
    assert torch.equal(storage.load_checkpoint(path)["state_dict"]["a"], torch.zeros(2))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_folders_and_files_take_each_others_place(tmp_path):
    """A run that changes its strategy writes under the same names."""
    path, new = tmp_path / "last.ckpt", tmp_path / "last.ckpt.tmp"
    WholeCheckpointIO().save_checkpoint({"state_dict": {}}, path)
    sharded(new)
    put_in_place(new, path)
    assert read_checkpoint(path)["global_step"] == 7
    sharded(new)
    put_in_place(new, path)
    WholeCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 9}, path)
    assert read_checkpoint(path)["global_step"] == 9 and [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_newest_whole_one(tmp_path):
    """By age: of best (oldest), last and a sharded one, the newest; with that cut off, the one before it."""
    WholeCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "best.ckpt")
    sharded(tmp_path / "step.ckpt")
    WholeCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "last.ckpt")
    for age, name in enumerate(("last.ckpt", "step.ckpt", "best.ckpt")):
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert newest_whole([tmp_path]) == (tmp_path / "last.ckpt", [])
    os.truncate(tmp_path / "last.ckpt", 100)
    os.utime(tmp_path / "last.ckpt", (1e9, 1e9))
    assert newest_whole([tmp_path]) == (tmp_path / "step.ckpt", [tmp_path / "last.ckpt"])
    (tmp_path / "step.ckpt" / ".metadata").unlink()
    os.utime(tmp_path / "step.ckpt", (1e9 - 1, 1e9 - 1))
    assert newest_whole([tmp_path])[0] == tmp_path / "best.ckpt"
    assert newest_whole([tmp_path / "nothing"]) == (None, [])
