"""Naive-RM through the real Trainer: invariances, precision, step arithmetic, checkpoints."""

from __future__ import annotations

import json
import warnings
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

import lit_basereward
from lit_basereward.data.batch import StepCounts
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.types import Preference
from lit_basereward.losses import BradleyTerry, TieSquared, ZeroCoefficient
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.modules.recipe import recipe
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.heads import MLPHead, RewardHead
from lit_basereward.testing import ListSource, preferences

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
}


def naive(folder: str, lr: float = 1e-3, backbone: dict | None = None, **options) -> NaiveRM:
    torch.manual_seed(0)
    settings = {"freeze": [], "max_length": 2048, **(backbone or {})}
    optimizer = partial(torch.optim.AdamW, lr=lr, weight_decay=0.0)
    return NaiveRM(Backbone(folder, **settings), optimizer=optimizer, **options)


def built(folder: str, **options) -> NaiveRM:
    module = naive(folder, **options)
    module.configure_model()
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    return module


def trained(folder: str, tmp_path, trainer: dict, data: dict | None = None, **options) -> NaiveRM:
    module = naive(folder, **options)
    rows = [row for seed in range(3) for row in preferences(seed, responses=(2, 5, 3, 2, 4))]
    datamodule = PreferenceDataModule(train=ListSource(rows), **{"global_batch_size": 20, **(data or {})})
    runner = pl.Trainer(**{**QUIET, "max_steps": 3, "default_root_dir": tmp_path, **trainer})
    runner.fit(module, datamodule)
    return module


def weights(module: NaiveRM) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_swapping_responses_swaps_rewards_and_nothing_else(backbone_folder):
    """Rewards follow their responses to 1e-5, the loss does not move, the accuracy neither."""
    module = built(backbone_folder("qwen2_5_vl"))
    rows = preferences()
    swapped = [Preference(r.id, r.prompt, r.responses[::-1], r.ratings[::-1], r.images, source=r.source) for r in rows]
    collator = module.collator(training=True)
    counts = StepCounts(rows=4, comparisons=22)
    (loss, out), (loss2, out2) = (module.loss(collator(list(enumerate(x)), counts)) for x in (rows, swapped))
    sizes = [len(row.responses) for row in rows]
    back = torch.cat([part.flip(0) for part in out2["rewards"].split(sizes)])
    torch.testing.assert_close(out["rewards"], back, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss, loss2, rtol=0, atol=1e-5)


