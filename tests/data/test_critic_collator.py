"""What a critic reads: the layout of its branches, which rows have that form, and what is learnt from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_basereward.data.collator import Collator
from lit_basereward.data.critic import CriticCollator
from lit_basereward.data.templates import CRITIC_FIELDS, Template
from lit_basereward.data.types import ImagePart, Message, Preference, TooLong
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import random_image


@pytest.fixture(scope="module")
def processor(backbone_folder):
    return Backbone(backbone_folder("qwen2_5_vl")).processor()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "critic.txt"
    path.write_text("judge {question}\nsaid {response}\nso", encoding="utf-8")
    return Template(str(path), CRITIC_FIELDS)


def row(**fields) -> Preference:
    given = {"critiques": ("all true", "all false"), "ratings": (1.0, 0.0), "where": "f.jsonl:7"} | fields
    return Preference("r", (Message("user", ("a cat",)),), given.pop("responses", ("yes", "no it is not")), **given)


def decoded(collator, item) -> list[str]:
    return [collator.chat.tokenizer.decode(item.prefix + branch) for branch in item.branches]


def test_a_given_critique(processor, template):
    """By hand: one user turn, the critique as the model's turn, its end; taught are the critique and that end."""
    collator = CriticCollator(processor, template, "given")
    item = collator.prepare(0, row())
    assert decoded(collator, item) == [
        "<|im_start|>user\njudge a cat\nsaid yes\nso<|im_end|>\n<|im_start|>assistant\nall true<|im_end|>",
        "<|im_start|>user\njudge a cat\nsaid no it is not\nso<|im_end|>\n<|im_start|>assistant\nall false<|im_end|>",
    ]
    assert collator.chat.tokenizer.decode(item.prefix) == "<|im_start|>user\njudge a cat\nsaid "
    batch = collator([(0, row())])
    texts = [collator.chat.tokenizer.decode(batch.targets.token[batch.targets.branch == b]) for b in (0, 1)]
    assert texts == ["all true<|im_end|>", "all false<|im_end|>"]
    ids = batch.inputs["input_ids"].flatten()
    assert ids[batch.targets.position + 1].tolist() == batch.targets.token.tolist()
    assert batch.layout.pooled.tolist() == [batch.targets.position[batch.targets.branch == b][-1] + 1 for b in (0, 1)]
    assert batch.critiqued.tolist() == [True, True] and batch.to_write.tolist() == [False, False]


def test_images_stand_first_and_turns_are_a_transcript(processor, template):
    """By hand: both images before the instructions, in their order, wherever they stood; the last turn's text ends."""
    collator = CriticCollator(processor, template, "given")
    images = (random_image(28, 1), random_image(56, 2))
    prompt = (
        Message("user", ("see", ImagePart())), Message("assistant", ("ok",)), Message("user", (ImagePart(), "why")),
    )  # fmt: skip
    item = collator.prepare(0, replace(row(), prompt=prompt, images=images))
    pad, start, end = (f"<|{name}|>" for name in ("image_pad", "vision_start", "vision_end"))
    text = collator.chat.tokenizer.decode(item.prefix)
    counts = [run.count(pad) for run in text.split(start)]
    assert text.replace(pad, "") == (
        f"<|im_start|>user\n{start}{end}{start}{end}judge User: see\n\nAssistant: ok\n\nUser: why\nsaid "
    )
    assert counts[0] == 0 and 0 < counts[1] < counts[2]  # the small one, then the large one
    plain = Collator(processor).prepare(0, replace(row(), prompt=prompt, images=images))
    assert torch.equal(item.vision["pixel_values"], plain.vision["pixel_values"]) and item.images == plain.images


def test_a_critique_to_be_written(processor, template):
    """Every row, with critiques or without: branches end with the generation prompt, and no critique leaks in."""
    collator = CriticCollator(processor, template, "generate")
    for one in (row(), row(critiques=()), row(critiques=("", "x"))):
        assert decoded(collator, collator.prepare(0, one)) == [
            "<|im_start|>user\njudge a cat\nsaid yes\nso<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>user\njudge a cat\nsaid no it is not\nso<|im_end|>\n<|im_start|>assistant\n",
        ]
        batch = collator([(0, one)])
        assert batch.to_write.all() and not batch.critiqued.any() and batch.targets is None and batch.incomplete == 0


