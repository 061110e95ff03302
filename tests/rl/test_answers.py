"""Answers in completions: where they are found, and what equals what. Each row is one decision."""

from __future__ import annotations

import threading
import time

import pytest

from lit_basereward.rl.answers import Answer, extract, matches, options_of, same_formula
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
    ],
)
def test_extract(completion, text, marked):
    assert extract(completion) == Answer(text, marked)


@pytest.mark.parametrize("completion", ["", " \n", "<think>It may be 4.", "<think>a</think><think>It may be 4."])
def test_no_answer(completion):
    assert extract(completion) is None


def test_one_form_only():
    text = r"\boxed{1} <answer>2</answer> The answer is 3"
    assert extract(text, "boxed") == Answer("1", True) and extract(text, "tagged") == Answer("2", True)
    assert extract("The answer is 3", "boxed") is None and extract("3", "tagged") is None


CHOICES = "Which one?\nA. a cat\n(B) a dog\nC) 12 cm"


@pytest.mark.parametrize(
    ("completion", "truth", "right"),
    [
        # text
        ("four", "four", True),
        ("**Four.**", "four", True),
        ("The digit is four.", "four", True),
        ("four", "The digit is four.", True),
        ("It is not four.", "four", False),
        ("The cat is red.", "The dog is red.", False),
        ("A cat", "the cat", True),
        (r"\boxed{\text{Cat}}", "cat", True),
        ("a caterpillar", "cat", False),
        ("", "four", False),
        ("I do not think it is four.", "four", False),
        ("I doubt it is four.", "four", False),
        ("**_Four_**", "four", True),
        ("Yes, it is.", "yes", True),
        ("The answer is no, because", "No", True),
        ("No cats are there", "no", False),
        ("It is yes.", "yes", True),
        ("No, yes is wrong", "yes", False),
        # choices: the letter, or the option's text
        ("B", "B", True),
        ("(B)", "B", True),
        ("b.", "B", True),
        ("B. a dog", "B", True),
        ("The answer is (B) a dog.", "B", True),
        ("It is option B, clearly", "B", True),
        ("a dog", "B", True),
        ("It is a dog.", "B", True),
        ("a cat", "B", False),
        ("B. a cat", "A", False),  # the letter decides
        ("A", "B", False),
        ("A dog", "B", True),  # an article, not a letter
        ("The answer is B because it barks", "B", True),
        ("So B is correct.", "B", True),
        ("B is not correct.", "B", False),
        (r"\boxed{\text{(B) a dog}}", "B", True),
        ("The answer is not A but B", "A", False),
        ("It is not option B.", "B", False),
        ("It can't be option B", "B", False),
        ("A. B. C.", "A", False),  # several are none
        ("(A) or (B)", "A", False),
        ("A. B and C", "A", False),
        ("Option B: a dog", "B", True),
        ("Choice (B)", "B", True),
        ("Either option A or option B is correct", "B", False),
        ("Option A is wrong, option B is right", "B", True),
        ("B. is wrong", "B", False),
        ("<answer>C</answer>", "(C) 12 cm", True),
        ("12 cm", "C. 12 cm", True),
        # numbers
        ("1,200", "1200", True),
        ("There are 3 cats and 4 dogs", "4", True),  # the last one
        ("12 - 5 = 7 dogs", "7", True),
        (r"\boxed{3 of 10}", "10", False),  # what is marked has to be it
        ("3 of 10", "10", False),  # a part of something more
        ("2:3", "3", False),
        ("1, 2, or 3", "3", False),
        ("between 5 and 6", "6", False),
        ("5 - 6", "6", False),
        (r"2 \times 3", "3", False),
        (r"2\sqrt{3}", "3", False),
        ("It is 10^3", "3", False),
        ("x_{3}", "3", False),
        ("It is 3x", "3", False),
        (r"It is 2\pi", "2", False),
        ("It is at least 5", "5", False),  # a bound
        (r"x \neq 5", "5", False),
        ("4 rather than 5", "5", False),
        ("5 is wrong", "5", False),
        (".5", "5", False),
        ("2*3", "23", False),
        (r"\boxed{x = 5}", "5", True),
        (r"The answer is \(5\).", "5", True),
        ("3 million", "3", False),
        ("1.5 million", "1,500,000", True),
        ("$3 million", "$3", False),
        ("\u22123.50", "-3.5", True),
        ("3/4", "0.75", True),
        (r"\boxed{\frac{3}{4}}", "0.75", True),
        ("0.333", "1/3", True),  # 0.0003 / 0.3333 is within a thousandth
        ("0.33", "1/3", False),
        ("1001", "1000", False),  # whole numbers are hit
        ("1.2e3", "1200", True),
        (r"$1.2 \times 10^{3}$", "1200", True),
        ("1/0", "1", False),
        ("1e999", "1", False),
        (r"2 \times 10^{400}", "1", False),  # more than a float holds
        ("It is not 4.", "4", False),
        ("I don't think there are 4 dogs", "4", False),
        ("There are not 3 but 4", "4", True),
        ("No, there are 4", "4", True),
        ("3\u00b2", "32", False),  # 3 squared
        (r"\boxed{3\frac{1}{2}}", "3.5", True),
        ("3\u00bd", "3.5", True),
        ("-3 1/2", "-3.5", True),
        ("\u20135", "-5", True),  # a dash for a minus
        ("\uff11\uff12", "12", True),
        # units
        ("350 cm", "3.5 m", True),
        ("3.5", "3.5 m", True),  # the unit left out
        ("30", "30 mm", True),  # is the true one's, whatever its base unit is
        ("0.03", "30 mm", False),
        ("30 mm", "30", True),
        ("2 hours", "7200", False),
        ("3.0 cm", "30 mm", True),
        ("3.5 kg", "3.5 m", False),
        ("2 hours", "120 min", True),
        ("3 hours 20 min", "20 min", False),
        ("3 km per hour", "3 km", False),
        (r"3\,kg", "3 cm", False),
        ("36 km/h", "10 m/s", True),
        ("2 m^2", "20000 cm\u00b2", True),
        (r"\boxed{5\text{ cm}}", "50 mm", True),
        ("$5", "5 dollars", True),
        (r"\boxed{\$5}", "5", True),
        ("3 dogs", "3 cats", False),
        ("50 %", "0.5", True),
        ("50", "50%", True),
        ("0.5", "50\\%", True),
        ("5", "50%", False),
        ("90 degrees", "90\u00b0", True),
        (r"$90^{\circ}$", "90\u00b0", True),
    ],
)
def test_matches(completion, truth, right):
    given = extract(completion)
    assert (given is not None and matches(given, truth, options_of(CHOICES))) == right


def test_tolerance_is_relative():
    """1 of 100.0 is a hundredth."""
    given = Answer("101.0", True)
    assert matches(given, "100.0", tolerance=0.01) and not matches(given, "100.0", tolerance=0.009)


def test_options():
    assert options_of(CHOICES) == {"A": "a cat", "B": "a dog", "C": "12 cm"}


@pytest.mark.parametrize(
    "piece",
    ["word ", "a", r"\boxed{", "<answer>", " ", "9", "234,", "1 ", "answer ", r"\text{", "is ", ".", "not ", "A. "],
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
    assert quantity("four") is None and quantity("2 of 3") is None and quantity("") is None


@pytest.mark.parametrize(
    ("given", "truth", "same"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        (r"\sqrt{8}", r"$2\sqrt{2}$", True),
        ("x = 3", "3", True),
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
