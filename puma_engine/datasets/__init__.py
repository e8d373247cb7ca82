"""Canonical interactions: importers, shipped data, splits, and files of any data set."""

from puma_engine.datasets import goodbooks, movietweetings  # noqa: F401  (they register)
from puma_engine.datasets.base import Dataset, validate
from puma_engine.datasets.location import data_root
from puma_engine.datasets.population import is_foundation
from puma_engine.datasets.registry import REGISTRY, import_folder, load_shipped
from puma_engine.datasets.storage import read_dataset, write_dataset
from puma_engine.datasets.summary import statistics
from puma_engine.datasets.table import read_table

__all__ = [
    "REGISTRY",
    "Dataset",
    "data_root",
    "import_folder",
    "is_foundation",
    "load_shipped",
    "read_dataset",
    "read_table",
    "statistics",
    "validate",
    "write_dataset",
]
