"""Every notebook runs with small constants, and is committed as it came out of a clean run at its own."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from nbmake import nb_run

from lit_basereward.demo import TinyQwen2_5VL

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
QUICK = ("01_score_a_pair",)
"""Run by default: 20 s each, half of it for imports. The others are slow tests."""
LARGEST = 300_000
"""Bytes of a notebook, pictures included."""
PLACE = re.compile(r"""(?:^|[\s"'(=:])(?:/(?:[\w.-]+/)+|[A-Z]:\\|~/|file://)""", re.MULTILINE)
"""How the path of somebody's machine begins."""


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text())


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def assigned(source: str) -> set[str]:
    """Names that a cell gives a value."""
    names = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def test_all_are_found():
    """Seven, and each has its line in the table of the folder's page."""
    assert [name[:2] for name in NOTEBOOKS] == [f"{n:02d}" for n in range(1, 8)] and set(QUICK) <= set(NOTEBOOKS)
    page = (FOLDER / "README.md").read_text()
    assert re.findall(r"^\| \[.*\]\((\w+)\.ipynb\) ", page, re.MULTILINE) == NOTEBOOKS


@pytest.fixture
def error_of(tmp_path, monkeypatch):
    """``error_of(name, **constants)``: the error of a run in an empty folder, with the small values of its cell."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws into the notebook, as it does for a reader
    monkeypatch.setenv("TQDM_DISABLE", "1")

    def run(name: str, **constants: Any) -> Any:
        notebook = read(name)
        code(notebook)[0]["metadata"]["nbmake"]["mock"].update(constants)
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(notebook))
        return nb_run.NotebookRun(tmp_path / f"{name}.ipynb", default_timeout=300).execute().error

    return run


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NOTEBOOKS])
def test_runs(name, error_of):
    """In an empty folder, so on its own, with the small values that its cell of constants names for nbmake."""
    error = error_of(name)
    assert error is None, f"cell {error.failing_cell_index}: {error.summary}\n{error.trace}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_train_the_demo", "03_your_own_head", "05_paradigms_at_equal_cost"])
def test_switches_to_a_real_backbone(name, error_of, tmp_path):
    """One constant: a folder as the hub has them, with weights and adapters beside them."""
    tiny = TinyQwen2_5VL()
    shutil.copytree(tiny.folder(), tmp_path / "real")
    tiny.load(language_head=True).save_pretrained(tmp_path / "real")
    error = error_of(name, BACKBONE=str(tmp_path / "real"))
    assert error is None, f"cell {error.failing_cell_index}: {error.summary}\n{error.trace}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_score_a_pair", "04_read_a_report", "07_grpo_hybrid"])
def test_a_missing_model_is_not_made_up(name, error_of, tmp_path):
    """A misspelt place of a checkpoint is an error; the demo's model is trained at its own place alone."""
    error = error_of(name, MODEL=str(tmp_path / "mispelt.ckpt"))
    assert error is not None and "mispelt.ckpt" in error.trace and not (tmp_path / "mispelt.ckpt").exists()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_one_constant_switches_to_a_real_model(name):
    """The page of the folder says which."""
    names = assigned("".join(code(read(name))[0]["source"]))
    trains = name[:2] in ("02", "03", "05")
    assert ("BACKBONE" in names) == trains and (trains or names & {"MODEL", "MEMBERS"})


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_constants_are_small_in_tests(name):
    """Exactly one cell of constants, and what nbmake sets behind it is set in it: a renamed constant is seen here."""
    (cell,) = [cell for cell in read(name)["cells"] if "constants" in cell["metadata"].get("tags", [])]
    assert cell is not None and cell == code(read(name))[0]
    small = cell["metadata"]["nbmake"]["mock"]
    assert small and small.keys() <= assigned("".join(cell["source"]))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_committed_clean(name):
    """Every cell was run, in order and without error; no warnings, no places of a machine, small."""
    notebook = read(name)
    cells = code(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    assert {kind for output in outputs for kind in output.get("data", {})} <= {"text/plain", "image/png"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    for output in outputs:
        data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
        texts += ["".join(text) for text in (output.get("text", ""), *data.values())]
    assert [found for text in texts for found in PLACE.findall(text)] == []
    assert not any("\r" in text or "\x1b" in text for text in texts)  # progress bars, colours
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert all(cell["metadata"].keys() <= {"nbmake", "tags"} for cell in notebook["cells"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_opens_and_links(name):
    """It begins with what it shows, how long it takes and what to install; files that it links to are there."""
    notebook = read(name)
    first = "".join(notebook["cells"][0]["source"])
    assert first.startswith(f"# {int(name[:2])}. ")
    assert re.search(r"takes about .* processor time", first) and 'pip install "lit_basereward[' in first
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\(([^)#]+)", text)]
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []
