"""The demo's preference data, made on the spot: real digits, drawn scenes and small sums.

Better and worse responses have one distribution of text, exactly, so whoever does not look at the image (in sums: at
the operands) is right half the time: rows come in groups with one question and one set of candidates, in which every
candidate is the right one in turn. Critiques and judgements name what is there and so give the answer away: they are
for training, see :class:`~lit_basereward.demo.made.MadeSource`.
"""

from __future__ import annotations

import io
import itertools
import random
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lit_basereward.demo.made import Candidates, MadeSource, Split, critique, judgement

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATES = Path(__file__).with_name("templates")

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_QUESTIONS = ("What digit is this?", "Which digit do you see?")
DIGIT_ANSWERS = ("{}", "The digit is {}.")

COLOURS = {"red": (214, 39, 40), "green": (34, 150, 60), "blue": (40, 80, 220)}
COUNTS = ("one", "two", "three")
SHAPES = ("circle", "square")
OBJECTS = ("cross", "ring")
SCENE_VARIES: dict[str, tuple[str, ...]] = {"count": COUNTS, "colour": tuple(COLOURS), "object": OBJECTS}
SCENE_QUESTIONS = ("What is in the picture?",)
SCENE_ANSWERS = ("{}",)

SUM_QUESTIONS = ("{} + {} = ?", "What is {} + {}?")
SUM_ANSWERS = ("{}", "It is {}.")
SUM_OPERANDS = 20  # from 0
SUM_DISTANCE = 4  # a wrong sum is off by at least this


