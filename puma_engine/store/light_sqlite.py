"""Loads sqlite-utils without pandas, which it would import only to store pandas' timestamps.

Rows of the store hold none, and commands that list runs would wait a fifth of a second for it.
Where other threads run, one of them may be about to import pandas, so it is left alone.
"""

import sys
import threading

_unloaded = "pandas" not in sys.modules and threading.active_count() == 1
if _unloaded:
    # An import of a module that is None fails like that of one that is not installed.
    sys.modules["pandas"] = None  # type: ignore[assignment]
try:
    import sqlite_utils  # noqa: F401
finally:
    if _unloaded:
        del sys.modules["pandas"]
