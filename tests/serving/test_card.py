"""The model card's template: ours, and a user's in its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from lit_basereward import NaiveRM
from lit_basereward.nn.backbone import Backbone
from lit_basereward.serving.card import FIELDS, TEMPLATE, card_fields, card_template
from lit_basereward.serving.export import export
from lit_basereward.serving.folder import MANIFEST


def fields(folder: Path, **given) -> dict:
    described = {"hyper_parameters": {"_class_path": "lit_basereward.NaiveRM"}, "version": "1.2.3", **given}
    about = card_fields(described, Backbone("org/Tiny"), folder, {}, "float32", writes=False, comparable=True)
    return about | {"moved": 2e-6, "architecture": None}


def test_ours_names_all_fields_and_fills_what_is_known(tmp_path):
    """A line of data as the checkpoint has it; numbers above a thousand are grouped."""
    data = [{"stage": "train", "name": "pairs", "rows": 12000, "comparisons": 34000}]
    about = fields(
        tmp_path, provenance={"steps": 5000, "data": data, "metrics": {"val/accuracy": 0.5, "val/loss": 1.0}}
    )
    assert about.keys() == FIELDS
    assert all(re.search(rf"\b{name}\b", TEMPLATE.read_text().partition("-#}")[0]) for name in FIELDS)
    text = card_template(None).render(about)
    for words in (
        "\n# Reward model on org/Tiny\n",
        "5,000 optimizer steps.\n- train: pairs, 12,000 rows, 34,000 comparisons\n\n## Figures",
        "val/accuracy: 0.5000 (at the last validation before the checkpoint)\n\n## Calibration",
        "differ from the checkpoint's by 2e-06. `manifest.json`",
        "Written by lit_basereward 1.2.3.\n",
    ):
        assert words in text
    assert "val/loss" not in text and "not stated in its files" in text


def test_of_nothing_known_the_card_says_so(tmp_path):
    text = card_template(None).render(fields(tmp_path))
    assert "The checkpoint does not say what it was trained on.\n\n## Figures\n\nNone were given" in text


def test_a_users_template_stands_in_an_export(tmp_path, backbone_folder):
    """With the calibration's section, which `calibrate` would find; what is no template ends before any work."""
    module = NaiveRM(Backbone(backbone_folder("qwen2"), max_length=256))
    module.configure_model()
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": module.described()}
    torch.save(checkpoint, tmp_path / "model.ckpt")
    (tmp_path / "mine.md").write_text("# {{ name }} of us\n\n## Calibration\n\n{{ calibration }}\n\n## End\n")
    folder = export(str(tmp_path / "model.ckpt"), str(tmp_path / "out"), card=str(tmp_path / "mine.md"))
    first, *_, last = (folder / "README.md").read_text().splitlines()
    assert (first, last) == (f"# {Path(backbone_folder('qwen2')).name} of us", "## End")
    assert "README.md" in json.dumps(json.loads((folder / MANIFEST).read_text()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ nam }}", "has the unknown fields nam; use architecture, beside, .*"),
        ("{% if %}", "is no Jinja template .*; start from "),
        (None, "is no Jinja template .*No such file.*"),
    ],
)
def test_what_is_no_template(text, message, tmp_path):
    if text:
        (tmp_path / "mine.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        export("none.ckpt", str(tmp_path / "out"), card=str(tmp_path / "mine.md"))


def test_a_template_runs_no_code(tmp_path):
    """It may be somebody else's."""
    from jinja2.exceptions import SecurityError

    (tmp_path / "bad.md").write_text("{{ name.__class__.__mro__ }}")
    with pytest.raises(SecurityError):
        card_template(str(tmp_path / "bad.md")).render(fields(tmp_path))
