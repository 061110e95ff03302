"""The doctor: its arithmetic against real counts, and deliberately broken models, each caught by the check for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_basereward.cli import main
from lit_basereward.data.batch import Batch
from lit_basereward.data.images import open_image
from lit_basereward.demo.tiny import write_backbone_folder
from lit_basereward.doctor import flops
from lit_basereward.doctor.activations import SavedTensors, Sizes, estimate
from lit_basereward.doctor.check import Check, at_least, at_most, run_checks
from lit_basereward.doctor.gradients import float32, gradients, training_batch
from lit_basereward.doctor.invariance import invariance
from lit_basereward.doctor.memory import optimizer_bytes, stored
from lit_basereward.doctor.run import examine, planned
from lit_basereward.doctor.saving import saving
from lit_basereward.doctor.subject import Subject, made_up_rows
from lit_basereward.doctor.tokens import tokens
from lit_basereward.doctor.vision import _shuffled, images, positions
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.layout import Layout
from lit_basereward.nn.lora import LoRA, Quantize
from lit_basereward.scorer import Scorer
from lit_basereward.serving.export import lost

Folder = Callable[[str], str]


def built(folder: str, cls: type[NaiveRM] = NaiveRM, layout: str = "shared", **backbone) -> NaiveRM:
    torch.manual_seed(0)
    module = cls(Backbone(folder, **{"freeze": [], "max_length": 2048, **backbone}), layout=layout)
    module.configure_model()
    return module


def subject(folder: str, layout: str = "shared", **backbone) -> Subject:
    scorer = Scorer(built(folder, layout=layout, **backbone))
    rows = made_up_rows(4, scorer.collator.chat.image_token is not None)
    return Subject(scorer, rows, [row for row in rows if row.images])


@pytest.fixture
def broken(backbone_folder: Folder, made: dict[str, Subject]) -> Subject:
    """A healthy model with images, to be broken by the test: a copy, since it takes a while to make one."""
    if not made:
        made["healthy"] = subject(backbone_folder("qwen2_5_vl"))
    return copy.deepcopy(made["healthy"])


@pytest.fixture(scope="module")
def made() -> dict[str, Subject]:
    return {}


def failed(checks: Iterable[Check]) -> list[str]:
    """Names of failed checks; none may be skipped, so that nothing passes by not being tried."""
    checks = list(checks)
    assert checks and not [check for check in checks if check.status == "skip"]
    return [check.name for check in checks if check.status == "FAIL"]


def write_checkpoint(module: NaiveRM, path: Path) -> str:
    checkpoint: dict = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return str(path)


# ------------------------------------------------------------------------------------------------------- healthy
UNTRAINED = "weights as in the checkpoint (tensors that differ)"  # without a checkpoint there is nothing to compare


@pytest.mark.parametrize(
    ("family", "layout", "adapters", "skipped"),
    [
        ("qwen2_5_vl", "shared", False, set()),
        pytest.param("llava", "padded", False, {"shared layout = padded layout"}, marks=pytest.mark.slow),
        pytest.param("qwen2", "shared", True, {"rewards move with the images"}, marks=pytest.mark.slow),
    ],
)
def test_a_healthy_model_passes(
    backbone_folder: Folder, family: str, layout: str, adapters: bool, skipped: set[str]
) -> None:
    """Nothing fails, and what is skipped is what cannot be there. Adapters are not zero, as they begin."""
    if adapters:
        pytest.importorskip("peft")
    patient = subject(backbone_folder(family), layout=layout, lora=LoRA(rank=4) if adapters else None)
    for name, p in patient.module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.05)
    cost, checks = examine(patient)
    assert [check for check in checks if check.status == "FAIL"] == []
    assert {check.name for check in checks if check.status == "skip"} == {UNTRAINED, *skipped}
    assert (MERGED in {check.name for check in checks}) == adapters
    assert cost is not None and json.dumps(cost.to_dict(), allow_nan=False)


def with_adapters(folder: str, dtype: str) -> Subject:
    """Adapters that do something beside 4-bit weights."""
    patient = subject(folder, lora=LoRA(rank=4), quantize=Quantize(), dtype=dtype)
    for name, p in patient.module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.3)
    return patient


MERGED = "adapters merged and exported: same rewards"


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_merge_is_held_to_float32_rounding(backbone_folder: Folder, dtype: str) -> None:
    """1e-5, also where the model computes in bfloat16, whose own rounding is told apart."""
    (check,) = (check for check in saving(with_adapters(backbone_folder("qwen2"), dtype)) if check.name == MERGED)
    assert check.status == "pass" and check.bound == "<= 1e-05"
    assert ("from those in bfloat16" in check.note) == (dtype == "bfloat16")


# -------------------------------------------------------------------------------------------------------- broken
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_merge_at_a_wrong_scale_is_caught(
    backbone_folder: Folder, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """0.8 of the adapters: the export refuses, and where it would not, the doctor fails it."""
    from peft.tuners.lora import bnb

    from lit_basereward.serving import export

    right = bnb.Linear4bit.get_delta_weight
    monkeypatch.setattr(bnb.Linear4bit, "get_delta_weight", lambda self, adapter: 0.8 * right(self, adapter))
    patient = with_adapters(backbone_folder("qwen2"), dtype)
    with pytest.raises(ValueError, match="does not give its rewards back"):
        list(saving(patient))
    blind = iter([0.0, 0.0])  # of the export's own two comparisons
    monkeypatch.setattr(export, "lost", lambda one, two: next(blind, lost(one, two)))
    assert [check.name for check in saving(patient) if check.status == "FAIL"] == [MERGED]


def test_a_model_that_drops_the_image_is_caught(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels are zero while everything else is in place: no reward moves, whatever the image."""
    score = broken.module.score

    def blind(batch: Batch) -> Tensor:
        pixels = {key: 0 * value for key, value in batch.inputs.items() if key == "pixel_values"}
        return score(replace(batch, inputs=batch.inputs | pixels))

    monkeypatch.setattr(broken.module, "score", blind)
    assert failed(images(broken)) == [
        "every row's rewards move with another row's images",
        "every row's rewards move with blank images",
        "each of 4 images moves its own row's rewards",
    ]


