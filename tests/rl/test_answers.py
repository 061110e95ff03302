"""Answers in completions: where they are found, and what equals what. Each row is one decision."""

from __future__ import annotations

import threading
import time

import pytest

from lit_basereward.rl.answers import Answer, extract, matches, options_of, same_formula, truths
from lit_basereward.rl.quantities import quantity


@pytest.mark.parametrize(
    ("completion", "text", "marked"),
    [
        (r"So \boxed{\frac{1}{2}} it is.", r"\frac{1}{2}", True),  # braces counted
        (r"\boxed{3}, no: \boxed{4}", "4", True),  # the last
        (r"\boxed{a\}b}", r"a\}b", True),  # an escaped brace closes nothing
        (r"\boxed{3} and \boxed{4", "3", True),  # one that never closes is none
        (r"<answer>\boxed{4}</answer>", "4", True),
        ("<answer>3</answer> <ANSWER> 5 </ANSWER>", "5", True),
        ("<answer>The answer is 4.</answer>", "4.", True),
        ("The answer is 4.", "4.", True),
        ("Answer: B\nbecause", "B", True),
        ("**Final answer:** 12 cm", "** 12 cm", True),
        ("The answer is 3. No: the answer is 4.", "4.", True),
        ("It shows a cat.\nA cat.", "A cat.", False),  # else the last line
        (r"<think>\boxed{3}</think>Four.", "Four.", False),  # thoughts are no answer
        (r"\boxed{a\\}", r"a\\", True),  # an escaped backslash escapes no brace
        ("<answer>3<answer>4</answer> <answer>5", "4", True),  # of a tag that never ends nothing is taken
        ("She has 72.\n#### 72", "72", True),  # GSM8K's
        ("#### Step 2\nThe answer is 4.", "4.", True),  # a heading
        ("**Answer**:\n\\[\n3\n\\]", "3", True),  # the first line with words
        (
            "The answer is 4. I doubt the answer is 5.",
            "4. I doubt the answer is 5.",
            True,
        ),  # not the one that is denied
        ("The answer is 3." + " " * 20_000 + "Four.", "Four.", False),  # the last 20,000 characters
        ("</think>" + "x\n" * 20_000 + "Four.", "Four.", False),
    ],
)
def test_extract(completion, text, marked):
    assert extract(completion) == Answer(text, marked)


@pytest.mark.parametrize(
    "completion", ["", " \n", "<think>It may be 4." + " " * 20_000, "<think>a</think><think>It may be 4."]
)
def test_no_answer(completion):
    assert extract(completion) is None


def test_one_form_only():
    text = r"\boxed{1} <answer>2</answer> The answer is 3"
    assert extract(text, "boxed") == Answer("1", True) and extract(text, "tagged") == Answer("2", True)
    assert extract("The answer is 3", "boxed") is None and extract("3", "tagged") is None


