"""Artifacts of runs: complete or absent, verified, no leftovers."""

import os

import numpy as np
import pandas as pd
import pytest
from store_processes import in_process, start_process

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.store import Workspace, artifacts

FRAME = pd.DataFrame({"user_id": ["007", "12", "x"], "outcome": np.float32([1, 2.5, 5])})


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path / "workspace", create=True)


def started(ws, name="run", **config):
    return ws.begin("dataset", name=name, config=config, inputs={})


def test_tables_and_tensors_are_loaded_by_user_id(ws):
    run = started(ws)
    frame = FRAME.assign(history=[["1", "2"], [], None], time=[1, None, 3])
    ws.put_table(run.id, "interactions", frame)
    vectors = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    arrays = {"vectors": vectors, "head.bias": np.zeros(5, np.float16)}
    ws.put_tensors(run.id, "prompts", arrays, ids=["007", "12", "x"], meta={"l": 2})
    loaded = Workspace.open(ws.root).get_table(run.id, "interactions")
    assert loaded["user_id"].tolist() == ["007", "12", "x"]
    assert loaded["outcome"].dtype == np.float32 and list(loaded["history"][0]) == ["1", "2"]
    tensors, ids, meta = ws.get_tensors(run.id, "prompts")
    assert ids == ["007", "12", "x"] and meta == {"l": 2}
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype
    ws.put_tensors(run.id, "adapter", {"w": vectors})
    assert ws.get_tensors(run.id, "adapter")[1:] == (None, None)
    rows = {row["name"]: row["rows"] for row in ws.artifacts(run.id)}
    assert rows == {"interactions": 3, "prompts": 3, "adapter": None}
    with pytest.raises(NotFoundError, match="no parquet file named 'prompts'"):
        ws.get_table(run.id, "prompts")


def test_a_repeated_put_replaces_the_artifact(ws):
    run = started(ws)
    ws.put_table(run.id, "t", FRAME)
    ws.put_table(run.id, "t", FRAME.head(1))
    assert len(ws.get_table(run.id, "t")) == 1
    assert len(list(ws.folder(run.id).iterdir())) == len(ws.artifacts(run.id)) == 1


def test_verify_detects_a_flipped_byte(ws):
    run = started(ws)
    ws.put_table(run.id, "a", FRAME)
    ws.put_tensors(run.id, "b", {"v": np.ones((3, 4), np.float32)}, ids=["1", "2", "3"])
    ws.finish(run.id, seconds=1, device="cpu")
    assert ws.verify() == []
    file = next(ws.folder(run.id).glob("b.*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    status = file.stat()
    file.write_bytes(content)
    (problem,) = ws.verify()
    assert "was changed" in problem and file.name in problem and run.id in problem
    with pytest.raises(StoreError, match="was changed"):
        ws.get_tensors(run.id, "b")
    # Also when the time of change was set back.
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(ws.verify()) == 1
    file.unlink()
    assert "missing" in ws.verify()[0]
    assert len(ws.get_table(run.id, "a")) == 3


def test_a_file_is_hashed_at_its_first_reading_and_when_its_time_changed(ws, monkeypatch):
    run = started(ws)
    ws.put_table(run.id, "a", FRAME)
    hashed = []
    real = artifacts.sha256_file
    monkeypatch.setattr(artifacts, "sha256_file", lambda path: hashed.append(path) or real(path))
    file = next(ws.folder(run.id).glob("a.*"))
    for _ in range(2):
        ws.get_table(run.id, "a")
    assert hashed == [file]
    os.utime(file)
    for _ in range(2):
        ws.get_table(run.id, "a")
    assert hashed == [file, file]


def test_bit_rot_that_leaves_the_time_is_noticed_by_the_next_process(ws):
    run = started(ws)
    ws.put_table(run.id, "a", FRAME)
    ws.finish(run.id, seconds=1, device="cpu")
    file = next(ws.folder(run.id).glob("a.*"))
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code = (
        "try:\n"
        f"    print(ws.get_table('{run.id}', 'a'))\n"
        "except StoreError as error:\n"
        "    print(error)"
    )
    assert "was changed since it was written" in in_process(code, ws.root)


def test_delete_removes_files(ws):
    run = started(ws)
    with pytest.raises(StoreError, match="being computed"):
        ws.delete(run.id)
    ws.put_table(run.id, "t", FRAME)
    ws.work(run.id)
    ws.finish(run.id, seconds=1, device="cpu", summary={"users": 3})
    ws.delete(run.id)
    assert not list((ws.root / "runs").iterdir()) and not list((ws.root / "work").iterdir())
    assert not ws.query("SELECT * FROM datasets") and ws.verify() == []


def test_a_full_disk_leaves_no_artifact(ws):
    code = (
        "import resource, pandas as pd, numpy as np\n"
        "run = ws.begin('dataset', name='x', config={}, inputs={})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "big = np.random.default_rng(0).random(1_000_000)\n"
        "for put in (lambda: ws.put_table(run.id, 't', pd.DataFrame({'x': big})),\n"
        "            lambda: ws.put_tensors(run.id, 't', {'x': big})):\n"
        "    try:\n"
        "        put()\n"
        "    except StoreError as error:\n"
        "        print(error)\n"
        "ws.fail(run.id, 'disk full')"
    )
    text = in_process(code, ws.root)
    assert text.count("is full") == 2
    (run,) = ws.runs()
    assert run.error == "disk full" and not ws.artifacts(run.id)
    assert not list(ws.folder(run.id).glob("*")) and ws.verify() == []


def test_a_crash_between_file_and_row_leaves_a_clean_store(ws):
    code = (
        "class Dies(Workspace):\n"
        "    def transaction(self):\n"
        "        os.kill(os.getpid(), 9)\n"
        "run = ws.begin('dataset', name='x', config={}, inputs={})\n"
        "Dies(ws.root).put_tensors(run.id, 't', {'x': np.zeros(3)})"
    )
    assert start_process("import numpy as np\n" + code, ws.root).wait(240) == -9
    (run,) = ws.runs(status="interrupted")
    assert list(ws.folder(run.id).iterdir()) and ws.verify() == []
    with pytest.raises(NotFoundError):
        ws.get_tensors(run.id, "t")
    restarted = ws.begin("dataset", name="x", config={}, inputs={})
    assert restarted.id == run.id and not list(ws.folder(run.id).glob("*"))
    ws.put_tensors(run.id, "t", {"x": np.ones(3)})
    ws.finish(run.id, seconds=1, device="cpu")
    assert ws.verify() == [] and len(list(ws.folder(run.id).glob("t.*"))) == 1
