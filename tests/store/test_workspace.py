"""The workspace: one run per request, lineage, metrics, names, threads."""

import json
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from store_processes import in_process

from puma_engine.errors import NotFoundError, StoreError
from puma_engine.jobs.processes import start_detached
from puma_engine.pipeline.stage import look_up
from puma_engine.store import KINDS, Workspace
from puma_engine.store.backups import backup

FRAME = pd.DataFrame({"user_id": ["007", "12", "x"], "outcome": np.float32([1, 2.5, 5])})


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path / "workspace", create=True)


def done(ws, kind="dataset", *, name=None, config=None, inputs=None, seed=None, **summary):
    run = ws.begin(kind, name=name or kind, config=config or {}, inputs=inputs or {}, seed=seed)
    if run.status == "finished":
        return run
    return ws.finish(run.id, seconds=2.0, device="cpu", cost={"x": 1}, summary=summary)


def started(ws, name="run", **config):
    return ws.begin("dataset", name=name, config=config, inputs={})


def test_the_same_request_returns_the_same_run(ws):
    config = {"b": (1, 2), "a": {"rate": np.float32(0.5)}}
    first = done(ws, config=config, seed=3, users=5)
    same = done(ws, config={"a": {"rate": 0.5}, "b": [1, 2]}, seed=3, name="other")
    assert same == first and same.id == ws.run_key("dataset", config, {}, 3)
    assert (first.status, first.seconds, first.summary) == ("finished", 2.0, {"users": 5})
    other_runs = [
        done(ws, config=config, seed=4),
        done(ws, config=config),
        done(ws, "backbone", config=config, seed=3),
        done(ws, config=config | {"c": None}, seed=3),
        done(ws, config=config, seed=3, inputs={"source": first.id}),
    ]
    assert len({first.id, *(run.id for run in other_runs)}) == 6
    assert len(ws.runs()) == 6 and first.versions["python"]


def test_a_failed_run_restarts_under_its_id_with_its_checkpoints(ws):
    run = started(ws, size=1)
    ws.put_table(run.id, "old", FRAME)
    ws.put_metrics(run.id, [{"split": "test", "metric": "rmse", "value": 1.0}])
    (ws.work(run.id) / "checkpoint").write_text("half")
    failed = ws.fail(run.id, "no memory")
    assert (failed.status, failed.error) == ("failed", "no memory")
    with pytest.raises(StoreError, match="is failed"):
        ws.put_table(run.id, "late", FRAME)
    again = started(ws, size=1)
    assert (again.id, again.status, again.error) == (run.id, "running", None)
    assert not ws.artifacts(run.id) and not list(ws.folder(run.id).glob("*"))
    assert ws.metrics(run.id).empty
    assert (ws.work(run.id) / "checkpoint").read_text() == "half"
    assert again.created == run.created


def test_finished_run_does_not_change(ws):
    run = done(ws)
    for write in (
        lambda: ws.put_table(run.id, "t", FRAME),
        lambda: ws.put_tensors(run.id, "t", {"v": np.zeros(2)}),
        lambda: ws.put_metrics(run.id, []),
        lambda: ws.put_user_metrics(run.id, pd.DataFrame({"user_id": ["1"], "n": [1]})),
        lambda: ws.fail(run.id, "late"),
        lambda: ws.finish(run.id, seconds=1, device="cpu"),
    ):
        with pytest.raises(StoreError, match="finished"):
            write()
    assert ws.run(run.id) == run and list(ws.folder(run.id).iterdir()) == [ws.record_path(run.id)]
    assert ws.rename(run.id, "new").name == "new" and ws.note(run.id, "good").note == "good"


def test_lineage_reaches_data_and_models(ws):
    data = done(ws, users=30)
    small, large = (done(ws, "backbone", name=n, config={"spec": n}) for n in ("small", "large"))
    source = done(ws, "prompts", inputs={"dataset": data.id, "backbone": small.id})
    chosen = done(ws, "selection", inputs={"prompts": source.id}, config={"budget": 3})
    moved = done(
        ws,
        "migration",
        inputs={"source_0": source.id, "selection": chosen.id}
        | {"backbone": large.id, "dataset": data.id},
    )
    result = done(ws, "evaluation", inputs={"prompts": moved.id, "dataset": data.id})
    lineage = ws.lineage(result.id)
    assert lineage[0] == result and {run.id for run in lineage} == {run.id for run in ws.runs()}
    position = {run.id: number for number, run in enumerate(lineage)}
    assert all(position[i] > position[run.id] for run in lineage for i in run.inputs.values())
    assert [run.id for run in ws.lineage(data.id)] == [data.id]
    assert {run.id for run in ws.dependents(source.id)} == {chosen.id, moved.id}
    with pytest.raises(StoreError, match="used by 3 runs"):
        ws.delete(data.id)
    ws.delete(result.id)
    with pytest.raises(NotFoundError):
        ws.run(result.id)


