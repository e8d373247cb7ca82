"""Six small backbones of five families, and the recipe that made them.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import os
from pathlib import Path

from puma_engine.zoo.shapes import ZOO, ZooEntry, get_entry

__all__ = ["ZOO", "ZooEntry", "get_entry", "zoo_folder"]


def zoo_folder(name: str) -> Path:
    """Return where the weights of a zoo model belong: zoo/<name> in the data folder.

    The data folder is PUMA_DATA, or data/ beside the package. The folder need not exist.
    Raises NotFoundError for an unknown name.
    """
    entry = get_entry(name)
    given = os.environ.get("PUMA_DATA")
    data = Path(given) if given else Path(__file__).resolve().parents[2] / "data"
    return data / "zoo" / entry.name
