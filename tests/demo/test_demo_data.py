"""The demo's data: splits that share nothing, one distribution of better and worse texts, ratings that are true."""

from __future__ import annotations

import hashlib
import io
import itertools
import pickle
import re
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lit_basereward.data.sources.jsonl import JSONLSource
from lit_basereward.data.types import Preference
from lit_basereward.demo.data import COLOURS, COUNTS, DIGITS, TEMPLATES, Digits, Scenes, Sums, demo_texts
from lit_basereward.demo.files import write_files
from lit_basereward.demo.made import SPLITS, MadeSource, Split, critique, judgement
from lit_basereward.demo.tiny import tiny_tokenizer

SOURCES = (Digits, Scenes, Sums)
Scorer = Callable[[str, str], bytes]


def rows(source: MadeSource) -> list[Preference]:
    return [source[i] for i in range(len(source))]


def question(row: Preference) -> str:
    """The text of the prompt."""
    return " ".join(part for message in row.prompt for part in message.content if isinstance(part, str))


def accuracy(preferences: list[Preference], score: Scorer) -> float:
    """Share of comparisons in which the better response scores strictly higher."""
    right = [
        score(question(row), row.responses[i]) > score(question(row), row.responses[j])
        for row in preferences
        for i, j in row.comparisons()
    ]
    return sum(right) / len(right)


def scorer(seed: int, with_question: bool = True) -> Scorer:
    """A reward model that reads the texts, has any taste at all, and never ties."""
    return lambda prompt, text: hashlib.sha256(f"{seed}|{prompt * with_question}|{text}".encode()).digest()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("source", [Digits, Scenes])
def test_whoever_does_not_look_is_right_half_the_time(source: type[MadeSource], split: Split) -> None:
    """Exactly: each ordered pair of texts under a question appears as often as its reverse."""
    made = rows(source(split))
    assert len(made) > 100
    for seed in range(3):
        assert accuracy(made, scorer(seed)) == 0.5
    pairs = Counter((question(r), r.responses[i], r.responses[j]) for r in made for i, j in r.comparisons())
    assert all(pairs[prompt, worse, better] == count for (prompt, better, worse), count in pairs.items())
    assert accuracy(made, lambda _, text: len(text).to_bytes(2, "big")) < 0.5  # by length, ties count as wrong


@pytest.mark.parametrize("split", SPLITS)
def test_whoever_does_not_read_the_operands_is_right_half_the_time(split: Split) -> None:
    made = rows(Sums(split))
    for seed in range(3):
        assert accuracy(made, scorer(seed, with_question=False)) == 0.5


def test_rows_come_in_closed_groups() -> None:
    """K rows in a row share question and candidates, and each candidate is the best once."""
    digits, scenes = rows(Digits("test", rows=160)), rows(Scenes("test", rows=40))
    assert [row.category for row in digits] == ["K=2"] * 80 + ["K=4"] * 80
    by_size = [(2, digits[:80]), (4, digits[80:]), (4, scenes)]
    for size, made in by_size:
        for start in range(0, len(made), size):
            group = made[start : start + size]
            assert len({(question(row), frozenset(row.responses)) for row in group}) == 1
            best = {row.responses[row.ratings.index(max(row.ratings))] for row in group}
            assert best == set(group[0].responses) and len(best) == size


@pytest.mark.parametrize("source", [Digits, Scenes])
def test_splits_share_no_image(source: type[MadeSource]) -> None:
    """Not even with different seeds."""
    pictures = [{row.images[0].data for row in rows(source(split, seed=i))} for i, split in enumerate(SPLITS)]
    assert not any(one & other for one, other in itertools.combinations(pictures, 2))


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_can_be_in_one_split_only(split: Split) -> None:
    """The checksum of its pixels decides, so even the same random numbers draw no picture for two splits."""
    for row in rows(Scenes(split, rows=40)):
        pixels = Image.open(io.BytesIO(row.images[0].data)).tobytes()
        assert zlib.crc32(pixels) % 100 in Scenes.checksums[split]
    assert sorted(itertools.chain(*Scenes.checksums.values())) == list(range(100))


def test_splits_share_no_operands() -> None:
    operands = [
        {frozenset(map(int, re.findall(r"\d+", question(row)))) for row in rows(Sums(split))} for split in SPLITS
    ]
    assert not any(one & other for one, other in itertools.combinations(operands, 2))


def test_enough_to_measure_and_each_test_scan_once_per_k() -> None:
    """400 comparisons give a 95 % interval of about 0.05 to either side of 0.5."""
    made = {source.name: rows(source("test")) for source in SOURCES}
    assert all(sum(len(row.comparisons()) for row in test) >= 400 for test in made.values())
    for k in (2, 4):
        scans = Counter(row.images[0].data for row in made["digits"] if len(row.responses) == k)
        assert len(scans) == 360 and set(scans.values()) == {1}


