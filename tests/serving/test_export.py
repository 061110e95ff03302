"""Exports: the same rewards, whole or refused, and what others can load of them."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lit_basereward
from lit_basereward.__main__ import main
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.metrics.calibration import Calibration
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import MLPHead, RewardHead
from lit_basereward.nn.lora import LoRA, Quantize
from lit_basereward.serving.export import export
from lit_basereward.serving.folder import HEAD, MANIFEST, RECIPE, write_manifest
from lit_basereward.testing import ListSource, preferences

CONFIGS = Path(__file__).parents[2] / "configs"
CALIBRATION = Calibration(temperature=2.0, offset=0.5, rule="median", comparisons=30, responses=40, source="held-out")


class CubeHead(RewardHead):
    """A user's head."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.proj = torch.nn.Linear(hidden_size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.proj(states).squeeze(-1) ** 3


def checkpoint(folder: str, path: Path, head=MLPHead, **backbone) -> Path:
    """Of a model that has taken one large step, with a calibration."""
    torch.manual_seed(0)
    module = NaiveRM(
        Backbone(folder, max_length=2048, **backbone),
        head=head,
        optimizer=partial(torch.optim.AdamW, lr=2e-2, weight_decay=0.0),
    )
    images = "vl" in folder or "llava" in folder
    data = PreferenceDataModule(train=ListSource(preferences(images=images, responses=(2, 3, 2))), global_batch_size=5)
    trainer = pl.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=path.parent,
    )  # fmt: skip
    trainer.fit(module, data)
    module.calibration = CALIBRATION
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def adapted(backbone_folder, tmp_path_factory) -> Path:
    """A Qwen2.5-VL with adapters and a head of two layers; the projector trained too."""
    path = tmp_path_factory.mktemp("adapted") / "model.ckpt"
    return checkpoint(backbone_folder("qwen2_5_vl"), path, lora=LoRA(rank=4))


@pytest.fixture(scope="module")
def exported(adapted, tmp_path_factory) -> Path:
    return export(str(adapted), str(tmp_path_factory.mktemp("exported") / "model"))


@pytest.fixture(scope="module")
def text_only(backbone_folder, tmp_path_factory) -> Path:
    """A Qwen2, trained in full, with a linear head."""
    path = tmp_path_factory.mktemp("text_only") / "model.ckpt"
    return checkpoint(backbone_folder("qwen2"), path, partial(MLPHead, num_layers=1))


