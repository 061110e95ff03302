"""Generative RM: verdicts against a hand-written forward, antisymmetry, votes, and training on what it should say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_basereward import GenerativeRM
from lit_basereward.data.batch import StepCounts
from lit_basereward.data.types import Preference, RowError
from lit_basereward.modules.generative import scores
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import preferences

K = (2, 4, 3)


def judge(folder: str, text_tokens: list[str] | None = None, **options) -> GenerativeRM:
    torch.manual_seed(0)
    module = GenerativeRM(Backbone(folder, freeze=[], max_length=2048, text_tokens=text_tokens or []), **options)
    module.configure_model()
    return module


def batch(module: GenerativeRM, rows: list[Preference], training: bool = False, counts: StepCounts | None = None):
    return module.collator(training)(list(enumerate(rows)), counts)


def score(module: GenerativeRM, rows: list[Preference]) -> list[torch.Tensor]:
    module.eval()
    with torch.no_grad():
        found = module.score(batch(module, rows))
    return list(found.split([len(row.responses) for row in rows]))


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_scores_equal_a_hand_written_reference(backbone_folder, layout):
    """Every ordered pair alone through transformers' own model: l = logit("1") - logit("2") of the next token, d_ij =
    (l_ij - l_ji) / 2, s_i = sum_j d_ij / K."""
    module, rows = judge(backbone_folder("qwen2_5_vl"), layout=layout), preferences(responses=K)
    language_model = Backbone(backbone_folder("qwen2_5_vl"), freeze=[]).load(language_head=True).eval()
    tokenizer, collator = module.backbone.processor().tokenizer, module.collator(False)
    one, two = tokenizer.encode("1"), tokenizer.encode("2")
    for n, (row, found) in enumerate(zip(rows, score(module, rows), strict=True)):
        item = collator.prepare(n, row)
        log_odds = {}
        for branch, order in zip(item.branches, item.comparisons, strict=True):
            types = [int(i == language_model.config.image_token_id) for i in item.prefix] + [0] * len(branch)
            with torch.no_grad():
                logits = language_model(
                    input_ids=torch.tensor([item.prefix + branch]),
                    mm_token_type_ids=torch.tensor([types]),
                    **item.vision,
                ).logits[0, -1]
            log_odds[order.first, order.second] = float(logits[one[0]] - logits[two[0]])
        k = len(row.responses)
        assert len(log_odds) == k * (k - 1)
        by_hand = [sum((log_odds[i, j] - log_odds[j, i]) / 2 for j in range(k) if j != i) / k for i in range(k)]
        torch.testing.assert_close(found, torch.tensor(by_hand), rtol=0, atol=1e-5)


def test_swapping_two_responses_negates_their_scores_bit_for_bit(backbone_folder):
    """And for K = 2 sigmoid(s_1 - s_2) is sigmoid of the mean log-odds; a row's scores add up to 0."""
    module, rows = judge(backbone_folder("qwen2_5_vl")), preferences(responses=(2, 2, 2))
    swapped = [replace(row, responses=row.responses[::-1], ratings=row.ratings[::-1]) for row in rows]
    for one, two, evidence in zip(score(module, rows), score(module, swapped), module.evidence, strict=True):
        assert one[0] != 0 and torch.equal(one, -two) and torch.equal(one, two.flip(0))
        (_, _, first), (_, _, second) = evidence["log_odds"]
        assert float((one[0] - one[1]).abs()) == pytest.approx(abs(first - second) / 2, abs=1e-6)
    module.cost.forwards = 0
    many = preferences(responses=(5,))
    shuffled = replace(many[0], responses=many[0].responses[::-1], ratings=())
    there, back = score(module, many)[0], score(module, [shuffled])[0].flip(0)
    assert torch.equal(there, back) and float(there.sum()) == pytest.approx(0, abs=1e-6)
    assert module.cost.forwards == 2 * 20


def test_equal_responses_score_the_same_and_one_response_is_refused(backbone_folder):
    """Three responses of which two are one text: both have its score, s = d/3 each, against -2d/3. All equal: 0."""
    module, row = judge(backbone_folder("qwen2_5_vl")), preferences(responses=(2,))[0]
    a, b = row.responses
    first, second, third = score(module, [replace(row, responses=(a, b, a), ratings=())])[0].tolist()
    assert first == third != 0 and second == pytest.approx(-2 * first, rel=1e-6)
    assert score(module, [replace(row, responses=(a, a), ratings=())])[0].tolist() == [0.0, 0.0]
    with pytest.raises(RowError, match="at least two"):
        batch(module, [replace(row, responses=(a,), ratings=())])


