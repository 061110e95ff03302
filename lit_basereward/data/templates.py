"""Instructions for critics and judges: text files with fields for what is to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

from lit_basereward.data.types import ImagePart, Message

CRITIC_FIELDS = ("question", "response")
"""What a critic's instructions have a place for, in this order."""
JUDGE_FIELDS = ("question", "first", "second")
"""What a judge's instructions have a place for, in this order; the responses are called 1 and 2."""

_FOLDER = Path(__file__).parent / "templates"
_DEMO = Path(__file__).parents[1] / "demo" / "templates"


class Template:
    """The text of one user turn with a place for each field, such as ``{question}``; the row's images stand before it.

    The packaged ones are ``critic`` (MM-RLHF's form of critique), ``verdict`` (only 1 or 2, the short style of the
    paper's section 3.1) and ``reasoning`` (thoughts, then the answer, the style of R1-Reward), in our own words. All
    instructions stand before the responses: there they are computed once for all responses of a row. ``demo/critic``
    and so on are the demo's, of next to no words.

    Args:
        name_or_path: name of a packaged template, or path of a UTF-8 text file of your own. A file may hold other
            braces, which are text, as all of it is; its last line break is left out.
        fields: names of the places, each of which is in the text once, in this order.

    Attributes:
        pieces: the text before, between and behind the fields; one more than there are fields.

    Raises:
        ValueError: if there is no such file, or a field is missing, repeated or out of order.

    Example:
        >>> Template("verdict", JUDGE_FIELDS).fill(question="2 + 2?", first="4", second="5")[-62:]
        '[Question]\\n2 + 2?\\n\\n[Answer 1]\\n4\\n\\n[Answer 2]\\n5\\n\\n[Better answer]'
    """

    def __init__(self, name_or_path: str, fields: tuple[str, ...]) -> None:
        self.name_or_path, self.fields = name_or_path, fields
        text = _read(name_or_path).removesuffix("\n")
        for name in fields:
            if (count := text.count(f"{{{name}}}")) != 1:
                raise ValueError(f"template {name_or_path} has {{{name}}} {count} times; write it once")
        pieces: list[str] = []
        for name in fields:
            before, field, text = text.partition(f"{{{name}}}")
            if not field:
                raise ValueError(f"template {name_or_path} has {{{name}}} out of order; use {' ... '.join(fields)}")
            pieces.append(before)
        self.pieces = (*pieces, text)

    def fill(self, **texts: str) -> str:
        """The turn's text, for trainers that tokenise it themselves. Braces in ``texts`` stay as they are.

        Args:
            **texts: one for each field.
        """
        assert texts.keys() == set(self.fields), f"expected {self.fields}, got {tuple(texts)}"
        given = [texts[name] for name in self.fields]
        return "".join(chain.from_iterable(zip_longest(self.pieces, given, fillvalue="")))


def _read(name_or_path: str) -> str:
    packaged = {path.stem: path for path in sorted(_FOLDER.glob("*.txt"))}
    demo = {f"demo/{path.stem}": path for path in _DEMO.glob("*.txt")}
    path = (packaged | demo).get(name_or_path, Path(name_or_path))
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"there is no template {name_or_path!r} ({error.strerror}); give {', '.join(packaged)}, or the path of a "
            "text file"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"template {name_or_path} is no UTF-8 text ({error}); save it as UTF-8") from error


def question_text(prompt: Sequence[Message]) -> str:
    """A row's prompt as one text: the user's words, or a transcript where there are several turns (our choice).

    Images leave no trace, since they stand before the instructions; the texts around one become paragraphs.

    Example:
        >>> question_text([Message("user", (ImagePart(), "What is it?"))])
        'What is it?'
        >>> question_text([Message("system", ("Be brief.",)), Message("user", ("Hi",))])
        'System: Be brief.\\n\\nUser: Hi'
    """
    texts = ["\n\n".join(part for part in turn.content if part and not isinstance(part, ImagePart)) for turn in prompt]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"{turn.role.capitalize()}: {text}" for turn, text in zip(prompt, texts, strict=True))
