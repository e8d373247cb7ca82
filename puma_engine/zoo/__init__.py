"""Small backbones of five families, and the recipe that made them.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

from puma_engine.datasets.location import data_root
from puma_engine.zoo.shapes import SHIPPED, ZOO, ZooEntry, get_entry

__all__ = ["SHIPPED", "ZOO", "ZooEntry", "get_entry", "zoo_folder"]


def zoo_folder(name: str) -> Path:
    """Return where the weights of a zoo model belong: zoo/<name> in the data folder.

    The data folder is PUMA_DATA, or data/ beside the package; the model's own folder need
    not exist. Raises NotFoundError for an unknown name, DataError without a data folder.
    """
    return data_root() / "zoo" / get_entry(name).name
