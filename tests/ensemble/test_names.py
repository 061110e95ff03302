"""Names of members after their files."""

from __future__ import annotations

import pytest

from lit_basereward.ensemble.names import name_paths


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/best.ckpt", "b/best.ckpt"], ["a/best", "b/best"]),
        (["x.ckpt", "y.jsonl"], ["x", "y"]),
        (["models/qwen2.5-vl", "models/intern"], ["qwen2.5-vl", "intern"]),  # of folders a dot is theirs
        (["a/x.ckpt", "a/x.json"], ["x.ckpt", "x.json"]),
        (["a/x.ckpt", "a/x.json", "b/x.ckpt"], ["a/x.ckpt", "a/x.json", "b/x.ckpt"]),
    ],
)
def test_as_short_as_tells_them_apart(paths, names):
    assert name_paths(paths) == names


def test_a_file_twice():
    with pytest.raises(ValueError, match="given twice"):
        name_paths(["a.ckpt", "./a.ckpt"])