def test_loss_by_hand(backbone_folder):
    """Rewards pinned by a stub head: 2, 1 | 0, 1, 3 with ratings 1, 0 | 2, 1, 0.

    Bradley-Terry with d = 1 | -1, -3, -2: log(1 + e^-d) = 0.313262 | 1.313262, 3.048587, 2.126928; their mean over the
    step's 4 comparisons is 6.802039 / 4 = 1.700510. By row: (0.313262 + 6.488777 / 3) / 2 = 1.238094.
    """

    class Pinned(RewardHead):
        def forward(self, states):
            return torch.tensor([2.0, 1.0, 0.0, 1.0, 3.0]) + 0 * states.sum(-1)

    rows = preferences(responses=(2, 3))
    rows = [
        Preference(r.id, r.prompt, r.responses, ratings, r.images)
        for r, ratings in zip(rows, [(1.0, 0.0), (2.0, 1.0, 0.0)], strict=True)
    ]
    counts = StepCounts(rows=2, comparisons=4)
    for weighting, expected in (("pair", 1.700510), ("row", 1.238094)):
        module = naive(backbone_folder("qwen2_5_vl"), head=Pinned, pair_weighting=weighting)
        module.configure_model()
        loss, _ = module.loss(module.collator(True)(list(enumerate(rows)), counts))
        assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_training_in_a_notebook_is_quiet(backbone_folder, tmp_path):
    """Nothing that Lightning warns of is about the user's run; the command line's own filters are not in force."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(backbone_folder("qwen2_5_vl"), tmp_path, {"max_steps": 1})
    assert [str(each.message) for each in caught] == []


@pytest.mark.parametrize("weighting", ["pair", "row"])
def test_accumulation_does_not_change_the_step(backbone_folder, tmp_path, weighting):
    """1 x 1 equals 1 x 4 micro-batches of rows of different K and length; also with regularizers over other pairs."""
    options = {"pair_weighting": weighting, "regularizers": [ZeroCoefficient(0.1), TieSquared(0.5)]}
    folder = backbone_folder("qwen2_5_vl")
    # SGD shows the gradient as it is; AdamW would blow its rounding up where a gradient is nearly zero.
    sgd = {"optimizer": partial(torch.optim.SGD, lr=1e-2)}

    def run(accumulate: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = NaiveRM(Backbone(folder, freeze=[], max_length=2048), **sgd, **options)
        rows = [row for seed in range(3) for row in preferences(seed, responses=(2, 5, 3, 2, 4))]
        rows += [Preference("tie", r.prompt, r.responses[:2], (1.0, 1.0), r.images) for r in rows[:4]]
        datamodule = PreferenceDataModule(train=ListSource(rows), global_batch_size=20)
        runner = pl.Trainer(**QUIET, max_steps=2, accumulate_grad_batches=accumulate, default_root_dir=tmp_path)
        runner.fit(module, datamodule)
        return weights(module)

    one, four = run(1), run(4)
    start = dict(built(folder, **options).named_parameters())
    moved = max((one[name] - start[name]).abs().max() for name in one if ".head." not in name)
    assert moved > 1e-4
    for name in one:
        torch.testing.assert_close(one[name], four[name], rtol=0, atol=1e-6, msg=name)


class Watched(NaiveRM):
    """Remembers what a training step computed in."""

    def training_step(self, batch, batch_idx):
        out = super().training_step(batch, batch_idx)
        self.seen = (out["rewards"].dtype, {p.dtype for p in self.model.head.parameters()}, out["loss"].dtype)
        return out


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_head_and_rewards_are_float32_under_every_precision(backbone_folder, tmp_path, precision):
    """Inside training_step, bf16-true included."""
    module = Watched(Backbone(backbone_folder("qwen2_5_vl"), freeze=[]), allow_bf16_weights=True)
    datamodule = PreferenceDataModule(train=ListSource(preferences()), global_batch_size=20)
    pl.Trainer(**QUIET, max_steps=1, precision=precision, default_root_dir=tmp_path).fit(module, datamodule)
    assert module.seen == (torch.float32, {torch.float32}, torch.float32)
    backbone_dtype = next(module.model.base.parameters()).dtype
    assert backbone_dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)


def test_precisions_that_would_lose_updates_are_refused(backbone_folder, tmp_path):
    """bf16-true with a trainable backbone, bf16 storage without autocast, and precisions nobody tried."""
    datamodule = PreferenceDataModule(train=ListSource(preferences()), global_batch_size=20)
    cases = [
        ("bf16-true", {}, "bf16-true stores the weights"),
        ("32-true", {"dtype": "bfloat16", "freeze": ["vision"]}, "needs trainer.precision bf16-mixed"),
        ("64-true", {}, "is not supported"),
    ]
    for precision, backbone, message in cases:
        module = naive(backbone_folder("qwen2_5_vl"), backbone=backbone)
        with pytest.raises(ValueError, match=message):
            pl.Trainer(**QUIET, max_steps=1, precision=precision, default_root_dir=tmp_path).fit(module, datamodule)


def test_a_bf16_mixed_step_moves_the_weights(backbone_folder, tmp_path):
    """One step at 3e-6 changes over 90 % of the weights that the float32 step changes, bf16 storage far fewer."""
    folder = backbone_folder("qwen2_5_vl")
    torch.manual_seed(0)
    start = weights(built(folder))

    def changed(precision: str) -> dict[str, Tensor]:
        options = {"lr": 3e-6, "allow_bf16_weights": True}
        end = weights(trained(folder, tmp_path, {"max_steps": 1, "precision": precision}, **options))
        return {name: end[name].float() != start[name] for name in end if ".head." not in name}

    full, mixed = changed("32-true"), changed("bf16-mixed")
    both = sum(int((full[name] & mixed[name]).sum()) for name in full)
    assert both > 0.9 * sum(int(mask.sum()) for mask in full.values())


def test_checkpointing_is_active_in_training(backbone_folder, tmp_path):
    """Every block runs twice a step, once in the backward pass; in from_pretrained's eval mode it would not."""
    calls: list[bool] = []

    class Counting(NaiveRM):
        def configure_model(self, weights: bool = True) -> None:
            first = self.model is None
            super().configure_model(weights)
            if first:
                layer = self.model.base.language_model.layers[0].self_attn.q_proj
                layer.register_forward_hook(lambda *_: calls.append(self.training))

    for checkpointing, expected in ((False, 1), (True, 2)):
        calls.clear()
        backbone = Backbone(backbone_folder("qwen2_5_vl"), gradient_checkpointing=checkpointing)
        datamodule = PreferenceDataModule(train=ListSource(preferences()), global_batch_size=100)
        pl.Trainer(**QUIET, max_steps=1, default_root_dir=tmp_path).fit(Counting(backbone), datamodule)
        assert calls == [True] * expected


