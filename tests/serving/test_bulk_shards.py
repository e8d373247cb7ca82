"""Shards in bulk: Parquet as safetensors, and storage that fsspec reaches as folders of a disk."""

import re
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from shard_folders import TOKENS, parquet_shards, prompts, tensor_shards
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.config import AdapterConfig
from puma_engine.errors import ConfigError, DataError, MigrationError, SelectionError, StoreError
from puma_engine.exchange import storage
from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter
from puma_engine.exchange.packed import PromptShards
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.exchange.shards import ParquetShard
from puma_engine.files import save_tensors
from puma_engine.migration.adapter import Adapter
from puma_engine.serving.bulk import migrate_stream, select_stream
from puma_engine.serving.mapper import Mapper

SHARDS, ROWS = 3, 40


@pytest.fixture(scope="module")
def adapter():
    network = Adapter(8, 12, AdapterConfig(hidden=16), generator=torch.Generator().manual_seed(0))
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    return AdapterFile(tensors, {"d_in": 8, "d_out": 12, "hidden": 16, "depth": 4, "dropout": 0.1})


@pytest.fixture(scope="module")
def mapper(adapter):
    return Mapper(adapter, "cpu")


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return tensor_shards(tmp_path_factory.mktemp("tensors") / "in", SHARDS, ROWS)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return parquet_shards(tmp_path_factory.mktemp("tables") / "in", SHARDS, ROWS)


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    if files.exists("/bulk"):
        files.rm("/bulk", recursive=True)


def test_parquet_and_safetensors_shards_are_mapped_to_the_same_prompts(
    mapper, tensors, tables, tmp_path
):
    for source, out in ((tensors, "a"), (tables, "b")):
        result = migrate_stream(mapper, source, tmp_path / out, chunk_rows=7)
        assert (result["shards"], result["users"]) == (SHARDS, SHARDS * ROWS)
        assert migrate_stream(mapper, source, tmp_path / out)["skipped"] == SHARDS
    for number in range(SHARDS):
        with safe_open(tmp_path / "a" / f"p-{number}.safetensors", framework="np") as file:
            expected = file.get_tensor("vectors")
        moved = read_prompts(tmp_path / "b" / f"p-{number}.parquet")
        assert moved.user_ids == prompts(number, ROWS)[0] and moved.complete
        np.testing.assert_array_equal(moved.vectors, expected)
        mapped = pq.read_table(tmp_path / "b" / f"p-{number}.parquet")
        assert mapped.column_names == ["age", "user_id", "vector"]
        assert mapped["age"].to_pylist() == list(range(ROWS))


