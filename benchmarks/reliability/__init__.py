"""Measure reliability under kills, damaged inputs and power losses.

    python -m benchmarks.reliability --kills 1000 --mutations 10000 --power-loss --processes 14

Everything runs on tiny data and tiny random models, in processes that are forked from one that has
loaded the libraries. The program under test is not changed: in the process to be killed, functions
of the standard library are wrapped so that the n-th write kills it.
"""

import sys
from pathlib import Path

# Writers of tiny models and of small files in the layouts of published data sets.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))