def test_freezing_by_part(backbone_folder, tmp_path):
    """`vision` leaves the projector trainable; only what trains moves; unknown parts are an error."""
    folder = backbone_folder("qwen2_5_vl")
    start = weights(built(folder))
    end = weights(trained(folder, tmp_path, {"max_steps": 1}, backbone={"freeze": ["vision"]}))
    moved = {name for name in end if not torch.equal(end[name], start[name])}
    assert any("visual.merger" in name for name in moved) and any("language_model" in name for name in moved)
    assert not any("visual.blocks" in name or "patch_embed" in name for name in moved)
    with pytest.raises(ValueError, match="known parts are vision, projector, language"):
        naive(folder, backbone={"freeze": ["eyes"]}).configure_model()


def test_head_lr(backbone_folder, tmp_path):
    """With a backbone rate of 0 only the head moves."""
    folder = backbone_folder("qwen2_5_vl")
    start = weights(built(folder))
    end = weights(trained(folder, tmp_path, {"max_steps": 1}, lr=0.0, head_lr=1e-2))
    assert {name for name in end if ".head." not in name and not torch.equal(end[name], start[name])} == set()
    assert any(".head." in name and not torch.equal(end[name], start[name]) for name in end)


def test_checkpoint_is_plain_json_and_loads_from_python(backbone_folder, tmp_path):
    """Hyper-parameters of a module built in Python survive json; weights_only loads it; `load` scores the same."""
    module = trained(
        backbone_folder("qwen2_5_vl"),
        tmp_path,
        {"enable_checkpointing": True},
        head=partial(MLPHead, num_layers=3, activation="tanh"),
        loss=BradleyTerry(margin=0.5),
        regularizers=[ZeroCoefficient(0.01)],
    )
    path = tmp_path / "model.ckpt"
    module.trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["hyper_parameters"]
    assert json.loads(json.dumps(saved)) == saved
    assert saved["head"]["init_args"] == {"num_layers": 3, "activation": "tanh"}
    assert saved["loss"]["init_args"]["margin"] == 0.5

    scorer = lit_basereward.load(path)
    row = preferences()[4]
    again = scorer.score_rows([row])[0]
    with torch.no_grad():
        expected = module.eval().score(module.collator(False)([(0, row)]))
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-6)
    stock = NaiveRM.load_from_checkpoint(path, weights_only=True)
    assert torch.equal(stock.model.head.layers[0].weight, module.model.head.layers[0].weight)


