"""Settings that an earlier report's candidates chose, lent to the cells of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from puma_engine.studies.cells import LENT, Cell


def lend(cells: Sequence[Cell], settings: dict[str, dict[str, Any]]) -> list[Cell]:
    """Return the cells with chosen settings put in, without the candidates that chose them.

    settings: of a report, by the cell that was the best of its candidates: training, prompt and
    adapter. Choices that the report does not have are made anew.
    """
    chosen = [cell for cell in cells if cell.stage == "best" and cell.name in settings]
    tried = {name for cell in chosen for name in cell.needs["candidates"]}
    gone = tried | {cell.name for cell in chosen}
    kept = [_with(cell, settings) for cell in cells if cell.name not in gone]
    return _without(kept, {name for cell in cells if cell.name in gone for name in cell.waits_for})


def _without(cells: Sequence[Cell], idle: set[str]) -> list[Cell]:
    """Leave out cells of `idle` that nothing needs any more, and what only they needed."""
    needed = {name for cell in cells for name in cell.waits_for}
    gone = [cell for cell in cells if cell.name in idle - needed and not cell.facts]
    if not gone:
        return list(cells)
    names = {cell.name for cell in gone}
    kept = [cell for cell in cells if cell.name not in names]
    return _without(kept, {name for cell in gone for name in cell.waits_for})


def _with(cell: Cell, settings: dict[str, dict[str, Any]]) -> Cell:
    if cell.like not in settings:
        return cell
    own = settings[cell.like]
    lent = {part: own[part] for part in LENT if own.get(part) is not None}
    return replace(cell, like=None, settings=lent | cell.settings)
