"""User ids of shards: valid and unique, compared in one pass or in several over parts of the hashes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puma_engine.errors import DataError
from puma_engine.exchange.shard_ids import check_user_ids
from puma_engine.exchange.shards import shards_of
from puma_engine.exchange.storage import DiskFolder
from puma_engine.files import save_tensors


def write(folder, kind, *shards):
    """Write a shard for each list of ids."""
    folder.mkdir()
    for number, ids in enumerate(shards):
        vectors = np.zeros((len(ids), 8), np.float32)
        if kind == "safetensors":
            save_tensors(folder / f"p-{number}.{kind}", {"vectors": vectors}, {"user_ids": ids})
        else:
            table = pa.table({"user_id": ids, "vector": list(vectors)})
            pq.write_table(table, folder / f"p-{number}.{kind}")
    return DiskFolder(folder)


def check(folder, **options):
    return check_user_ids(folder, list(shards_of(folder)), **options)


KINDS = pytest.mark.parametrize("kind", ["safetensors", "parquet"])
# Without a bound all hashes are compared at once; with one ids are read in many passes.
BOUNDS = pytest.mark.parametrize("bound", [{}, {"max_hashes": 5}])


@KINDS
@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([["a", "b"], ["c", "d", "c"]], "'c' occurs twice in .*p-1"),
        ([["a", "b"], ["c"], ["d", "b"]], "'b' is in the shards p-0.* and p-2"),
        ([["a", ""]], "1 rows without a usable user id"),
        ([["a", "b\x07"]], "1 rows without a usable user id"),
        ([["a", "u" * 5000]], "1 rows without a usable user id"),
    ],
)
def test_ids_that_other_readers_refuse_are_refused(tmp_path, kind, shards, message):
    with pytest.raises(DataError, match=message):
        check(write(tmp_path / "in", kind, *shards))


@BOUNDS
def test_every_pair_of_shards_is_compared_in_bounded_memory(tmp_path, bound):
    ids = [[f"u{number}-{row}" for row in range(30)] for number in range(4)]
    folder = write(tmp_path / "in", "safetensors", *ids)
    read = []
    result = check(folder, begin=read.append, **bound)
    assert (result.unnamed, result.alike) == (0, 0)
    # Each pass reads every shard; five hashes of 120 at once take 32 parts or more.
    assert len(read) == 4 if not bound else len(read) >= 4 * 32
    for first in range(4):
        for second in range(first + 1, 4):
            repeated = [list(part) for part in ids]
            repeated[second][7] = ids[first][21]
            name = tmp_path / f"{first}{second}{len(bound)}"
            with pytest.raises(DataError, match=f"'u{first}-21' is in the shards p-{first}"):
                check(write(name, "safetensors", *repeated), **bound)


@BOUNDS
def test_ids_that_differ_only_in_spelling_are_counted(tmp_path, bound):
    composed, decomposed = "Zoë", "Zoe\u0308"
    shards = [["a", composed, "7", " lone"], ["a ", decomposed, "7.0", "b"]]
    result = check(write(tmp_path / "in", "safetensors", *shards), **bound)
    assert result.alike == 3 and result.example in ("a ", decomposed, "7.0")


def test_shards_that_name_no_users_are_counted(tmp_path):
    folder = write(tmp_path / "in", "safetensors", ["a", "b"])
    save_tensors(folder.path / "q.safetensors", {"vectors": np.zeros((7, 8), np.float32)})
    assert check(folder).unnamed == 7