def test_a_checkpoint_of_another_head_is_an_error(backbone_folder, tmp_path):
    """Named parameters, never a fresh head; the same for a linear head's missing layer."""
    module = trained(backbone_folder("qwen2_5_vl"), tmp_path, {"max_steps": 1})
    path = tmp_path / "model.ckpt"
    module.trainer.save_checkpoint(path)
    other = naive(backbone_folder("qwen2_5_vl"), head=partial(MLPHead, num_layers=3))
    datamodule = PreferenceDataModule(test=ListSource(preferences(responses=(2, 3))))
    with pytest.raises(ValueError, match=r"another network \(lacks .*model\.head\.layers\.4\.weight"):
        pl.Trainer(**QUIET, default_root_dir=tmp_path).test(other, datamodule, ckpt_path=str(path))
    with pytest.raises(ValueError, match=r"another network.*differs.*head"):
        wide = naive(backbone_folder("qwen2_vl"), head=partial(MLPHead, num_layers=1))
        pl.Trainer(**QUIET, default_root_dir=tmp_path).test(wide, datamodule, ckpt_path=str(path))


def test_classes_of_others_need_to_be_allowed(backbone_folder, tmp_path):
    """A checkpoint that names a user's head runs its code only when asked to."""
    from tests_user_head import UserHead

    module = trained(backbone_folder("qwen2_5_vl"), tmp_path, {"max_steps": 1}, head=UserHead)
    path = tmp_path / "model.ckpt"
    module.trainer.save_checkpoint(path)
    with pytest.raises(
        ValueError, match=r"tests_user_head\.UserHead; to run it, load with allow=\['tests_user_head'\]"
    ):
        lit_basereward.load(path)
    assert isinstance(lit_basereward.load(path, allow=["tests_user_head"]).module.model.head, UserHead)


def test_init_from(backbone_folder, tmp_path):
    """Weights of a checkpoint of ours, and of a folder with a `score.weight`; training starts at step 0."""
    folder = backbone_folder("qwen2_5_vl")
    first = trained(folder, tmp_path, {"max_steps": 1})
    path = tmp_path / "first.ckpt"
    first.trainer.save_checkpoint(path)
    second = naive(folder, init_from=str(path))
    second.configure_model()
    for name, value in weights(first).items():
        assert torch.equal(value, dict(second.named_parameters())[name])
    with pytest.raises(ValueError, match="another network"):
        naive(folder, init_from=str(path), head=partial(MLPHead, num_layers=1)).configure_model()
    with pytest.raises(ValueError, match="does not exist"):
        naive(folder, init_from=str(tmp_path / "nowhere")).configure_model()


