"""What a pairwise judge reads: both orders, whatever the order of the responses; and what it is taught."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from lit_basereward.data.judge import JudgeCollator
from lit_basereward.data.templates import JUDGE_FIELDS, Template
from lit_basereward.data.types import ImagePart, Message, Preference, RowError, TooLong
from lit_basereward.nn.backbone import Backbone
from lit_basereward.nn.layout import Movable
from lit_basereward.testing import random_image

OPEN, CLOSE = "<|im_start|>user\njudge a cat\nA ", "\nso<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def processor(backbone_folder):
    return Backbone(backbone_folder("qwen2_5_vl")).processor()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "judge.txt"
    path.write_text("judge {question}\nA {first}\nB {second}\nso", encoding="utf-8")
    return Template(str(path), JUDGE_FIELDS)


@pytest.fixture(scope="module")
def judge(processor, template):
    def make(style="verdict", training=False, **settings) -> JudgeCollator:
        return JudgeCollator(processor, template, style, training, **settings)

    return make


def row(*responses: str, **fields) -> Preference:
    return Preference("r", (Message("user", ("a cat",)),), responses, where="f.jsonl:7", **fields)


def decoded(collator, item) -> list[str]:
    return [collator.chat.tokenizer.decode(item.prefix + branch) for branch in item.branches]


def pairs(batch) -> list[tuple[int, int]]:
    return list(zip(batch.first.tolist(), batch.second.tolist(), strict=True))


def leaves(value) -> list:
    """Everything in a layout or in inputs, in order."""
    if isinstance(value, Movable):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, dict):
        value = [item for _, item in sorted(value.items())]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("style", ["verdict", "reasoning"])
def test_both_orders(judge, style):
    """By hand: `no` comes before `yes` in the order of texts; a branch ends where the judge begins to write."""
    collator = judge(style)
    item = collator.prepare(0, row("yes", "no"))
    assert decoded(collator, item) == [f"{OPEN}no\nB yes{CLOSE}", f"{OPEN}yes\nB no{CLOSE}"]
    assert collator.chat.tokenizer.decode(item.prefix) == OPEN
    batch = collator([(0, row("yes", "no"))])
    assert pairs(batch) == [(1, 0), (0, 1)] and batch.targets is None
    ends = len(item.prefix) + torch.tensor([len(branch) for branch in item.branches]).cumsum(0) - 1
    assert batch.layout.pooled.tolist() == ends.tolist()


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_the_order_of_responses_leaves_no_trace(judge, layout):
    """All orders of three responses, one of them twice, with an image: inputs and layout are bit-equal, and every
    branch shows the same texts."""
    collator = judge(layout=layout)
    texts = ("yes", "no", "no it is not", "no")
    base = replace(row(*texts), prompt=(Message("user", (ImagePart(), "a cat")),), images=(random_image(56),))
    other = row("one", "two")
    reference = None
    for order in permutations(range(4)):
        mine = tuple(texts[k] for k in order)
        batch = collator([(0, other), (1, replace(base, responses=mine))])
        shown = [tuple((other.responses + mine)[k] for k in pair) for pair in pairs(batch)]
        found = [shown, *leaves(batch.inputs), *leaves(batch.layout)]
        reference = reference or found
        for one, two in zip(reference, found, strict=True):
            assert torch.equal(one, two) if isinstance(one, Tensor) else one == two
    assert len(shown) == 2 + 3 * 2


def test_equal_responses_are_one(judge):
    """By hand: of a, b, a only the first a is shown, so 2 branches; the row behind it counts on from 3."""
    batch = judge()([(0, row("b", "a", "b")), (1, row("c", "c")), (2, row("d", "e"))])
    assert batch.same_as.tolist() == [0, 1, 0, 3, 3, 5, 6]
    assert pairs(batch) == [(1, 0), (0, 1), (3, 3), (5, 6), (6, 5)]  # (3, 3) compares nothing
    assert batch.row.tolist() == [0, 0, 0, 1, 1, 2, 2] and len(batch.ratings) == len(batch.lengths) == 7
    assert batch.layout.row.tolist() == [0, 0, 1, 2, 2] and len(batch.layout.pooled) == 5


def test_verdicts_to_learn(judge):
    """Ratings 2, 1, 1 and NaN have the comparisons (0, 1) and (0, 2), each in both orders; `1` where the better one is
    first. What is read is where the verdict is predicted: the token before it."""
    collator = judge(training=True)
    one = row("a", "b", "c", "d", ratings=(2.0, 1.0, 1.0, float("nan")))
    batch = collator([(0, row("x", "x", ratings=(1.0, 1.0))), (1, one)])
    assert pairs(batch) == [(0, 0), (2, 3), (3, 2), (2, 4), (4, 2)]
    tokenizer = collator.chat.tokenizer
    taught = [tokenizer.decode(batch.targets.token[batch.targets.branch == b]) for b in range(5)]
    assert taught == ["", "1<|im_end|>", "2<|im_end|>", "1<|im_end|>", "2<|im_end|>"]
    ids = batch.inputs["input_ids"].flatten()
    assert ids[batch.targets.position + 1].tolist() == batch.targets.token.tolist()
    first, second = collator.verdict_ids
    assert ids[batch.layout.pooled[1:] + 1].tolist() == [first, second, first, second]
    assert tokenizer.decode([first, second]) == "12"
    assert decoded(collator, collator.prepare(1, one))[1] == f"{OPEN}b\nB a{CLOSE}2<|im_end|>"


@pytest.mark.parametrize("text_tokens", [(), ("<think>", "</think>")])
@pytest.mark.parametrize(
    "judgement, before",
    [
        ("<think>1 has no cat, \u00fcber \u732b 2 has.</think><answer>2</answer>", "<answer>"),
        ("2", "assistant"),
        ("not 1, but 2.", "but"),
    ],
)
def test_reasoning_to_learn(judge, judgement, before, text_tokens):
    """The judgement and the end of the turn are taught, responses as they stand; read is where its verdict is
    predicted, wherever that is."""
    collator = judge("reasoning", True, text_tokens=text_tokens)
    one = row("yes", "no", "what", ratings=(0.0, 1.0, 0.5), judgement=judgement)
    batch = collator([(0, row("a", "b", ratings=(1.0, 0.0), judgement="1")), (1, one)])
    assert pairs(batch) == [(0, 1), (2, 3)]
    tokenizer, ids = collator.chat.tokenizer, batch.inputs["input_ids"].flatten()
    assert tokenizer.decode(batch.targets.token[batch.targets.branch == 1]) == f"{judgement}<|im_end|>"
    assert ids[batch.targets.position + 1].tolist() == batch.targets.token.tolist()
    pooled = int(batch.layout.pooled[1])
    assert tokenizer.decode(ids[pooled + 1]).strip() == "2"
    assert tokenizer.decode(ids[: pooled + 1]).rstrip().endswith(before)
    assert decoded(collator, collator.prepare(1, one)) == [f"{OPEN}yes\nB no{CLOSE}{judgement}<|im_end|>"]


def test_rows_that_cannot_be_judged(judge, processor, template):
    """One response; no judgement to learn from, or one against the ratings; verdicts that are no single token."""
    with pytest.raises(RowError, match=r"f\.jsonl:7 has one response, and a judge compares: give at least two"):
        judge().prepare(0, row("yes"))
    for judgement, fault in (("", "no judgement"), ("<answer>1</answer>", "judgement against the ratings")):
        with pytest.raises(RowError, match=rf"f\.jsonl:7 cannot teach .* \({fault}\); wrap its source in JudgedRows"):
            judge("reasoning", True).prepare(0, row("a", "b", ratings=(0.0, 1.0), judgement=judgement))
    for verdicts, counts in ((("1", "1"), "'1' is 1 and '1' is 1"), (("", "2"), "'' is 0 and '2' is 1")):
        with pytest.raises(ValueError, match=f"two different texts of one token each; {counts}"):
            judge(verdicts=verdicts)
    assert judge(verdicts=("B", "A")).verdict_ids == tuple(reversed(judge(verdicts=("A", "B")).verdict_ids))


@pytest.mark.parametrize(
    "room, lengths, shown",
    [(10, (4, 6), (4, 6)), (10, (3, 20), (3, 7)), (10, (8, 9), (5, 5)), (11, (8, 9), (5, 5)), (11, (5, 9), (5, 6)),
     (11, (6, 6), (5, 5)), (10, (0, 12), (0, 10))],
)  # fmt: skip
def test_what_is_shown_of_a_pair(judge, room, lengths, shown):
    """By hand: the longer one loses tokens down to the other's length, then both; the same in either order."""
    collator = judge(too_long="cut", max_length=100 + room)
    assert collator._shown(row("a"), 100, *lengths) == shown
    assert collator._shown(row("a"), 100, *lengths[::-1]) == shown[::-1]


