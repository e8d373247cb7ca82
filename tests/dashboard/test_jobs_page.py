"""The Jobs page in every state, and its buttons."""

import os
from pathlib import Path

import pandas as pd
import pytest
from dashboard_pages import (
    HOSTILE,
    add_job,
    assert_plain,
    finished,
    open_page,
    report,
    texts,
)

from dashboard import engine
from dashboard.components.formatting import escaped
from dashboard.components.tables import selected_id
from dashboard.components.theme import STATUSES
from dashboard.engine import job_table
from puma_engine import jobs
from puma_engine.jobs.processes import identity
from puma_engine.pipeline import COMMANDS
from puma_engine.report import glossary
from puma_engine.store import KINDS, Workspace
from puma_engine.store.records import now


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "ws"))
    return Workspace.open(tmp_path / "ws", create=True)


def test_without_a_workspace_or_jobs_the_page_says_how_to_begin(tmp_path, monkeypatch):
    app = open_page("jobs", tmp_path / "none", monkeypatch)
    assert_plain(app)
    assert "No workspace yet" in texts(app)
    Workspace.open(tmp_path / "empty", create=True)
    app = open_page("jobs", tmp_path / "empty", monkeypatch)
    assert_plain(app)
    assert "No jobs yet" in texts(app)


def test_every_job_status_has_a_badge():
    assert set(STATUSES) == set(jobs.JOB_STATUSES)


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_has_its_badge_and_its_button(status, ws, monkeypatch):
    job = add_job(ws, status=status, error="It broke." if status == "failed" else None)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    assert STATUSES[status].label in texts(app)
    assert ("It broke." in texts(app)) == (status == "failed")
    waited_for = status in ("queued", "running", "interrupted")
    assert ("No result yet." in texts(app)) == waited_for
    assert ("It has no result." in texts(app)) != waited_for
    keys = {button.key for button in app.button}
    assert (f"cancel-{job}" in keys) == (status in ("queued", "running"))
    assert (f"retry-{job}" in keys) == (status in ("failed", "cancelled", "interrupted"))


def test_cancel_and_retry_change_the_job(ws, monkeypatch):
    monkeypatch.setattr(jobs, "ensure_worker", lambda ws: None)
    job = add_job(ws)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    app.button(f"cancel-{job}").click().run()
    assert_plain(app)
    assert jobs.job(ws, job).status == "cancelled"
    app.button(f"retry-{job}").click().run()
    assert jobs.job(ws, job).status == "queued"


def test_a_button_that_comes_too_late_says_so(ws, monkeypatch):
    job = add_job(ws)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET status = 'finished' WHERE id = ?", [job])
    app.button(f"cancel-{job}").click().run()
    assert_plain(app)
    assert "only a job that waits or runs can be cancelled" in app.toast[0].value


def test_the_address_chooses_the_job_and_filters(ws, monkeypatch):
    first = add_job(ws, title="First import", status="failed", error="One reason.")
    add_job(ws, title="Second")
    app = open_page("jobs", ws.root, monkeypatch, job=first)
    assert "One reason." in texts(app)
    assert app.dataframe[0].value["title"].tolist() == ["Second", "First import"]
    app = open_page("jobs", ws.root, monkeypatch, status="failed")
    (pills,) = (group for group in app.button_group if group.key == "choose-status")
    assert [option.content for option in pills.proto.options] == [
        shown.label for shown in STATUSES.values()
    ]
    assert app.dataframe[0].value["title"].tolist() == ["First import"]
    app = open_page("jobs", ws.root, monkeypatch, find="sec")
    assert app.dataframe[0].value["title"].tolist() == ["Second"]
    app = open_page("jobs", ws.root, monkeypatch, job="../../etc", status="nonsense")
    assert_plain(app)
    assert len(app.dataframe[0].value) == 2
    app = open_page("jobs", ws.root, monkeypatch, find="nothing like it")
    assert "No job matches" in texts(app)


def test_a_missing_job_is_reported(ws, monkeypatch):
    job = add_job(ws, title="Here")
    assert "not in this table" not in texts(open_page("jobs", ws.root, monkeypatch, job=job))
    app = open_page("jobs", ws.root, monkeypatch, job="deadbeef")
    assert_plain(app)
    assert "The row in the address is not in this table." in texts(app)