@pytest.mark.parametrize(
    ("file", "key"), [("model.safetensors", "score.weight"), ("value_head.safetensors", "v_head.summary.weight")]
)
def test_init_from_other_trainers(backbone_folder, tmp_path, file, key):
    """A folder as they write it: the backbone with a prefix, a linear head beside it."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = backbone_folder("qwen2_5_vl")
    theirs = tmp_path / "theirs"
    shutil.copytree(folder, theirs)
    head = torch.randn(1, 64)
    tensors = {name: value + 0.01 for name, value in load_file(theirs / "model.safetensors").items()}
    save_file({**tensors, **({key: head} if file == "model.safetensors" else {})}, theirs / "model.safetensors")
    if file != "model.safetensors":
        save_file({key: head, key.replace("weight", "bias"): torch.ones(1)}, theirs / file)
    module = naive(folder, init_from=str(theirs), head=partial(MLPHead, num_layers=1))
    module.configure_model()
    assert torch.equal(module.model.head.layers[0].weight, head)
    embedding = module.model.base.get_input_embeddings().weight
    plain = Backbone(folder).load().get_input_embeddings().weight
    torch.testing.assert_close(embedding, plain + 0.01)
    with pytest.raises(ValueError, match="num_layers: 1"):
        naive(folder, init_from=str(theirs)).configure_model()
    with pytest.raises(ValueError, match="holds no reward head"):
        naive(folder, init_from=folder, head=partial(MLPHead, num_layers=1)).configure_model()


def test_backbone_errors(tmp_path, backbone_folder):
    """No config, no weights: one line with the mend."""
    with pytest.raises(ValueError, match="there is no folder"):
        Backbone(str(tmp_path / "nothing"), init="random").load()
    from lit_basereward.testing import tiny_backbone_folder

    empty = tiny_backbone_folder(tmp_path / "empty", "qwen2_5_vl", weights=False)
    with pytest.raises(ValueError, match=r"has no readable weights; .*init: random"):
        Backbone(empty).load()
    assert not hasattr(Backbone(empty, init="random").load(), "lm_head")
    assert not hasattr(Backbone(backbone_folder("qwen3")).load(), "lm_head")


def test_recipe_refuses_what_it_cannot_write():
    """A module that does not keep its arguments cannot be built again from a checkpoint."""

    class Forgetful(torch.nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()

    with pytest.raises(ValueError, match="keeps no attribute depth"):
        recipe(Forgetful(3))
    with pytest.raises(ValueError, match="plain JSON"):
        recipe(object())


class Unsaved(lit_basereward.RewardModule):
    """A paradigm that does not call ``save_hyperparameters``."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)

    network, collator, score, loss = NaiveRM.network, NaiveRM.collator, NaiveRM.score, NaiveRM.loss


class Forgetting(BradleyTerry):
    def __init__(self, power: float) -> None:
        super().__init__()


@pytest.mark.parametrize("kind", ["module", "loss"])
def test_what_no_checkpoint_could_hold_is_refused_before_training(backbone_folder, tmp_path, kind):
    """Not at the first checkpoint, hours later, nor when it is loaded. A run without checkpoints may do as it likes."""
    module = naive(backbone_folder("qwen2"), loss=Forgetting(2.0))
    told = "keeps no attribute power"
    if kind == "module":
        module, told = (
            Unsaved(Backbone(backbone_folder("qwen2"))),
            r"hold backbone; call self\.save_hyperparameters\(\)",
        )
    trainer = pl.Trainer(**{**QUIET, "enable_checkpointing": True, "default_root_dir": tmp_path, "max_steps": 1})
    data = PreferenceDataModule(train=ListSource(preferences(0, images=False)), global_batch_size=20)
    with pytest.raises(ValueError, match=told):
        trainer.fit(module, data)
    assert trainer.global_step == 0 and not list(tmp_path.rglob("*.ckpt"))
    if kind == "loss":
        pl.Trainer(**QUIET, default_root_dir=tmp_path, max_steps=1).fit(module, data)


def test_first_batch_metrics(backbone_folder, tmp_path):
    """What is logged after a step: the loss of equal rewards is log 2, and every promised figure is there."""

    class Zero(RewardHead):
        def __init__(self, hidden_size: int) -> None:
            super().__init__(hidden_size)
            self.weight = torch.nn.Parameter(torch.zeros(hidden_size))

        def forward(self, states):
            return states @ self.weight

    module = trained(backbone_folder("qwen2_5_vl"), tmp_path, {"max_steps": 1}, head=Zero)
    logged = {key: float(value) for key, value in module.trainer.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert logged["train/accuracy"] == 0 and logged["train/reward_ties"] == 1  # ties are wrong, and counted
    assert logged["train/padding_fraction"] == 0
    names = "grad_norm margin better_reward better_reward_std worse_reward worse_reward_std tokens_per_s rows_per_s"
    assert {f"train/{name}" for name in [*names.split(), "reward_length_correlation"]} <= logged.keys()
