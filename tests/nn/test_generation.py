"""Text written behind the branches of a batch equals what transformers writes behind one sequence at a time."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from lit_basereward.data.batch import Batch
from lit_basereward.data.collator import Collator
from lit_basereward.data.types import Preference
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.generation import Generated, extend, generate
from lit_basereward.nn.heads import MLPHead
from lit_basereward.nn.language import LanguageRewardModel
from lit_basereward.nn.reward_model import FEATURES_PER_IMAGE
from lit_basereward.nn.stopping import StopStrings, without_end
from lit_basereward.testing import preferences, run_ranks, tiny_backbone_folder

TEXT = ("qwen2", "llama", "mistral")
SHARED = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava_onevision", "llava", "internvl", "idefics3", "qwen2", "llama")
PADDED = ("qwen2_5_vl", "llava_onevision", "qwen2", "gemma3", "mistral")
QUICK = ("qwen2_5_vl", "qwen3_vl", "internvl", "qwen2", "gemma3")
"""Families of the default run; all are in the slow one."""
UNLIKE = {
    "gemma3": {"std": 0.03},  # its embeddings are enlarged and tied: with wide weights each token repeats itself
    "mistral": {"sliding_window": 8},  # which must not be counted through the padding
}
NEW = 12
FOREVER: dict[str, Any] = {"end_ids": [], "max_new_tokens": NEW}


def language_model(folder: str, **options: Any) -> tuple[LanguageRewardModel, Backbone]:
    torch.manual_seed(0)
    backbone = Backbone(folder, freeze=[], max_length=2048, **options)
    model = backbone.load(language_head=True)
    head = MLPHead(model.config.get_text_config().hidden_size)
    torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    # in float64, where greedy text does not hang on the order of sums
    return LanguageRewardModel(model, head).double().train(), backbone


def rows_of(family: str) -> list[Preference]:
    """K of 2, 5, 1, 3; none, one, two and no images; prompts and responses of unequal length."""
    return preferences(images=family not in TEXT, responses=(2, 5, 1, 3))


def laid_out(rows: list[Preference], backbone: Backbone, layout: Any = "shared") -> Batch:
    share = backbone.config().model_type in FEATURES_PER_IMAGE
    return Collator(backbone.processor(), layout, share_features=share)(list(enumerate(rows)))


def one_by_one(rows: list[Preference], backbone: Backbone) -> list[list[int]]:
    """What plain ``generate`` of transformers, on a model that knows nothing of us, writes behind each response."""
    model = backbone.load(language_head=True).double().eval()
    collator, written = Collator(backbone.processor(), "padded"), []
    for row in rows:
        for response in row.responses:
            inputs = collator([(0, Preference(row.id, row.prompt, (response,), images=row.images))]).inputs
            new = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None)
            written.append(new[0, inputs["input_ids"].shape[1] :].tolist())
    return written


def only_samples(generated: Generated) -> list[list[int]]:
    assert all(len(samples) == 1 for samples in generated.tokens)
    return [samples[0] for samples in generated.tokens]


class Count:
    """Calls of a module, and how many entries their inputs have."""

    def __init__(self, module: nn.Module) -> None:
        self.sizes: list[int] = []
        module.register_forward_pre_hook(lambda _, inputs: self.sizes.append(inputs[0].numel()))


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        pytest.param(family, layout, marks=[] if family in QUICK else [pytest.mark.slow])
        for layout, families in (("shared", SHARED), ("padded", PADDED))
        for family in families
    ],
)
def test_greedy_text_equals_one_by_one(backbone_folder, tmp_path, family, layout):
    """Token for token, in one chunk and in several; and the text is not one token again and again."""
    unlike = UNLIKE.get(family)
    folder = tiny_backbone_folder(tmp_path, family, **unlike) if unlike else backbone_folder(family)
    model, backbone = language_model(folder)
    rows = rows_of(family)
    expected = one_by_one(rows, backbone)
    assert len({token for tokens in expected for token in tokens}) > 2 * NEW
    batch = laid_out(rows, backbone, layout)
    whole = generate(model, batch.inputs, batch.layout, **FOREVER)
    assert only_samples(whole) == expected
    assert whole.finished == [[False]] * 11
    if layout == "shared":
        batch.inputs = model.with_positions(batch.inputs, batch.layout)  # as in training
    chunked = generate(model, batch.inputs, batch.layout, **FOREVER, decode_tokens=150)
    assert only_samples(chunked) == expected


@pytest.mark.parametrize("checkpointing", [False, True])
def test_prompts_and_images_are_computed_once(backbone_folder, checkpointing):
    """The tower runs once. The embedding sees every token of the batch once, then one token per sequence and step.

    11 branches in one chunk: 12 new tokens are 12 steps of 11, the first of them for the branches' last tokens. Modes
    are as before, and so are layers that recompute activations, which in training mode would keep no cache.
    """
    model, backbone = language_model(backbone_folder("qwen2_5_vl"), gradient_checkpointing=checkpointing)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules()) == checkpointing
    model.head.eval()
    batch = laid_out(rows_of("qwen2_5_vl"), backbone)
    modes = {name: module.training for name, module in model.named_modules()}
    tower, embedding = Count(model.base.visual), Count(model.base.get_input_embeddings())
    generated = generate(model, batch.inputs, batch.layout, **FOREVER)
    assert len(tower.sizes) == 1
    assert embedding.sizes == [batch.layout.num_tokens] + [11] * NEW
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert model.base.training and not model.head.training
    assert all(parameter.grad is None for parameter in model.parameters())
    embedding.sizes.clear()
    # the padded size is that of the longest sequence, 12 new tokens included: five of them at a time
    longest = max(len(row) for row in laid_out(rows_of("qwen2_5_vl"), backbone, "padded").inputs["input_ids"]) + NEW
    assert generate(model, batch.inputs, batch.layout, **FOREVER, decode_tokens=5 * longest) == generated
    assert embedding.sizes[: 1 + NEW] == [batch.layout.num_tokens] + [5] * NEW
    assert sum(embedding.sizes) == batch.layout.num_tokens + 11 * NEW


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("qwen2_5_vl", "shared"),
        ("qwen2_5_vl", "padded"),
        ("gemma3", "padded"),
        ("qwen2", "shared"),
        ("qwen2", "padded"),
    ],
)
def test_extended_branches_score_as_laid_out_from_the_start(backbone_folder, family, layout):
    """Each response followed by its own tokens, some by none, equals one padded sequence that has them."""
    model, backbone = language_model(backbone_folder(family))
    model.eval()
    rows = rows_of(family)
    batch = laid_out(rows, backbone, layout)
    tokens = [[7 + n + k for k in range(n % 4 * 3)] for n in range(11)]
    with torch.no_grad():
        longer = model(*extend(batch.inputs, batch.layout, tokens))[0]
        expected = []
        responses = [Preference(r.id, r.prompt, (text,), images=r.images) for r in rows for text in r.responses]
        for response, more in zip(responses, tokens, strict=True):
            alone = Collator(backbone.processor(), "padded").prepare(0, response)
            alone.branches[0] += more
            one = Collator(backbone.processor(), "padded").collate([alone])
            expected.append(model(one.inputs, one.layout)[0])
        torch.testing.assert_close(longer, torch.cat(expected), rtol=0, atol=1e-6)
        assert longer.std() > 0.1
        if layout == "shared":
            placed = model.with_positions(batch.inputs, batch.layout)  # as in training; they are of the old tokens
            torch.testing.assert_close(model(*extend(placed, batch.layout, tokens))[0], longer, rtol=0, atol=1e-9)
            some = [8, 1, 1]
            chosen = model(*extend(batch.inputs, batch.layout, [tokens[8], tokens[1], []], branch=some))[0]
            own = model(batch.inputs, batch.layout)[0]
            torch.testing.assert_close(chosen, torch.stack([longer[8], longer[1], own[1]]), rtol=0, atol=1e-6)


def test_end_ids_end_a_sequence(backbone_folder):
    """Ends are tokens of what is written without one: the third of the first branch, and the last of the sixth."""
    model, backbone = language_model(backbone_folder("qwen2"))
    batch = laid_out(rows_of("qwen2"), backbone)
    endless = only_samples(generate(model, batch.inputs, batch.layout, **FOREVER))
    ends = [endless[0][2], endless[5][-1]]
    found = generate(model, batch.inputs, batch.layout, end_ids=ends, max_new_tokens=NEW)
    places = [next((i for i, token in enumerate(tokens) if token in ends), None) for tokens in endless]
    assert only_samples(found) == [tokens[:place] for tokens, place in zip(endless, places, strict=True)]
    assert found.finished == [[place is not None] for place in places]
    assert True in [f for [f] in found.finished] and False in [f for [f] in found.finished]


def test_stop_strings_end_a_sequence(backbone_folder):
    """A string from the middle of the first text: decoding stops there, and the text before it is what is left."""
    model, backbone = language_model(backbone_folder("qwen2_5_vl"))
    batch = laid_out(rows_of("qwen2_5_vl"), backbone)
    tokenizer = backbone.processor().tokenizer
    endless = [tokenizer.decode(ids) for ids in only_samples(generate(model, batch.inputs, batch.layout, **FOREVER))]
    text = endless[0]
    stop = text[len(text) // 2 :][:2]
    embedding = Count(model.base.get_input_embeddings())
    options: dict[str, Any] = {"stop_strings": [stop, "never"], "tokenizer": tokenizer}
    found = generate(model, batch.inputs, batch.layout, **FOREVER, **options)
    assert [tokenizer.decode(ids) for ids in only_samples(found)] == [text.split(stop)[0] for text in endless]
    assert found.finished == [[stop in text] for text in endless]
    embedding.sizes.clear()
    alone, layout = extend(batch.inputs, batch.layout, [[]], branch=[0])
    assert generate(model, alone, layout, end_ids=[], max_new_tokens=500, **options).finished == [[True]]
    assert len(embedding.sizes) < 3 + NEW  # it did not write 500 tokens to cut them afterwards


def test_a_stop_string_inside_of_tokens(backbone_folder):
    """Of `the cat sits` up to ` ca` the token `the` and no more; up to `at` the text `the c`, its end made anew.

    And what the end id cut off is not searched.
    """
    tokenizer = Backbone(backbone_folder("qwen2")).processor()
    ids = tokenizer.encode(" the cat sits", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["Ġthe", "Ġcat", "Ġsits"]
    assert without_end(ids, set(), StopStrings([" ca"], tokenizer)) == (ids[:1], True)
    cut, finished = without_end(ids, set(), StopStrings(["sits", "at"], tokenizer))
    assert finished and cut[:1] == ids[:1] and tokenizer.decode(cut) == " the c"
    assert without_end(ids, {ids[1]}, StopStrings(["sits"], tokenizer)) == (ids[:1], True)
    assert without_end(ids, set(), StopStrings(["dog"], tokenizer)) == (ids, False)


def test_samples_differ_and_follow_their_distribution(backbone_folder):
    """Samples of a temperature differ, greedy ones do not; of a small top_p or temperature they are greedy, too.

    With one new token the samples of a branch are draws from the softmax of its logits / temperature: of 4,000 draws
    every share is within 5 standard deviations (at most 0.5 / sqrt(4000)) of its probability.
    """
    model, backbone = language_model(backbone_folder("qwen2"))
    [row] = preferences(3, images=False, responses=(2,))
    batch = laid_out([row], backbone)
    run = (model, batch.inputs, batch.layout)
    torch.manual_seed(1)
    greedy = generate(*run, **FOREVER, num_samples=3)
    assert all(len(samples) == 3 and samples.count(samples[0]) == 3 for samples in greedy.tokens)
    sampled = generate(*run, **FOREVER, num_samples=3, temperature=2.0)
    assert all(len({tuple(tokens) for tokens in samples}) == 3 for samples in sampled.tokens)
    for narrow in ({"temperature": 1e-4}, {"temperature": 1.0, "top_p": 1e-9}):
        assert generate(*run, **FOREVER, num_samples=3, **narrow) == greedy
    draws = generate(*run, end_ids=[], max_new_tokens=1, num_samples=4000, temperature=2.0).tokens
    with torch.no_grad():
        states, _ = model.eval().states(batch.inputs, batch.layout)
        probabilities = (model.lm_head(states[batch.layout.pooled]) / 2).softmax(-1)
    for samples, expected in zip(draws, probabilities, strict=True):
        shares = torch.bincount(torch.tensor(samples)[:, 0], minlength=len(expected)) / 4000
        assert (shares - expected).abs().max() < 5 * 0.5 / 4000**0.5
        assert (shares > 0).sum() > 50  # no top_k of 50


def test_settings_of_the_folder_do_not_leak(backbone_folder):
    """Folders of real models ask for sampling, penalties and short texts. None of that is used, or changed."""
    model, backbone = language_model(backbone_folder("qwen2_5_vl"))
    batch = laid_out(rows_of("qwen2_5_vl"), backbone)
    expected = generate(model, batch.inputs, batch.layout, **FOREVER)
    theirs = model.generator.generation_config
    own = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "suppress_tokens": only_samples(expected)[0]}
    theirs.update(do_sample=True, temperature=9.0, top_k=3, min_new_tokens=50, max_length=3, eos_token_id=[5], **own)
    before = theirs.to_dict()
    assert generate(model, batch.inputs, batch.layout, **FOREVER) == expected
    assert model.generator.generation_config is theirs and theirs.to_dict() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "must be at least 1"),
        ({"num_samples": 0}, "must be at least 1"),
        ({"temperature": -1.0}, "must not be negative"),
        ({"top_p": 0.0}, r"lie in \(0, 1\]"),
        ({"stop_strings": ["x"]}, "need the tokenizer"),
        ({"stop_strings": [""]}, "empty stop string"),
    ],
)
def test_what_cannot_be_is_refused(backbone_folder, options, message):
    model, backbone = language_model(backbone_folder("qwen2"))
    batch = laid_out(preferences(images=False, responses=(2,)), backbone)
    with pytest.raises(ValueError, match=message):
        generate(model, batch.inputs, batch.layout, **{**FOREVER, **options})


def test_layers_without_keys_are_refused(backbone_folder):
    """A linear layer keeps a state of all it has seen, padding included, out of which no branch can be gathered."""
    model, backbone = language_model(backbone_folder("qwen2"))
    batch = laid_out(preferences(images=False, responses=(2,)), backbone)
    model.base.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="qwen2 cannot write text here: its layers of linear_attention"):
        generate(model, batch.inputs, batch.layout, **FOREVER)


# ------------------------------------------------------------------------------------------------ sharded weights
def uneven(backbone: Backbone) -> list[Batch]:
    """A row of text with one response; and two rows, one with images, with eight in several chunks."""
    rows = rows_of("qwen2_5_vl")
    collator = Collator(backbone.processor(), dummy_image=True, share_features=True)
    return [collator([(0, rows[3])]), collator([(1, rows[1]), (2, rows[3])])]


def write_sharded(folder: str) -> Any:
    """Ranks end after different numbers of steps and have different numbers of chunks, in both layouts of work."""
    from torch.distributed.device_mesh import init_device_mesh

    from lit_basereward.nn.sharding import shard

    torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=2)
    model, backbone = language_model(folder)
    shard(model, init_device_mesh("cpu", (2,)))
    rank = torch.distributed.get_rank()
    batch = uneven(backbone)[rank]
    new = (3, NEW)[rank]
    found = model.generate(batch.inputs, batch.layout, end_ids=[], max_new_tokens=new, decode_tokens=150)
    with torch.no_grad():
        rewards, _ = model(*extend(batch.inputs, batch.layout, only_samples(found)))
    torch.distributed.destroy_process_group()
    return {"tokens": only_samples(found), "rewards": rewards}


@pytest.mark.slow
def test_sharded_ranks_wait_for_each_other(backbone_folder):
    """Two ranks, one of which writes 3 tokens in fewer chunks, the other 12: texts and rewards equal unsharded ones."""
    folder = backbone_folder("qwen2_5_vl")
    sharded = run_ranks(write_sharded, folder)
    model, backbone = language_model(folder)
    for batch, new, found in zip(uneven(backbone), (3, NEW), sharded, strict=True):
        expected = generate(model, batch.inputs, batch.layout, end_ids=[], max_new_tokens=new)
        assert found["tokens"] == only_samples(expected)
        with torch.no_grad():
            rewards, _ = model(*extend(batch.inputs, batch.layout, only_samples(expected)))
        torch.testing.assert_close(found["rewards"], rewards, rtol=0, atol=1e-6)