def test_inputs_must_be_finished_and_in_the_workspace(ws):
    unfinished = started(ws)
    for run_id in (unfinished.id, "0" * 16):
        with pytest.raises(StoreError, match="not finished here"):
            ws.begin("prompts", name="p", config={}, inputs={"dataset": run_id})
    assert [run.id for run in ws.runs()] == [unfinished.id]


def test_stored_metrics_are_read_back(ws):
    run = started(ws)
    rows = [
        {"split": "test", "metric": "rmse", "value": np.float32(0.5), "low": 0.4, "high": 0.6}
        | {"n": np.int64(7), "method": "migrated"},
        {"split": "test", "metric": "uauc", "value": float("nan")},
    ]
    ws.put_metrics(run.id, rows)
    ws.put_metrics(run.id, rows)
    metrics = ws.metrics(run.id)
    assert len(metrics) == 2
    assert metrics["value"].iloc[0] == 0.5 and np.isnan(metrics["value"].iloc[1])
    assert metrics["n"].iloc[0] == 7 and metrics["method"].tolist()[0] == "migrated"
    users = pd.DataFrame({"user_id": ["b", "007"], "n": [2, 1], "rmse": [0.25, np.nan]})
    ws.put_user_metrics(run.id, users)
    user_metrics = ws.user_metrics(run.id).set_index("user_id")
    assert list(user_metrics.columns) == ["n", "rmse"] and user_metrics.loc["b", "rmse"] == 0.25
    assert np.isnan(user_metrics.loc["007", "rmse"])
    assert len(ws.metrics()) == 2 and ws.metrics().iloc[0]["run_id"] == run.id
    with pytest.raises(StoreError, match="precision"):
        ws.put_user_metrics(run.id, users.assign(precision=1.0))
    with pytest.raises(StoreError, match="repeated"):
        ws.put_user_metrics(run.id, pd.concat([users, users]))
    with pytest.raises(StoreError, match="split, metric and value"):
        ws.put_metrics(run.id, [{"metric": "rmse", "value": 1.0}])
    assert len(ws.user_metrics(run.id)) == 2 and len(ws.metrics(run.id)) == 2


def test_finishing_fills_the_typed_tables(ws):
    data = done(ws, task="rating", users=30, content_hash="abc", splits={"test": 3})
    run = ws.begin("prompts", name="p", config={"role": "source"}, inputs={"dataset": data.id})
    ws.finish(
        run.id,
        seconds=1,
        device="cpu",
        cost={"users_trained": 9},
        summary={"tokens": 1, "width": 8},
    )
    (row,) = ws.query("SELECT * FROM datasets")
    assert (row["run_id"], row["users"], row["content_hash"]) == (data.id, 30, "abc")
    (row,) = ws.query("SELECT role, tokens, width, users_trained, template FROM prompt_tables")
    assert tuple(row.values()) == ("source", 1, 8, 9, None)
    other = started(ws, other=True)
    ws.finish(other.id, seconds=1, device="cpu", summary={"users": "many", "items": None})
    assert {row["users"] for row in ws.query("SELECT users FROM datasets")} == {30, "many"}


def test_runs_are_found_by_id_name_and_prefix(ws):
    first, second = done(ws, name="books", users=1), done(ws, name="films", config={"x": 1})
    assert ws.run("books") == ws.run(first.id) == ws.run(first.id[:6]) == first
    assert [run.id for run in ws.runs()] == [second.id, first.id]
    assert ws.runs(limit=1) == [second] and ws.runs(kind="prompts") == []
    assert ws.runs(kind="dataset", status="finished") == [second, first]
    ws.rename(second.id, "books")
    with pytest.raises(StoreError, match="2 runs match 'books'"):
        ws.run("books")
    for unknown in ("nothing", first.id[:2], "", "%"):
        with pytest.raises(NotFoundError):
            ws.run(unknown)
    with pytest.raises(StoreError, match="kind"):
        ws.runs(kind="model")


def test_failed_runs_give_their_names_to_later_ones(ws):
    failed = [started(ws, "books", file=file) for file in ("bad", "worse")]
    for run in failed:
        ws.fail(run.id, "a bad row")
    assert ws.run("books").id == look_up(ws, "books", "dataset").id == failed[-1].id
    finished_run = done(ws, name="books", config={"file": "good"})
    assert ws.run("books") == look_up(ws, "books", "dataset") == finished_run
    later = started(ws, "books", file="another")
    assert ws.run("books") == finished_run
    # A name to delete or rename must belong to one run.
    with pytest.raises(StoreError, match=f"4 runs match 'books' .*{failed[0].id} failed"):
        ws.run("books", alone=True)
    assert ws.run(later.id[:8], alone=True).id == later.id
    done(ws, name="books", config={"file": "second"})
    with pytest.raises(StoreError, match="2 runs match 'books'"):
        ws.run("books")