def test_every_digit_is_right_and_wrong_equally_often() -> None:
    for k in (2, 4):
        made = [row for row in rows(Digits("val")) if len(row.responses) == k]
        named = [[next(d for d in DIGITS if d in text) for text in row.responses] for row in made]
        right = Counter(texts[row.ratings.index(1.0)] for texts, row in zip(named, made, strict=True))
        everything = Counter(itertools.chain.from_iterable(named))
        assert set(right.values()) == {20} and set(everything.values()) == {20 * k}


def test_digits_are_labelled_as_in_scikit_learn() -> None:
    """The scan is found back in the picture: its 8 x 8 means point to the same scan, hence the same class."""
    from sklearn.datasets import load_digits

    data = load_digits()
    label_of = {
        bytes(min(255, int(v) * 16) for v in scan.flat): int(y)
        for scan, y in zip(data.images, data.target, strict=True)
    }
    source = Digits("test", rows=80, image_size=8)
    for row in rows(source):
        right = row.responses[row.ratings.index(1.0)]
        scan = Image.open(io.BytesIO(row.images[0].data)).tobytes()
        assert DIGITS[label_of[scan]] in right


def read_caption(text: str) -> tuple[int, str, str, str]:
    """(count, colour, shape, object) of a caption."""
    found = re.search(r"(one|two|three) (\w+) (\w+?)s? and a (\w+)", text)
    assert found, text
    return 1 + COUNTS.index(found[1]), found[2], found[3], found[4]


def blobs(image: Image.Image, ink: tuple[int, ...]) -> int:
    """Number of connected patches (8 neighbours) of pixels of exactly this colour."""
    left = {(x, y) for x in range(image.width) for y in range(image.height) if image.getpixel((x, y)) == ink}
    count = 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            x, y = edge.pop()
            near = {(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)} & left
            left -= near
            edge += near
    return count


def test_ratings_say_how_much_is_wrong_in_the_picture() -> None:
    """Colour and number are read from the pixels, shape and object from what was drawn; a rating is minus the number
    of things in which the caption differs."""
    source = Scenes("test", rows=80)
    for i, row in enumerate(rows(source)):
        image = Image.open(io.BytesIO(row.images[0].data)).convert("RGB")
        pixels = {ink for _, ink in image.getcolors()}
        (colour,) = [name for name, ink in COLOURS.items() if ink in pixels]
        scene = source.candidates[i].shows
        assert blobs(image, (0, 0, 0)) == 1
        truth = (blobs(image, COLOURS[colour]), colour, scene.shape, scene.object)
        for text, rating in zip(row.responses, row.ratings, strict=True):
            assert rating == -sum(said != shown for said, shown in zip(read_caption(text), truth, strict=True))
        assert sorted(row.ratings) == [-2.0, -1.0, -1.0, 0.0]
        assert len(row.comparisons()) == 5 and len(row.ties()) == 1


def test_right_sums_are_right() -> None:
    for row in rows(Sums("train", rows=200)):
        a, b = map(int, re.findall(r"\d+", question(row)))
        said = [int(re.findall(r"\d+", text)[0]) for text in row.responses]
        assert row.ratings == tuple(float(number == a + b) for number in said) and sum(row.ratings) == 1


def test_critiques_name_what_is_there_and_what_is_wrong() -> None:
    """By hand: the finding is what the best response says, then comes what this one says, in a fixed form, and the
    remark names the parts in which the two differ."""
    for row in rows(Digits("test", rows=80)):
        said = [next(d for d in DIGITS if d in text) for text in row.responses]
        shown = said[row.ratings.index(1.0)]
        remarks = {1.0: "right", 0.0: "wrong digit"}
        assert row.critiques == tuple(
            f"Shows {shown}, says {s}: {remarks[r]}." for s, r in zip(said, row.ratings, strict=True)
        )
    for row in rows(Sums("test", rows=40)):
        a, b = map(int, re.findall(r"\d+", question(row)))
        said = [re.findall(r"\d+", text)[0] for text in row.responses]
        remarks = {1.0: "right", 0.0: "wrong sum"}
        assert row.critiques == tuple(
            f"Makes {a + b}, says {s}: {remarks[r]}." for s, r in zip(said, row.ratings, strict=True)
        )
    for row in rows(Scenes("test", rows=24)):
        best = row.responses[row.ratings.index(0.0)]
        for response, text in zip(row.responses, row.critiques, strict=True):
            parts = zip(("count", "colour", "shape", "object"), read_caption(response), read_caption(best), strict=True)
            wrong = " and ".join(part for part, said, shown in parts if said != shown)
            assert text == f"Shows {best}, says {response}: {f'wrong {wrong}' if wrong else 'right'}."


