"""A user is erased from every file and page of a workspace; what was trained on them is named."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import puma
from small_runs import QUICK, SMALL
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from puma_engine import jobs, pipeline
from puma_engine.cli import app
from puma_engine.datasets import item_profiles
from puma_engine.errors import NotFoundError, StoreError
from puma_engine.pipeline.doctor import check_workspace
from puma_engine.pipeline.erasing import ERASED, _plan_file, erase_user
from puma_engine.store import Workspace

USER = "ada.lovelace@example.org"


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    """A workspace with runs of every kind that hold the user, a log, an upload and a killed fit."""
    folder = tmp_path_factory.mktemp("erasing")
    ws = Workspace.open(folder / "workspace", create=True)
    rng = np.random.default_rng(0)
    users = [USER, *(f"{number:03}" for number in range(15))]
    rows = [
        (user, f"i{item}", int(rng.integers(1, 6)), f"Book {item}")
        for user in users
        for item in rng.choice(20, size=12, replace=False)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "outcome", "text"])
    frame.to_csv(folder / "ratings.csv", index=False)
    data = pipeline.import_dataset(ws, "table", path=folder / "ratings.csv", task="rating")
    small = tiny_backbone_folder(folder / "models", "llama")
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    source = pipeline.fit_prompts(ws, data, small, training=QUICK)
    on_all_users = pipeline.migrate(
        ws, source, large, training=QUICK, adapter=SMALL, name="everybody"
    )
    draws = (pipeline.select(ws, source, strategy="random", budget=4, seed=n) for n in range(20))
    selection = next(run for run in draws if USER not in pipeline.selected_users(ws, run))
    settings = {"selection": selection, "training": QUICK, "adapter": SMALL}
    on_few_users = pipeline.migrate(ws, source, large, name="few", **settings)
    scores = [pipeline.evaluate(ws, run) for run in (source, on_all_users, on_few_users)]
    pipeline.compare(ws, scores)
    pipeline.project(ws, source, on_all_users, method="pca")
    pipeline.predict_anchors(ws, on_all_users, count=16)  # as many items as users
    killed = ws.begin("dataset", name="killed", config={"x": 1}, inputs={})
    (ws.work(killed.id) / "checkpoint").write_text(USER)
    ws.fail(killed.id, f"The user {USER!r} has no prompt.")
    job = jobs.enqueue(ws, "migrate", {"sources": "x", "target": "y"}, title=f"For {USER}")
    jobs.cancel(ws, job.id)
    for name in ("logs", "uploads/one/table"):
        (ws.root / name).mkdir(parents=True)
    (ws.root / "logs" / f"{job.id}.log").write_text(f"before\nThe user {USER!r}: bad\nafter\n")
    frame.to_csv(ws.root / "uploads" / "one" / "table" / "ratings.csv", index=False)
    return ws


def files_with(root, text):
    return [path for path in root.rglob("*") if path.is_file() and text in path.read_bytes()]


class Killed(BaseException):
    """An exception that ends an erasure at a chosen write."""


@pytest.fixture
def killed_at(monkeypatch):
    """A function that makes the n-th call of a method of a workspace end the erasure."""

    def arm(ws, method, number):
        calls, original = itertools.count(1), getattr(ws, method)

        def call(*args, **kwargs):
            if next(calls) == number:
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(ws, method, call)

    return arm


@pytest.mark.parametrize(
    ("method", "number"),
    [("seal", 1), ("seal", 2), ("seal", 7), ("rewrite_summary", 2), ("unrecorded_files", 9)]
    + [("compact", 1), ("transaction", 20)],
)
def test_a_killed_erasure_is_completed_when_it_is_repeated(ws, tmp_path, killed_at, method, number):
    root = tmp_path / "copy"
    shutil.copytree(ws.root, root)
    copy = Workspace.open(root)
    planned = erase_user(copy, USER, dry_run=True)
    killed_at(copy, method, number)
    with pytest.raises(Killed):
        erase_user(copy, USER, reason="request 7")
    copy = Workspace.open(root)
    (row,) = (row for row in check_workspace(copy) if "erasure of a user" in row["detail"])
    assert row["status"] == "fail" and "did not end; repeat it" in row["detail"]
    # A kill after storing a new file leaves the former one.
    former = copy.folder(copy.runs(kind="prompts")[0].id) / "prompts.00000000.safetensors"
    former.write_text(USER)
    assert erase_user(copy, USER, dry_run=True) == planned
    assert erase_user(copy, USER) == planned
    assert files_with(root, USER.encode()) == [] and copy.scrub() == []
    assert [row for row in check_workspace(copy) if "erasure of a user" in row["detail"]] == []
    summaries = {run.id: run.summary for run in copy.runs(status="finished")}
    for run_id, summary in summaries.items():
        if "selected" in summary:
            frame = copy.get_table(run_id, "selection")
            assert summary["users"] == len(frame)
            assert summary["selected"] == frame["selected"].sum()
        if "tokens" in summary:
            assert summary["users"] == len(pipeline.load_prompts(copy, run_id).user_ids) == 15
        if "anchors" in summary:
            predicted = pipeline.read_anchors(copy, run_id)
            assert summary["users"] == len(predicted.users) == 15 and len(predicted.items) == 16
            assert predicted.predictions.shape == (15, 16)
    data = copy.runs(kind="dataset", status="finished")[0]
    assert data.summary["users"] == 15
    profiles = item_profiles(pipeline.load_dataset(copy, data.id))
    pd.testing.assert_frame_equal(copy.get_table(data.id, "item-profiles"), profiles)
    (line,) = copy.query("SELECT detail FROM audit")
    assert json.loads(line["detail"])["reason"] == "request 7"
    with pytest.raises(NotFoundError, match="No run and no log"):
        erase_user(copy, USER)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"began": "now"}',
        '{"began": "now", "reason": null, "held": {}, "trained_on": [], "uploads": [], "log": []}',
        '{"began": "now", "reason": null, "held": [], "trained_on": [], "uploads": [], "logs": []}',
        '{"began": "now", "reason": null, "held": {"r": {"prompts": "1"}}, "trained_on": [],'
        ' "uploads": [], "logs": []}',
    ],
)
def test_a_damaged_erasure_plan_is_refused_with_instructions(tmp_path, content):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    file = _plan_file(ws, USER)
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(StoreError, match=f"The file {file}.*; delete it and erase the user again"):
        erase_user(ws, USER)
    (row,) = (row for row in check_workspace(ws) if row["status"] == "fail")
    assert str(file) in row["detail"] and "delete it" in row["detail"]
    file.unlink()
    with pytest.raises(NotFoundError):
        erase_user(ws, USER)


def test_an_erased_user_is_in_no_file_and_other_users_stay(ws):
    before = {run.id: run for run in ws.runs()}
    data = ws.runs(kind="dataset", status="finished")[0]
    source = ws.runs(kind="prompts")[0]
    table = pipeline.load_prompts(ws, source)
    metrics = ws.metrics()
    assert files_with(ws.root, USER.encode())
    planned = erase_user(ws, USER, dry_run=True)
    assert files_with(ws.root, USER.encode()) and planned.rows > 0
    erased = erase_user(ws, USER, reason="request 7")
    assert erased == planned and len(erased.runs) >= 9
    # Both migrations have a prompt of the user; only one adapter was trained on it.
    trained_on = {name.split(" (")[0] for name in erased.trained_on}
    assert "everybody" in trained_on and "few" not in trained_on and erased.left == []
    assert files_with(ws.root, USER.encode()) == []
    assert ws.verify() == [] and ws.scrub() == []
    for run in ws.runs():
        assert run.id in before and run.status == before[run.id].status
        for row in ws.artifacts(run.id) if run.status == "finished" else ():
            if row["format"] == "parquet":
                assert USER not in ws.get_table(run.id, row["name"]).astype(str).to_numpy()
            else:
                assert USER not in (ws.get_tensors(run.id, row["name"])[1] or [])
    remaining = pipeline.load_prompts(ws, source)
    other_users = [user for user in table.user_ids.tolist() if user != USER]
    assert remaining.user_ids.tolist() == other_users
    np.testing.assert_array_equal(remaining.vectors, table.take(other_users))
    for name, tensor in table.head.items():
        np.testing.assert_array_equal(remaining.head[name], tensor)
    pd.testing.assert_frame_equal(ws.metrics(), metrics)
    dataset = pipeline.load_dataset(ws, data.id)
    summary = ws.run(data.id).summary
    assert summary["users"] == len(dataset.users) == 15 and summary["interactions"] == 15 * 12
    assert summary["content_hash"] == data.summary["content_hash"]
    pd.testing.assert_frame_equal(ws.get_table(data.id, "item-profiles"), item_profiles(dataset))
    (line,) = ws.query("SELECT action, detail FROM audit")
    assert line["action"] == "erase user" and json.loads(line["detail"])["reason"] == "request 7"
    (job,) = jobs.jobs(ws)
    assert job.title == f"For {ERASED}" and jobs.read_log(ws, job.id).splitlines()[0] == "before"
    with pytest.raises(NotFoundError, match="No run and no log"):
        erase_user(ws, USER)


def test_erasure_removes_leftovers_of_finished_runs_and_names_files_of_unknown_runs(ws, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(ws.root, root)
    copy = Workspace.open(root)
    source = copy.runs(kind="prompts")[0]
    user = pipeline.load_prompts(copy, source).user_ids[3]
    (copy.work(source.id) / "checkpoint.safetensors").write_bytes(b"vectors of everybody")
    unknown = root / "runs" / "0123456789abcdef"
    shutil.copytree(copy.folder(source.id), unknown)
    for name in ("rows.parquet", "others.parquet"):
        rows = pd.DataFrame({"user_id": [user if name[0] == "r" else "nobody"]})
        rows.to_parquet(unknown / name)
    (unknown / "cut.parquet").write_bytes(b"PAR1")
    names = {Path(path).name.split(".")[0] for path in erase_user(copy, user).left}
    assert names == {"prompts", "rows", "cut"}
    assert list((root / "work").iterdir()) == []


def test_remaining_prompts_can_be_evaluated_after_an_erasure(ws):
    moved = ws.runs(kind="migration")[0]
    again = pipeline.evaluate(ws, moved, split="validation")
    assert again.status == "finished" and len(ws.user_metrics(again.id)) == 15


def test_erasing_a_user_with_a_short_id_changes_no_other_number(ws):
    run = ws.begin("dataset", name="numbers", config={"n": 1}, inputs={})
    ws.put_table(run.id, "t", pd.DataFrame({"user_id": ["12", "3"], "item_id": ["12", "12"]}))
    summary = {"counts": {"12": 4}, "values": ["12", 12], "note": "user '12' is bad, 12 rows"}
    summary |= {"dataset": "numbers", "task": "rating", "report": {}}
    ws.finish(run.id, seconds=1, device="cpu", summary=summary)
    (ws.root / "logs" / "worker.log").write_text("step 12 of 12\n")
    pairs = pd.DataFrame({"user_id": ["3"], "item_id": ["12"]})
    with ws.transaction() as db:
        db.execute("UPDATE runs SET kind = 'projection' WHERE id = ?", [run.id])
        ws.seal(run.id)
    erase_user(ws, "12")
    pd.testing.assert_frame_equal(ws.get_table(run.id, "t"), pairs, check_dtype=False)
    expected = summary | {"note": f"user {ERASED} is bad, 12 rows"}
    assert ws.run(run.id).summary == expected
    assert (ws.root / "logs" / "worker.log").read_text() == "step 12 of 12\n"


def test_a_user_is_not_erased_while_a_job_runs(ws):
    job = jobs.enqueue(ws, "demo", {}, title="Waits")
    with pytest.raises(StoreError, match="Jobs are queued or running"):
        erase_user(ws, "003")
    jobs.cancel(ws, job.id)


def test_the_erase_command_asks_for_confirmation(ws):
    arguments = ["-w", str(ws.root), "users", "erase", "004"]
    result = CliRunner().invoke(app, arguments, input="n\n")
    assert result.exit_code == 1 and "Erase the user '004'" in result.output
    assert "004" in pipeline.load_prompts(ws, ws.runs(kind="prompts")[0]).user_ids
    assert puma(ws, "users", "erase", "004", "--yes")["rows"] > 0
    assert "004" not in pipeline.load_prompts(ws, ws.runs(kind="prompts")[0]).user_ids
