"""Data sets: the canonical table, importers, shipped data, splits, and storage in files."""

from puma_engine.datasets.dataset import Dataset, validate
from puma_engine.datasets.importers import amazon, goodbooks, mind, movielens, movietweetings, yelp
from puma_engine.datasets.importers.table import check_table, preview_table, read_table
from puma_engine.datasets.population import is_foundation
from puma_engine.datasets.registry import REGISTRY, data_root, import_folder, load_shipped
from puma_engine.datasets.storage import read_dataset, write_dataset
from puma_engine.datasets.summary import item_profiles, statistics, user_profiles

for _source in (
    *(
        amazon.AMAZON,
        amazon.AMAZON_2018,
        goodbooks.GOODBOOKS,
        goodbooks.GOODBOOKS_TO_READ,
        mind.MIND,
    ),
    *(movielens.MOVIELENS, movietweetings.MOVIETWEETINGS, yelp.YELP),
):
    REGISTRY[_source.name] = _source

__all__ = [
    "REGISTRY",
    "Dataset",
    "check_table",
    "data_root",
    "import_folder",
    "is_foundation",
    "item_profiles",
    "load_shipped",
    "preview_table",
    "read_dataset",
    "read_table",
    "statistics",
    "user_profiles",
    "validate",
    "write_dataset",
]
