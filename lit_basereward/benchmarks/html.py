"""The report as one page of HTML that needs nothing beside it. All text from data is escaped, and nothing runs."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

from lit_basereward.benchmarks.diagnosis import worst_errors
from lit_basereward.benchmarks.evidence import Evidence, ahead, judgements
from lit_basereward.benchmarks.plots import can_draw, picture
from lit_basereward.benchmarks.section import ModelReport, Section
from lit_basereward.data.images import open_image
from lit_basereward.data.types import ImageRef, Message, RowError

ERRORS = 20
"""Worst errors shown of each suite."""
MAX_TEXT = 4000
"""Characters of a text that are shown; the rest is counted."""
MAX_WRITTEN = 8
"""Critiques of a response, or judgements of a pair, that are shown; a judge may vote many times."""
MAX_IMAGES = 4
"""Images shown of a row; a video has 32."""
THUMBNAIL = 320
"""Longer side of an image in the page, pixels."""

# what HTML does not allow: as the pictures that Unicode has of them
_CONTROL = {n: 0x2400 + n for n in range(32) if chr(n) not in "\t\n\r"} | {127: 0x2421}


def render(sections: Sequence[Section], title: str) -> str:
    """The whole page.

    Args:
        sections: in the order of the page.
        title: of the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lit_basereward.benchmarks", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fraction": _fraction, "signed": _signed, "short": _short}
    suites = [_suite(part, number) for number, part in enumerate(sections)]
    return environment.get_template("report.html.j2").render(title=title, suites=suites, can_draw=can_draw())


def _fraction(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 4) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:+.{digits}f}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _suite(part: Section, number: int) -> dict[str, Any]:
    """What the template shows of a section."""
    first = part.models[0]
    published = part.benchmark.published
    shown = {key for line in published for key in line.figures}
    return {
        "anchor": f"suite-{number}",
        "title": part.benchmark.title,
        "text_only": any(model.result.text_only for model in part.models),
        "rows": first.result.rows,
        "remarks": part.benchmark.remarks,
        "models": [_model(part, model) for model in part.models],
        "published": published,
        "published_figures": [key for key in first.result.figures if key in shown],
        "comparison": part.comparison,
        "errors": list(_errors(part)),
    }


def _model(part: Section, model: ModelReport) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": part.title(model),
        "figures": model.result.figures,
        "overall": model.result.figures["overall"],
        "table": model.table(),
        "notes": model.notes(),
        "calibration": model.calibration,
        "diagnostics": model.diagnostics,
        "judge": model.judge,
        "cost": model.account.cost,
        "told_cost": model.account.cost_of_a_row(),
        "ensemble": model.ensemble,
        "picture": _picture(model) if can_draw() else None,
    }


def _picture(model: ModelReport) -> str:
    agreement = model.ensemble["disagreement"].get("risk_coverage") if model.ensemble else None
    return picture(model.diagnostics, model.calibration, agreement)


def _errors(part: Section) -> Iterator[dict[str, Any]]:
    """The first model's worst errors, with what every model gave."""
    compared = part.models[0].compared
    for c in worst_errors(compared, ERRORS):
        e, sides = int(compared.entry[c]), (int(compared.better[c]), int(compared.worse[c]))
        entry = part.benchmark.entries[e]
        images, lost = _thumbnails(part, e)
        yield {
            "id": entry.id,
            "where": part.benchmark.records.where(e),
            "group": entry.group if entry.subset in ("", entry.group) else f"{entry.group}, {entry.subset}",
            "margin": float(compared.margins[c]),
            "prompt": [(message.role, *_cut(_text(message))) for message in entry.prompt],
            "images": images,
            "lost": lost,
            "responses": [
                {
                    "name": name,
                    "text": _cut(entry.responses[k]),
                    "rewards": [(model.name, _reward(model, e, k)) for model in part.models],
                    "critiques": [(model.name, _critiques(_evidence(model, e), k)) for model in part.models],
                }
                for name, k in zip(("better", "worse"), sides, strict=True)
            ],
            "verdicts": [(model.name, *_verdicts(_evidence(model, e), *sides)) for model in part.models],
        }


def _evidence(model: ModelReport, entry: int) -> Evidence:
    return model.account.evidence[entry] if model.account.evidence else {}


def _critiques(evidence: Evidence, response: int) -> tuple[list[tuple[str, int]], int]:
    """What a critic wrote on a response, each text cut, and how many texts are left out."""
    texts = evidence["critiques"][response] if "critiques" in evidence else []
    return [_cut(text) for text in texts[:MAX_WRITTEN]], max(0, len(texts) - MAX_WRITTEN)


def _verdicts(evidence: Evidence, better: int, worse: int) -> tuple[str, list[tuple[str, tuple[str, int]]], int]:
    """A judge on a pair: how far the better response is ahead in both orders, its texts, and how many are left out."""
    orders = {(better, worse): "better response first", (worse, better): "worse response first"}
    found = ahead(evidence)
    unit = "votes" if "votes" in evidence else "log-odds"
    margins = [
        f"{name} {_signed(found[order] if order[0] == better else -found[order], 2)}"
        for order, name in orders.items()
        if order in found
    ]
    texts = [(pair, text) for pair, text in judgements(evidence) if pair is None or pair in orders]
    shown = [("" if pair is None else orders[pair], _cut(text)) for pair, text in texts[:MAX_WRITTEN]]
    return f"{unit} for the better response: {', '.join(margins)}" if margins else "", shown, len(texts) - len(shown)


def _reward(model: ModelReport, entry: int, response: int) -> float | None:
    given = model.rewards[entry]
    return None if given is None else float(given[response])


def _text(message: Message) -> str:
    return "\n".join(part for part in message.content if isinstance(part, str))


def _cut(text: str) -> tuple[str, int]:
    """The beginning of a text, control characters visible, and the number of characters that are left out."""
    return text[:MAX_TEXT].translate(_CONTROL), max(0, len(text) - MAX_TEXT)


def _thumbnails(part: Section, index: int) -> tuple[list[str], str]:
    """Data URIs of an entry's images, and what is to be said of those that are not shown."""
    where = part.benchmark.records.where(index)
    try:
        refs = part.benchmark.image_refs(index)
        shown = [_thumbnail(ref, where) for ref in refs[:MAX_IMAGES]]
    except RowError:  # its message names folders of this machine, which are nobody's business in a shared page
        return [], "the image is not there, or cannot be read"
    more = len(refs) - len(shown)
    return shown, f"and {more} more images" if more else ""


def _thumbnail(ref: ImageRef, where: str) -> str:
    image = open_image(ref, where)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
