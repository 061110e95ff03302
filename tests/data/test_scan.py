"""The pass over a source: numbers by hand, and when what it found is read again from disk."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_basereward.data import scan as scanning
from lit_basereward.data.collator import Collator
from lit_basereward.data.critic import CriticCollator
from lit_basereward.data.judge import JudgeCollator
from lit_basereward.data.scan import Scan, is_kept, measure, scan
from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.templates import CRITIC_FIELDS, JUDGE_FIELDS, Template
from lit_basereward.data.types import ImagePart, Message, Preference, RowError
from lit_basereward.nn.backbone import Backbone
from lit_basereward.testing import ListSource, preferences, random_image


@pytest.fixture(scope="module")
def processor(backbone_folder: Any) -> Any:
    return Backbone(backbone_folder("qwen2_5_vl")).processor()


def test_numbers_of_a_row_by_hand() -> None:
    """4 + 5 letters and 2 Chinese characters of 3 bytes make 15 bytes of prompt, 4 + 12 of responses. Two images of
    28 x 56 and 56 x 56 pixels. Ratings 2 1 1 are two comparisons and a tie. Of three critiques one is blank, so that
    none counts; without it they are 5 + 3 + 2 letters. The judgement has 18."""
    prompt = (Message("user", ("what", ImagePart(), "is it")), Message("user", (ImagePart(), "什么")))
    images = (random_image((28, 56)), random_image(56))
    row = Preference("1", prompt, ("cats", "dogs or cats", ""), (2.0, 1.0, 1.0), images)
    row = replace(row, critiques=("right", " ", "no"), judgement="<answer>1</answer>")
    assert measure(row) == (2, 1, 3, 0, 15, 16, 0, 18, 2, 28 * 56 + 56 * 56)
    row = replace(row, critiques=("right", "bad", "no"), judgement="")
    assert measure(row) == (2, 1, 3, 0, 15, 16, 10, 0, 2, 28 * 56 + 56 * 56)


def found(**columns: list[int]) -> Scan:
    given = {name: np.array(values, np.uint8) for name, values in columns.items()}
    return Scan(messages=[], **{name: np.zeros(2, np.uint8) for name in scanning._COLUMNS} | given)


def test_cost_by_hand(processor: Any) -> None:
    """31 bytes are 7.75 tokens, 4,704 pixels are 6 tokens of 28 x 28, 3 ends of turns. Shrunk to 1,568 pixels each, the
    two images are 2 + 2 tokens; the row without images keeps its cost."""
    scanned = found(responses=[3, 2], prompt=[11, 4], answers=[20, 4], images=[2, 0])
    scanned.pixels = np.array([4704, 0])
    assert scanned.stats(Collator(processor)).cost.tolist() == [7.75 + 6 + 3, 2 + 2]
    assert scanned.stats(Collator(processor), max_pixels=1568).cost.tolist() == [7.75 + 4 + 3, 2 + 2]


def test_cost_for_a_critic_by_hand(processor: Any, tmp_path: Path) -> None:
    """The template is 2, 3 and 5 words, a token each. Row 0 has 5 tokens of texts, 2 ends, 20 bytes of critiques: 7 +
    (2 + 3) + 2 * 5 + 5. Row 1 has no critiques: Naive-RM's 3 + 3. Where they are written both have the instructions."""
    (tmp_path / "t.txt").write_text("a a{question}a a a{response}a a a a a")
    template = Template(str(tmp_path / "t.txt"), CRITIC_FIELDS)
    scanned = found(responses=[2, 3], prompt=[8, 4], answers=[12, 8], critiques=[20, 0])

    def cost(critique: Any) -> list[float]:
        return CriticCollator(processor, template, critique).estimate(scanned).tolist()

    assert [len(piece) for piece in CriticCollator(processor, template, "none")._pieces] == [2, 3, 5]
    assert cost("given") == [7 + 5 + 10 + 5, 6] and cost("none") == [7, 6]
    assert cost("generate") == [7 + 5 + 10, 6 + 5 + 15]


