"""The doctor on single parts: what trains, what is reached, what a head computes in, and where weights are from."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from test_doctor import UNTRAINED, Folder, built, failed, subject, write_checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

import lit_basereward
from lit_basereward.cli import main
from lit_basereward.doctor.gradients import float32, gradients
from lit_basereward.doctor.saving import saving
from lit_basereward.doctor.subject import Subject, made_up_rows
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.heads import MLPHead, RewardHead
from lit_basereward.nn.lora import LoRA
from lit_basereward.serving.export import export

TRAINS = "what trains is what the config says"
HEAD = "the head is float32 under autocast"


@pytest.fixture(scope="module")
def healthy(backbone_folder: Folder) -> Subject:
    return subject(backbone_folder("qwen2"))


@pytest.fixture
def broken(healthy: Subject) -> Subject:
    return copy.deepcopy(healthy)


# ----------------------------------------------------------------------------------------------------- gradients
@pytest.mark.parametrize("name", ["base.layers.1.self_attn.q_proj.weight", "head.layers.0.weight"])
def test_a_part_that_is_frozen_by_mistake_is_caught(broken: Subject, name: str) -> None:
    """It has no gradient, as what is frozen has none; that it should have one is known from the config."""
    broken.model.get_parameter(name).requires_grad_(False)
    (wrong,) = (check for check in gradients(broken) if check.status == "FAIL")
    assert wrong.name == TRAINS and wrong.value == 1 and wrong.note == f"frozen, against the config: {name}"


def test_a_part_that_trains_by_mistake_is_caught(backbone_folder: Folder) -> None:
    broken = subject(backbone_folder("qwen2"), freeze=["language"])
    broken.model.base.norm.weight.requires_grad_(True)
    (wrong,) = (check for check in gradients(broken) if check.status == "FAIL")
    assert wrong.name == TRAINS and wrong.note == "trains, against the config: base.norm.weight"


def test_one_tensor_that_is_not_reached_is_caught(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weight counts by its values alone, while every other tensor of its layer is reached."""
    layer = broken.model.base.layers[0].self_attn.q_proj
    monkeypatch.setattr(layer, "forward", lambda x: F.linear(x, layer.weight.detach(), layer.bias))
    (wrong,) = (check for check in gradients(broken) if check.status == "FAIL")
    assert wrong.name == "language: tensors without a gradient"
    assert wrong.note.endswith("; not reached: model.base.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava", "internvl", "idefics3"])
def test_a_healthy_tower_is_reached(backbone_folder: Folder, family: str) -> None:
    """But for blocks behind the one that is read, of LLaVA's tower, which is no failure."""
    checks = list(gradients(subject(backbone_folder(family))))
    assert failed(checks) == []
    (tower,) = (check for check in checks if check.name.startswith("vision"))
    assert ("behind the last block" in tower.note) == (family == "llava")


def test_a_block_inside_the_tower_that_is_not_reached_is_caught(backbone_folder: Folder) -> None:
    """One before the last block that is read; the embeddings before it go with it."""
    broken = subject(backbone_folder("llava"))
    blocks = broken.model.base.vision_tower.encoder.layers
    blocks[0].register_forward_hook(lambda module, inputs, output: output.detach())
    assert failed(gradients(broken)) == ["vision: tensors without a gradient"]


def test_adapters_as_they_begin_are_well(backbone_folder: Folder) -> None:
    """B is zero, so A, which it multiplies, has a gradient of zero; an adapter that is cut off has none, and B too."""
    pytest.importorskip("peft")
    patient = subject(backbone_folder("qwen2"), lora=LoRA(rank=4))
    assert failed(gradients(patient)) == []
    layer = patient.model.base.layers[0].self_attn.q_proj
    layer.lora_B["default"].register_forward_hook(lambda module, inputs, output: output.detach())
    assert failed(gradients(patient)) == ["language: tensors without a gradient"]


class Shifted(MLPHead):
    """A bias that Bradley-Terry cannot see: it moves all rewards."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states) + self.bias


def test_a_bias_of_all_rewards_may_have_no_gradient(broken: Subject) -> None:
    """The loss is of differences, where it cancels out: its gradient is a sum of s - s."""
    broken.model.head = Shifted(broken.model.head.hidden_size)
    assert failed(gradients(broken)) == []


# --------------------------------------------------------------------------------------------------------- heads
class Low(MLPHead):
    """Its hidden layer is computed in bfloat16, its rewards are float32, with autocast or without."""

    def forward(self, states: Tensor) -> Tensor:
        first, activation, last = self.layers
        hidden = F.linear(states.bfloat16(), first.weight.bfloat16(), first.bias.bfloat16())
        return last(activation(hidden).float()).sum(-1)


class Casting(MLPHead):
    """Asks for float32 where it is float32 already, and makes a tensor of it: nothing is wrong with that."""

    def forward(self, states: Tensor) -> Tensor:
        return self.layers(states.float()).sum(-1) + torch.zeros(len(states), dtype=torch.float32)


class Committee(RewardHead):
    """Heads in a head."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.members = nn.ModuleList(MLPHead(hidden_size) for _ in range(2))

    def forward(self, states: Tensor) -> Tensor:
        return torch.stack([member(states) for member in self.members]).mean(0)


