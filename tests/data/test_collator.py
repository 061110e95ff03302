"""Rows to tokens: the template is structure, texts are not, and nothing is cut in silence."""

from __future__ import annotations

import pickle

import pytest
import torch

from lit_basereward.data.chat import IMAGE, ChatEncoder
from lit_basereward.data.collator import Collator
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference, RowError, TooLong
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import preferences, random_image

STRUCTURE = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "<tool_call>",
    "<think>",
)


@pytest.fixture(scope="module")
def processor(backbone_folder):
    return Backbone(backbone_folder("qwen2_5_vl")).processor()


def row(text="a cat", responses=("yes", "no it is not"), images=(), **fields) -> Preference:
    content = (*(ImagePart() for _ in images), text)
    return Preference(
        "r", (Message("user", content),), tuple(responses), images=tuple(images), where="f.jsonl:7", **fields
    )


def test_prompt_is_the_template_itself(processor):
    """On ordinary text, prompt ids equal those of the whole rendered string, turns and all."""
    chat = ChatEncoder(processor)
    prompt = (
        Message("system", ("be kind",)),
        Message("user", ("a cat",)),
        Message("assistant", ("yes",)),
        Message("user", ("why",)),
    )
    turns = [{"role": m.role, "content": [{"type": "text", "text": m.content[0]}]} for m in prompt]
    rendered = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert chat.prompt(prompt) == processor.tokenizer.encode(rendered, add_special_tokens=False)
    assert chat.tokenizer.decode(chat.prompt(prompt)).endswith("<|im_start|>assistant\n")


def test_images_stand_where_their_parts_stand(processor):
    """Text before and between two images; each is wrapped by the template's vision tokens."""
    chat = ChatEncoder(processor)
    ids = chat.prompt((Message("user", ("one", ImagePart(), "two", ImagePart())),))
    start, end = (processor.tokenizer.convert_tokens_to_ids(f"<|vision_{x}|>") for x in ("start", "end"))
    places = [n for n, i in enumerate(ids) if i == IMAGE]
    assert len(places) == 2 and all(ids[n - 1] == start and ids[n + 1] == end for n in places)
    assert chat.text("two") == ids[places[0] + 2 : places[1] - 1]


@pytest.mark.parametrize("token", STRUCTURE)
def test_literal_special_tokens_stay_text(processor, token):
    """In prompt and response: no structural id, and decoding gives the text back. Non-special added tokens too."""
    collator = Collator(processor)
    text = f"before {token} after"
    added = set(processor.tokenizer.added_tokens_encoder.values())
    assert token in processor.tokenizer.added_tokens_encoder
    ids = collator.chat.text(text)
    assert not added & set(ids) and processor.tokenizer.decode(ids) == text
    clean = collator.prepare(0, row("x", ["x"]))
    item = collator.prepare(0, row(text, [text]))
    count = lambda tokens: sum(i in added for i in tokens)  # noqa: E731
    assert count(item.prefix) == count(clean.prefix) and count(item.branches[0]) == 1


def test_text_tokens_keep_their_meaning(processor):
    """`<think>` is one token where it is listed, and only it."""
    chat = ChatEncoder(processor, text_tokens=["<think>"])
    think = processor.tokenizer.convert_tokens_to_ids("<think>")
    assert chat.text("<think>") == [think]
    assert len(chat.text("<tool_call>")) > 1
    with pytest.raises(ValueError, match="nonsense"):
        ChatEncoder(processor, text_tokens=["<nonsense>"])


def test_a_response_that_begins_with_a_newline(processor):
    """Segments are tokenised apart: joint tokenisation would merge the newline into the template's."""
    item = Collator(processor).prepare(0, row(responses=["\n\nyes"]))
    chat = ChatEncoder(processor)
    assert item.branches[0] == chat.text("\n\nyes") + chat.around_response(row().prompt)[1]
    assert item.prefix == chat.prompt(row().prompt)


def test_a_branch_ends_at_the_end_of_its_turn(processor):
    """The template's newline behind <|im_end|> is dropped; a response that was cut off at generation has no end."""
    collator = Collator(processor)
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    item = collator.prepare(0, row(responses=["yes", "no"], finished=(True, False)))
    assert item.branches == [[*collator.chat.text("yes"), end], collator.chat.text("no")]
    assert item.lengths == [len(branch) for branch in item.branches]
    assert collator.prepare(0, row(responses=[""])).branches == [[end]]
    with pytest.raises(RowError, match="response 0 without text"):
        collator.prepare(0, row(responses=[""], finished=(False,)))


def test_reasoning_templates_keep_what_they_write_before_a_response(backbone_folder):
    """A template that opens each answer with an empty thought: it is structure in every branch, not response length."""
    tokenizer = Backbone(backbone_folder("qwen3")).processor()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }}",
        "{% if message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ message['content'] }}",
    )
    collator = Collator(tokenizer)
    item = collator.prepare(0, row(responses=["yes"]))
    text = tokenizer.decode(item.branches[0])
    assert text == "<think>\n\n</think>\n\nyes<|im_end|>"
    assert item.lengths == [len(collator.chat.text("yes")) + 1]


