"""Held-out rows in files."""

from __future__ import annotations

import json
from pathlib import Path

from lit_basereward.testing import preferences


def rows_file(path: Path, seed: int) -> str:
    rows = preferences(seed, images=False, responses=(2, 3, 2, 4))
    lines = [
        {"id": str(i), "prompt": f"row {i} of {seed}", "responses": row.responses, "ratings": row.ratings}
        for i, row in enumerate(rows)
    ]
    write_lines(path, lines)
    return str(path)


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