CHOICES = "Which one?\nA. a cat\n(B) a dog\nC) 12 cm\nD. a horse"
DECISIONS = [  # a truth, what is right, and what is wrong
    # text
    ("four", "four | **Four.** | The digit is four. | **_Four_** | Four!", "It is not four. | I doubt it is four."),
    ("The digit is four.", "four", "I do not think it is four."),
    ("The dog is red.", "", "The cat is red."),
    ("the cat", "A cat | \\boxed{\\text{Cat}}", "a caterpillar"),
    ("=", "=", ". | >"),
    ("yes", "Yes, it is. | It is yes. | Yes there is. | Yes - the light is green", "Yes, no | Yes, but actually no"),
    ("No", "The answer is no, because | No, that is wrong. | No it is not", "No cats are there | No, yes | Yes or no"),
    # choices: the letter decides, and an option's text alone does, too
    ("A", "I think A | I think the answer is A", "B. a cat | The answer is not A but B | A dog | A. a cat\nB. a dog"),
    ("A", "A, a cat", "A. B. C. | (A) or (B) | A. B and C | A, B | A - B | A/B | A or B | Not A | B. a dog\nC. 12 cm"),
    ("B", "B | (B) | b. | B. a dog | B, a dog | [B] | \\(\\text{B}\\) | a dog | A dog | It is a dog.", "a cat | A"),
    ("B", "The answer is (B) a dog. | The answer is \\(B\\). | The answer is B because it barks", "B is not correct."),
    ("B", "**Answer**: B | **Final Answer**: B | Answer: B, a dog | Answer: B - a dog", "It is not option B."),
    ("B", "The answer is B, because it barks. | answer\uff1aB | B \u2014 a dog", "It can't be option B | B. is wrong"),
    ("B", "I choose B. | It's B. | The answer is definitely B", "I would not choose B."),
    ("B", "<answer>[B]</answer> | \\boxed{\\textbf{(B)}\\ \\text{a dog}}", "<answer>B. a dog or D. a horse</answer>"),
    ("B", "It is option B, clearly | Option B: a dog | Choice (B)", "(B) a dog or (D) a horse | B. a dog, D. a horse"),
    ("B", "So B is correct. | Option A is wrong, option B is right", "Either option A or option B is correct"),
    ("B", "B. a dog\n\nThe animal has paws. | B\n\nIt has paws.", "B. a dog\n\nWait, no. | B. a dog\n\nNo: D"),
    ("B", "Answer:\n\n**(B) a dog** | B (a dog)", "B. a dog is wrong | The wrong answer is B"),
    ("(C) 12 cm", "<answer>C</answer> | 12 cm", "12 m"),
    # numbers: what is marked has to be it, else the last one counts, unless it is a part of something more, or a bound
    ("4", "There are 3 cats and 4 dogs | There are not 3 but 4", "It is not 4. | 3 of 4 | 1, 2, or 4"),
    ("4", "No, there are 4", "I don't think the answer is 4 | 4 is wrong"),
    ("6", "", "between 5 and 6 | 5 - 6 | 5:6 | 5 \\times 6 | 2\\sqrt{6} | x_{6} | It is 10^6 | It is 6x | 6\\pi"),
    ("5", "\\boxed{x = 5} | The answer is \\(5\\). | \\boxed{\\$5}", "It is at least 5 | x \\neq 5 | .5"),
    ("5", "5 because 2+3=5 | 5 (five). | five (5) | 5, since x", "4 rather than 5 | 5 (6) | 5 million"),
    ("3", "I see 3 of them | There are 3 on it | There are 3 in it", "3 a"),
    ("3", "three | Three dogs. | There are three dogs", "not three | three hundred | three quarters"),
    ("3", "The answer is:\n3 | The answer is:\n\\[\n3\n\\] | $$\n3\n$$", "4 because 3 | 3\u4e07"),
    ("three", "3 | 3 dogs", "4"),
    ("20", "twenty", "twenty-one | twenty one"),
    ("1", "one", "1/0 | 1e999 | 2 \\times 10^{400} | One sees none."),
    ("7", "12 - 5 = 7 dogs", "7! | It is 7!"),
    ("72", "8*9 = <<8*9=72>>72 | So:\n#### 72", "#### 71"),
    ("1200", "1,200 | 1.2e3 | $1.2 \\times 10^{3}$ | 1{,}200 | 1\\,200", "1201 | 1, 200, 3"),
    ("1,500,000", "1.5 million", "1.5"),
    ("9007199254740992", "9,007,199,254,740,992", "9007199254740993"),
    ("23", "", "2*3 | 2**3"),
    ("32", "", "3\u00b2"),
    ("12", "\uff11\uff12", "12abc | 1, 2"),
    ("-3.5", "\u22123.50 | -3 1/2", "3.5"),
    ("3.5", "\\boxed{3\\frac{1}{2}} | 3\u00bd", "3 and a half of 5"),
    ("0.75", "3/4 | \\boxed{\\frac{3}{4}} | \\frac34", "0.76"),
    ("1/3", "0.333", "0.33"),  # 0.0003 / 0.3333 is within a thousandth
    ("5.2", "The answer is approximately 5.2 | \u2248 5.2 | x \\approx 5.2 | about 5.2", "about 5"),
    # units: one that is left out is the true one's, whatever its base unit is
    ("3.5 m", "350 cm | 3.5", "3.5 kg"),
    ("30 mm", "30 | 3.0 cm", "0.03"),
    ("30", "30 mm | 30 dogs | 30\u5ea6", "30a | 30 a | 30 squared"),
    ("120 min", "2 hours", "3 hours 120 min"),
    ("7200", "", "2 hours"),
    ("3 km", "", "3 km per hour"),
    ("3 m", "300 CM", "3M | 3 M | 3\\,kg"),
    ("3 mg", "", "3 Mg"),
    ("3 s", "3 seconds", "3 times"),
    ("5 N", "5", "5 J"),
    ("12 inches", "12 in", "12 cm"),
    ("10 m/s", "36 km/h", "10 m"),
    ("9.8 m/s^2", "9.8", "9.8 m/s"),
    ("2.7 g/cm^3", "2700 kg/m^3", "2700 kg"),
    ("60 words/minute", "60", "60 words/hour"),
    ("20000 cm\u00b2", "2 m^2", "2 m"),
    ("50 mm", "\\boxed{5\\text{ cm}}", "5 m"),
    ("5 dollars", "$5", "5 euros"),
    ("$3", "3", "$3 million"),
    ("3 cats", "three", "3 dogs"),
    ("0.5", "50 %", "50"),
    ("50\\%", "50 | 0.5", "5"),
    ("90\u00b0", "90 degrees | $90^{\\circ}$", "90 cm"),
    # formulas and lists, of which nothing is dropped
    ("4x^2", "4 x^2", "4 | 4x2 | 4x^3"),
    ("4a^2", "", "4"),
    ("12xy", "12 xy", "12"),
    ("6i", "", "6"),
    ("3x", "", "3"),
    ("2\u03c0", "", "2"),
    ("2 pi", "", "2"),
    ("1/2x", "", "1/2"),
    ("\\frac{1}{2}x", "", "0.5"),
    ("7!", "7!", "7"),
    ("n", "n.", "n!"),
    ("x=5", "5 | x = 5.0", "y=5 | So y = 5"),
    ("x > 2", "x>2", "x<2 | x>=2"),
    ("(3,4)", "(3, 4) | \\left(3,4\\right)", "3,4 | [3,4] | (4,3)"),
    ("3,4", "3, 4", "(3,4)"),
]