def test_a_waiting_job_says_whether_a_worker_can_run_it(ws, monkeypatch):
    started = []
    monkeypatch.setattr(jobs, "ensure_worker", started.append)
    job = add_job(ws)
    for page in ("jobs", "overview"):
        app = open_page(page, ws.root, monkeypatch)
        assert_plain(app)
        assert "no worker is running" in texts(app)
    app.button(f"work-{job}").click().run()
    assert [workspace.root for workspace in started] == [ws.root]
    with ws.transaction() as db:
        values = [os.getpid(), identity(os.getpid()), "[]", now(), now()]
        db.execute("INSERT INTO workers VALUES (?, ?, ?, ?, ?)", values)
    app = open_page("jobs", ws.root, monkeypatch)
    assert "waits for a free device" in texts(app)
    assert f"work-{job}" not in {button.key for button in app.button}


def test_a_running_job_shows_its_overall_progress(ws, monkeypatch):
    job = add_job(ws, status="running")
    report(ws, job, stage="fit", step=1, total=2, overall=0.75, left=None)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    shown = app.get("progress")[0].proto
    assert shown.value == 75 and "estimating the time left" in shown.text
    report(ws, job, stage="fit", step=1, total=2, overall=0.75, left=[125.0, 219.0])
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert "75 % done · 2 to 4 min left" in app.get("progress")[0].proto.text
    assert app.dataframe[0].value["share"].tolist() == [75.0]


def test_a_job_on_a_cluster_shows_its_node(ws, monkeypatch):
    job = add_job(ws, status="running", args={"on": "ray://head:10001"})
    report(ws, job, stage="fit", step=1, total=2, node="gpu-7", left=None)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    facts = next(item.value for item in app.dataframe if "What" in item.value).set_index("What")
    shown = facts["Value"].to_dict()
    assert (shown["Node"], shown["Computed on the cluster"]) == ("gpu-7", "ray://head:10001")


PARTS = [
    {"title": "Import **data**", "status": "reused", "seconds": None},
    {"title": "Fit source prompts", "status": "finished", "seconds": 65.0},
    {"title": "Migrate", "status": "running", "seconds": None},
    {"title": "Compare", "status": "waiting", "seconds": None},
]


def test_a_job_shows_its_stages_and_where_it_stopped(ws, monkeypatch):
    job = add_job(ws, status="running")
    report(ws, job, stage="training the adapter", step=30, total=90, overall=0.5, parts=PARTS)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    shown = texts(app)
    assert "was there already" in shown and "Fit source prompts :gray[– 1 min 5 s]" in shown
    assert "play_circle:] **Migrate**" in shown and "radio_button_unchecked:] Compare" in shown
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET status = 'cancelled' WHERE id = ?", [job])
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    shown = texts(app)
    assert "pause_circle:] Migrate" in shown
    assert "Resume keeps 2 of 4 stages and begins again with: training the adapter" in shown
    assert app.button(f"retry-{job}").label == "Resume"


def test_a_cancelled_job_says_who_stopped_it_and_where_it_goes_on(ws, monkeypatch):
    error = "Cancelled while fitting, at step 130 of 400."
    job = add_job(ws, status="cancelled", error=error)
    fitting = {"stage": "fitting", "step": 130, "total": 400, "saved_step": 120, "saved_epoch": 2}
    report(ws, job, **fitting)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    shown = texts(app)
    assert "Cancelled by you" in shown and error in shown and "failed" not in shown.lower()
    assert "Resume goes on from step 120 of 400 (epoch 3) of: fitting" in shown
    assert app.button(f"retry-{job}").label == "Resume"
    nothing = add_job(ws, status="cancelled")
    app = open_page("jobs", ws.root, monkeypatch, job=nothing)
    assert "had saved nothing yet" in texts(app)
    assert app.button(f"retry-{nothing}").label == "Retry"