def test_cost_for_a_judge_by_hand(processor: Any, tmp_path: Path) -> None:
    """The template is 2, 3, 1 and 4 words. Row 0: 2 prompt tokens, responses of 3 and 5 bytes, 2 branches of 2 tokens
    each and 5 of the template. Row 1 has 17 responses of 4 bytes in 272 branches. Taught on verdicts, row 1 has two
    branches for each of 3 comparisons; on reasoning every row has one, and row 0 a judgement of 40 bytes."""
    (tmp_path / "t.txt").write_text("a a{question}a a a{first}a{second}a a a a")
    template = Template(str(tmp_path / "t.txt"), JUDGE_FIELDS)
    scanned = found(responses=[2, 17], comparisons=[1, 3], prompt=[8, 4], answers=[8, 68], judgement=[40, 0])

    def cost(style: Any, training: bool) -> list[float]:
        return JudgeCollator(processor, template, style, training).estimate(scanned).tolist()

    assert cost("verdict", False) == cost("reasoning", False) == [5 + 2 + 2 * 7, 5 + 1 + 272 * 7]
    assert cost("verdict", True) == [5 + 2 + 2 * 7, 5 + 1 + 6 * 7]
    assert cost("reasoning", True) == [5 + 2 + 7 + 10, 5 + 1 + 7]


def test_what_rows_lack_is_said(processor: Any) -> None:
    """Of three rows the first has critiques of all responses and the second a judgement; the third has one response.
    Only rows that take part count, and only what the paradigm is going to use."""
    none = np.zeros(3, np.uint8)
    columns = {name: none for name in scanning._COLUMNS}
    columns |= {"responses": np.array([2, 2, 1]), "critiques": np.array([9, 0, 0]), "judgement": np.array([0, 9, 0])}
    scanned, every, first = Scan(messages=[], **columns), np.arange(3), np.array([0])

    def critic(critique: Any) -> CriticCollator:
        return CriticCollator(processor, Template("critic", CRITIC_FIELDS), critique)

    def judge(style: Any, training: bool) -> JudgeCollator:
        return JudgeCollator(processor, Template(style, JUDGE_FIELDS), style, training)

    assert critic("given").remark(scanned, every).startswith("2 of 3 rows do not have a critique of each response")
    assert judge("reasoning", True).remark(scanned, every).startswith("2 of 3 rows have no `judgement`")
    assert judge("verdict", False).remark(scanned, every) == "1 of 3 rows have one response: a judge compares two"
    quiet = [(critic("given"), first), (critic("generate"), every), (critic("none"), every)]
    quiet += [(judge("verdict", True), first), (judge("reasoning", True), np.array([1])), (Collator(processor), every)]
    assert [collator.remark(scanned, rows) for collator, rows in quiet] == [""] * 6


@pytest.mark.parametrize("form", ["naive", "given", "generate", "verdict", "reasoning"])
def test_estimates_are_near_the_tokens(processor: Any, form: str) -> None:
    """Rows of words of three letters and a blank, each about a token: within a fifth of what is laid out, also where
    one paradigm makes ten times the tokens of another."""
    words = [" ".join(["the cat"] * n) for n in (20, 40, 60)]
    prompt = (Message("user", (" ".join(["red dog"] * 30),)),)
    judgement = " ".join(["red"] * 50) + "<answer>2</answer>"
    row = Preference("1", prompt, tuple(words), (1.0, 2.0, 3.0), critiques=tuple(words), judgement=judgement)
    judge = {"style": form, "template": Template(form, JUDGE_FIELDS)} if form in ("verdict", "reasoning") else {}
    critic = {"critique": form, "template": Template("critic", CRITIC_FIELDS)}
    for training in (False, True):
        plain = Collator(processor) if form == "naive" else None
        made = plain or (
            JudgeCollator(processor, training=training, **judge) if judge else CriticCollator(processor, **critic)  # type: ignore[arg-type]
        )
        tokens = len(made([(0, row)]).inputs["input_ids"][0])
        estimated = float(made.estimate(scan(ListSource([row]), "rows", "raise"))[0])
        assert estimated == pytest.approx(tokens, rel=0.2), (form, training)


def test_numbers_are_small() -> None:
    """Pairs of some thousand letters with an image: 1 byte for each of eight columns, 2 for prompts, 4 for pixels."""
    long = Preference("1", (Message("user", ("x" * 3000, ImagePart())),), ("a", "b"), (1.0, 0.0), (random_image(280),))
    scanned = scan(ListSource([long] * 3), "rows", "raise")
    columns = [value for value in vars(scanned).values() if isinstance(value, np.ndarray)]
    assert sum(column.itemsize for column in columns) == 8 * 1 + 2 + 4


