"""Records of judges' corpora, in the forms that are released, as what a judge is taught and asked."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from lit_basereward.data.judge import JudgeBatch, JudgeCollator, Style
from lit_basereward.data.sources.judged import JudgedRows
from lit_basereward.data.sources.llava_critic import LLaVACritic
from lit_basereward.data.sources.r1_reward import R1RewardRL
from lit_basereward.data.templates import JUDGE_FIELDS, Template
from lit_basereward.data.types import Preference, RowError
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(file, "PNG")
    return file.getvalue()


def llava_critic() -> list[Preference]:
    """Two comparisons that say 1, one that says 2, one of answers called A and B, and a tie."""
    rows = []
    judged = {"1": "1", "also 1": "1", "2": "2", "A": "A", "tie": "1 and 2 are equally good"}
    for name, verdict in judged.items():
        first, second = ("A", "B") if name == "A" else ("1", "2")
        asked = (
            "<image>\nGiven an image and a corresponding question, please serve as a judge.\nQuestion: [What is it?]\n"
            f"Response {first}: [a cat {name}]\nResponse {second}: [a dog {name}]\nASSISTANT:\n"
        )
        text = f"It is red. The better response: [{verdict}]" if name != "tie" else "Both are equally good."
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": text}]
        record = {"id": name, "source": "rlhf", "conversations": turns, "image": {"bytes": png()}}
        rows.append(LLaVACritic().row(record, f"critic:{name}"))
    return rows


def r1_reward() -> list[Preference]:
    """One comparison for either position."""
    text = (
        "You are an evaluator.\n\n###### **Input:**  \n###### [Question]:\n<image>\nWhat is it?  \n\n"
        "###### [Response 1]:\na cat  \n\n###### [Response 2]:\na dog  \n\n"
        "###### **Output Format (strictly follow):**  \n<think>..</think><answer>1/2</answer>"
    )
    image = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    message = [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image", "image": image}]}]
    records = [{"message": json.dumps(message), "answer": [f"<answer>{n}</answer>"]} for n in (1, 2)]
    return [R1RewardRL().row(record | {"question": "What is it?"}, "r1:1") for record in records]


def laid_out(processor: Any, rows: list[Preference], style: Style, training: bool) -> tuple[JudgeBatch, JudgeCollator]:
    collator = JudgeCollator(processor, Template(style, JUDGE_FIELDS), style, training)
    return collator(list(enumerate(rows))), collator


@pytest.fixture(scope="module")
def processor(backbone_folder):
    return Backbone(backbone_folder("qwen2_5_vl")).processor()


def taught(batch: JudgeBatch, collator: JudgeCollator) -> list[tuple[str, str]]:
    """Of each branch the verdict that is predicted where the layout is pooled, and all that is taught."""
    targets, decode = batch.targets, collator.chat.tokenizer.decode
    assert targets is not None
    found = []
    for b, pooled in enumerate(batch.layout.pooled.tolist()):
        mine = targets.branch == b
        found.append((decode(targets.token[mine & (targets.position == pooled)]), decode(targets.token[mine])))
    return found


def test_judgements_of_llava_critic_are_imitated(processor):
    """JudgedRows keeps one of either verdict, as balance allows: a judgement of A and B, or of a tie, is none. What is
    taught is the text and its end, and the verdict inside it is what the row's better answer is called."""
    kept = JudgedRows(ListSource(llava_critic(), "critic"))
    rows = [kept[n] for n in range(len(kept))]
    assert sorted(row.responses[0] for row in rows) in (["a cat 1", "a cat 2"], ["a cat 2", "a cat also 1"])
    batch, collator = laid_out(processor, rows, "reasoning", training=True)
    better = ["1" if row.ratings[0] > row.ratings[1] else "2" for row in rows]
    texts = [f"It is red. The better response: [{verdict}]<|im_end|>" for verdict in better]
    assert sorted(better) == ["1", "2"] and taught(batch, collator) == list(zip(better, texts, strict=True))
    assert batch.inputs["pixel_values"].shape[0] == 2 * 4 * 4  # an image of 4 x 4 patches each


@pytest.mark.parametrize(("rows", "comparisons"), [(llava_critic, 4), (r1_reward, 2)])
def test_verdicts_are_learnt_from_ratings(processor, rows, comparisons):
    """Each comparison in both orders: 1, then 2; the tie stands there with a branch that compares nothing."""
    batch, collator = laid_out(processor, rows(), "verdict", training=True)
    learnt = [pair for b, pair in enumerate(taught(batch, collator)) if batch.first[b] != batch.second[b]]
    assert learnt == [("1", "1<|im_end|>"), ("2", "2<|im_end|>")] * comparisons
    better = batch.ratings[batch.first] > batch.ratings[batch.second]
    assert [bool(b) for b in better[batch.first != batch.second]] == [True, False] * comparisons


def test_reasoning_cannot_be_imitated_without_judgements(processor):
    """R1-Reward-RL has answers only: JudgedRows keeps nothing, and a row by itself says what to do."""
    assert len(JudgedRows(ListSource(r1_reward(), "r1"))) == 0
    with pytest.raises(RowError, match=r"^r1:1 cannot teach a judge to reason \(no judgement\); wrap .* in JudgedRows"):
        laid_out(processor, r1_reward(), "reasoning", training=True)


@pytest.mark.parametrize("rows", [llava_critic, r1_reward])
@pytest.mark.parametrize("style", ["verdict", "reasoning"])
def test_both_orders_are_asked(processor, rows, style):
    """To score, a pair is two branches, whatever the corpus brings along; nothing of its labels is in the tokens."""
    given = rows()
    batch, collator = laid_out(processor, given, style, training=False)
    assert batch.targets is None and len(batch.first) == 2 * len(given)
    text = collator.chat.tokenizer.decode(batch.inputs["input_ids"][0])
    assert "The better response" not in text and "serve as a judge" not in text and "Input:" not in text