class Digits(MadeSource):
    """Handwritten digits (scikit-learn's 1,797 bundled scans of 8 x 8 pixels) with one right and 1 or 3 wrong answers.

    Half of the rows have K = 2, half K = 4. Every class is right, and wrong, equally often. Validation and test use
    each scan once per K, training several times with other wrong answers.

    Args:
        split: ``train`` (about 118 scans a class), ``val`` (20) or ``test`` (36); which scan is where never changes.
        rows: about how many rows, cut to multiples of 80; None is 2,400, 400 and 720.
        image_size: edge of the images in pixels.
        seed: of questions, wrong answers and order.
    """

    name = "digits"
    scans_per_class: ClassVar = {"test": slice(0, 36), "val": slice(36, 56), "train": slice(56, None)}
    default_rows: ClassVar = {"train": 2400, "val": 400, "test": 720}

    def __init__(self, split: Split = "train", rows: int | None = None, image_size: int = 28, seed: int = 0) -> None:
        super().__init__(split, rows, seed)
        self.image_size = image_size

    @cached_property
    def scans(self) -> list[list[bytes]]:
        """[10 classes][scans of this split] each 64 grey values of 0 to 255, row by row."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ValueError("the demo's digits need scikit-learn: pip install 'lit_basereward[demo]'") from error
        data = load_digits()
        classes: list[list[bytes]] = [[] for _ in DIGITS]
        for label, scan in zip(data.target, data.images, strict=True):
            classes[int(label)].append(bytes(min(255, int(value) * 16) for value in scan.flat))
        for scans in classes:
            random.Random("digits").shuffle(scans)  # neighbours in the file were often written by one hand
        return [scans[self.scans_per_class[self.split]] for scans in classes]

    def make(self, rng: random.Random) -> list[Candidates]:
        rows = self.default_rows[self.split] if self.rows is None else self.rows
        made = []
        for k, offsets in ((2, (0, 1)), (4, (0, 1, 3, 6))):
            orders = [rng.sample(range(len(scans)), len(scans)) for scans in self.scans]
            unused = [itertools.cycle(order) for order in orders]
            for _ in range(rows // 80 * 40 // (10 * k)):
                # A round: ten groups of k classes. Any two differ by other offsets, so each class is in k groups.
                classes = rng.sample(range(10), 10)
                for first in range(10):
                    group = [classes[(first + offset) % 10] for offset in offsets]
                    question = rng.choice(DIGIT_QUESTIONS)
                    said = tuple(DIGITS[digit] for digit in group)
                    answers = tuple(rng.choice(DIGIT_ANSWERS).format(name) for name in said)
                    for i, digit in enumerate(group):
                        ratings = tuple(float(i == j) for j in range(k))
                        mistakes = tuple(() if i == j else ("digit",) for j in range(k))
                        shows = digit, next(unused[digit])
                        finding = f"Shows {said[i]}"
                        made.append(Candidates(question, answers, ratings, said, mistakes, finding, f"K={k}", shows))
        return made

    def draw(self, index: int) -> bytes:
        from PIL import Image

        digit, scan = self.candidates[index].shows
        image = Image.frombytes("L", (8, 8), self.scans[digit][scan])
        return png(image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Scene:
    """What a drawn scene shows: one to three coloured shapes of a kind, and one black object."""

    count: str
    colour: str
    shape: str
    object: str

    def caption(self) -> str:
        """Such as ``two red circles and a ring``."""
        return f"{self.count} {self.colour} {self.shape}{'s' * (self.count != 'one')} and a {self.object}"


class Scenes(MadeSource):
    """Drawn scenes with four captions, rated minus the number of things that are wrong in them.

    In a group two of colour, count and object take two values each: four scenes, and their four captions for all of
    them. For each scene one caption is right, two have one thing wrong (a tie) and one has two; a wrong object is
    named instead of the one that is there. The category names what varies.

    Args:
        split: ``train``, ``val`` or ``test``. A picture's own checksum says which split may show it.
        rows: about how many rows, cut to multiples of 4; None is 2,000, 240 and 400.
        image_size: edge of the images in pixels.
        seed: of scenes and pictures.
    """

    name = "scenes"
    default_rows: ClassVar = {"train": 2000, "val": 240, "test": 400}
    checksums: ClassVar = {"train": range(0, 60), "val": range(60, 80), "test": range(80, 100)}

    def __init__(self, split: Split = "train", rows: int | None = None, image_size: int = 28, seed: int = 0) -> None:
        super().__init__(split, rows, seed)
        self.image_size = image_size

    def make(self, rng: random.Random) -> list[Candidates]:
        rows = self.default_rows[self.split] if self.rows is None else self.rows
        made = []
        for _, varied in zip(range(rows // 4), itertools.cycle(itertools.combinations(SCENE_VARIES, 2)), strict=False):
            base = Scene(*(rng.choice(choices) for choices in (COUNTS, tuple(COLOURS), SHAPES, OBJECTS)))
            grid = itertools.product(*(rng.sample(SCENE_VARIES[attribute], 2) for attribute in varied))
            scenes = [replace(base, **dict(zip(varied, point, strict=True))) for point in grid]
            question, answer = rng.choice(SCENE_QUESTIONS), rng.choice(SCENE_ANSWERS)
            said = tuple(scene.caption() for scene in scenes)
            captions = tuple(answer.format(caption) for caption in said)
            for scene in scenes:
                wrong = tuple(tuple(a for a in varied if getattr(scene, a) != getattr(o, a)) for o in scenes)
                ratings = tuple(float(-len(mistakes)) for mistakes in wrong)
                finding = f"Shows {scene.caption()}"
                made.append(Candidates(question, captions, ratings, said, wrong, finding, " ".join(varied), scene))
        return made

    def draw(self, index: int) -> bytes:
        rng = self.rng("picture", index)
        while True:
            image = draw_scene(self.candidates[index].shows, rng, self.image_size)
            if zlib.crc32(image.tobytes()) % 100 in self.checksums[self.split]:
                return png(image)


def draw_scene(scene: Scene, rng: random.Random, size: int) -> Image:
    """Draw the scene on a light ground, everything at random places and in random sizes, without overlap.

    Args:
        scene: what to draw.
        rng: of places, sizes and ground.
        size: edge of the image in pixels.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), (rng.randint(225, 255),) * 3)
    pen, line = ImageDraw.Draw(image), max(2, size // 18)
    placed: list[tuple[int, int, int]] = []  # centre and radius
    for kind in [scene.object] + [scene.shape] * (1 + COUNTS.index(scene.count)):
        radius = rng.randint(size // 9, size // 7)
        while True:
            x, y = rng.randint(radius, size - 1 - radius), rng.randint(radius, size - 1 - radius)
            if all(max(abs(x - a), abs(y - b)) > radius + r + 1 for a, b, r in placed):
                break
        placed.append((x, y, radius))
        ink = (0, 0, 0) if kind in OBJECTS else COLOURS[scene.colour]
        left, top, right, bottom = box = (x - radius, y - radius, x + radius, y + radius)
        if kind == "circle":
            pen.ellipse(box, fill=ink)
        elif kind == "square":
            pen.rectangle(box, fill=ink)
        elif kind == "ring":
            pen.ellipse(box, outline=ink, width=line)
        elif kind == "cross":
            pen.line((left, top, right, bottom), fill=ink, width=line)
            pen.line((left, bottom, right, top), fill=ink, width=line)
    return image


class Sums(MadeSource):
    """Sums of two numbers from 0 to 19, text only, with a right and a wrong answer that is at least 4 off.

    Rows come in pairs with the same two answers: ``3 + 4`` with 7 over 15, and ``14 + 1`` with 15 over 7.

    Args:
        split: ``train``, ``val`` or ``test``; they share no two operands, in either order.
        rows: about how many rows, cut to multiples of 2; None is 1,200, 200 and 400.
        seed: of operands and wrong answers.
    """

    name = "sums"
    pairs: ClassVar = {"test": slice(0, 40), "val": slice(40, 65), "train": slice(65, None)}
    default_rows: ClassVar = {"train": 1200, "val": 200, "test": 400}

    def make(self, rng: random.Random) -> list[Candidates]:
        rows = self.default_rows[self.split] if self.rows is None else self.rows
        unordered = list(itertools.combinations_with_replacement(range(SUM_OPERANDS), 2))  # 210
        random.Random("sums").shuffle(unordered)
        operands: list[tuple[int, int]] = []
        for a, b in unordered[self.pairs[self.split]]:
            operands += sorted({(a, b), (b, a)})
        made: list[Candidates] = []
        while len(made) + 2 <= rows:
            first, second = rng.sample(operands, 2)
            if abs(sum(first) - sum(second)) < SUM_DISTANCE:
                continue
            question = rng.choice(SUM_QUESTIONS)
            said = tuple(str(sum(pair)) for pair in (first, second))
            answers = tuple(rng.choice(SUM_ANSWERS).format(number) for number in said)
            for pair, ratings in ((first, (1.0, 0.0)), (second, (0.0, 1.0))):
                mistakes = tuple(() if rating else ("sum",) for rating in ratings)
                finding = f"Makes {sum(pair)}"
                made.append(Candidates(question.format(*pair), answers, ratings, said, mistakes, finding, ""))
        return made


def png(image: Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def demo_texts() -> list[str]:
    """Texts with every word of the demo, templates too: what its tokenizer, one for all paradigms, is made from."""
    captions = [Scene(*parts).caption() for parts in itertools.product(COUNTS, COLOURS, SHAPES, OBJECTS)]
    pairs = list(itertools.product(range(SUM_OPERANDS), repeat=2))
    numbers = [str(number) for number in range(2 * SUM_OPERANDS - 1)]
    texts = [
        *DIGIT_QUESTIONS,
        *SCENE_QUESTIONS,
        *(question.format(*pair) for question in SUM_QUESTIONS for pair in pairs),
    ]
    for verb, things, answers, names in (
        ("Shows", DIGITS, DIGIT_ANSWERS, ("digit",)),
        ("Shows", captions, SCENE_ANSWERS, tuple(SCENE_VARIES)),
        ("Makes", numbers, SUM_ANSWERS, ("sum",)),
    ):
        texts += [answer.format(thing) for answer in answers for thing in things]
        texts += [critique(f"{verb} {thing}", thing, names) for thing in things]
        texts += [judgement(f"{verb} {thing}", (thing, thing), (names, ())) for thing in things]
    return texts + [file.read_text() for file in sorted(TEMPLATES.glob("*.txt"))]