class Counting(JSONLSource):
    """Counts the rows that are read."""

    reads = 0

    def __getitem__(self, index: int) -> Preference:
        self.reads += 1
        return super().__getitem__(index)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """200 pairs, of which one has equal scores and one an image; sources of more than 100 rows are kept."""
    monkeypatch.setenv("LIT_BASEREWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scanning, "KEPT_ABOVE", 100)
    rows: list[dict[str, Any]] = [
        {"prompt": "x" * n, "responses": ["good", "bad"], "ratings": [1, 0]} for n in range(1, 201)
    ]
    rows[7]["ratings"] = [1, 1]
    rows[8]["images"] = ["image.png"]
    Image.new("RGB", (30, 20)).save(tmp_path / "image.png")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, on_bad_row: str = "raise") -> tuple[Scan, int]:
    source = Counting(str(path))
    return scan(source, "rows", on_bad_row), source.reads  # type: ignore[arg-type]


def same(first: Scan, second: Scan) -> bool:
    return all(np.array_equal(value, vars(second)[name]) for name, value in vars(first).items())


def test_a_large_source_is_read_once(file: Path) -> None:
    """The second time 64 of its 200 rows are looked at. Nothing else lies in the cache."""
    first, reads = read(file)
    again, rereads = read(file)
    assert (reads, rereads) == (200, 64)
    assert same(first, again)
    assert (again.reason[7], again.pixels[8], len(list(file.parent.glob("cache/scan/*")))) == (6, 600, 1)


def test_other_content_is_read(file: Path) -> None:
    read(file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:100], lines[0], *lines[101:]]))
    assert read(file)[1] == 200


def test_other_code_of_the_source_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's source is corrected in a row that is not among those looked at again; its fingerprint stays."""
    monkeypatch.syspath_prepend(str(file.parent))
    code = """from lit_basereward.data.sources.jsonl import JSONLSource
from dataclasses import replace
class Corpus(JSONLSource):
    def __getitem__(self, index):
        row = super().__getitem__(index)
        return replace(row, ratings={}) if index == 103 else row
"""
    found = []
    for ratings in ("(1.0, 1.0)", "(1.0, 0.5)     "):
        (file.parent / "corpus_of_a_user.py").write_text(code.format(ratings))
        sys.modules.pop("corpus_of_a_user", None)
        importlib.invalidate_caches()
        module = importlib.import_module("corpus_of_a_user")
        found.append(scan(module.Corpus(str(file)), "rows", "raise").comparisons[103])
    assert found == [0, 1]


def test_rows_that_are_not_as_kept_are_read(file: Path) -> None:
    """Code that the fingerprint does not see has changed: the rows that are looked at again tell."""
    read(file)
    (kept,) = file.parent.glob("cache/scan/*")
    with np.load(kept) as old:
        columns = {name: old[name] for name in old}
    columns["prompt"] = columns["prompt"] + 1
    np.savez(kept, **columns)
    found, reads = read(file)
    assert reads == 201  # the first of them already
    assert same(found, read(file)[0])


@pytest.mark.parametrize("damage", [lambda kept: kept[:-40], lambda kept: b"", lambda kept: b"nonsense"])
def test_a_damaged_file_is_made_again(damage: Any, file: Path) -> None:
    first, _ = read(file)
    (kept,) = file.parent.glob("cache/scan/*")
    kept.write_bytes(damage(kept.read_bytes()))
    again, reads = read(file)
    assert reads == 200 and same(first, again)
    assert read(file)[1] == 64


def test_bad_rows_are_kept_and_raise_where_they_should(file: Path) -> None:
    """The row without its image is bad; restored, it is read again."""
    image = file.parent / "image.png"
    content = image.read_bytes()
    image.unlink()
    first, _ = read(file, "skip")
    again, rereads = read(file, "skip")
    assert rereads == 65 and same(first, again)  # the first bad row is looked at too
    assert again.responses[8] == 0 and "image.png" in again.messages[0]
    with pytest.raises(RowError, match=r"rows\.jsonl:9"):
        read(file)
    image.write_bytes(content)
    assert read(file)[0].responses[8] == 2


def test_what_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not small sources, and none whose fingerprint is only name and size."""
    assert is_kept(JSONLSource(str(file)))
    assert not is_kept(JSONLSource(str(file), limit=100))
    assert not is_kept(ListSource(preferences() * 50))


def test_a_cache_that_cannot_be_written_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_BASEREWARD_CACHE", str(file))  # a file in the place of the folder
    with pytest.warns(UserWarning, match="not kept for the next run.*set LIT_BASEREWARD_CACHE"):
        found, _ = read(file)
    assert len(found) == 200