def test_lists_of_any_arrow_type_are_vectors(mapper, tmp_path):
    (tmp_path / "in").mkdir()
    vectors = prompts(0, 9)[1][:, 0]
    kinds = {
        "list": pa.list_(pa.float32()),
        "large": pa.large_list(pa.float64()),
        "half": pa.list_(pa.float16()),
    }
    for name, kind in kinds.items():
        column = pa.array(vectors.tolist(), pa.list_(pa.float64())).cast(kind)
        pq.write_table(pa.table({"vector": column}), tmp_path / "in" / f"{name}.parquet")
    migrate_stream(mapper, tmp_path / "in", tmp_path / "out", chunk_rows=4)
    for name in kinds:
        rounded = vectors.astype(np.float16) if name == "half" else vectors
        mapped = pq.read_table(tmp_path / "out" / f"{name}.parquet")["vector"].to_pylist()
        expected = mapper(rounded.astype(np.float32)[:, None])[:, 0]
        np.testing.assert_allclose(mapped, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"vectors": [[1.0] * 8]}, "no column vector of lists .* it has vectors"),
        ({"vector": [1.0]}, "no column vector of lists"),
        ({"vector": [[1] * 8]}, "no column vector of lists of floating-point"),
        ({"vector": [[1.0] * 8, [1.0] * 7]}, "several lengths"),
        ({"vector": [[1.0] * 8, None]}, "have gaps"),
        ({"vector": [[1.0] * 7 + [None]]}, "have gaps"),
        ({"vector": [[1.0] * 9]}, "width 9 came, but this adapter reads 8"),
        ({"vector": [[float("nan")] * 8]}, "NaN"),
    ],
)
def test_parquet_shards_that_cannot_be_mapped_are_refused(mapper, tmp_path, columns, message):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "in" / "a.parquet")
    with pytest.raises((MigrationError, DataError), match=message):
        migrate_stream(mapper, tmp_path / "in", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("metadata", ["[1]", "{", "1"])
def test_damaged_metadata_of_a_parquet_shard_end_in_a_sentence(mapper, tmp_path, metadata):
    (tmp_path / "in").mkdir()
    table = pa.table({"vector": [[1.0] * 8]}).replace_schema_metadata({"puma": metadata})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    with pytest.raises((DataError, MigrationError), match="no JSON object|be read as Parquet"):
        migrate_stream(mapper, tmp_path / "in", tmp_path / "out")


def test_bit_rot_in_the_user_ids_of_a_mapped_shard_is_noticed(mapper, tables, tmp_path):
    migrate_stream(mapper, tables, tmp_path / "out")
    file = tmp_path / "out" / "p-0.parquet"
    assert "u0-1" in PromptShards(tmp_path / "out").user_ids
    content = file.read_bytes()
    assert content.count(b"u0-1") >= 1
    file.write_bytes(content.replace(b"u0-1", b"u0-x", 1))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        PromptShards(tmp_path / "out")


def test_a_parquet_shard_of_one_row_group_is_read_in_parts(mapper, tmp_path):
    rows = 40_000
    (tmp_path / "in").mkdir()
    vectors = np.random.default_rng(0).normal(size=(rows * 8,)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(vectors, 8)), 64)
    pq.write_table(
        pa.table({"vector": column}),
        tmp_path / "in" / "a.parquet",
        use_dictionary=False,
        row_group_size=rows,
    )
    wide = ParquetShard(storage.folder_of(tmp_path / "in"), "a.parquet")
    held, before = [], pa.total_allocated_bytes()
    for block in wide.blocks(500):
        held.append(pa.total_allocated_bytes() - before)
        assert len(block) == 500
    assert len(held) == rows // 500 and max(held) < column.nbytes / 2


