"""The model card of an export: what it is, what it was trained and measured on, what can load it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_basereward.metrics.calibration import Calibration
from lit_basereward.nn.backbone import Backbone

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("card.md.j2")
"""Ours; it says what the fields are."""
FIELDS = {
    "architecture", "beside", "calibration", "comparable", "computed_in", "data", "dtype", "front", "licence",
    "metrics", "moved", "name", "results", "revision", "steps", "users", "version", "writes",
}  # fmt: skip


def read_results(path: str | None) -> dict[str, Any]:
    """The table that ``test`` wrote; empty for None.

    Raises:
        ValueError: if the file is not one.
    """
    if path is None:
        return {}
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        [line["accuracy"] + line["rows"] for line in table.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"results {path!r} is no results.json of `python -m lit_basereward test`") from error
    return table


def card_template(path: str | None) -> Template:
    """Template of a card; None is ours.

    Args:
        path: of a Jinja template with the fields that ours lists. It computes nothing but text.

    Raises:
        ValueError: if there is no such file, it is no template, or it has other fields.
    """
    from jinja2 import StrictUndefined, TemplateError, meta
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["thousands"] = "{:,}".format
    try:
        text = Path(path or TEMPLATE).read_text(encoding="utf-8")
        unknown = meta.find_undeclared_variables(environment.parse(text)) - FIELDS
        if unknown:
            known = ", ".join(sorted(FIELDS))
            raise ValueError(f"card {path!r} has the unknown fields {', '.join(sorted(unknown))}; use {known}")
        return environment.from_string(text)
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise ValueError(f"card {path!r} is no Jinja template ({error}); start from {TEMPLATE}") from error


def card_fields(
    described: dict[str, Any],
    backbone: Backbone,
    source: Path,
    results: dict[str, Any],
    dtype: str | None,
    writes: bool,
    comparable: bool,
) -> dict[str, Any]:
    """What a card is filled with, but ``moved`` and ``architecture``.

    Args:
        described: what the export says of itself.
        backbone: that it was trained on.
        source: folder with the backbone's files.
        results: of ``test``.
        dtype: of the weights; None for adapters alone.
        writes: it is a critic or a judge.
        comparable: rewards of different rows may be compared.
    """
    local = Path(backbone.folder()).is_dir()
    name = Path(backbone.folder()).name if local else backbone.name_or_path
    licence = _licence(source)
    front = {"library_name": "lit_basereward", "tags": ["reward-model", "preference"], **licence}
    front |= ({} if writes else {"pipeline_tag": "text-classification"}) | ({} if local else {"base_model": name})
    provenance = described.get("provenance") or {}
    metrics = provenance.get("metrics", {})
    packages = {name.rpartition(".")[0] for name in _classes(described["hyper_parameters"])}
    beside = ["the head"] * (comparable or not writes)
    beside += ["the projector, which trained too"] * ("projector" not in backbone.freeze)
    return {
        "front": yaml.safe_dump(front, sort_keys=False),
        "name": name,
        "revision": backbone.revision,
        "licence": ", ".join(f"{key} {value}" for key, value in licence.items()),
        "version": described["version"],
        "users": sorted(each for each in packages if each.split(".")[0] not in ("lit_basereward", "torch")),
        "comparable": comparable,
        "writes": writes,
        "dtype": dtype,
        "computed_in": backbone.dtype,
        "beside": beside,
        "steps": provenance.get("steps"),
        "data": provenance.get("data", []),
        "metrics": {key: metrics[key] for key in sorted(metrics) if key.rpartition("/")[2] == "accuracy"},
        "results": results,
        "calibration": _calibration(described),
    }


def with_calibration(text: str, described: dict[str, Any]) -> str:
    """A card whose section on calibration is that of ``described``; one without such a section as it is."""
    return re.sub(
        r"(?<=\n## Calibration\n\n).*?(?=\n\n## )", lambda _: _calibration(described), text, count=1, flags=re.DOTALL
    )


def _calibration(described: dict[str, Any]) -> str:
    if not described.get("calibration"):
        return "None: rewards are what the loss made them. `python -m lit_basereward calibrate` fits one."
    calibration = Calibration.from_dict(described["calibration"])
    use = "probability(rewards)" if calibration.offset is not None else "calibration.pair_probability(r[0] - r[1])"
    return f"{calibration}; `rm.{use}` uses it."


def _licence(source: Path) -> dict[str, str]:
    """What the front matter of the backbone's own card says."""
    try:
        _, front, _ = (source / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        stated = yaml.safe_load(front)
        return {key: str(stated[key]) for key in ("license", "license_name", "license_link") if stated.get(key)}
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError):
        return {}


def _classes(value: Any) -> list[str]:
    """All classes that a recipe names."""
    if isinstance(value, dict):
        own = [str(value[key]) for key in ("class_path", "_class_path") if key in value]
        return own + [name for item in value.values() for name in _classes(item)]
    return [name for item in value for name in _classes(item)] if isinstance(value, list) else []