@pytest.mark.parametrize("maths", [False, True])
@pytest.mark.parametrize(("truth", "right", "wrong"), DECISIONS)
def test_decisions(truth, right, wrong, maths):
    """Whether formulas are compared or not; what is wrong is so in a box and without options, too."""
    if maths:
        pytest.importorskip("math_verify")
    for completion in filter(None, right.split(" | ")):
        assert matches(extract(completion), truth, options_of(CHOICES), maths=maths), completion
    for completion in filter(None, wrong.split(" | ")):
        for given in (extract(completion), Answer(completion, True)):
            assert not matches(given, truth, options_of(CHOICES), maths=maths), completion
            assert not matches(given, truth, maths=maths), completion


@pytest.mark.parametrize("given", ["B. a dog", "B, a dog", "B - a dog", "The answer is (B) a dog, since it barks."])
def test_a_letter_needs_no_options(given):
    assert matches(extract(given), "B") and not matches(extract(given), "A")
    assert not matches(extract("B. a dog\n\na horse"), "B", options_of(CHOICES))  # which may contradict it


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("four", ["four"]),
        ("<answer> 3 </answer>", ["3"]),
        (r"So \boxed{12}.", ["12"]),
        ("48/2 = <<48/2=24>>24\n#### 24", ["24"]),
        ('["3", "three"]', ["3", "three"]),
        ("['<answer> 3 </answer>', 4]", ["3", "4"]),
        ("[1, 2]", ["[1, 2]"]),  # a point, or an interval
        ("[B]", ["[B]"]),
        ("<answer> </answer>", []),
        (r"\boxed{}", []),
        ("[' ']", []),
    ],
)
def test_truths(answer, found):
    assert truths(answer) == found


def test_tolerance_is_relative():
    """1 of 100.0 is a hundredth."""
    given = Answer("101.0", True)
    assert matches(given, "100.0", tolerance=0.01) and not matches(given, "100.0", tolerance=0.009)


def test_options():
    assert options_of(CHOICES) == {"A": "a cat", "B": "a dog", "C": "12 cm", "D": "a horse"}


@pytest.mark.parametrize(
    "piece",
    [
        "word ",
        "a",
        r"\boxed{",
        "<answer>",
        " ",
        "9",
        "234,",
        "1 ",
        "answer ",
        r"\text{",
        "is ",
        ".",
        "not ",
        "A. ",
        "\ufdfa",
        "1½",
    ],
)
def test_long_completions_take_no_longer_than_their_length(piece):
    """One piece, 300,000 characters of it on a line: patterns that try again from each place would take hours, where a
    second is enough (20 are allowed: only hanging is timed here)."""
    text = f"x{piece * (300_000 // len(piece))}y"
    start = time.process_time()
    given = extract(text)
    assert given is not None and not matches(given, "cat") and not matches(given, "B", options_of(text))
    assert not matches(given, "0.25 kg")
    assert time.process_time() - start < 20


def test_what_is_no_quantity():
    assert quantity("a cat") is None and quantity("2 of 3") is None and quantity("") is None


@pytest.mark.parametrize(
    ("given", "truth", "same"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        (r"\sqrt{8}", r"$2\sqrt{2}$", True),
        ("x = 3", "3", True),
        ("5040", "7!", True),
        ("2yx", "2xy", True),
        (r"\{3,4\}", "3,4", True),  # not (3,4)
        (r"\frac12", "1/2", True),
        (r"3\pi", "9.42", False),
        ("a cat", "tac a", False),  # products of letters would be equal
        ("__import__('os').system('false')", "1", False),
        ("9" * 400, "9", False),
    ],
)
def test_formulas(given, truth, same):
    pytest.importorskip("math_verify")
    assert same_formula(given, truth) == same
    assert matches(Answer(given, True), truth, maths=True) == same


ENDLESS = [
    "9^{9^{9}}",
    "99999999!",
    "((9!)!)!",
    r"\sum_{n=1}^{10^{9}} n^{n}",
    r"\binom{1000000}{500000}",
    "x^{-100000}",
]


def test_formulas_that_never_end():
    """They are not compared at all: each would take 5 seconds, until it is stopped (only hanging is timed here)."""
    pytest.importorskip("math_verify")
    start = time.process_time()
    assert not any(same_formula(given, "4") for given in ENDLESS)
    assert time.process_time() - start < 15


def test_formulas_outside_the_main_thread():
    """Where no alarm can stop them they are refused, not started."""
    pytest.importorskip("math_verify")
    found: list[BaseException] = []

    def compare() -> None:
        with pytest.raises(ValueError, match="main thread") as caught:
            same_formula("x^2+2x+1", "(x+1)^2")
        found.append(caught.value)

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    assert found
