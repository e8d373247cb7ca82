"""Canonical interactions: importers, shipped data, splits, and files of any data set."""

from puma_engine.datasets import goodbooks, movietweetings  # noqa: F401  (they register)
from puma_engine.datasets.base import Dataset
from puma_engine.datasets.location import data_root
from puma_engine.datasets.population import is_foundation
from puma_engine.datasets.registry import REGISTRY, import_folder, load_shipped

__all__ = [
    "REGISTRY",
    "Dataset",
    "data_root",
    "import_folder",
    "is_foundation",
    "load_shipped",
]
