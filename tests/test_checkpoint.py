"""Checkpoints on disk: whole or refused, the previous one where a write was interrupted, and nothing unpickled."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

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


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_index_changes_nothing_but_itself(tmp_path):
    """Pickle's BUILD on a class would set its attributes: of PosixPath, which the format names, ``name``.

    Then each path has the name that the index gives, so a shard that lies elsewhere would pass for one of the folder.
    """
    folder = tmp_path / "a.ckpt"
    sharded(folder)
    shutil.move(folder / "__0_0.distcp", tmp_path / "x")
    index = pickle.loads((folder / ".metadata").read_bytes())
    for place in index.storage_data.values():
        place.relative_path = "../x"
    text = lambda word: b"\x8c" + bytes([len(word)]) + word.encode()  # noqa: E731 - SHORT_BINUNICODE
    named = text("pathlib") + text("PosixPath") + b"\x93"
    change = named + b"N}" + text("name") + text("../x") + b"s\x86b0"  # (None, {"name": "../x"}), BUILD, POP
    for state in (change, change.replace(b"N}", b"}").replace(b"s\x86b", b"sb")):  # and as a plain dict
        (folder / ".metadata").write_bytes(b"\x80\x04" + state + pickle.dumps(index, protocol=2)[2:])
        before = vars(type(Path())).get("name"), Path("a/b").name
        with pytest.raises(ValueError, match=r"would change <class 'pathlib\.PosixPath'>, which is no record"):
            read_checkpoint(folder)
        assert (vars(type(Path())).get("name"), Path("a/b").name) == before


def _bytes_entry(index):
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    index.state_dict_metadata["state_dict.weight"] = BytesStorageMetadata()


def _huge(index):
    index.state_dict_metadata["state_dict.weight"].size = torch.Size([10**13])


def _uncovered(index):  # 2 x 2 of the 2 x 3 values would be left as memory happens to be
    index.state_dict_metadata["state_dict.weight"].chunks[0].sizes = torch.Size([2, 2])


def _no_text(index):
    next(iter(index.storage_data.values())).relative_path = Path("__0_0.distcp")


def _before(index):
    next(iter(index.storage_data.values())).offset = -100


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_bytes_entry, "its weight weight is no tensor"),
        (_huge, r"has the shape \[10000000000000\], and \d+ bytes stored"),
        (_uncovered, r"has the shape \[2, 3\]"),
        (_no_text, "which is no file of the folder"),
        (_before, "it names the bytes from -100 on"),
    ],
)
def test_an_index_that_does_not_fit_its_shards(tmp_path, change, told):
    folder = tmp_path / "a.ckpt"
    sharded(folder)
    index = read_index(folder)
    change(index)
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match=told):
        read_checkpoint(folder)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1], "it holds a list"),
        ({"hyper_parameters": None}, "its hyper_parameters is no table by name: None"),
        ({"state_dict": [1, 2]}, "its state_dict is no table by name"),
        ({"state_dict": {"head": "x"}}, "its weight head is a str"),
        ({"base": ["x"]}, "its base is no table by name"),
        ({"hyper_parameters": {1: 2}}, "its hyper_parameters is no table by name"),
    ],
)
def test_another_form_is_one_line(tmp_path, content, told):
    """As a file, and beside shards."""
    torch.save(content, tmp_path / "a.ckpt")
    sharded(tmp_path / "b.ckpt")
    torch.save(content, tmp_path / "b.ckpt" / "meta.pt")
    for path in ("a.ckpt", "b.ckpt"):
        with pytest.raises(ValueError, match=told) as refused:
            read_checkpoint(tmp_path / path)
        assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_damage_inside_is_named(tmp_path):
    """Zeros in the place of some weights: of a file, passed over by `newest_whole`; and of a shard."""
    path = tmp_path / "b.ckpt"
    for name in ("a.ckpt", "b.ckpt"):
        torch.save({"state_dict": {"a": torch.full((4096,), 7.0)}}, tmp_path / name)
    os.utime(tmp_path / "a.ckpt", (1e9, 1e9))

    def damage(file):
        value, content = torch.tensor([7.0]).numpy().tobytes(), file.read_bytes()
        start = content.index(value * 4)
        file.write_bytes(content[:start] + bytes(16) + content[start + 16 :])

    damage(path)
    assert torch.load(path, mmap=True, weights_only=True)["state_dict"]["a"][0] == 0  # PyTorch does not look
    with pytest.raises(ValueError, match=r"its entry b/data/0 is damaged"):
        read_checkpoint(path)
    assert newest_whole([tmp_path]) == (tmp_path / "a.ckpt", [path])
    from torch.distributed.checkpoint import save

    save({"state_dict": {"a": torch.full((4096,), 7.0)}}, checkpoint_id=tmp_path / "c", no_dist=True)
    torch.save({}, tmp_path / "c" / "meta.pt")
    assert read_checkpoint(tmp_path / "c")["state_dict"]["a"].eq(7).all()
    damage(tmp_path / "c" / "__0_0.distcp")
    with pytest.raises(ValueError, match=r"cannot be read: its entry archive/data/0 is damaged"):
        read_checkpoint(tmp_path / "c")


def test_whole_numbers_are_no_weights():
    module = nn.Linear(2, 2)
    weights = {name: value.long() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"bias is torch\.int64 there, torch\.float32 here"):
        check_weights(module, weights)
    check_weights(module, {name: value.bfloat16() for name, value in module.state_dict().items()})
