"""The README's table of rooms: import-linter's contract, and the first paragraph of each docstring."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = Path("daemon/cvqd")


def layers():
    """Names of files and folders, the topmost first; those beside one another are one entry."""
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (house,) = (contract for contract in contracts if contract.get("containers") == ["cvqd"])
    return [[name.strip() for name in layer.split("|")] for layer in house["layers"]]


def table():
    """One row per room; each uses only what stands below it, and nothing beside it."""
    rows = ["| floor | room | what it is |", "|---|---|---|"]
    floors = layers()
    for floor, names in zip(range(len(floors), 0, -1), floors, strict=True):
        for name in names:
            path = PACKAGE / name if (CHECKOUT / PACKAGE / name).is_dir() else PACKAGE / f"{name}.py"
            file = path / "__init__.py" if not path.suffix else path
            said = ast.get_docstring(ast.parse((CHECKOUT / file).read_text())) or ""
            shown = path.name if path.suffix else f"{path.name}/"
            summary = " ".join(said.partition("\n\n")[0].split()).replace("``", "`")
            rows.append(f"| {floor} | [`{shown}`]({path}) | {summary} |")
    return rows
