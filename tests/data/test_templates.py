"""Instruction files: fields where they belong, everything else as text; prompts as one text."""

from __future__ import annotations

import doctest
import pickle

import pytest

from lit_basereward.data import templates
from lit_basereward.data.templates import CRITIC_FIELDS, JUDGE_FIELDS, Template, question_text
from lit_basereward.data.types import ImagePart, Message


def write(folder, text):
    path = folder / "mine.txt"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_fields_cut_the_text(tmp_path):
    """Other braces are text, one last line break goes, and what is filled in is not read as a field again."""
    template = Template(write(tmp_path, 'Say {"a": {b}}.\n{question}|{response}|{}\n\n'), CRITIC_FIELDS)
    assert template.pieces == ('Say {"a": {b}}.\n', "|", "|{}\n")
    assert template.fill(question="{response}", response="{question}") == (
        'Say {"a": {b}}.\n{response}|{question}|{}\n'
    )
    assert pickle.loads(pickle.dumps(template)).pieces == template.pieces


@pytest.mark.parametrize(
    "text, message",
    [
        ("{question}", r"has \{response\} 0 times; write it once"),
        ("{question} {response} {response}", r"has \{response\} 2 times"),
        ("{response} {question}", r"out of order; use question \.\.\. response"),
    ],
)
def test_a_wrong_file_is_named_with_its_mend(tmp_path, text, message):
    """Missing, repeated, out of order."""
    with pytest.raises(ValueError, match=message):
        Template(write(tmp_path, text), CRITIC_FIELDS)


def test_no_such_file_and_no_text(tmp_path):
    """The packaged names are listed; bytes that are no UTF-8 are said to be none."""
    with pytest.raises(ValueError, match=r"no template 'crtic' .* give critic, reasoning, verdict, or the path"):
        Template("crtic", CRITIC_FIELDS)
    (tmp_path / "latin.txt").write_bytes(b"{question} \xe4 {response}")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        Template(str(tmp_path / "latin.txt"), CRITIC_FIELDS)


@pytest.mark.parametrize(
    "name, fields", [("critic", CRITIC_FIELDS), ("verdict", JUDGE_FIELDS), ("reasoning", JUDGE_FIELDS)]
)
def test_packaged_templates_share_their_instructions(name, fields):
    """Instructions stand before the responses, where all branches share them; what is left is a heading."""
    template = Template(name, fields)
    assert len(template.pieces[0]) > 300 and all(len(piece) < 30 for piece in template.pieces[1:])
    assert "<think>" in template.pieces[0] or name != "reasoning"


def test_prompts_as_one_text():
    """One turn is its own words; several are a transcript; an image between two texts parts them."""
    user = Message("user", (ImagePart(), "What is it?"))
    assert question_text((user,)) == "What is it?"
    assert question_text((Message("user", (ImagePart(),)),)) == ""
    assert question_text((Message("user", ("one", ImagePart(), "two")),)) == "one\n\ntwo"
    assert question_text((Message("user", ("", ImagePart(), "x")),)) == "x"
    turns = (Message("system", ("Be brief.",)), user, Message("assistant", ("A cat.",)), Message("user", ("Sure?",)))
    assert question_text(turns) == "System: Be brief.\n\nUser: What is it?\n\nAssistant: A cat.\n\nUser: Sure?"


def test_doctests():
    """The examples in the docstrings."""
    results = doctest.testmod(templates)
    assert results.attempted == 3 and results.failed == 0