def test_shards_of_two_kinds_and_damaged_ones_are_refused(mapper, tmp_path):
    source = tensor_shards(tmp_path / "in", 1, 4)
    parquet_shards(tmp_path / "other", 1, 4)
    (tmp_path / "other" / "p-0.parquet").rename(source / "q.parquet")
    with pytest.raises(DataError, match="two kinds, such as p-0.safetensors and q.parquet"):
        migrate_stream(mapper, source, tmp_path / "out")
    content = (source / "q.parquet").read_bytes()
    (tmp_path / "other" / "q.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises((DataError, MigrationError), match="cannot be read as Parquet"):
        migrate_stream(mapper, tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize("kind", ["tensors", "tables"])
def test_half_precision_takes_half_the_bytes_and_is_another_result(
    request, mapper, tmp_path, kind, monkeypatch
):
    source, target = request.getfixturevalue(kind), tmp_path / "out"
    migrate_stream(mapper, source, target)
    names = [file.name for file in target.glob("p-*")]
    single_precision = {name: read_one(target / name) for name in names}
    assert migrate_stream(mapper, source, target, dtype="float16")["skipped"] == 0
    for name in names:
        half_precision = read_one(target / name)
        assert half_precision.dtype == np.float16
        np.testing.assert_array_equal(half_precision, single_precision[name].astype(np.float16))
    monkeypatch.setattr(Mapper, "__call__", lambda _self, x: np.full((len(x), TOKENS, 12), 1e5))
    with pytest.raises(MigrationError, match="float16 cannot hold; use float32"):
        migrate_stream(mapper, source, tmp_path / "large", dtype="float16")
    with pytest.raises(ConfigError, match="float32 or float16, not 'int8'"):
        migrate_stream(mapper, source, tmp_path / "large", dtype="int8")


def read_one(path):
    """The mapped prompts of a shard [rows, numbers]."""
    if path.suffix == ".parquet":
        return np.array(pq.read_table(path)["vector"].combine_chunks().flatten()).reshape(ROWS, -1)
    with safe_open(path, framework="np") as file:
        return file.get_tensor("vectors").reshape(ROWS, -1)


@pytest.mark.parametrize("kind", ["tensors", "tables"])
@pytest.mark.parametrize("protocol", ["memory", "shared"])
def test_storage_gets_the_same_files_as_a_disk(request, mapper, memory, tmp_path, kind, protocol):
    source = request.getfixturevalue(kind)
    migrate_stream(mapper, source, tmp_path / "disk", chunk_rows=7)
    files = fsspec.filesystem(protocol)
    root = "/bulk" if protocol == "memory" else str(tmp_path / "bulk")
    files.put(str(source), f"{root}/in", recursive=True)
    urls = [f"{protocol}://{root}/{name}" for name in ("in", "out")]
    assert migrate_stream(mapper, *urls, chunk_rows=7)["users"] == SHARDS * ROWS
    files.get(f"{root}/out", str(tmp_path / "got"), recursive=True)
    names = {file.name for file in (tmp_path / "got").iterdir()}
    assert names - {storage.CLAIM} == {file.name for file in (tmp_path / "disk").iterdir()}
    for name in names:
        if name.startswith("p-"):
            np.testing.assert_array_equal(
                read_one(tmp_path / "got" / name), read_one(tmp_path / "disk" / name)
            )
    if kind == "tensors":
        np.testing.assert_array_equal(
            read_prompts(tmp_path / "got").vectors, read_prompts(tmp_path / "disk").vectors
        )
    # A second call reads only headers and maps only shards whose input changed.
    assert migrate_stream(mapper, *urls)["skipped"] == SHARDS
    changed = next(file for file in sorted(source.iterdir()) if file.name.startswith("p-"))
    files.pipe_file(f"{root}/in/{changed.name}", changed.read_bytes())
    assert migrate_stream(mapper, *urls)["skipped"] == SHARDS - 1
    assert not list(storage._scratch_folder().iterdir())


def test_a_file_url_is_a_folder_of_this_machine(mapper, tensors, tmp_path):
    migrate_stream(mapper, tensors, tmp_path / "out")
    again = migrate_stream(mapper, tensors.as_uri(), (tmp_path / "out").as_uri())
    assert again["skipped"] == SHARDS and not (tmp_path / "out" / storage.CLAIM).exists()


def test_a_folder_of_storage_refuses_a_second_adapter(adapter, mapper, memory, tensors):
    memory.put(str(tensors), "/bulk/in", recursive=True)
    memory.pipe_file("/bulk/out/stream.json", b'{"made_by": "another"}')
    with pytest.raises(MigrationError, match="is of other work .*another adapter"):
        migrate_stream(mapper, "memory://bulk/in", "memory://bulk/out")
    assert memory.ls("/bulk/out", detail=False) == ["/bulk/out/stream.json"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:SECRET@bucket/in", "with a password or a query"),
        ("s3://bucket/in?signature=SECRET", "with a password or a query"),
        ("s3://bucket/../other", r"has the part '\.\.'"),
        ("s3://bucket/%2e%2e/other", r"has the part '\.\.'"),
        ("file:///tmp/../etc", r"without '\.\.'"),
        ("nowhere://bucket/in", "cannot be opened .*nowhere"),
        ("memory://bulk/none", "has no shards"),
    ],
)
def test_urls_that_cannot_be_read_end_in_one_sentence_without_secrets(
    adapter, tmp_path, url, message
):
    write_adapter(tmp_path / "adapter", adapter, "A card.")
    command = ["migrate-stream", url, "memory://bulk/out", "--adapter", str(tmp_path / "adapter")]
    result = CliRunner().invoke(app, command)
    text = " ".join(result.stderr.split())
    assert result.exit_code == 1 and "SECRET" not in result.output
    assert re.search(message, text), text


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"pip install 'puma-workbench\[object-storage\]'"):
        storage.folder_of("s3://bucket/in")


