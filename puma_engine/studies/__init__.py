"""Declared experiments: `puma study NAME` runs their cells as ordinary runs and tells results."""

from puma_engine.studies.catalog import STUDIES, get_study
from puma_engine.studies.cells import Cell, Options, Study
from puma_engine.studies.reports import keep_report, load_report, read_report, reported
from puma_engine.studies.results import collect
from puma_engine.studies.running import Outcome, lend, run_cells

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
