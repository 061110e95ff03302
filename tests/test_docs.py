"""Links and file names in the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(p for d in ("docs", "bench", "notebooks", "lit_basereward") for p in (ROOT / d).rglob("*.md")),
    ]
    if ".ipynb_checkpoints" not in path.parts
)
FOLDERS = ("bench", "configs", "docs", "examples", "lit_basereward", "notebooks", "requirements", "tests")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*/]")


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings: lower case, no punctuation, hyphens for spaces, ``-1`` where one repeats."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ +(.*)$", FENCE.sub("", path.read_text()), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return names


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_file_names(path):
    """Relative links name a file and a heading in it; files named in code and prose are there, stars match some."""
    text, wrong = path.read_text(), []
    for target in LINK.findall(FENCE.sub("", text)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target}: no such heading")
    for name in FILE.findall(text):
        if not (any(ROOT.glob(name)) if "*" in name else (ROOT / name).exists()):
            wrong.append(f"{name}: no such file")
    assert not wrong


def test_slugs(tmp_path):
    """Punctuation goes, ``&`` leaves its two spaces, the second of a name gets a number; code is no heading."""
    file = tmp_path / "a.md"
    file.write_text("# A `b` & c?\n## Twice\n## Twice\n```\n# not one\n```\n")
    assert anchors(file) == {"a-b--c", "twice", "twice-1"}