def test_errors_of_storage_are_one_line_without_signatures(memory, monkeypatch):
    folder = storage.folder_of("memory://bulk/in")

    def fail(*_args, **_kwargs):
        raise RuntimeError("GET https://host/in?X-Amz-Signature=SECRET failed\nsecond line")

    monkeypatch.setattr(folder._fs, "ls", fail)
    with pytest.raises(StoreError) as error:
        folder.entries()
    assert "SECRET" not in str(error.value) and "second" not in str(error.value)
    assert "memory://bulk/in cannot be listed" in str(error.value)


@pytest.mark.parametrize("location", ["disk", "memory"])
def test_users_are_selected_from_parquet_and_storage_as_from_safetensors(
    memory, tensors, tables, tmp_path, location
):
    options = {"budget": 12, "strategy": "kmeans-pca", "clusters": 3, "min_cluster": 1}
    select_stream(tensors, tmp_path / "wanted", **options)
    source, target = tables, tmp_path / "chosen"
    if location == "memory":
        memory.put(str(tables), "/bulk/in", recursive=True)
        source, target = "memory://bulk/in", "memory://bulk/chosen"
    assert select_stream(source, target, **options)["users"] == SHARDS * ROWS
    if location == "memory":
        memory.get("/bulk/chosen", str(tmp_path / "chosen"), recursive=True)
    expected, chosen = (read_prompts(tmp_path / name) for name in ("wanted", "chosen"))
    assert chosen.user_ids == expected.user_ids
    np.testing.assert_array_equal(chosen.vectors, expected.vectors)
    with pytest.raises(StoreError, match="already something at"):
        select_stream(source, target, **options)


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        (None, "There is no file"),
        (b"x", "cannot be read as Parquet"),
        ({"variance": ["high"] * 4}, "variance holds NaN"),
        ({"variance": [1.0, 2, None, 4]}, "variance holds NaN"),
        ({"variance": [[1.0]] * 4}, "variance of .* has the type list.*must hold numbers"),
        ({"user_id": [1e18] * 4, "variance": range(4)}, "several ids have become one"),
        ({"user_id": ["u0-0"] * 4, "variance": range(4)}, "names a user twice"),
        ({"loss": range(4)}, "no column variance"),
    ],
)
def test_signals_that_cannot_be_used_end_in_a_sentence(tmp_path, signals, message):
    source = parquet_shards(tmp_path / "in", 1, 4)
    file = tmp_path / "signals.parquet"
    if isinstance(signals, bytes):
        file.write_bytes(signals)
    elif signals is not None:
        table = {"user_id": [f"u0-{n}" for n in range(4)]} | signals
        pq.write_table(pa.table({name: list(values) for name, values in table.items()}), file)
    with pytest.raises((DataError, ConfigError, SelectionError), match=message):
        select_stream(source, tmp_path / "out", strategy="variance", budget=2, signals=file)
    assert not (tmp_path / "out").exists()


def test_parquet_shards_without_user_ids_cannot_be_selected_from(tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"vector": [[1.0] * 8]}), tmp_path / "in" / "a.parquet")
    with pytest.raises(DataError, match="with the column user_id"):
        select_stream(tmp_path / "in", tmp_path / "out", budget=1, strategy="random")


def test_repeated_users_are_refused_before_anything_is_mapped(mapper, tmp_path, caplog):
    source, target = tensor_shards(tmp_path / "in", 2, 4), tmp_path / "out"
    _, vectors = prompts(7, 2)
    save_tensors(source / "p-2.safetensors", {"vectors": vectors}, {"user_ids": ["u0-1", "new"]})
    with pytest.raises(MigrationError, match="'u0-1' is in the shards p-0.* and p-2"):
        migrate_stream(mapper, source, target)
    assert not list(target.glob("*.safetensors"))
    save_tensors(source / "p-2.safetensors", {"vectors": vectors}, {"user_ids": ["u0-1 ", "new"]})
    result = migrate_stream(mapper, source, target)
    assert (result["users"], result["without_user_id"]) == (10, 0)
    assert "1 user ids differ from others only by spaces" in caplog.text and "u0-1 " in caplog.text
    save_tensors(source / "p-2.safetensors", {"vectors": vectors})
    assert migrate_stream(mapper, source, target)["without_user_id"] == 2
    assert "2 prompts are in shards that do not name their users" in caplog.text