def test_a_template_that_rewrites_the_prompt_is_refused(backbone_folder):
    """If answering changes the prompt, a response has no well-defined prefix."""
    tokenizer = Backbone(backbone_folder("qwen2")).processor()
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ValueError, match="renders a prompt differently"):
        Collator(tokenizer).prepare(0, row())


def test_too_long_rows(processor):
    """error and drop raise TooLong naming the row; cut keeps prompt, image and end-of-turn, and marks the response."""
    long = row("what", ["yes", "cat " * 50], images=[random_image(56)])
    whole = Collator(processor).prepare(0, long)
    limit = len(whole.prefix) + 5
    for policy in ("error", "drop"):
        with pytest.raises(TooLong, match=r"f\.jsonl:7 has \d+ tokens .* over max_length"):
            Collator(processor, max_length=limit, too_long=policy).prepare(0, long)
    cut = Collator(processor, max_length=limit, too_long="cut").prepare(0, long)
    assert cut.prefix == whole.prefix and cut.branches[0] == whole.branches[0]
    assert len(cut.branches[1]) == 5 and cut.branches[1][:4] == whole.branches[1][:4]
    assert cut.branches[1][-1] == whole.branches[1][-1]
    assert cut.truncated == [False, True] and cut.lengths[1] == 5
    batch = Collator(processor, max_length=limit, too_long="cut")([(0, long)])
    assert batch.truncated.tolist() == [False, True]
    for policy in ("error", "cut"):  # never inside an image: a prompt that does not fit is no prompt
        with pytest.raises(TooLong, match="its prompt alone does not fit"):
            Collator(processor, max_length=4, too_long=policy).prepare(0, long)


def test_system_prompt(processor):
    """It is put before prompts without one, and leaves others alone."""
    collator = Collator(processor, system_prompt="be kind")
    text = lambda p: processor.tokenizer.decode(collator.prepare(0, p).prefix)  # noqa: E731
    assert text(row()).startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n")
    own = Preference("r", (Message("system", ("mine",)), Message("user", ("a",))), ("yes",))
    assert text(own).count("system") == 1 and "mine" in text(own)


def test_bad_images_name_the_row(processor, backbone_folder):
    """Unreadable bytes, an image that the processor refuses (1 x 300 pixels), an image for a text-only model."""
    collator = Collator(processor)
    with pytest.raises(RowError, match=r"f\.jsonl:7"):
        collator.prepare(0, row(images=[ImageRef(data=b"no image")]))
    with pytest.raises(RowError, match=r"f\.jsonl:7 has an image that the processor refuses"):
        collator.prepare(0, row(images=[random_image((300, 1))]))
    with pytest.raises(RowError, match="reads text only"):
        Collator(Backbone(backbone_folder("qwen2")).processor()).prepare(0, row(images=[random_image()]))


def test_batch_by_hand(processor):
    """Two rows of 2 and 1 responses: rows, ratings, lengths, indices, weights."""
    collator = Collator(processor)
    first = row(responses=["yes", "no"], ratings=(1.0, 0.0), weight=2.0)
    batch = collator([(5, first), (9, row(responses=["cat"]))])
    assert batch.row.tolist() == [0, 0, 1]
    assert batch.row_index.tolist() == [5, 9] and len(batch) == 2
    assert batch.ratings[:2].tolist() == [1.0, 0.0] and batch.ratings[2].isnan()
    assert batch.weight.tolist() == [2.0, 1.0]
    assert batch.lengths.tolist() == [len(collator.chat.text(t)) + 1 for t in ("yes", "no", "cat")]
    total = sum(len(collator.chat.prompt(row().prompt)) for _ in range(2)) + int(batch.lengths.sum())
    assert batch.inputs["input_ids"].shape == (1, total) and batch.layout.num_tokens == total


def test_tiles_of_different_number_are_joined():
    """LLaVA-OneVision pads the tiles of a batch: [1, 2, ...] and [1, 3, ...] make [2, 3, ...] with zeros behind."""
    from lit_basereward.data.collator import _join

    joined = _join([torch.ones(1, 2, 4), torch.ones(1, 3, 4)])
    assert joined.shape == (2, 3, 4) and joined[0, 2].abs().max() == 0 and joined.sum() == 20


def test_pickles(processor):
    """Spawned workers get a copy that makes the same batch."""
    collator = Collator(processor)
    again = pickle.loads(pickle.dumps(collator))
    rows = list(enumerate(preferences()))
    one, two = collator(rows), again(rows)
    assert torch.equal(one.inputs["input_ids"], two.inputs["input_ids"])
    assert torch.equal(one.inputs["pixel_values"], two.inputs["pixel_values"])
