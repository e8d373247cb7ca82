"""Settings that an earlier report's candidates chose, lent to the cells of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from puma_engine.study.cells import LENT, Cell


def lend(cells: Sequence[Cell], settings: dict[str, dict[str, Any]]) -> list[Cell]:
    """Return the cells with chosen settings put in, without the candidates that chose them.

    settings: of a report, by the cell that was the best of its candidates: training, prompt and
    adapter. Choices that the report does not have are made anew.
    """
    chosen = [cell for cell in cells if cell.stage == "best" and cell.name in settings]
    tried = {name for cell in chosen for name in cell.needs["candidates"]}
    gone = tried | {cell.name for cell in chosen}
    return [_with(cell, settings) for cell in cells if cell.name not in gone]


def _with(cell: Cell, settings: dict[str, dict[str, Any]]) -> Cell:
    if cell.like not in settings:
        return cell
    own = settings[cell.like]
    lent = {part: own[part] for part in LENT if own.get(part) is not None}
    return replace(cell, like=None, settings=lent | cell.settings)