def test_a_second_attempt_says_why_the_first_ended(ws, monkeypatch):
    job = add_job(ws, status="running", error="The job's process was killed (signal 9).")
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET attempt = 2 WHERE id = ?", [job])
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    assert "Attempt 2" in texts(app) and "signal 9" in texts(app)
    assert not app.error


@pytest.mark.parametrize("status", STATUSES)
def test_a_visitor_who_may_only_view_sees_the_state_without_buttons(status, ws, monkeypatch):
    job = add_job(ws, status=status)
    monkeypatch.setattr("dashboard.engine.read_only", lambda: True)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    assert STATUSES[status].label in texts(app) and "may only be viewed" in texts(app)
    assert not app.button and "by you" not in texts(app)


def test_a_result_is_linked_and_its_files_can_be_downloaded(ws, monkeypatch):
    frame = pd.DataFrame({"a": [1, 2]})
    run = finished(ws, "dataset", "books", tables={"items": frame})
    job = add_job(ws, "import_dataset", status="finished", run_id=run.id)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    link = app.get("page_link")[0].proto
    assert link.page == "data" and link.query_string == f"dataset={run.id}"
    # After an import the next step is offered.
    following = app.get("page_link")[1].proto
    assert following.page == "new-migration" and following.query_string == f"dataset={run.id}"
    assert "Items (" in app.get("download_button")[0].proto.label
    file = next(ws.folder(run.id).glob("items*.parquet"))
    assert job_table.content(run.id, "items") == file.read_bytes()
    monkeypatch.setattr(job_table, "MAX_DOWNLOAD", 10)
    with pytest.raises(Exception, match="too many for a browser"):
        job_table.content(run.id, "items")
    with pytest.raises(Exception, match="no file"):
        job_table.content(run.id, "../../puma.db")


def test_a_deleted_result_is_not_linked(ws):
    run = finished(ws, "dataset", "books")
    job = add_job(ws, status="finished", run_id=run.id)
    assert job_table.result(jobs.job(ws, job)) == ws.run(run.id)
    ws.delete(run.id)
    assert job_table.result(jobs.job(ws, job)) is None


def test_arguments_name_the_runs_that_they_mean(ws):
    run = finished(ws, "dataset", "books")
    job = jobs.job(ws, add_job(ws, args={"dataset": run.id, "sources": [run.id, "0" * 16]}))
    shown = job_table.arguments(job)
    assert shown["Data set"] == f"books ({run.id})"
    assert shown["Prompts of the old model"] == f"books ({run.id}), {'0' * 16}"


def test_settings_with_the_same_words_are_all_shown_and_a_seed_is_no_amount(ws):
    args = {"spec": "a", "backbone": "b", "seed": 1234567, "budget": 1234567}
    args["training"] = {"seed": 7654321, "batch_size": 1024}
    shown = job_table.arguments(jobs.job(ws, add_job(ws, args=args)))
    assert (shown["Model (spec)"], shown["Model (backbone)"]) == ("a", "b")
    assert (shown["Seed"], shown["Users who train it"]) == ("1234567", "1,234,567")
    assert shown["Training"] == "seed: 7654321, batch size: 1,024"


def test_pages_name_files_without_the_servers_folders(ws, monkeypatch):
    path = "/srv/teams/books/ratings.csv"
    args = {"source": "table", "path": path, "spec": "/srv/models/mine.gguf"}
    error = f"There is no file {path}, nor '/srv/my teams/items.csv'; see https://hub.co/a/b and owner/name."
    job = add_job(ws, title=f"Importing {path}", status="failed", args=args, error=error)
    log = Path(jobs.job(ws, job).log)
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"2026-01-01 importing {path}\n")
    for shown in (engine.job(job), *engine.jobs()):
        assert shown.title == "Importing ratings.csv"
        assert shown.error == (
            "There is no file ratings.csv, nor 'items.csv'; see https://hub.co/a/b and owner/name."
        )
    assert engine.job_log(job).strip() == "2026-01-01 importing ratings.csv"
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert escaped("Importing ratings.csv") in texts(app) and "/srv" not in texts(app)
    assert all("/srv" not in shown.value.to_string() for shown in app.dataframe)
    assert all("/srv" not in shown.value for shown in app.code)


