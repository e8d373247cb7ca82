"""Declared experiments: `puma study NAME` computes their cells as runs and reports the results."""

from puma_engine.studies.catalog import STUDIES, get_study
from puma_engine.studies.cells import Cell, Options, Study
from puma_engine.studies.quick_users import quick_options
from puma_engine.studies.reports import load_report, save_report, stored_report, stored_reports
from puma_engine.studies.results import collect
from puma_engine.studies.running import Outcome, reuse_settings, run_cells
