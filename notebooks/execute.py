"""Execute notebooks at their own constants and write them back clean: python notebooks/execute.py [NAME ...]

Without names all of them, one after the other. What they train is kept in `runs/` beside them; an empty `runs/` shows
that each of them runs on its own. Prints the processor time of each, which its first cell tells.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors gain nothing from more, and figures do not depend on it
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.environ["TQDM_DISABLE"] = "1"  # progress bars are for those who wait,
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # and so is tqdm's advice to install ipywidgets

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
KEPT = ("nbmake", "tags")
"""What of a cell's metadata is ours."""


def clean(notebook: nbformat.NotebookNode) -> None:
    """Leave what a reader sees, and the constants of the tests: no times, names or identities of a run."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT if key in cell.metadata})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_wiped(output)]


def is_wiped(output: nbformat.NotebookNode) -> bool:
    """True for a progress bar that has wiped itself: of each of its lines nothing is left to see."""
    lines = output.get("text", "").split("\n") if output.get("name") == "stderr" else ["something"]
    return not any(line.rpartition("\r")[2].strip() for line in lines)


def execute(path: Path) -> float:
    """Run one notebook, write it back, and return the processor seconds of its kernel."""
    notebook = nbformat.read(path, as_version=4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,
        record_timing=False,
    )
    client.execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    clean(notebook)
    nbformat.write(notebook, path)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        seconds = execute(FOLDER / f"{Path(name).stem}.ipynb")
        print(f"{Path(name).stem:32} {seconds:6.0f} s of processor time", flush=True)