@pytest.mark.parametrize("text", HOSTILE)
def test_titles_errors_and_arguments_are_shown_as_text(text, ws, monkeypatch):
    args = {"name": text, "path": "/srv/uploads/secret.csv"}
    job = add_job(ws, title=text, status="failed", args=args, error=text * 3)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    facts = app.dataframe[1].value
    assert "/srv" not in facts.to_string() and "a file on the server" in facts["Value"].tolist()


def test_a_selected_row_becomes_an_id_only_if_it_exists():
    event = {"selection": {"rows": [1]}}
    assert selected_id(event, ["a", "b"]) == "b"
    for rows in ([], [2], [-1], ["x"]):
        assert selected_id({"selection": {"rows": rows}}, ["a", "b"]) is None
    assert selected_id(None, ["a"]) is None


def test_settings_and_steps_of_a_job_are_in_plain_words(ws, monkeypatch):
    args = {"source": "0" * 16, "most": 50_000, "neighbours": 15, "umap": True, "item_tokens": 2}
    job = add_job(ws, "project", status="finished", args=args)
    titles = ["source", "migrated 10 %", "evaluation of global_mean", "map of migrated 100 %"]
    parts = [{"title": title, "status": "finished", "seconds": 1.0} for title in titles * 2]
    report(ws, job, stage="x", parts=parts)
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    assert_plain(app)
    facts = next(item.value for item in app.dataframe if "What" in item.value).set_index("What")
    shown = facts["Value"].to_dict()
    assert (
        shown["Maximum number of users drawn"] == "50,000" and shown["Maps by UMAP, too"] == "yes"
    )
    assert shown["Prompts of the old model"] == "0" * 16 and not set(args) & set(shown)
    assert app.expander[0].label == "8 steps"
    for words in (
        "Prompts of the old model",
        "Migration trained on 10 % of the users",
        "Evaluate: global mean",
        "Map by PCA: migration trained on 100 % of the users",
    ):
        assert escaped(words) in texts(app)


def test_commands_kinds_and_devices_are_in_plain_words():
    """Every command of jobs and kind of run that a page may show has words of its own."""
    assert set(glossary.COMMANDS) == set(COMMANDS)
    for name in COMMANDS:
        assert " " in glossary.command(name) or glossary.command(name) == "Evaluate"
    assert set(glossary.RUN_KINDS) < set(KINDS)
    assert glossary.run_kind("projection") == "map of users"
    assert glossary.run_kind("prompts") == "prompts"
    assert glossary.file_label("space") == "Principal components of the prompts"
    assert glossary.file_label("item_adapter") == "Adapter of item prompts"
    assert glossary.file_label("predictions") == "Predictions"
    devices = {"cpu": "CPU", "cuda": "GPU", "cuda:1": "GPU 1", "ray://host:1": "ray://host:1"}
    assert {name: glossary.device(name) for name in devices} == devices


def test_a_map_of_users_is_shown_without_stored_names(ws, monkeypatch):
    frame = pd.DataFrame({"user_id": ["a"]})
    run = finished(ws, "projection", "map-of-users", tables={"map": frame})
    args = {"method": "umap"}
    job = add_job(ws, "project", status="finished", args=args, run_id=run.id, device="cpu")
    app = open_page("jobs", ws.root, monkeypatch, job=job)
    facts = next(item.value for item in app.dataframe if "What" in item.value).set_index("What")
    shown = facts["Value"].to_dict()
    assert shown["Kind"] == "Make a map of users" and shown["Device"] == "CPU"
    assert shown["Projection of the map"] == "UMAP"
    assert "Result: map of users map-of-users" in texts(app)
    assert "Positions on the map (" in app.get("download_button")[0].proto.label


def test_every_setting_of_every_job_has_words():
    """Stored names that a reader cannot guess are in the glossary."""
    raw = {"most", "neighbours", "umap", "spec", "role", "fit_on", "baselines", "budget", "path"}
    for name in raw:
        assert glossary.setting(name).lower() not in (name, name.replace("_", " "))
    assert glossary.setting("learning_rate") == "Learning rate"
    assert glossary.setting("source", "import_dataset") == "Kind of data, or file"