@pytest.fixture()
def copied(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def rewards(path, images: bool = True, **options) -> torch.Tensor:
    return torch.cat(lit_basereward.load(path, "cpu", **options).score_rows(preferences(3, images)))


def test_merged_export_gives_the_same_rewards(adapted, exported, monkeypatch):
    """To 1e-5, with the calibration, in plain layers; from a relative path too. Nothing is left beside it."""
    torch.testing.assert_close(rewards(exported), rewards(adapted), rtol=0, atol=1e-5)
    monkeypatch.chdir(exported.parent)
    scorer = lit_basereward.load("model", "cpu")
    assert scorer.calibration == CALIBRATION
    assert not any("lora" in name for name in scorer.module.state_dict())
    assert os.listdir(exported.parent) == ["model"]
    tensors = load_file(exported / "model.safetensors")
    assert not any("lora" in name or "score" in name for name in tensors)
    assert set(load_file(exported / HEAD)) == {f"head.layers.{n}" for n in ("0.weight", "0.bias", "2.weight")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantize", [None, pytest.param(Quantize(), marks=pytest.mark.slow)])
@pytest.mark.parametrize("share", [0.0, 0.8])
def test_a_wrong_merge_is_not_kept(backbone_folder, tmp_path, monkeypatch, dtype, quantize, share):
    """Adapters lost, or merged at 0.8 of their scale.

    Merged rewards are held against those of the adapters beside float32 weights, also where training stored the weights
    in bfloat16, in 4 bits, or in both.
    """
    path = checkpoint(
        backbone_folder("qwen2"), tmp_path / "model.ckpt", lora=LoRA(rank=4, alpha=64.0), quantize=quantize
    )
    stored = torch.load(path, weights_only=True)
    stored["hyper_parameters"]["backbone"]["init_args"]["dtype"] = dtype
    torch.save(stored, path)
    if share:
        export(str(path), str(tmp_path / "right"))
    from peft.tuners import lora

    for cls in (lora.Linear, lora.bnb.Linear4bit):
        right = cls.get_delta_weight
        monkeypatch.setattr(cls, "get_delta_weight", lambda self, name, right=right: share * right(self, name))
    with pytest.raises(ValueError, match="does not give its rewards back"):
        export(str(path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_adapters_without_what_tells_their_backbone_are_refused(adapted, tmp_path):
    stored = torch.load(adapted, weights_only=True)
    del stored["base"]
    torch.save(stored, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="what tells their backbone"):
        lit_basereward.load(tmp_path / "model.ckpt", "cpu")


def test_bfloat16_halves_the_size_and_keeps_the_head(adapted, exported, tmp_path):
    """Rewards move in the second digit; the head is stored as it was."""
    half = export(str(adapted), str(tmp_path / "half"), dtype="bfloat16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, exported)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.02)
    difference = (rewards(half) - rewards(adapted)).abs().max()
    assert 1e-5 < difference < 0.1 * rewards(adapted).abs().max()
    for name, value in load_file(exported / HEAD).items():
        assert torch.equal(value, load_file(half / HEAD)[name])


def test_the_card_says_where_it_comes_from(adapted, backbone_folder, tmp_path):
    """Licence of the backbone's own card, data, figures of `test`, calibration, and what can load it."""
    source = Path(shutil.copytree(backbone_folder("qwen2_5_vl"), tmp_path / "Tiny-VL"))
    (source / "README.md").write_text("---\nlicense: other\nlicense_name: tiny-1.0\n---\n\n# Tiny\n")
    (source / "LICENSE").write_text("Do as you like.\n")
    table = {"digits": {"rows": 720, "accuracy": 0.993, "low": 0.987, "high": 0.996, "accuracy_blank_image": 0.5}}
    (tmp_path / "results.json").write_text(json.dumps(table))
    folder = export(str(adapted), str(tmp_path / "out"), backbone=str(source), results=str(tmp_path / "results.json"))
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license_name"] == "tiny-1.0" and (folder / "LICENSE").is_file()
    for words in (
        "# Reward model on Tiny-VL",
        "- train: list, 3 rows, 5 comparisons",
        "| digits | 720 | 0.993 | 0.987 to 0.996 |",
        "temperature 2 (30 comparisons of held-out), offset 0.5 (rule median, 40 responses)",
        "The head is not linear",
    ):
        assert words in text
    assert str(tmp_path) not in text
    with pytest.raises(ValueError, match=r"is no results\.json"):
        export(str(adapted), str(tmp_path / "other"), results=str(source / "config.json"))


def test_a_linear_text_head_is_a_class_of_transformers(text_only, tmp_path):
    """AutoModelForSequenceClassification gives our rewards at the end-of-turn token, to 1e-5, padding included."""
    from transformers import AutoModelForSequenceClassification

    folder = export(str(text_only), str(tmp_path / "out"))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen2ForSequenceClassification"]
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    scorer, row = lit_basereward.load(folder, "cpu"), preferences(3, images=False)[1]
    chat = scorer.collator.chat
    ids = [chat.prompt(row.prompt) + chat.text(text) + chat.around_response(row.prompt)[1] for text in row.responses]
    longest, pad = max(map(len, ids)), model.config.pad_token_id
    inputs = torch.tensor([[*each, *[pad] * (longest - len(each))] for each in ids])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    with torch.no_grad():
        logits = model(input_ids=inputs, attention_mask=mask).logits[:, 0]
    torch.testing.assert_close(logits, scorer.score_rows([row])[0], rtol=0, atol=1e-5)


def test_a_sharded_checkpoint_is_exported_like_a_file(text_only, tmp_path):
    """The same weights as a folder of PyTorch's distributed format, which FSDP2 writes: the same files come out."""
    from torch.distributed.checkpoint import FileSystemWriter, save

    rest = torch.load(text_only, weights_only=True)
    save({"state_dict": rest.pop("state_dict")}, storage_writer=FileSystemWriter(tmp_path / "sharded"), no_dist=True)
    torch.save(rest, tmp_path / "sharded" / "meta.pt")
    folders = [export(str(path), str(tmp_path / f"of_{path.name}")) for path in (text_only, tmp_path / "sharded")]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


@pytest.mark.slow
def test_adapters_alone_in_pefts_format(adapted, text_only, backbone_folder, tmp_path):
    """`load` gives the very rewards; PEFT itself, on the plain base model, the very states. No backbone is inside."""
    from peft import PeftModel
    from transformers import AutoModel

    folder = export(str(adapted), str(tmp_path / "adapter"), adapter_only=True)
    assert not (folder / "model.safetensors").exists()
    assert torch.equal(rewards(folder), rewards(adapted))
    others = load_file(folder / HEAD)
    assert {name.partition(".")[0] for name in others} == {"head", "base"}
    assert all(".merger." in name for name in others if name.startswith("base."))

    base = AutoModel.from_pretrained(backbone_folder("qwen2_5_vl"), dtype=torch.float32)
    base.load_state_dict({n.removeprefix("base."): v for n, v in others.items() if "base." in n}, strict=False)
    theirs = PeftModel.from_pretrained(base, folder).eval()
    ours = lit_basereward.load(adapted, "cpu").module.model.base.eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        states = [model(input_ids=ids, use_cache=False).last_hidden_state for model in (theirs, ours)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-5)

    with pytest.raises(ValueError, match="adapter_only needs a model with backbone"):
        export(str(text_only), str(tmp_path / "none"), adapter_only=True)
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".none*"))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_is_not_as_written_is_refused(copied):
    """Each of: a changed bit, a cut file, a missing and a strange one, a changed recipe, no manifest."""
    weights, strange = copied / "model.safetensors", copied / "adapter_config.json"
    whole = weights.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            lit_basereward.load(copied, "cpu")

    _flip(weights)
    refused("model.safetensors was changed")
    weights.write_bytes(whole[:-100])
    refused(f"model.safetensors has {len(whole) - 100} bytes, not {len(whole)}")
    weights.unlink()
    refused("model.safetensors is missing")
    weights.write_bytes(whole)
    strange.write_text("{}")  # transformers would read it by itself
    refused("adapter_config.json is not of the export")
    strange.unlink()
    (copied / ".gitattributes").write_text("")
    lit_basereward.load(copied, "cpu")
    (copied / RECIPE).write_text((copied / RECIPE).read_text().replace("NaiveRM", "NaiveRN"))
    refused(f"{RECIPE} was changed")
    manifest = json.loads((copied / MANIFEST).read_text())
    for files in ({}, {"files": ["model.safetensors"]}):
        (copied / MANIFEST).write_text(json.dumps({"format": manifest["format"], **files}))
        refused("without its files")
    (copied / MANIFEST).unlink()
    refused("is no whole export")


def test_an_export_without_its_head_is_an_error(copied):
    """Also where the manifest has been written anew: never a fresh head."""
    (copied / HEAD).unlink()
    write_manifest(copied)
    with pytest.raises(ValueError, match="has no reward head"):
        lit_basereward.load(copied, "cpu")


def test_nothing_is_overwritten_and_nothing_half_written_stays(adapted, copied, tmp_path, monkeypatch):
    """An existing folder is refused; an export that breaks, or whose rewards are off, leaves nothing."""
    with pytest.raises(ValueError, match="is there already"):
        export(str(adapted), str(copied))
    import lit_basereward.serving.export as tool

    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(str(adapted), str(tmp_path / "out"))
    monkeypatch.undo()
    write = tool._write_model

    def wrong(module, *arguments):
        next(module.model.base.parameters()).data += 0.1
        return write(module, *arguments)

    monkeypatch.setattr(tool, "_write_model", wrong)
    with pytest.raises(ValueError, match="does not give its rewards back"):
        export(str(adapted), str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_classes_of_others_need_to_be_allowed(backbone_folder, tmp_path):
    """For exporting and for loading; nothing of theirs is imported before."""
    path = checkpoint(backbone_folder("qwen2"), tmp_path / "m.ckpt", CubeHead)
    with pytest.raises(ValueError, match=r"names the class .*CubeHead; to run it"):
        export(str(path), str(tmp_path / "out"))
    allow = [CubeHead.__module__]
    folder = export(str(path), str(tmp_path / "out"), allow=allow)
    with pytest.raises(ValueError, match=r"names the class .*CubeHead; to run it"):
        lit_basereward.load(folder, "cpu")
    torch.testing.assert_close(
        rewards(folder, False, allow=allow), rewards(path, False, allow=allow), rtol=0, atol=1e-5
    )
    assert f'load(".", allow={allow})' in (folder / "README.md").read_text()


def test_training_starts_from_an_export(adapted, exported, backbone_folder):
    """With the same rewards, in full or beneath new adapters; not from adapters alone."""
    folder, rows = backbone_folder("qwen2_5_vl"), preferences(3)
    for lora in (None, LoRA(rank=4)):
        module = NaiveRM(Backbone(folder, max_length=2048, lora=lora), init_from=str(exported))
        module.configure_model()
        with torch.no_grad():
            found = module.eval().score(module.collator(False)(list(enumerate(rows))))
        torch.testing.assert_close(found, rewards(adapted), rtol=0, atol=1e-5)
        assert not module.partial  # its frozen weights are not those of the backbone's folder
    with pytest.raises(ValueError, match="holds adapters without their backbone; merge them"):
        NaiveRM(Backbone(folder, max_length=2048), init_from=str(adapted)).configure_model()


@pytest.mark.slow
def test_qlora_from_the_command_line(backbone_folder, tmp_path, monkeypatch):
    """`fit` with the overlay, in float32, then `export`: a linear head on a 4-bit Qwen2.5-VL, written out in full."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "is it red", "responses": [f"yes {n}", "no"], "ratings": [1, 0]} for n in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "model": {
            "class_path": "lit_basereward.NaiveRM",
            "init_args": {
                "backbone": {"name_or_path": backbone_folder("qwen2_5_vl"), "max_length": 2048},
                "head": {"class_path": "lit_basereward.nn.heads.MLPHead", "init_args": {"num_layers": 1}},
            },
        },
        "data": {"train": "train.jsonl", "global_batch_size": 2},
        "trainer": {
            "max_steps": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
            "enable_model_summary": False, "default_root_dir": str(tmp_path / "run"),
        },
    }  # fmt: skip
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    overlay = str(CONFIGS / "overlays" / "qlora.yaml")
    in_float32 = ["--model.backbone.dtype", "float32", "--trainer.precision", "32-true"]
    main(["fit", "--config", "model.yaml", "--config", overlay, *in_float32])
    (path,) = tmp_path.rglob("*.ckpt")
    main(["export", "--ckpt_path", str(path), "--output", "out"])
    torch.testing.assert_close(rewards("out"), rewards(path), rtol=0, atol=1e-5)
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert stored["architectures"] == ["Qwen2_5_VLForSequenceClassification"] and len(stored["id2label"]) == 1
    assert "quantization_config" not in stored
    tensors = load_file("out/model.safetensors")
    assert tensors["score.weight"].shape == (1, 64) and {value.dtype for value in tensors.values()} == {torch.float32}
    with pytest.raises(SystemExit) as stop:
        main(["export", "--ckpt_path", str(path), "--output", "out"])
    assert stop.value.code == 1


def test_an_export_holds_what_it_says(copied):
    """Manifest written anew each time: unknown kinds, no settings, a head that holds other weights, or no floats."""
    recipe, head = json.loads((copied / RECIPE).read_text()), load_file(copied / HEAD)

    def refused(message: str, weights=head, **changes) -> None:
        stored = {key: value for key, value in (recipe | changes).items() if value is not None}
        (copied / RECIPE).write_text(json.dumps(stored))
        save_file(weights, copied / HEAD)
        write_manifest(copied)
        with pytest.raises(ValueError, match=message) as error:
            lit_basereward.load(copied, "cpu")
        assert "\n" not in str(error.value)

    refused("is of kind 'zzz', not model and adapter", kind="zzz")
    refused("is of kind None", kind=None)
    refused("does not say of which class", hyper_parameters=None)
    refused("its hyper_parameters is no table", hyper_parameters=[1])
    smuggled = head | {"base.language_model.norm.weight": torch.zeros(64)}
    refused(r"holds base\.language_model\.norm\.weight, which is not of the head", smuggled)
    refused(r"layers\.0\.weight as I64", head | {"head.layers.0.weight": head["head.layers.0.weight"].long()})


def test_adapters_have_one_type(adapted, tmp_path):
    with pytest.raises(ValueError, match="adapters are written in float32"):
        export(str(adapted), str(tmp_path / "out"), dtype="bfloat16", adapter_only=True)