@pytest.mark.parametrize(("head", "status"), [(MLPHead, "pass"), (Low, "FAIL"), (Casting, "pass"), (Committee, "skip")])
def test_a_head_that_computes_in_bfloat16_is_caught(broken: Subject, head: type[RewardHead], status: str) -> None:
    """Of 8 bits each hidden number is off by up to 1/256, the rewards by about 1e-3; of float32 by 1e-6."""
    torch.manual_seed(0)
    broken.model.head = head(broken.model.head.hidden_size)
    (check,) = (check for check in float32(broken) if check.name == HEAD)
    assert check.status == status
    if status == "pass":
        assert 0 < check.value < 2e-6  # and is no comparison with itself


# ----------------------------------------------------------------------------------- configs, checkpoints, exports
def config_of(path: Path, backbone: dict, **trainer) -> str:
    path.write_text(
        yaml.safe_dump({"model": {"class_path": "NaiveRM", "init_args": {"backbone": backbone}}, "trainer": trainer})
    )
    return str(path)


def run_doctor(folder: Path, *arguments: str) -> dict:
    output = folder / "doctor.json"
    main(["doctor", *arguments, "--rows", "2", "--output", str(output)])
    return json.loads(output.read_text())


def test_a_config_with_adapters_takes_its_checkpoint(backbone_folder: Folder, tmp_path: Path) -> None:
    """Adapters' checkpoints leave the frozen weights out, of a network that is not built when the config is read."""
    pytest.importorskip("peft")
    folder = backbone_folder("qwen2")
    path = write_checkpoint(built(folder, lora=LoRA(rank=4)), tmp_path / "lora.ckpt")
    backbone = {"name_or_path": folder, "freeze": [], "max_length": 2048, "lora": {"rank": 4}}
    config = config_of(tmp_path / "lora.yaml", backbone)
    report = run_doctor(tmp_path, "--config", config, "--ckpt_path", path, "--checks", "false")
    (language,) = (each for each in report["costs"]["weights"] if each["part"] == "language")
    assert 0 < language["trainable"] < language["parameters"]


def test_an_export_beside_a_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """In one line; it has its own model, so either of the two would be ignored."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "lit_basereward.json").write_text("{}")
    config = config_of(tmp_path / "model.yaml", {"name_or_path": "anything/at-all"})
    with pytest.raises(SystemExit) as stop:
        run_doctor(tmp_path, "--config", config, "--ckpt_path", str(tmp_path / "export"))
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and "leave out --config, or give the checkpoint that it was made from" in line


def test_fsdp2_counts(backbone_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Checkpointed blocks of float32 keep their inputs alone, as with gradient_checkpointing; so they do in bfloat16,
    where a block that is computed again has half the bytes but for its norms. No copy of a weight stays."""
    backbone = {"name_or_path": backbone_folder("qwen2"), "freeze": [], "max_length": 2048}
    strategy = {"class_path": "lit_basereward.strategy.FSDP2Strategy"}
    plain = config_of(tmp_path / "plain.yaml", backbone)
    again = config_of(tmp_path / "again.yaml", backbone | {"gradient_checkpointing": True})
    wide = config_of(tmp_path / "wide.yaml", backbone, strategy=strategy | {"init_args": {"compute_dtype": "float32"}})
    fsdp = config_of(tmp_path / "fsdp.yaml", backbone, strategy=strategy, precision="32-true")
    found = {}
    for path in (plain, again, wide, fsdp):
        found[path] = run_doctor(tmp_path, "--config", path)["costs"]
        assert ("FSDP2 computes in bfloat16" in capsys.readouterr().out) == (path == fsdp)
    kept = {path: costs["activations"] for path, costs in found.items()}
    assert kept[wide] == kept[again] and kept[again]["kept"] < kept[plain]["kept"] / 2
    assert kept[fsdp]["kept"] == kept[wide]["kept"] and kept[fsdp]["recomputed"] < 0.75 * kept[wide]["recomputed"]
    assert kept[fsdp]["weight_copies"] == kept[fsdp]["cached_copies"] == 0
    assert (found[wide]["precision"], found[fsdp]["precision"]) == ("32-true", "bf16-mixed")


def test_a_head_made_anew_on_load_from_an_export_is_caught(
    backbone_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are as they were written, so their hashes say nothing of it."""
    path = write_checkpoint(built(backbone_folder("qwen2")), tmp_path / "model.ckpt")
    folder = export(path, str(tmp_path / "export"))
    rows = made_up_rows(2, False)

    def as_stored() -> str:
        check = next(iter(saving(Subject(lit_basereward.load(folder), rows, [], checkpoint=str(folder)))))
        assert check.name == UNTRAINED
        return f"{check.status} {check.note}"

    assert as_stored() == "pass 3 in the file"
    right = NaiveRM.load_state_dict

    def forgetful(self, weights, strict=True, **options):
        return right(self, {n: v for n, v in weights.items() if n != "model.head.layers.2.weight"}, strict=False)

    monkeypatch.setattr(NaiveRM, "load_state_dict", forgetful)
    assert as_stored() == "FAIL 3 in the file; not so: model.head.layers.2.weight"


@pytest.mark.parametrize("adapters", [False, True])
def test_an_export_is_said_to_be_frozen(
    backbone_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture, adapters: bool
) -> None:
    """Its checkpoint is not, nor are adapters that are exported alone."""
    if adapters:
        pytest.importorskip("peft")
    lora = LoRA(rank=4) if adapters else None
    path = write_checkpoint(built(backbone_folder("qwen2"), lora=lora), tmp_path / "model.ckpt")
    export(path, str(tmp_path / "export"), adapter_only=adapters)
    for given in (path, str(tmp_path / "export")):
        run_doctor(tmp_path, "--ckpt_path", given, "--checks", "false")
        said = "an export is read with its backbone frozen" in capsys.readouterr().out
        assert said == (given != path and not adapters)
