"""A data set as a folder: interactions.parquet, items.parquet and dataset.json."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from puma_engine.datasets.dataset import Dataset, validate
from puma_engine.datasets.reading.parquet_files import parquet_file
from puma_engine.errors import DataError, StoreError
from puma_engine.files import atomic_write, new_folder, write_text

FORMAT = 1
_DESCRIPTION = "dataset.json"


def write_dataset(ds: Dataset, folder: str | Path) -> Path:
    """Write a data set into a new or empty folder atomically; return the folder.

    A folder with the same content is left unchanged. Raises DataError if it has another content,
    StoreError when writing fails.
    """
    folder = Path(folder)
    if (folder / _DESCRIPTION).is_file() and _describe(folder)["content_hash"] == ds.content_hash:
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is in use; name a new or empty folder for the data set.")
    try:
        if folder.is_dir():
            folder.rmdir()
        with new_folder(folder) as work:
            for stem, frame in (("interactions", ds.interactions), ("items", ds.items)):
                table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
                if "history" in table.column_names:
                    index = table.column_names.index("history")
                    lists = table["history"].cast(pa.list_(pa.string()))
                    table = table.set_column(index, "history", lists)
                write = partial(pq.write_table, table, compression="zstd")
                atomic_write(work / f"{stem}.parquet", write)
            description = {"format": FORMAT, "name": ds.name, "task": ds.task}
            description |= {"content_hash": ds.content_hash, "report": ds.report}
            write_text(work / _DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False))
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"The data set cannot be written to {folder} ({error}); name another folder."
        ) from error
    return folder


def read_dataset(folder: str | Path) -> Dataset:
    """Read a data set that write_dataset wrote and check its content. Raises DataError."""
    folder = Path(folder)
    description = _describe(folder)
    with parquet_file(folder / "interactions.parquet") as file:
        rows = file.read().to_pandas()
    with parquet_file(folder / "items.parquet") as file:
        items = file.read().to_pandas()
    if "history" in rows:
        rows["history"] = [list(past) for past in rows["history"]]
    for frame, names in ((rows, ("user_id", "item_id", "split")), (items, ("item_id", "text"))):
        for column in names:
            if column in frame:
                frame[column] = frame[column].astype("str")
    ds = Dataset(description["name"], description["task"], rows, items, description["report"])
    if ds.content_hash != description["content_hash"]:
        raise DataError(
            f"The data set in {folder} was changed after it was written; import it again."
        )
    validate(ds)
    return ds


def _describe(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format"]
        missing = {"name", "task", "content_hash", "report"} - description.keys()
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no data set; it has no {_DESCRIPTION}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged; import the data set again.") from error
    if version != FORMAT:
        raise DataError(
            f"{path} has the format {version}, this version reads {FORMAT}; update the software or "
            "import the data set again."
        )
    if missing:
        raise DataError(f"{path} is damaged (no {', '.join(sorted(missing))}); import it again.")
    return description
