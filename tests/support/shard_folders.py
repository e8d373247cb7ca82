"""Folders of shards of prompts: safetensors, and Parquet with the same prompts."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from puma_engine.files import save_tensors

TOKENS = 2


def prompts(number, rows, width=8):
    """The user ids and prompts [rows, TOKENS, width] of a shard."""
    vectors = np.random.default_rng(number).normal(size=(rows, TOKENS, width))
    return [f"u{number}-{row}" for row in range(rows)], vectors.astype(np.float32)


def tensor_shards(folder, count, rows, width=8):
    """Write packed shards with an index, as `puma prompts export` does."""
    folder.mkdir()
    index = []
    for number in range(count):
        name, (ids, block) = f"p-{number}.safetensors", prompts(number, rows, width)
        save_tensors(folder / name, {"vectors": block}, {"user_ids": ids})
        index.append(pd.DataFrame({"user_id": ids, "shard": name, "row": range(rows)}))
    pd.concat(index).to_parquet(folder / "index.parquet", index=False)
    return folder


def parquet_shards(folder, count, rows, width=8):
    """Write Parquet shards with a further column."""
    folder.mkdir()
    for number in range(count):
        ids, block = prompts(number, rows, width)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), TOKENS * width)
        columns = {"age": range(rows), "user_id": ids, "vector": vectors}
        about = {"puma": json.dumps({"tokens": TOKENS, "meta": {}})}
        table = pa.table(columns).replace_schema_metadata(about)
        pq.write_table(table, folder / f"p-{number}.parquet", row_group_size=25)
    return folder
