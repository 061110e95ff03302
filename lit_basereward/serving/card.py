"""The model card of an export: what it is, what it was trained and measured on, what can load it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from lit_basereward.metrics.calibration import Calibration
from lit_basereward.nn.backbone import Backbone

_USE = """\
```python
import lit_basereward

rm = lit_basereward.load("."{allow})  # this folder
rewards = rm.score("What is in the picture?", ["A cat.", "A dog."], images=["picture.png"])
print((rewards[0] - rewards[1]).sigmoid())  # probability that the first is better
```
"""
_RELATIVE = """
It compares: give at least two responses. Rewards mean something beside those of the same prompt only.
"""
_LINEAR = """\
The head is linear, without bias: `score.weight` beside the backbone's weights, under the architecture `{architecture}`.
For text-only models that is a class of transformers (`AutoModelForSequenceClassification`). vLLM takes such names as
pooling models (`--runner pooling`, task classify): **not tested there**. Whatever loads it, the text must be the
rendered chat up to and including the token that ends the response's turn, without the line break that templates write
behind it: the reward is read at the last token.
"""
_OTHER = """\
The head is not linear: its weights are in `reward_head.safetensors`, under the names of `lit_basereward`, which alone
can load it. Other tools load the backbone from this folder (`AutoModel.from_pretrained`), and give no rewards.
"""
_WRITES = """\
The folder is a whole language model, `{architecture}` of transformers: `from_pretrained` loads it, and `generate`
writes with it. It is asked with `instructions.txt` as the text of one user turn, images before it. {head}
"""
_CRITIC = """The reward is read at the end of the critique that it writes, by the head in `reward_head.safetensors`,
which `lit_basereward` alone can load."""
_JUDGE = """The reward is made of its answers, 1 or 2, to both orders of every two responses; `lit_basereward.load` does
that, and asks for no other files."""
_ADAPTER = """\
Adapters in PEFT's format, for the {of} (`PeftModel.from_pretrained(backbone, folder)` wraps it);
`reward_head.safetensors` has {others}. Rewards come from
`lit_basereward.load`, which reads the backbone from where it was in training, or from `load(..., backbone=...)`, and
refuses another one.
"""


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


def card(
    described: dict[str, Any],
    backbone: Backbone,
    source: Path,
    results: dict[str, Any],
    moved: float,
    architecture: str | None,
    dtype: str | None,
    writes: bool,
    comparable: bool,
) -> str:
    """README.md of an export.

    Args:
        described: what the export says of itself.
        backbone: that it was trained on.
        source: folder with the backbone's files.
        results: of ``test``.
        moved: how far rewards are from the checkpoint's.
        architecture: name for sequence classification, where the head is one linear layer, or of the language model.
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
    packages = {name.rpartition(".")[0] for name in _classes(described["hyper_parameters"])}
    users = sorted(package for package in packages if package.split(".")[0] not in ("lit_basereward", "torch"))
    allow = f", allow={users}" if users else ""
    told = ", ".join(f"{key} {value}" for key, value in licence.items()) or "not stated in its files; look it up"
    sections = {
        f"Reward model on {name}": "A number for each response to a prompt, in log-odds units: the difference of two "
        f"is the log-odds that the first is better.\n\n{_USE.format(allow=allow)}{'' if comparable else _RELATIVE}",
        "What can load it": _loads(backbone, architecture, dtype, writes, comparable),
        "Training": _training(provenance),
        "Figures": _figures(provenance, results),
        "Calibration": _calibration(described),
        "Backbone and licence": f"{name}{f', revision {backbone.revision}' if backbone.revision else ''}; licence: "
        f"{told}. A model made from it is bound by that licence, and by those of the data.",
        "Checked": f"Read back from this folder, {'rewards and likelihoods' if writes else 'rewards'} of made-up rows "
        f"differ from the checkpoint's by {moved:.1g}."
        f"{_precision(dtype, backbone)} `manifest.json` has sizes and SHA-256 of all files; `load` compares them. "
        f"Written by lit_basereward {described['version']}.",
    }
    text = "\n\n".join(
        f"{'#' if n == 0 else '##'} {title}\n\n{body.rstrip()}" for n, (title, body) in enumerate(sections.items())
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{text}\n"


def with_calibration(text: str, described: dict[str, Any]) -> str:
    """A card whose section on calibration is that of ``described``; one without such a section as it is."""
    return re.sub(
        r"(?<=\n## Calibration\n\n).*?(?=\n\n## )", lambda _: _calibration(described), text, count=1, flags=re.DOTALL
    )


def _loads(backbone: Backbone, architecture: str | None, dtype: str | None, writes: bool, comparable: bool) -> str:
    if dtype is None:
        of = "backbone with its language head" if writes else "base class of the backbone, as `AutoModel` gives it"
        others = ["the head"] * (comparable or not writes)
        others += ["the projector, which trained too"] * ("projector" not in backbone.freeze)
        return _ADAPTER.format(of=of, others=" and ".join(others) or "nothing else")
    if writes:
        return _WRITES.format(architecture=architecture, head=_CRITIC if comparable else _JUDGE)
    return _LINEAR.format(architecture=architecture) if architecture else _OTHER


def _training(provenance: dict[str, Any]) -> str:
    lines = [f"{provenance['steps']:,} optimizer steps."] if "steps" in provenance else []
    for line in provenance.get("data", []):
        lines.append(f"- {line['stage']}: {line['name']}, {line['rows']:,} rows, {line['comparisons']:,} comparisons")
    return "\n".join(lines) if lines else "The checkpoint does not say what it was trained on."


def _figures(provenance: dict[str, Any], results: dict[str, Any]) -> str:
    parts = []
    if results:
        lines = ["| test | rows | accuracy | 95 % interval |", "| --- | --- | --- | --- |"]
        for name, r in results.items():
            interval = f"{r['low']:.3f} to {r['high']:.3f}" if "low" in r else ""
            lines.append(f"| {name} | {r['rows']:,} | {r['accuracy']:.3f} | {interval} |")
        parts.append("\n".join(lines))
    metrics = provenance.get("metrics", {})
    wanted = [key for key in sorted(metrics) if key.rpartition("/")[2] == "accuracy"]
    parts += [f"{key}: {metrics[key]:.4f} (at the last validation before the checkpoint)" for key in wanted]
    return "\n\n".join(parts) or "None were given; `export --results results.json` takes those of `test`."


def _calibration(described: dict[str, Any]) -> str:
    if not described.get("calibration"):
        return "None: rewards are what the loss made them. `python -m lit_basereward calibrate` fits one."
    calibration = Calibration.from_dict(described["calibration"])
    use = "probability(rewards)" if calibration.offset is not None else "calibration.pair_probability(r[0] - r[1])"
    return f"{calibration}; `rm.{use}` uses it."


def _precision(dtype: str | None, backbone: Backbone) -> str:
    if dtype == "bfloat16":
        return " Weights of the backbone are stored in bfloat16, which moves rewards."
    if dtype == "float32" and backbone.dtype == "bfloat16":
        return " The checkpoint computes in bfloat16, this in float32: the difference is bfloat16's."
    return ""


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
