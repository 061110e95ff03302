"""The demo's preference data, made on the spot: real digits, drawn scenes and small sums.

Better and worse responses have one distribution of text, exactly, so whoever does not look at the image (in sums: at
the operands) is right half the time: rows come in groups with one question and one set of candidates, in which every
candidate is the right one in turn.
"""

from __future__ import annotations

import io
import itertools
import random
import zlib
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lit_basereward.data.sources.base import Source
from lit_basereward.data.types import ImagePart, ImageRef, Message, Preference

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_QUESTIONS = ("What digit is this?", "Which digit do you see?")
DIGIT_ANSWERS = ("{}", "The digit is {}.")

COLOURS = {"red": (214, 39, 40), "green": (34, 150, 60), "blue": (40, 80, 220)}
COUNTS = ("one", "two", "three")
SHAPES = ("circle", "square")
OBJECTS = ("cross", "ring")
SCENE_QUESTIONS = ("What is in the picture?",)
SCENE_ANSWERS = ("{}",)

SUM_QUESTIONS = ("{} + {} = ?", "What is {} + {}?")
SUM_ANSWERS = ("{}", "It is {}.")
SUM_OPERANDS = 20  # from 0
SUM_DISTANCE = 4  # a wrong sum is off by at least this


@dataclass(frozen=True)
class Candidates:
    """One row before it is drawn: a question, its candidate answers and what the image shows."""

    question: str
    answers: tuple[str, ...]
    ratings: tuple[float, ...]
    category: str
    shows: Any = None


class MadeSource(Source):
    """A source whose rows are made from a seed. Subclasses say what they are and draw their images.

    Args:
        split: ``train``, ``val`` or ``test``; they share no image, whatever the seeds.
        rows: about how many rows, cut to whole groups; None is the default of the split.
        seed: of everything but the split.
    """

    def __init__(self, split: Split = "train", rows: int | None = None, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"{self.name} has no split {split!r}; use one of {SPLITS}")
        self.split, self.rows, self.seed = split, rows, seed

    @abstractmethod
    def make(self, rng: random.Random) -> list[Candidates]:
        """All rows, group by group."""

    def draw(self, index: int) -> bytes | None:
        """The image of row ``index`` as PNG, or None where rows have none."""
        return None

    @cached_property
    def candidates(self) -> list[Candidates]:
        """All rows before they are drawn, made on first use; answers in an order of their own in every row."""
        rng = self.rng()
        made = self.make(rng)
        if not made:
            raise ValueError(f"{self.name} cannot make a whole group of {self.rows} rows; set a larger number, or null")
        orders = [rng.sample(range(len(row.answers)), len(row.answers)) for row in made]
        return [
            replace(row, answers=tuple(row.answers[i] for i in o), ratings=tuple(row.ratings[i] for i in o))
            for row, o in zip(made, orders, strict=True)
        ]

    def rng(self, *key: object) -> random.Random:
        """A random stream of its own for every name, split, seed and ``key``."""
        return random.Random("-".join(map(str, (self.name, self.split, self.seed, *key))))

    def __len__(self) -> int:
        return len(self.candidates)

    def __getitem__(self, index: int) -> Preference:
        row, png = self.candidates[index], self.draw(index)
        return Preference(
            id=f"{self.name}-{self.split}-{index}",
            prompt=(Message("user", (row.question,) if png is None else (ImagePart(), row.question)),),
            responses=row.answers,
            ratings=row.ratings,
            images=() if png is None else (ImageRef(data=png),),
            source=self.name,
            category=row.category,
        )

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}:{self.split}:{self.seed}"


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
                    answers = tuple(rng.choice(DIGIT_ANSWERS).format(DIGITS[digit]) for digit in group)
                    for i, digit in enumerate(group):
                        ratings = tuple(float(i == j) for j in range(k))
                        made.append(Candidates(question, answers, ratings, f"K={k}", (digit, next(unused[digit]))))
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
        values = {"count": COUNTS, "colour": tuple(COLOURS), "object": OBJECTS}
        made = []
        for _, varied in zip(range(rows // 4), itertools.cycle(itertools.combinations(values, 2)), strict=False):
            base = Scene(*(rng.choice(choices) for choices in (COUNTS, tuple(COLOURS), SHAPES, OBJECTS)))
            grid = itertools.product(*(rng.sample(values[attribute], 2) for attribute in varied))
            scenes = [replace(base, **dict(zip(varied, point, strict=True))) for point in grid]
            question, answer = rng.choice(SCENE_QUESTIONS), rng.choice(SCENE_ANSWERS)
            captions = tuple(answer.format(scene.caption()) for scene in scenes)
            for scene in scenes:
                wrong = [sum(getattr(scene, a) != getattr(other, a) for a in varied) for other in scenes]
                made.append(Candidates(question, captions, tuple(float(-w) for w in wrong), " ".join(varied), scene))
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
            answers = tuple(rng.choice(SUM_ANSWERS).format(sum(pair)) for pair in (first, second))
            made.append(Candidates(question.format(*first), answers, (1.0, 0.0), ""))
            made.append(Candidates(question.format(*second), answers, (0.0, 1.0), ""))
        return made


def png(image: Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def demo_texts() -> list[str]:
    """Every text of the demo's prompts and responses once: what its tokenizer is trained on."""
    digits = [answer.format(digit) for answer in DIGIT_ANSWERS for digit in DIGITS]
    scenes = [
        answer.format(Scene(*parts).caption())
        for answer in SCENE_ANSWERS
        for parts in itertools.product(COUNTS, COLOURS, SHAPES, OBJECTS)
    ]
    pairs = list(itertools.product(range(SUM_OPERANDS), repeat=2))
    sums = [question.format(*pair) for question in SUM_QUESTIONS for pair in pairs]
    sums += [answer.format(sum(pair)) for answer in SUM_ANSWERS for pair in pairs]
    return [*DIGIT_QUESTIONS, *digits, *SCENE_QUESTIONS, *scenes, *sums]
