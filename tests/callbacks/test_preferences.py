"""`predict` as a labeller: the best and the worst of n responses in TRL's preference format."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from lit_basereward.callbacks.predictions import PredictionWriter
from lit_basereward.callbacks.preferences import best_and_worst, write_preferences
from lit_basereward.data.datamodule import PreferenceDataModule
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference
from lit_basereward.modules.naive import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource, random_image

IMAGE = random_image(28, 1).data


def rows(folder: Path) -> list[Preference]:
    """Two turns; an image as path before the text; one as bytes behind it; one response; a tie; one left out."""
    (folder / "cat.png").write_bytes(IMAGE)
    turns = (Message("system", ("be brief",)), Message("user", ("hi",)), Message("assistant", ("yes",)))
    path = ImageRef(path=str((folder / "cat.png").resolve()))
    question = Message("user", ("is it red",))
    return [
        Preference("chat", (*turns, question), ("no", "yes", "maybe")),
        Preference("path", (Message("user", (ImagePart(), "is it red")),), ("no", "yes"), images=(path,)),
        Preference("bytes", (Message("user", ("is it", ImagePart())),), ("no", "yes"), images=(ImageRef(data=IMAGE),)),
        Preference("one", (question,), ("no",)),
        Preference("tie", (question,), ("no", "yes")),
        Preference("bad", (question,), ("no", "yes")),
    ]


def test_pairs_and_what_gives_none(tmp_path):
    """Rewards (0, 2, 1), (3, -1), (0.5, 1): the pairs are (1 over 0), (0 over 1), (1 over 0); our own source reads the
    file back as those rows, the rewards as ratings."""
    given = rows(tmp_path)
    rewards = [[0.0, 2.0, 1.0], [3.0, -1.0], [0.5, 1.0], [4.0], [1.0, 1.0], None]
    (tmp_path / "out.jsonl").write_text("".join(json.dumps({"rewards": each}) + "\n" for each in rewards))
    counts = write_preferences(tmp_path / "pairs.jsonl", tmp_path / "out.jsonl", ListSource(given))
    assert counts == (3, 3)
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "prompt": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "is it red"},
        ],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
        "score_chosen": 2.0,
        "score_rejected": 0.0,
    }
    assert lines[1]["prompt"] == [{"role": "user", "content": "is it red"}] and lines[1]["images"] == ["cat.png"]
    assert lines[2]["prompt"][0]["content"] == [{"type": "text", "text": "is it"}, {"type": "image"}]
    back = JSONLSource(str(tmp_path / "pairs.jsonl"))
    for n, (best, worst) in enumerate([(1, 0), (0, 1), (1, 0)]):
        assert back[n].prompt == given[n].prompt
        assert back[n].responses == (given[n].responses[best], given[n].responses[worst])
        assert back[n].ratings == (rewards[n][best], rewards[n][worst])
        assert [Path(ref.path).read_bytes() for ref in back[n].images] == [IMAGE] * len(given[n].images)


@pytest.mark.parametrize(
    "turns",
    [
        ["My name is Ann.", "hi", (ImagePart(), "Who is this?")],
        [("A", "B"), "hi", ("look", ImagePart())],
        [(ImagePart(), "one"), "hi", (ImagePart(), "two")],
        [("A", "B")],
        [(ImagePart(), "A", "B"), "hi", "and?"],
        [(ImagePart(), ImagePart(), "which?")],
        [(ImagePart(),), "a cat", "sure?"],
    ],
)
def test_prompts_are_read_back_part_by_part(tmp_path, turns):
    """No text is lost, whatever stands where; also as TRL fills in the images, in the same places."""
    contents = [(turn,) if isinstance(turn, str) else turn for turn in turns]
    prompt = tuple(Message(("user", "assistant")[n % 2], each) for n, each in enumerate(contents))
    images = tuple(ImageRef(data=random_image(28, n).data) for n in range(sum(c.count(ImagePart()) for c in contents)))
    (tmp_path / "out.jsonl").write_text(json.dumps({"rewards": [1.0, 0.0]}) + "\n")
    row = Preference("a", prompt, ("yes", "no"), images=images)
    write_preferences(tmp_path / "pairs.jsonl", tmp_path / "out.jsonl", ListSource([row]))
    back = JSONLSource(str(tmp_path / "pairs.jsonl"))[0]
    assert back.prompt == prompt
    assert [Path(ref.path).read_bytes() for ref in back.images] == [ref.data for ref in images]
    trl = pytest.importorskip("trl.data_utils", exc_type=ImportError)
    written = json.loads((tmp_path / "pairs.jsonl").read_text())
    filled = trl.prepare_multimodal_messages(written["prompt"], written.get("images"))
    assert [[part["type"] == "image" for part in turn["content"]] for turn in filled] == [
        [isinstance(part, ImagePart) for part in each] + [False] * (each == (ImagePart(),)) for each in contents
    ]


@pytest.mark.parametrize(
    ("responses", "rewards", "pair"),
    [
        (("a", "b", "c"), [1.0, 3.0, 2.0], (1, 0)),
        (("a", "b", "c"), [3.0, 1.0, 1.0], (0, 1)),  # the first of several
        (("a",), [1.0], None),
        (("a", "b"), [1.0, 1.0], None),
        (("a", "a"), [1.0, 1.0000001], None),  # one text: the difference is rounding
        (("a", "b", "a"), [1.0, 1.5, 2.0], None),
        (("a", "b"), [float("nan"), 1.0], None),
        (("a", "b", "c"), [1.0, float("nan"), 2.0], None),
        (("a", "b", "c"), [1.0, 2.0, float("inf")], None),
    ],
)
def test_best_and_worst(responses, rewards, pair):
    assert best_and_worst(Preference("", (Message("user", ("x",)),), responses), rewards) == pair


@pytest.mark.slow
def test_trl_reads_the_pairs(tmp_path):
    """As a data set of conversations with images; TRL puts the image where our own row has it."""
    datasets = pytest.importorskip("datasets")
    data_utils = pytest.importorskip("trl.data_utils")
    given = rows(tmp_path)[1:2]
    (tmp_path / "out.jsonl").write_text(json.dumps({"rewards": [3.0, -1.0]}) + "\n")
    write_preferences(tmp_path / "pairs.jsonl", tmp_path / "out.jsonl", ListSource(given))
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    example = datasets.Dataset.from_list(lines)[0]
    assert data_utils.is_conversational(example)
    messages = data_utils.prepare_multimodal_messages(example["prompt"], images=example["images"])
    assert [part["type"] for part in messages[0]["content"]] == ["image", "text"]


def test_predict_writes_them(backbone_folder, tmp_path):
    """The option of the writer: the pair's rewards are the highest and the lowest of the row's; what exists is kept."""
    torch.manual_seed(0)
    module = NaiveRM(Backbone(backbone_folder("qwen2_5_vl"), max_length=2048))
    module.configure_model()
    torch.nn.init.normal_(module.model.head.layers[-1].weight, std=0.3)
    records = [{"prompt": f"is it {'very ' * n}red", "responses": ["yes", "no it is not", "a cat"]} for n in range(3)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def predict(**options) -> None:
        writer = PredictionWriter(str(tmp_path / "out.jsonl"), preferences=str(tmp_path / "pairs.jsonl"), **options)
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[writer])
        data = PreferenceDataModule(predict=str(tmp_path / "in.jsonl"), eval_batch_size=2)
        trainer.predict(module, data, return_predictions=False)

    predict()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    for line, pair, record in zip(lines, pairs, records, strict=True):
        best, worst = (line["rewards"].index(f(line["rewards"])) for f in (max, min))
        assert pair["chosen"][0]["content"] == record["responses"][best]
        assert pair["rejected"][0]["content"] == record["responses"][worst]
        assert (pair["score_chosen"], pair["score_rejected"]) == (line["rewards"][best], line["rewards"][worst])
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(ValueError, match=r"pairs\.jsonl exists"):
        predict()
    predict(overwrite=True)