def test_too_long(judge):
    """Room for all but 2 tokens: the longer response loses them in both orders, and is marked; lengths stay whole."""
    long = row("yes", "cat " * 20)
    whole = judge().prepare(0, long)
    limit = len(whole.prefix) + max(map(len, whole.branches)) - 2
    with pytest.raises(TooLong, match=r"f\.jsonl:7 has \d+ tokens \(\d+ of them prompt\), over max_length"):
        judge(max_length=limit).prepare(0, long)
    cut = judge(max_length=limit, too_long="cut").prepare(0, long)
    assert cut.truncated == [False, True] and cut.lengths == whole.lengths
    assert all(len(cut.prefix) + len(branch) == limit for branch in cut.branches)
    with pytest.raises(TooLong, match="its prompt alone does not fit"):
        judge(max_length=len(whole.prefix), too_long="cut").prepare(0, long)


def test_lengths_are_those_of_the_responses(judge):
    """Tokens and an end of turn, which a response that was cut off at generation lacks."""
    collator = judge()
    tokens = [len(collator.chat.text(text)) for text in ("yes", "no it is not")]
    assert collator.prepare(0, row("yes", "no it is not")).lengths == [tokens[0] + 1, tokens[1] + 1]
    cut_off = row("yes", "no it is not", finished=(True, False))
    assert collator.prepare(0, cut_off).lengths == [tokens[0] + 1, tokens[1]]
