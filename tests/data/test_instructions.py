"""What holds for critics and judges alike: texts stay text, both layouts say the same, workers change nothing."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_basereward.data.batch import Batch, StepCounts
from lit_basereward.data.critic import CriticBatch, CriticCollator
from lit_basereward.data.judge import JudgeBatch, JudgeCollator
from lit_basereward.data.loader import BatchDataset, Loader, PackedBatch
from lit_basereward.data.sampler import FILLER, MicroBatch
from lit_basereward.data.templates import CRITIC_FIELDS, JUDGE_FIELDS, Template, question_text
from lit_basereward.data.types import ImagePart, Message, Preference, RowError
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.layout import Movable
from lit_basereward.testing import (
    TEXT_FAMILIES,
    VISION_FAMILIES,
    ListSource,
    preferences,
    random_image,
    tiny_backbone_folder,
)

STRUCTURE = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "<tool_call>",
    "<think>",
)
FORMS = ("generate", "given", "none", "judge", "teach verdict", "teach reasoning")


@pytest.fixture(scope="module")
def processor(backbone_folder):
    return Backbone(backbone_folder("qwen2_5_vl")).processor()


def collator(form: str, processor: Any, **settings: Any) -> CriticCollator | JudgeCollator:
    if form in ("generate", "given", "none"):
        return CriticCollator(processor, Template("critic", CRITIC_FIELDS), form, **settings)
    style = "reasoning" if "reasoning" in form else "verdict"
    return JudgeCollator(processor, Template(style, JUDGE_FIELDS), style, training="teach" in form, **settings)


def rows(images: bool = True) -> list[Preference]:
    """Of unequal lengths, no to two images, two to five responses; those at odd places have no critiques."""
    made = []
    for n, row in enumerate(preferences(images=images, responses=(2, 4, 2, 5))):
        verdict = 1 if row.ratings[0] > row.ratings[1] else 2
        critiques = tuple(f"it is {k}" for k in range(len(row.responses))) if n % 2 == 0 else ()
        made.append(replace(row, critiques=critiques, judgement=f"<think>so</think><answer>{verdict}</answer>"))
    return made


def tensors(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of a batch by its path."""
    if isinstance(value, Movable):
        items = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, dict | list):
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    else:
        return {name: value}
    return {key: leaf for inner, item in items for key, leaf in tensors(item, f"{name}.{inner}").items()}


def assert_same(one: Any, two: Any) -> None:
    a, b = tensors(one), tensors(two)
    assert a.keys() == b.keys()
    for key, leaf in a.items():
        same = torch.equal(leaf.nan_to_num(7), b[key].nan_to_num(7)) if isinstance(leaf, Tensor) else leaf == b[key]
        assert same, key


def sequences(batch: Batch) -> tuple[list[list[int]], list[list[int]]]:
    """For each branch its tokens from the start of the prompt, and their places in the flattened inputs."""
    ids, layout = batch.inputs["input_ids"], batch.layout
    if not layout.shared:
        width = ids.shape[1]
        places = [
            [n * width + i for i in range(width) if mask[i]] for n, mask in enumerate(batch.inputs["attention_mask"])
        ]
    else:
        assert layout.varlen is not None
        places = [p.tolist() for p in layout.varlen.keys.split(layout.varlen.key_ends.diff().tolist())]
    flat = ids.flatten().tolist()
    return [[flat[i] for i in some] for some in places], places


@pytest.mark.parametrize("form", FORMS)
def test_both_layouts_say_the_same(processor, form):
    """Every branch, read from its prompt's start, is the same text, pooled and taught at the same tokens of it.

    Places in the two layouts' flattened inputs are compared as places inside each branch.
    """
    found = []
    for layout in ("shared", "padded"):
        batch = collator(form, processor, layout=layout)(list(enumerate(rows())))
        texts, places = sequences(batch)
        pooled = [some.index(p) for some, p in zip(places, batch.layout.pooled.tolist(), strict=True)]
        taught = None
        if batch.targets is not None:
            branches, at = batch.targets.branch.tolist(), batch.targets.position.tolist()
            taught = [(b, places[b].index(p)) for b, p in zip(branches, at, strict=True)]
            assert [texts[b][p + 1] for b, p in taught] == batch.targets.token.tolist()
        labels = [tensors(batch)[f".{f.name}"] for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)]
        found.append((texts, pooled, taught, [label.nan_to_num(7).tolist() for label in labels]))
    assert found[0] == found[1]
    assert (found[0][2] is not None) == (form in ("given", "teach verdict", "teach reasoning"))


