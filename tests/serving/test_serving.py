"""The HTTP service of an adapter under real clients, and bulk mapping with kill and resume."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load, save
from safetensors.torch import save_file
from typer.testing import CliRunner
from waiting import free_port, wait_for, wait_for_server

from puma_engine.cli import app
from puma_engine.config import AdapterConfig
from puma_engine.errors import MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.files import save_tensors
from puma_engine.migration.adapter import Adapter
from puma_engine.serving.bulk import migrate_stream
from puma_engine.serving.mapper import Mapper

TOKEN = "a token of this test"
PUMA = [sys.executable, "-m", "puma_engine.cli"]


def adapter_file(hidden=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = Adapter(8, 12, AdapterConfig(hidden=hidden), generator=generator)
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    shape = {"d_in": 8, "d_out": 12, "hidden": hidden, "depth": 4, "dropout": 0.1}
    return AdapterFile(tensors, shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter")
    write_adapter(path, adapter_file(), "A card.")
    return path


@pytest.fixture(scope="module")
def mapper(folder):
    return Mapper(adapter_file(), "cpu")


@pytest.fixture(scope="module")
def url(folder):
    """A server process with small limits and a token."""
    port = free_port()
    command = [*PUMA, "serve-adapter", str(folder), "--port", str(port), "--device", "cpu"]
    command += ["--max-users", "64", "--max-bytes", "20000", "--max-waiting", "2"]
    server = subprocess.Popen(command, env=os.environ | {"PUMA_SERVE_TOKEN": TOKEN})
    address = f"http://127.0.0.1:{port}"
    wait_for_server(address + "/healthz", server)
    yield address
    server.terminate()
    server.wait(120)


def ask(url, path="/v1/migrate", body=None, media="application/json", token=TOKEN):
    headers = {"Content-Type": media} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def vectors(n=5, tokens=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, tokens, 8)).astype(np.float32)


def test_a_json_reply_has_the_user_ids_of_the_request(url, mapper):
    body = {"user_ids": ["b", 7, "a", "c", "d"], "vectors": vectors().tolist()}
    status, content, _ = ask(url, body=json.dumps(body).encode())
    reply = json.loads(content)
    assert status == 200 and reply["user_ids"] == body["user_ids"]
    np.testing.assert_allclose(reply["vectors"], mapper(vectors()), atol=1e-6)


def test_a_safetensors_reply_has_the_metadata_of_the_request(url, mapper):
    body = save({"vectors": vectors()}, {"users": "five"})
    status, content, _ = ask(url, body=body, media="application/vnd.safetensors")
    assert status == 200
    np.testing.assert_allclose(load(content)["vectors"], mapper(vectors()), atol=1e-6)
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length])["__metadata__"] == {"users": "five"}


def test_flat_rows_are_one_token(url, mapper):
    body = json.dumps({"vectors": vectors(tokens=1)[:, 0].tolist()}).encode()
    reply = json.loads(ask(url, body=body)[1])
    np.testing.assert_allclose(reply["vectors"], mapper(vectors(tokens=1)), atol=1e-6)
    assert json.loads(ask(url, body=b'{"vectors": []}')[1]).get("error")


@pytest.mark.parametrize(
    ("body", "media", "status", "words"),
    [
        (b"{", "application/json", 422, "cannot be read"),
        (b"[]", "application/json", 422, "it needs"),
        (b"[" * 19_000, "application/json", 422, "cannot be read"),
        (b'{"vectors": [[1, 2]]}', "application/json", 422, "reads 8"),
        (b'{"vectors": [[1], [1, 2]]}', "application/json", 422, "cannot be read"),
        (b'{"vectors": [[NaN,1,1,1,1,1,1,1]]}', "application/json", 422, "NaN"),
        (
            b'{"vectors": [[1,1,1,1,1,1,1,1]], "user_ids": []}',
            "application/json",
            422,
            "0 user ids",
        ),
        (b"not tensors", "application/octet-stream", 422, "cannot be read"),
        (save({"vectors": vectors(65, 1)}), "application/octet-stream", 413, "64 users"),
        (b" " * 20_001, "application/json", 413, "20,000 bytes"),
        (
            b'{"vectors": [[1e30,1e30,1e30,1e30,1e30,1e30,1e30,1e30]]}',
            "application/json",
            422,
            "become NaN or infinite",
        ),
        (b"{}", "text/plain", 415, "Send application/json"),
    ],
)
def test_bad_requests_get_an_error(url, body, media, status, words):
    code, content, _ = ask(url, body=body, media=media)
    assert code == status and words in json.loads(content)["error"]


def test_every_request_but_health_needs_a_token(url, mapper):
    for token in (None, "another", TOKEN + "x"):
        status, content, headers = ask(url, body=b"{}", token=token)
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
        assert TOKEN not in content.decode()
        assert ask(url, "/metrics", token=token)[0] == 401
    status, content, _ = ask(url, "/healthz", token=None)
    assert status == 200 and json.loads(content)["adapter"] == mapper.identity
    assert ask(url, "/docs")[0] == ask(url, "/openapi.json")[0] == 404


def test_concurrent_clients_get_their_own_results(url, mapper):
    errors = []

    def client(seed):
        prompts = vectors(4, seed=seed)
        for _ in range(5):
            status, content, _ = ask(url, body=json.dumps({"vectors": prompts.tolist()}).encode())
            if status == 503:
                continue
            if not np.allclose(json.loads(content)["vectors"], mapper(prompts), atol=1e-6):
                errors.append(seed)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_the_server_listens_on_the_network_only_with_a_token(folder, monkeypatch):
    monkeypatch.delenv("PUMA_SERVE_TOKEN", raising=False)
    result = CliRunner().invoke(app, ["serve-adapter", str(folder), "--host", "0.0.0.0"])
    assert result.exit_code == 1 and "set PUMA_SERVE_TOKEN" in result.stderr
    monkeypatch.setenv("PUMA_SERVE_TOKEN", "short")
    result = CliRunner().invoke(app, ["serve-adapter", str(folder)])
    assert result.exit_code == 1 and "16 characters" in result.stderr


def shards(path, count=3, rows=50):
    """Packed shards with an index, as puma prompts export writes them."""
    path.mkdir()
    index = []
    for number in range(count):
        name, ids = f"p-{number}.safetensors", [f"u{number}-{row}" for row in range(rows)]
        block = vectors(rows, seed=number)
        save_tensors(path / name, {"vectors": block}, {"user_ids": ids})
        index.append(pd.DataFrame({"user_id": ids, "shard": name, "row": range(rows)}))
    pd.concat(index).to_parquet(path / "index.parquet", index=False)
    return path


def test_a_stream_equals_in_memory_mapping_and_can_be_imported(mapper, tmp_path):
    source = shards(tmp_path / "in")
    report = migrate_stream(mapper, source, tmp_path / "out", chunk_rows=7)
    assert (report["shards"], report["skipped"], report["users"]) == (3, 0, 150)
    moved = read_prompts(tmp_path / "out")
    assert moved.user_ids[60] == "u1-10"
    expected = mapper(np.concatenate([vectors(50, seed=number) for number in range(3)]))
    np.testing.assert_allclose(moved.vectors, expected, atol=1e-6)


def test_bf16_shards_are_mapped_as_their_float32_values(mapper, tmp_path):
    values = torch.from_numpy(vectors(9)).bfloat16()
    (tmp_path / "in").mkdir()
    save_file({"vectors": values}, tmp_path / "in" / "a.safetensors", {"note": "theirs"})
    migrate_stream(mapper, tmp_path / "in", tmp_path / "out", chunk_rows=4)
    with safe_open(tmp_path / "out" / "a.safetensors", framework="np") as file:
        assert file.metadata()["note"] == "theirs"
        mapped = file.get_tensor("vectors")
    np.testing.assert_allclose(mapped, mapper(values.float().numpy()), atol=1e-6)


def test_a_finished_shard_is_repeated_only_if_its_input_changed(mapper, tmp_path):
    source, target = shards(tmp_path / "in"), tmp_path / "out"
    migrate_stream(mapper, source, target)
    assert migrate_stream(mapper, source, target)["skipped"] == 3
    save_tensors(source / "p-1.safetensors", {"vectors": vectors(40)}, {"user_ids": []})
    assert migrate_stream(mapper, source, target)["users"] == 40
    with pytest.raises(MigrationError, match="another adapter"):
        migrate_stream(Mapper(adapter_file(seed=1), "cpu"), source, target)


def test_folders_that_cannot_be_streamed_are_refused_and_leave_no_shard(mapper, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    with pytest.raises(MigrationError, match="no shards"):
        migrate_stream(mapper, source, target)
    save_tensors(source / "a.safetensors", {"vectors": np.zeros((3, 5), np.float32)})
    with pytest.raises(MigrationError, match="reads 8"):
        migrate_stream(mapper, source, target)
    save_tensors(source / "a.safetensors", {"other": np.zeros((3, 8), np.float32)})
    with pytest.raises(MigrationError, match="no tensor named vectors"):
        migrate_stream(mapper, source, target)
    with pytest.raises(MigrationError, match="another than"):
        migrate_stream(mapper, source, source)
    assert list(target.glob("*")) == []


def test_two_streams_never_write_to_one_folder(mapper, tmp_path):
    source, target = shards(tmp_path / "in"), tmp_path / "out"
    refused = []

    def meanwhile(*_):
        with pytest.raises(MigrationError, match="Another process writes to") as error:
            migrate_stream(mapper, source, target)
        refused.append(error)

    assert migrate_stream(mapper, source, target, report=meanwhile)["users"] == 150
    assert len(refused) == 3 and migrate_stream(mapper, source, target)["skipped"] == 3


def test_finite_prompts_that_overflow_are_refused_and_leave_no_shard(mapper, tmp_path):
    huge = vectors(9)
    huge[4] = 1e30
    with pytest.raises(MigrationError, match=r"1 of 9 prompts become NaN .* row 4, .* 1e\+30"):
        mapper(huge)
    (tmp_path / "in").mkdir()
    save_tensors(tmp_path / "in" / "a.safetensors", {"vectors": huge})
    with pytest.raises(MigrationError, match="1 of 4 prompts become NaN"):
        migrate_stream(mapper, tmp_path / "in", tmp_path / "out", chunk_rows=4)
    assert list((tmp_path / "out").glob("*")) == []


def test_a_killed_stream_resumes_at_the_first_unfinished_shard(folder, tmp_path):
    source, target = shards(tmp_path / "in", count=40, rows=600), tmp_path / "out"
    command = [*PUMA, "migrate-stream", str(source), str(target), "--adapter", str(folder)]
    command += ["--device", "cpu", "--json", "--chunk-rows", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: list(target.glob("*.safetensors")))
    process.send_signal(signal.SIGKILL)
    assert process.wait(120) == -signal.SIGKILL
    times = {file.name: file.stat().st_mtime_ns for file in target.glob("*.safetensors")}
    assert 0 < len(times) < 40
    for name in times:
        with safe_open(target / name, framework="np") as file:
            assert file.get_slice("vectors").get_shape() == [600, 2, 12]
    again = CliRunner().invoke(app, [*command[len(PUMA) : -1], "500"])
    assert again.exit_code == 0, again.output
    report = json.loads(again.stdout)
    assert report["skipped"] == len(times) and report["users"] == 600 * (40 - len(times))
    assert all((target / name).stat().st_mtime_ns == time for name, time in times.items())
    assert not list(Path(target).glob(".*.tmp")) and len(read_prompts(target).user_ids) == 24_000