@pytest.mark.parametrize("source", SOURCES)
def test_judgements_agree_with_ratings_and_critiques(source: type[MadeSource]) -> None:
    """About the first two responses as they stand, and none where these tie."""
    verdicts: Counter[int] = Counter()
    for row in rows(source("val", rows=80)):
        first, second = row.ratings[:2]
        if first == second:
            assert row.judgement == ""
            continue
        verdict = 1 if first > second else 2
        (finding, one, remark_one), (_, two, remark_two) = (
            re.fullmatch(r"(.*), says (.*): (.*)\.", text).groups() for text in row.critiques[:2]
        )
        assert row.judgement == (
            f"<think>{finding}, 1 says {one}, 2 says {two}. 1: {remark_one}. 2: {remark_two}.</think>"
            f"<answer>{verdict}</answer>"
        )
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 0.3 * verdicts.total() > 0


def test_critiques_and_judgement_in_words() -> None:
    """Spelled out by hand."""
    said = "two red circles and a ring"
    assert critique("Shows one red circle and a ring", said, ("count", "object")) == (
        "Shows one red circle and a ring, says two red circles and a ring: wrong count and object."
    )
    assert judgement("Makes 7", ("15", "7"), (("sum",), ())) == (
        "<think>Makes 7, 1 says 15, 2 says 7. 1: wrong sum. 2: right.</think><answer>2</answer>"
    )
    assert judgement("Shows two", ("one", "six"), (("digit",), ("digit",))) == ""


@pytest.mark.parametrize("source", SOURCES)
def test_made_again_the_same(source: type[MadeSource]) -> None:
    """From seed and split alone, also in another process; another seed is another data set."""
    first, again = source("train", rows=80), pickle.loads(pickle.dumps(source("train", rows=80)))
    assert rows(first) == rows(again)
    assert [first[7], first[7]] == [again[7], again[7]]
    other = source("train", rows=80, seed=1)
    assert rows(other) != rows(first) and other.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(("source", "size"), [(Digits, 28), (Scenes, 56)])
def test_images_have_the_stated_size(source: type[Digits | Scenes], size: int) -> None:
    for edge in (size, 2 * size):
        image = Image.open(io.BytesIO(source("val", rows=80, image_size=edge)[3].images[0].data))
        assert (image.size, image.format) == ((edge, edge), "PNG")


def test_settings_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValueError, match="scenes has no split 'dev'; use one of"):
        Scenes("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="digits cannot make a whole group of 10 rows"):
        len(Digits("val", rows=10))


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'lit_basereward\[demo\]'"):
        len(Digits("val"))


def test_every_word_is_one_token() -> None:
    """Of all that is read and written, so that what has to be generated is short: the rules split a text into words,
    marks and digits, and each comes out as one token. By hand ``Shows| seven|,| says| three|:| wrong| digit|.``, and
    the one exception ``<|answer|>|1|</|answer|>``."""
    tokenizer = tiny_tokenizer(demo_texts(), vocab_size=512)
    assert len(tokenizer) < 512  # all that could be merged was
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    assert len(tokenizer.encode("Shows seven, says three: wrong digit.")) == 9
    assert len(tokenizer.encode("<answer>1</answer>")) == 7
    texts = {text for file in TEMPLATES.glob("*.txt") for text in re.split(r"\{\w+\}", file.read_text())}
    for source, index in itertools.product(SOURCES, SPLITS):
        for row in source(index).candidates:
            critiques = [critique(row.finding, *of) for of in zip(row.said, row.mistakes, strict=True)]
            compared = re.split("</?think>|<answer>.*", judgement(row.finding, row.said, row.mistakes))
            texts |= {row.question, *row.answers, *critiques, *compared}
    for text in texts:
        assert len(tokenizer.encode(text)) == len(split(text)), text


def test_files_hold_the_same_rows(tmp_path):
    """What ``demo.files`` writes is read back as the rows of the three splits, image by image."""
    for path, split in zip(write_files(tmp_path), SPLITS, strict=True):
        source, made = JSONLSource(str(path)), Digits(split)
        assert len(source) == len(made)
        for index in (0, len(made) - 1):
            read, row = source[index], made[index]
            assert (read.id, read.prompt, read.responses, read.ratings) == (
                row.id,
                row.prompt,
                row.responses,
                row.ratings,
            )
            assert Path(read.images[0].path).read_bytes() == row.images[0].data