def test_a_model_that_counts_placeholders_is_not_taken_for_one_that_looks(
    broken: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts tell sizes of images without pixels; images are exchanged at equal size, so nothing moves."""
    score = broken.module.score

    def blind(batch: Batch) -> Tensor:
        kept = {key: value for key, value in batch.inputs.items() if key in ("input_ids", "attention_mask")}
        return score(replace(batch, inputs=kept))

    monkeypatch.setattr(broken.module, "score", blind)
    assert len(failed(images(broken))) == 3
    for row, other in zip(broken.image_rows, _shuffled(broken.image_rows), strict=True):
        pairs = list(zip(row.images, other.images, strict=True))
        assert all(a != b for a, b in pairs)
        assert all(open_image(a, "a").size == open_image(b, "b").size for a, b in pairs)


def test_a_model_that_sees_the_first_image_alone_is_caught(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards move with the images as a whole, but not with a row's second one."""
    collator = broken.collator
    process = type(collator)._process

    def first(self, pictures):
        return process(self, [pictures[0], *(picture.point(lambda _: 128) for picture in pictures[1:])])

    monkeypatch.setattr(type(collator), "_process", first)
    assert failed(images(broken)) == ["each of 4 images moves its own row's rewards"]


def test_one_dimensional_positions_are_caught(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards hardly show it: the positions that the language model is given are compared."""
    right = broken.model.positions

    def counted(ids, types, vision, index, layout: Layout) -> Tensor:
        return right(ids, types, {}, index, layout)

    monkeypatch.setattr(broken.model, "positions", counted)
    assert len(failed(positions(broken))) == 1


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_positions_hold_in_both_layouts(backbone_folder: Folder, layout: str) -> None:
    assert failed(positions(subject(backbone_folder("qwen2_5_vl"), layout=layout))) == []


def test_pooling_at_the_padding_is_caught(backbone_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last column of the padded layout is a pad token for all but the longest response."""
    broken = subject(backbone_folder("qwen2_5_vl"), layout="padded")
    padded = Layout.padded

    def last_column(lengths) -> Layout:
        return replace(padded(lengths), pooled=(torch.arange(len(lengths)) + 1) * max(lengths) - 1)

    monkeypatch.setattr(Layout, "padded", last_column)
    names = failed(tokens(broken))
    assert "pooled at the end-of-turn token, by the layout" in names
    assert "pooled at the end-of-turn token, by the state" in names


def test_pooling_behind_the_end_of_turn_is_caught(broken: Subject) -> None:
    """The template writes a newline behind ``<|im_end|>``; a collator that keeps it pools there."""
    chat = broken.collator.chat
    around = chat.around_response

    def with_newline(messages):
        before, end = around(messages)
        return before, [*end, *chat.template("\n")]

    chat.around_response = with_newline
    assert failed(tokens(broken)) == [
        "a response ends with the end-of-turn token",
        "pooled at the end-of-turn token, by the layout",
        "pooled at the end-of-turn token, by the state",
    ]


def test_pooling_another_state_than_the_layout_says_is_caught(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token too early, inside the network, where the collator's layout is right."""
    score = broken.module.score
    monkeypatch.setattr(
        broken.module,
        "score",
        lambda batch: score(replace(batch, layout=replace(batch.layout, pooled=batch.layout.pooled - 1))),
    )
    assert failed(tokens(broken)) == ["pooled at the end-of-turn token, by the state"]


def test_special_tokens_taken_from_a_text_are_caught(broken: Subject) -> None:
    broken.collator.chat.text = broken.collator.chat.template
    assert failed(tokens(broken)) == ["special tokens in a text stay text (extra ids)"]


def test_rewards_that_depend_on_the_batch_are_caught(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Centred over the batch, as a batch norm in a head would do."""
    score = broken.module.score
    monkeypatch.setattr(broken.module, "score", lambda batch: score(batch) - score(batch).mean())
    names = failed(invariance(broken))
    assert {"a row alone = the row among others", "as the backbone alone, one response at a time"} <= set(names)


def test_rewards_in_the_wrong_order_are_caught(broken: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted within the batch: each number is right, and belongs to another response."""
    score = broken.module.score
    monkeypatch.setattr(broken.module, "score", lambda batch: score(batch).sort().values)
    assert "responses in the other order" in failed(invariance(broken))


def test_rewards_of_bfloat16_are_caught_in_float32_too(backbone_folder: Folder, monkeypatch) -> None:
    """Rounded to 8 bits, whatever their type says."""
    broken = subject(backbone_folder("qwen2"))
    score = broken.module.score
    monkeypatch.setattr(broken.module, "score", lambda batch: score(batch).bfloat16().float())
    assert failed(float32(broken)) == ["part of the rewards that bfloat16 could not hold"]


def test_gradients_that_stop_are_caught(broken: Subject) -> None:
    """Detached behind the first layer, that and what is before it get none; the head and the last layer do."""
    layer = broken.model.base.language_model.layers[0]
    layer.register_forward_hook(lambda module, inputs, output: output.detach())
    assert failed(gradients(broken)) == [
        "vision: tensors without a gradient",
        "projector: tensors without a gradient",
        "language: tensors without a gradient",
    ]


def test_a_gradient_in_a_frozen_part_is_caught(backbone_folder: Folder) -> None:
    """Frozen when the check begins, thawed by the forward pass."""
    broken = subject(backbone_folder("qwen2"), freeze=["language"])
    weight = broken.model.base.norm.weight

    def thaw(*_) -> None:
        weight.requires_grad_(True)

    broken.model.register_forward_pre_hook(thaw)
    assert failed(gradients(broken)) == ["no frozen weight has a gradient"]


FORGETFUL = """
import torch
from lit_basereward.modules.naive import NaiveRM


class Forgetful(NaiveRM):
    def load_state_dict(self, weights, strict=True, **options):
        kept = {name: value for name, value in weights.items() if ".head." not in name}
        for p in self.model.head.parameters():
            torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(SEED))
        return super().load_state_dict(kept, strict=False)
"""


@pytest.mark.parametrize("seeded", [True, False])
def test_a_head_made_anew_on_load_is_caught(
    backbone_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeded: bool
) -> None:
    """Through the command line, which exits with 1.

    A head that is made the same at each load gives the same rewards when it is saved and loaded again; that it is not
    the checkpoint's is seen in its weights. One that differs each time is seen in both.
    """
    name = f"forgetful_{seeded}"
    seed = "7" if seeded else "int(torch.randint(10**9, ()))"
    (tmp_path / f"{name}.py").write_text(FORGETFUL.replace("SEED", seed))
    monkeypatch.syspath_prepend(tmp_path)
    cls = __import__(name).Forgetful
    path = write_checkpoint(built(backbone_folder("qwen2"), cls), tmp_path / "model.ckpt")
    output = tmp_path / "out" / "doctor.json"
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--ckpt_path", path, "--allow", name, "--output", str(output), "--rows", "2"])
    assert stop.value.code == 1
    report = json.loads(output.read_text())
    names = [check["name"] for check in report["checks"] if check["status"] == "FAIL"]
    reloaded = "saved and loaded: same rewards"
    assert UNTRAINED in names and (seeded or reloaded in names)
    assert not [n for n in names if n not in (UNTRAINED, reloaded, "runs without an error")]  # the export refuses too


def test_an_error_in_a_check_is_a_failure(capsys: pytest.CaptureFixture) -> None:
    def broken():
        yield at_most("f", "first", 0, 0)
        raise KeyError("pixels")

    checks = run_checks("f", broken)
    assert [check.status for check in checks] == ["pass", "FAIL"]
    assert "KeyError: 'pixels'" in capsys.readouterr().out


def test_a_value_that_is_not_a_number_fails() -> None:
    nan = float("nan")
    assert at_most("f", "n", nan, 1).status == at_least("f", "n", nan, 1).status == "FAIL"
    assert at_most("f", "n", nan, 1).to_dict()["value"] == "nan"


# ---------------------------------------------------------------------------------------------------- arithmetic
CASES = ["all trains", "vision frozen", "bf16", "checkpointing", "padded", "bf16 and checkpointing"]


@pytest.mark.parametrize(
    ("family", "case"),
    [*(("qwen2_5_vl", case) for case in CASES), *((each, "all trains") for each in ("llava", "qwen3_vl", "mistral")),
     ("llava", "bf16")],
)  # fmt: skip
def test_activations_estimate_is_within_a_quarter_of_the_count(backbone_folder: Folder, family: str, case: str) -> None:
    """Saved-tensor hooks count what a real forward pass keeps; the estimate knows shapes alone."""
    module = built(
        backbone_folder(family),
        layout="padded" if case == "padded" else "shared",
        init="random",
        freeze=["vision"] if case == "vision frozen" else [],
        gradient_checkpointing="checkpointing" in case,
    )
    model, mixed = module.model, "bf16" in case
    batch = training_batch(module, made_up_rows(8, family != "mistral"), torch.device("cpu"))
    expected = estimate(model, Sizes.of(batch, model.base.config, varlen=False), mixed).saved
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed), SavedTensors(model, batch) as counted:
        module.loss(batch)
    assert expected == pytest.approx(counted.bytes, rel=0.25)


def test_bytes_kept_by_hand() -> None:
    """Linear(4, 3) on [5, 4] keeps its input, which is the batch's and not counted; tanh keeps its output, 5 x 3 x 4 B.

    Squaring keeps its input, which is that output: the storage is counted once.
    """
    inputs, layer = torch.randn(5, 4), nn.Linear(4, 3)
    with SavedTensors(layer, {"x": inputs}) as counted:  # type: ignore[arg-type]  # any holder of tensors
        layer(inputs).tanh().square().sum()
    assert counted.bytes == 60


def test_operations_of_a_text_model_are_6_n_t(backbone_folder: Folder) -> None:
    """All of it trains, so the counted matrix products without attention's are exactly 6 N T, and 6 N a response."""
    module = built(backbone_folder("qwen2"))
    model = module.model
    batch = training_batch(module, made_up_rows(4, False), torch.device("cpu"))
    with flops.counter() as counter:
        loss, _ = module.loss(batch)
        loss.backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    assert flops.formula(model, Sizes.of(batch, model.base.config, False)) == products
    # 2 layers x (q and o 64 x 64, k and v 64 x 32, 3 x 64 x 128) = 73728, head 64 x 64 + 64
    assert products == 6 * (73_728 * batch.layout.num_tokens + 4_160 * len(batch.row))
    assert any("scaled_dot_product" in str(op) for op in counts)


@pytest.mark.parametrize("name", ["AdamW", "momentum", "AdamW8bit"])
def test_optimizer_state_is_that_of_a_real_step(backbone_folder: Folder, name: str) -> None:
    """Counted on `meta` before, and in the optimizer after a step."""
    factories = {"AdamW": torch.optim.AdamW, "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9)}
    if name == "AdamW8bit":
        factories[name] = pytest.importorskip("bitsandbytes").optim.AdamW8bit
    module = built(backbone_folder("qwen2"))
    module.make_optimizer = factories[name]
    planned_ = optimizer_bytes(module, module.model)
    optimizer = module.make_optimizer([{"params": list(module.parameters()), "name": "backbone"}])
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    tensors = {id(v): v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)}
    assert planned_ == sum(v.numel() * v.element_size() for v in tensors.values())


def seven_billion(folder: Path, tiny: str) -> str:
    """The architecture of Qwen2.5-VL-7B beside the tokenizer of a tiny one; no weights."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny)
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    text |= {"num_key_value_heads": 4, "vocab_size": 152064, "layer_types": ["full_attention"] * 28}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    for part, values in ((config.text_config, text), (config.vision_config, vision)):
        for key, value in values.items():
            setattr(part, key, value)
    preprocessor = json.loads(Path(tiny, "preprocessor_config.json").read_text())
    write_backbone_folder(folder, config, AutoTokenizer.from_pretrained(tiny), preprocessor)
    return str(folder)


def test_seven_billion_parameters_are_planned_without_any_memory(
    backbone_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """From a config alone, through the command line.

    Language: 152064 x 3584 embeddings; 28 layers of q 3584 x 3584 + 3584, k and v 3584 x 512 + 512 each, o 3584 x 3584,
    3 x 3584 x 18944 and two norms of 3584; a last norm: 7,070,619,136. Projector: a norm of 1280, 5120 x 5120 + 5120,
    5120 x 3584 + 3584: 44,574,464. Head: 3584 x 3584 + 3584 + 3584 = 12,852,224. With the tower frozen 7,128,045,824
    train: 4 bytes each of gradient and 8 of AdamW, whose step count has 4 bytes for each of its tensors, which are 28 x
    12 + 2 in the language model, 5 in the projector and 3 in the head.
    """
    folder = seven_billion(tmp_path / "7b", backbone_folder("qwen2_5_vl"))
    config = tmp_path / "7b.yaml"
    config.write_text(
        "model: {class_path: lit_basereward.NaiveRM, init_args: {backbone: {name_or_path: " + folder + ", "
        "freeze: [vision], gradient_checkpointing: true}}}\ntrainer: {precision: bf16-mixed}\n"
    )
    main(["doctor", "--config", str(config), "--output", str(tmp_path / "doctor.json")])
    costs = json.loads((tmp_path / "doctor.json").read_text())["costs"]
    sizes = {each["part"]: each["parameters"] for each in costs["weights"]}
    assert (sizes["language"], sizes["projector"], sizes["head"]) == (7_070_619_136, 44_574_464, 12_852_224)
    assert costs["gradients"] == 4 * 7_128_045_824
    assert costs["optimizer_state"] == 8 * 7_128_045_824 + 4 * (28 * 12 + 2 + 5 + 3)
    assert costs["precision"] == "bf16-mixed" and costs["counted_activations"] is None
    assert "give --ckpt_path" in capsys.readouterr().out


def test_planning_agrees_with_the_built_model(backbone_folder: Folder) -> None:
    """Same weights, gradients, optimizer state, tokens, activations and operations, on `meta` and for real."""
    folder = backbone_folder("llava")
    module = NaiveRM(Backbone(folder, freeze=["vision"], max_length=2048))
    plan = planned(module, [], 4, "32-true")
    assert module.model is not None and {p.device.type for p in module.model.parameters()} == {"meta"}
    cost, _ = examine(subject(folder, freeze=["vision"]), checks=False)
    assert cost is not None and cost.counted_activations and cost.counted_flops_per_row
    for key in ("weights", "gradients", "optimizer_state", "sizes", "activations", "flops_per_row"):
        assert getattr(plan, key) == getattr(cost, key), key


def test_weights_by_storage(backbone_folder: Folder) -> None:
    """Frozen parts are stored in bfloat16, 2 bytes each; what trains in float32."""
    module = built(backbone_folder("llava"), freeze=["vision"], dtype="bfloat16")
    groups = {each.part: each for each in stored(module.model)}
    assert (groups["vision"].dtype, groups["vision"].trainable) == ("bfloat16", 0)
    assert groups["vision"].bytes == 2 * groups["vision"].parameters
    assert (groups["language"].dtype, groups["language"].trainable) == ("float32", groups["language"].parameters)


# ------------------------------------------------------------------------------------------------- command line
def test_command_line_on_given_rows(backbone_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A healthy checkpoint with rows of its user: exit code 0, accuracies with other images, numbers in JSON."""
    lines = []
    for n, row in enumerate(row for row in made_up_rows(9, True) if len(row.images) == 1 and len(row.responses) > 1):
        (tmp_path / f"{n}.png").write_bytes(row.images[0].data)
        ratings = [float(k) for k in range(len(row.responses))]
        lines.append({"prompt": "What?", "images": [f"{n}.png"], "responses": row.responses, "ratings": ratings})
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    path = write_checkpoint(built(backbone_folder("qwen2_5_vl")), tmp_path / "model.ckpt")
    output = tmp_path / "doctor.json"
    main(
        ["doctor", "--ckpt_path", path, "--data", str(tmp_path / "rows.jsonl"), "--output", str(output), "--rows", "3"]
    )
    report = json.loads(output.read_text())
    assert report["counts"]["FAIL"] == 0 and report["counts"]["pass"] > 25
    printed = capsys.readouterr().out
    assert f"{min(3, len(lines))} given rows" in printed and "accuracy over" in printed


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "give --ckpt_path"), (["--ckpt_path", "x", "--rows", "1"], "use 2 or more")]
)
def test_nothing_to_look_at_is_an_error(arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", *arguments])
    assert words in capsys.readouterr().err


def test_a_backbone_that_cannot_be_fetched(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One line that says what to give; the hub is not asked again and again."""
    config = tmp_path / "model.yaml"
    config.write_text("model: {class_path: NaiveRM, init_args: {backbone: {name_or_path: nobody/has-this}}}\n")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--config", str(config), "--output", str(tmp_path / "doctor.json")])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and line.startswith("error: backbone 'nobody/has-this' is neither a folder here nor")
    assert line.endswith("give the folder of a local copy in model.backbone.name_or_path")