@pytest.mark.parametrize(
    "critiques, incomplete", [((), 0), (("", " \n"), 0), (("all true", ""), 1), (("all true", " "), 1)]
)
def test_rows_without_all_critiques_are_those_of_naive_rm(processor, template, critiques, incomplete):
    """Item for item; a row with some critiques is counted. So is every row where no critiques are to be used."""
    plain = Collator(processor).prepare(3, row())
    one = row(critiques=critiques)
    for item in (
        CriticCollator(processor, template, "given").prepare(3, one),
        CriticCollator(processor, template, "none").prepare(3, row()),
    ):
        assert {key: value for key, value in vars(item).items() if key in vars(plain)} == vars(plain)
        assert item.written == [0, 0] and not item.critiqued and not item.to_write
    batch = CriticCollator(processor, template, "given")([(3, one)])
    assert batch.incomplete == incomplete and batch.targets is None and not batch.critiqued.any()
    assert CriticCollator(processor, template, "none")([(3, one)]).incomplete == 0


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_a_mixed_batch_is_both_collators_alone(processor, template, layout):
    """Rows with and without critiques in one batch: inputs as from the items that each collator makes, labels too."""
    images = (random_image(56),)
    seen = replace(row(), prompt=(Message("user", (ImagePart(), "a dog")),), images=images)
    rows = [row(), row(critiques=()), seen, replace(seen, critiques=())]
    collator, plain = CriticCollator(processor, template, "given", layout=layout), Collator(processor, layout=layout)
    batch = collator(list(enumerate(rows)))
    alone = [plain.prepare(n, one) if n % 2 else collator.prepare(n, one) for n, one in enumerate(rows)]
    reference = plain.collate(alone)
    assert batch.inputs.keys() == reference.inputs.keys()
    assert all(torch.equal(batch.inputs[key], reference.inputs[key]) for key in batch.inputs)
    assert torch.equal(batch.layout.pooled, reference.layout.pooled)
    assert batch.critiqued.tolist() == [True, True, False, False] * 2
    assert set(batch.targets.branch.tolist()) == {0, 1, 4, 5}
    naive = plain(list(enumerate(rows)))
    for name in ("row", "ratings", "lengths", "row_index", "weight", "truncated"):
        assert torch.equal(getattr(batch, name), getattr(naive, name)), name


def test_cut_off_at_generation(processor, template):
    """The response stands as it is, without an end of turn of its own; its length is that of NaiveRM: one less."""
    collator = CriticCollator(processor, template, "given")
    item = collator.prepare(0, row(finished=(True, False)))
    assert decoded(collator, item)[1].count("<|im_end|>") == 2 and item.branches == collator.prepare(0, row()).branches
    assert item.lengths == Collator(processor).prepare(0, row(finished=(True, False))).lengths
    assert item.lengths[1] == len(collator.chat.text("no it is not"))


def test_too_long(processor, template):
    """Room for all but 2 tokens of the longer response: it loses these 2 from its end, and nothing else changes."""
    long = row(responses=("yes", "cat " * 20))
    whole = CriticCollator(processor, template, "given").prepare(0, long)
    limit = len(whole.prefix) + len(whole.branches[1]) - 2
    with pytest.raises(TooLong, match=r"f\.jsonl:7 has \d+ tokens \(\d+ of them prompt and critique\), over"):
        CriticCollator(processor, template, "given", max_length=limit).prepare(0, long)
    cut = CriticCollator(processor, template, "given", max_length=limit, too_long="cut").prepare(0, long)
    tokens = len(Collator(processor).chat.text("cat " * 20))
    assert cut.truncated == [False, True] and cut.lengths[1] == tokens - 2 + 1 == whole.lengths[1] - 2
    first, second = whole.branches
    assert cut.branches == [first, second[: tokens - 2] + second[tokens:]] and cut.written == whole.written
    for policy in ("error", "cut"):
        with pytest.raises(TooLong, match="its prompt and critique alone does not fit"):
            CriticCollator(processor, template, "given", max_length=12, too_long=policy).prepare(0, long)


def test_a_template_that_opens_answers(backbone_folder, template):
    """What the chat template writes before each answer stands before the critique, too, and is not taught."""
    tokenizer = Backbone(backbone_folder("qwen3")).processor()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }}",
        "{% if message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ message['content'] }}",
    )
    collator = CriticCollator(tokenizer, template, "given")
    item = collator.prepare(0, row())
    opened = "so<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert decoded(collator, item)[0].endswith(f"{opened}all true<|im_end|>")
    assert tokenizer.decode(item.branches[0][-item.written[0] :]) == "all true<|im_end|>"
    written = CriticCollator(tokenizer, template, "generate")
    assert decoded(written, written.prepare(0, row()))[0].endswith(opened)
