"""Temporary folders that every user may enter; those of pytest are private to the user who runs it."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_folder():
    """Yield a folder that every user may enter; remove it, whatever rights were taken from its parts."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        # From the top, since the parts of a folder without rights are not found.
        for place, names, _ in os.walk(folder):
            for name in names:
                Path(place, name).chmod(0o700)
        shutil.rmtree(folder)
