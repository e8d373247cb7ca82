"""Declared experiments: `puma study NAME` runs their cells as ordinary runs and tells results."""

from puma_engine.study.catalog import STUDIES, get_study
from puma_engine.study.cells import Cell, Options, Study
from puma_engine.study.kept import keep_report, load_report, read_report, reported
from puma_engine.study.lending import lend
from puma_engine.study.results import collect
from puma_engine.study.running import Outcome, run_cells

__all__ = [
    "STUDIES",
    "Cell",
    "Options",
    "Outcome",
    "Study",
    "collect",
    "get_study",
    "keep_report",
    "lend",
    "load_report",
    "read_report",
    "reported",
    "run_cells",
]
