"""``python -m lit_basereward.demo.files``: the demo's digits as files, the way rows of your own would lie there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lit_basereward.demo.data import Digits
from lit_basereward.demo.made import SPLITS


def write_files(folder: Path) -> list[Path]:
    """Write ``train.jsonl``, ``val.jsonl``, ``test.jsonl`` and ``images/``; see docs/data_format.md.

    Args:
        folder: made where it is missing; files of the same names are written over.

    Returns:
        The three JSONL files.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    written = []
    for split in SPLITS:
        source, lines = Digits(split), []
        for index in range(len(source)):
            row, image = source[index], f"images/{split}-{index}.png"
            (folder / image).write_bytes(row.images[0].data)
            question = next(part for part in row.prompt[0].content if isinstance(part, str))
            fields = {"id": row.id, "prompt": question, "images": [image]}
            lines.append(json.dumps(fields | {"responses": row.responses, "ratings": row.ratings}) + "\n")
        written.append(folder / f"{split}.jsonl")
        written[-1].write_text("".join(lines))
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m lit_basereward.demo.files", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits"), help="folder of the files")
    for path in write_files(parser.parse_args().output):
        print(f"{path}: {sum(1 for _ in path.open()):,} rows")
