"""Loads sqlite-utils without pandas, which it would import only to store pandas' timestamps.

Rows of the store hold none, and commands that list runs would wait a fifth of a second for it.
"""

import sys

_unloaded = "pandas" not in sys.modules
if _unloaded:
    # An import of a module that is None fails like that of one that is not installed.
    sys.modules["pandas"] = None  # type: ignore[assignment]
try:
    import sqlite_utils  # noqa: F401
finally:
    if _unloaded:
        del sys.modules["pandas"]