def test_training_on_verdicts_asks_both_orders(backbone_folder):
    """K = 2 and 3 with 1 + 3 comparisons: for each, the mean over both orders of -log p of the verdict and of the end
    of the turn behind it, halved as the mean over these two tokens; the loss is the mean over 4 comparisons."""
    module, rows = judge(backbone_folder("qwen2_5_vl")), preferences(responses=(2, 3))
    rows = [replace(row, ratings=tuple(map(float, range(len(row.responses))))) for row in rows]
    asked, given = batch(module, rows), batch(module, rows, True, StepCounts(rows=2, comparisons=4))
    assert given.targets is not None and len(given.first) == 8 and len(given.targets.token) == 16
    with torch.no_grad():
        states, _ = module.model.states(asked.inputs, asked.layout)
        logits = module.model.lm_head(states[asked.layout.pooled]).log_softmax(-1)
        states, _ = module.model.states(given.inputs, given.layout)
        ends = module.model.lm_head(states[given.targets.position[1::2]]).log_softmax(-1)
    tokenizer = module.backbone.processor().tokenizer
    (one,), (two,), end = tokenizer.encode("1"), tokenizer.encode("2"), tokenizer.eos_token_id
    place = {pair: b for b, pair in enumerate(zip(asked.first.tolist(), asked.second.tolist(), strict=True))}
    total = -sum(ends[:, end]) / 2
    for i, j in zip(given.first.tolist(), given.second.tolist(), strict=True):
        total -= logits[place[i, j], one if given.ratings[i] > given.ratings[j] else two] / 2
    loss, out = module.loss(given)
    torch.testing.assert_close(loss, total / 2 / 4, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out["rewards"], scores_of(module, rows), rtol=0, atol=1e-5)


def scores_of(module: GenerativeRM, rows: list[Preference]) -> torch.Tensor:
    return torch.cat(score(module, rows))


def test_votes_with_half_a_vote_on_each_side():
    """Hand-made: order (0, 1) has 2 votes for 0, 1 for 1; order (1, 0) has 0 for 1, 2 for 0 and 1 unparsed.

    l_01 = log(2.5 / 1.5), l_10 = log((0 + .5 + .5) / (2 + .5 + .5)) = log(1 / 3); d = (0.510826 + 1.098612) / 2 =
    0.804719, and s = +-d / 2."""
    from lit_basereward.modules.generative import vote_log_odds

    found = vote_log_odds(torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.0, 3.0]]))
    assert found.tolist() == pytest.approx([0.510826, -1.098612, 0.0, 0.0], abs=1e-6)

    class Two:
        row = torch.tensor([0, 0, 1, 1])
        first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 3, 2])
        same_as = torch.arange(4)

        def __len__(self) -> int:
            return 2

    assert scores(found, Two()).tolist() == pytest.approx([0.402359, -0.402359, 0.0, 0.0], abs=1e-6)


@pytest.mark.slow
def test_reasoning_judge_learns_its_traces_and_votes(backbone_folder):
    """Taught four traces by heart, it writes their answers: one vote each in the order that it was taught, and a row's
    sign is that of its answer. Without parsed answers all is even."""
    rows = [
        replace(
            row,
            ratings=(1.0, 0.0) if n % 2 else (0.0, 1.0),
            judgement=f"<think>{n}</think><answer>{2 - n % 2}</answer>",
        )
        for n, row in enumerate(preferences(images=False, responses=(2, 2, 2, 2)))
    ]
    module = judge(backbone_folder("qwen2_5_vl"), ["<think>", "</think>"], style="reasoning", max_new_tokens=40)
    assert all(found.tolist() == [0.0, 0.0] for found in score(module, rows))
    assert all(vote[4] == 1 for row in module.evidence for vote in row["votes"])
    assert all(row["unfinished"] == 2 for row in module.evidence)  # gibberish without end, in both orders
    taught = batch(module, rows, True, StepCounts(rows=4, comparisons=4))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    module.train()
    for _ in range(60):
        loss, _ = module.loss(taught)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    score(module, rows)
    for n, evidence in enumerate(module.evidence):
        (taught_order,) = [vote for vote in evidence["votes"] if vote[:2] == [0, 1]]
        assert taught_order[2:] == ([1, 0, 0] if n % 2 else [0, 1, 0])
        assert any(text.startswith("<think>") for text in evidence["judgements"])
    assert module.cost.generated_tokens > 0


def test_votes_stop_when_they_cannot_change_the_winner(backbone_folder):
    """5 votes an order, 10 in all: 3 + 3 to one side leave 4, which cannot turn 6; 4 to 2 with 4 left can."""
    module = judge(backbone_folder("qwen2_5_vl"), style="reasoning", num_votes=5, temperature=1.0, max_new_tokens=3)
    two = batch(module, preferences(responses=(2, 2, 3)))
    votes = torch.zeros(len(two.first), 3)
    assert module._rounds(two) == [3, 1, 1] and module._undecided(two, votes) == list(range(10))
    first = two.first.tolist()
    votes[0, 0] = votes[1, 1] = 3  # both orders of row 0 for the response that is shown first in the first
    votes[2, 0], votes[3, 0], votes[3, 1] = 3, 2, 1  # row 1: 4 to 2
    votes[4:, 0] = 3
    assert first[0] < 2 <= first[2] and module._undecided(two, votes) == list(range(2, 10))
    score(module, preferences(responses=(2,)))
    assert all(sum(vote[2:]) == 5 for vote in module.evidence[0]["votes"])  # gibberish: never decided


def test_settings_that_do_not_go_together(backbone_folder):
    folder = backbone_folder("qwen2")
    for options, words in (
        ({"num_votes": 3}, "casts no votes"),
        ({"style": "reasoning", "num_votes": 3}, "set temperature"),
        ({"num_votes": 0}, "use 1 or more"),
        ({"verdicts": ("first", "second one")}, "one token"),
        ({"verdicts": ("a", "b"), "style": "reasoning"}, "leave out verdicts"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"template": "no/such.txt"}, "no template"),
    ):
        with pytest.raises(ValueError, match=words):
            judge(folder, **options)