def test_a_name_that_begins_another_id_is_refused(ws):
    first, second = done(ws, name="books", users=1), done(ws, name="films", config={"x": 1})
    ws.rename(second.id, first.id[:6])
    with pytest.raises(StoreError, match="2 runs match") as refused:
        ws.run(first.id[:6])
    assert first.id in str(refused.value) and second.id in str(refused.value)
    ws.rename(second.id, first.id)
    assert ws.run(first.id) == first, "a whole id is never a name"
    other = done(ws, "backbone", name=first.id[:6])
    assert look_up(ws, other.name, "backbone") == other, "the kind decides"


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a/b", "..", ".hidden", "", "a\0b"])
def test_no_name_escapes_the_workspace(ws, name):
    run = started(ws)
    for use in (ws.folder, ws.work, ws.lock, ws.artifacts, ws.delete, ws.lineage):
        with pytest.raises(StoreError):
            use(name)
    with pytest.raises(StoreError, match="cannot name an artifact"):
        ws.put_table(run.id, name, FRAME)
    with pytest.raises(StoreError):
        ws.get_table(run.id, name)
    with pytest.raises(StoreError):
        ws.begin("dataset", name="x", config={}, inputs={"dataset": name})
    with ws.transaction() as db:
        row = [run.id, "t", "parquet", name, "", 0, 0, ""]
        db.execute("INSERT INTO artifacts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    with pytest.raises(StoreError, match="artifact"):
        ws.get_table(run.id, "t")


def test_bad_runs_are_refused_with_the_reason(ws):
    for arguments, message in (
        ({"kind": "model"}, "'model' is not a kind of run"),
        ({"name": " "}, "name"),
        ({"name": "a\x1b[2J"}, "printable"),
        ({"name": "a" * 201}, "200"),
        ({"config": {"x": object()}}, "settings cannot hold a object"),
    ):
        with pytest.raises(StoreError, match=message):
            ws.begin(**{"kind": KINDS[0], "name": "x", "config": {}, "inputs": {}} | arguments)
    run = started(ws)
    with pytest.raises(StoreError, match="1 repeat"):
        ws.put_tensors(run.id, "p", {"v": np.zeros((2, 1))}, ids=["1", 1])
    with pytest.raises(StoreError, match="3 ids were given"):
        ws.put_tensors(run.id, "p", {"v": np.zeros((2, 1))}, ids=["1", "2", "3"])
    with pytest.raises(StoreError, match="cannot be written"):
        ws.put_table(run.id, "t", pd.DataFrame({"x": [{"a": 1}, 3]}))
    assert not ws.artifacts(run.id) and not list(ws.folder(run.id).glob("*"))


def test_threads_share_one_workspace(ws):
    def finish_run(number):
        run = started(ws, name=f"run-{number}", number=number)
        ws.put_table(run.id, "t", FRAME)
        return ws.finish(run.id, seconds=1, device="cpu").id

    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(finish_run, range(20)))
    assert {run.id for run in ws.runs(status="finished")} == set(ids) and len(set(ids)) == 20


def test_no_torch_is_imported():
    code = (
        "import sys, puma_engine.store, puma_engine.jobs, puma_engine.jobs.runner,"
        " puma_engine.jobs.worker_loop\n"
        "print([m for m in ('torch', 'transformers', 'streamlit') if m in sys.modules])"
    )
    assert in_process(code) == "[]"


def test_the_default_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUMA_WORKSPACE", raising=False)
    with pytest.raises(StoreError, match="no workspace"):
        Workspace.open()
    assert not list(tmp_path.iterdir())
    assert Workspace.open(create=True).root == tmp_path / "workspace"
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "other"))
    assert Workspace.open(create=True).root == tmp_path / "other"
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        Workspace.open(tmp_path / "file", create=True)


def test_a_forked_child_opens_a_new_connection(ws):
    code = (
        "ws.runs(); child = os.fork()\n"
        "if child == 0:\n"
        "    run = ws.begin('dataset', name='child', config={}, inputs={})\n"
        "    ws.finish(run.id, seconds=1, device='cpu'); os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "print(json.dumps([run.name for run in ws.runs()]))"
    )
    assert json.loads(in_process(code, ws.root)) == ["child"]


def test_paths_are_absolute(ws):
    assert isinstance(ws.root, Path) and ws.root.is_absolute()
    assert ws.folder("0" * 16).parent == ws.root / "runs"


def test_a_new_workspace_and_its_logs_are_private(tmp_path):
    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    for name, before, after in (("a", None, 0o700), ("b", 0o755, 0o750), ("c", 0o2775, 0o2770)):
        if before is not None:
            (tmp_path / name).mkdir()
            (tmp_path / name).chmod(before)
        ws = Workspace.open(tmp_path / name, create=True)
        assert mode(ws.root) == after
        log = ws.root / "logs" / "job.log"
        start_detached([sys.executable, "-c", "print('started')"], log).wait(60)
        assert mode(log) == 0o600 and log.read_text() == "started\n"
        ws.close()
    assert mode(backup(ws, tmp_path / "backup").folder) == 0o700
    # Rights that the owner grants later stay.
    ws.root.chmod(0o755)
    Workspace.open(ws.root).close()
    assert mode(ws.root) == 0o755