@pytest.mark.parametrize("form, shown", list(zip(FORMS, (2, 3, 2, 3, 3, 4), strict=True)))
def test_texts_of_data_stay_text(processor, form, shown):
    """Literal special tokens, and fields of the template, in question, responses, critiques and judgement: no branch
    has more structure than that of a harmless row, and each text of a branch stands in it as it is: the question, one
    response or two, and one critique or judgement where it is laid out."""
    nasty = " ".join([*STRUCTURE, "{question}", "{first}", "{response}"])
    added = set(processor.tokenizer.added_tokens_encoder.values())

    def branches(text: str) -> list[list[int]]:
        row = Preference(
            "r", (Message("user", (ImagePart(), text)),), (text, f"{text} b"), (1.0, 0.0), (random_image(),),
            critiques=(text, text), judgement=f"{text}<answer>1</answer>",
        )  # fmt: skip
        return sequences(collator(form, processor)([(0, row)]))[0]

    clean, dirty = branches("x"), branches(nasty)
    for one, two in zip(clean, dirty, strict=True):
        assert [i for i in one if i in added] == [i for i in two if i in added]
        assert processor.tokenizer.decode(two).count(nasty) == shown


@pytest.mark.parametrize("form", FORMS)
def test_workers_and_pickles_change_nothing(processor, form):
    """The batch out of a worker, out of a pickled collator, or packed and unpacked is the same, type and all."""
    mine = collator(form, processor)
    source, counts = ListSource(rows()), StepCounts(rows=3)
    plan = [MicroBatch((0, 2), counts), MicroBatch((1,), counts)]
    here = list(Loader(BatchDataset([source], mine, "raise"), plan))
    there = list(Loader(BatchDataset([source], pickle.loads(pickle.dumps(mine)), "raise"), plan, num_workers=1))
    for one, two in zip(here, there, strict=True):
        assert type(one) is type(two) is (CriticBatch if form in ("generate", "given", "none") else JudgeBatch)
        assert_same(one, two)
        assert_same(one, PackedBatch.of(two).unpack())
        assert_same(one, two.to("cpu"))


@pytest.mark.parametrize("form", FORMS)
def test_a_device_without_rows_has_a_batch(processor, form):
    """The filler row has no ratings, no critiques and no judgement; it teaches nothing and raises nothing."""
    batch = BatchDataset([ListSource(rows())], collator(form, processor), "raise")[MicroBatch((FILLER,), StepCounts())]
    assert batch.row_index.tolist() == [FILLER] and batch.ratings.isnan().all() and batch.targets is None
    assert len(batch.layout.pooled) == (1 if "teach" in form else 2)


@pytest.mark.parametrize("form", FORMS)
def test_text_only_backbones_and_system_prompts(backbone_folder, form):
    """Content is a string there; the system prompt stands before the instructions; an image is refused."""
    processor = Backbone(backbone_folder("qwen2")).processor()
    mine = collator(form, processor, system_prompt="be fair")
    texts, _ = sequences(mine([(0, rows(images=False)[0])]))
    assert processor.decode(texts[0]).startswith("<|im_start|>system\nbe fair<|im_end|>\n<|im_start|>user\n")
    with pytest.raises(RowError, match="reads text only"):
        mine.prepare(0, rows()[2])


@pytest.mark.parametrize("family", [*VISION_FAMILIES, *TEXT_FAMILIES])
def test_a_branch_is_the_filled_template_as_one_user_turn(tmp_path, family):
    """Whatever the chat template: decoded, each branch is the turn that trainers get by rendering `Template.fill`."""
    if family == "smolvlm":
        pytest.importorskip("num2words")
    processor = Backbone(tiny_backbone_folder(tmp_path / family, family, weights=False)).processor()
    row = rows(images=family in VISION_FAMILIES)[2]
    for form in ("generate", "judge"):
        mine = collator(form, processor)
        question, tokenizer = question_text(row.prompt), mine.chat.tokenizer
        order = [(row.responses[k],) for k in (0, 1)] if form == "generate" else sorted(permutations(row.responses))
        for branch, shown in zip(mine.prepare(0, row).branches, order, strict=True):
            texts = dict(zip(mine.template.fields, (question, *shown), strict=True))
            turn = Message("user", (*(ImagePart() for _ in row.images), mine.template.fill(**texts)))
            whole = mine._with_images(row, mine.chat.prompt((turn,)))[0]
            assert tokenizer.decode(mine.prepare(0, row).prefix + branch) == tokenizer.decode(whole)
