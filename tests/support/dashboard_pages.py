"""Opening one page of the dashboard under test, in workspaces that tests fill."""

import functools
import json
import os

import pandas as pd
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from puma_engine import jobs
from puma_engine.jobs.processes import identity
from puma_engine.store.records import now

# Each AppTest looks for components in the metadata of all installed packages, which takes longer than most
# pages do; a server looks once.
manifest_scanner.scan_component_manifests = functools.cache(
    manifest_scanner.scan_component_manifests
)


def open_page(name, root, monkeypatch, **query):
    """Run the page `name` on the workspace at `root` with this address, and return it.

    AppTest cannot go to a page that is a function, so the page is opened as the first one.
    """
    monkeypatch.setenv("PUMA_WORKSPACE", str(root))
    script = f"from dashboard import pages\npages.navigation({name!r}).run()"
    app = AppTest.from_string(script, default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    return app.run()


# Names that people could give; a run's name has at most so many characters.
HOSTILE = (
    "<script>alert(1)</script><b>x</b>",
    "**bold** [link](https://evil.example) :red[x] $x$",
    "\u05e1\u05e4\u05e8 \u05e2\u05d1\u05e8\u05d9 \u0643\u062a\u0627\u0628",
    "long " * 38 + "end",
)
MARKED_UP = ("<script>", "**bold**", "](https", ":red[")


def assert_plain(app):
    """Assert that the page shows no user-supplied text as markup."""
    assert not app.exception, app.exception
    for kind in ("markdown", "caption", "title", "header", "subheader", "warning", "error", "info"):
        for element in app.get(kind):
            assert not getattr(element.proto, "allow_html", False)
            for mark in MARKED_UP:
                assert mark not in element.value, element.value


def texts(app):
    """All text that a page shows, with plain spaces in place of those that break no line."""
    kinds = (
        "markdown",
        "caption",
        "text",
        "title",
        "header",
        "success",
        "info",
        "warning",
        "error",
    )
    values = (str(element.value) for kind in kinds for element in app.get(kind))
    return "\n".join(values).replace("\u00a0", " ")


def finished(ws, kind, name, *, config=None, inputs=None, summary=None, cost=None, tables=None):
    """Store a finished run with these facts and tables."""
    run = ws.begin(kind, name=name, config=config or {}, inputs=inputs or {})
    for table, frame in (tables or {}).items():
        ws.put_table(run.id, table, frame)
    return ws.finish(run.id, seconds=1.5, device="cpu", summary=summary, cost=cost)


def add_job(ws, command="migrate", *, title="A job", status="queued", args=None, **columns):
    """Store a job in a state; a running one belongs to this process."""
    job = jobs.enqueue(ws, command, args or {}, title=title)
    values = {"status": status} | columns
    if status == "running":
        pid = os.getpid()
        values |= {"pid": pid, "process": identity(pid), "device": "cpu", "attempt": 1}
        values |= {"started": now(), "heartbeat": now()}
    changes = ", ".join(f"{name} = ?" for name in values)
    with ws.transaction() as db:
        db.execute(f"UPDATE jobs SET {changes} WHERE id = ?", [*values.values(), job.id])
    return job.id


def report(ws, job_id, **progress):
    """Store a progress report of a job."""
    with ws.transaction() as db:
        db.execute(
            "INSERT OR REPLACE INTO job_progress VALUES (?, ?, ?)",
            [job_id, now(), json.dumps(progress)],
        )


METHODS = [
    ("Source prompts", "source", 0.86, 3.0),
    ("Migrated, 70 users", "migrated", 0.85, 1.0),
    ("Full retraining", "retrained", 0.846, 20.0),
]


def add_comparison(ws, name="A comparison", methods=METHODS):
    """Store a finished comparison of methods on RMSE, as the engine writes it; return its run."""
    rows, scores, inputs = [], [], {}
    for number, (label, kind, value, seconds) in enumerate(methods):
        run = finished(ws, "evaluation", f"eval {label}", config={"method": kind})
        inputs[f"evaluation_{number}"] = run.id
        base = {"method": label, "kind": kind}
        facts = {"users_trained": 70, "seconds": seconds, "seed": 0, "device": "cpu"}
        ends = {"evaluation": run.id, "run": None, "is_baseline": kind == "retrained"}
        rows.append(base | facts | ends)
        gap = None if kind == "retrained" else value - methods[-1][2]
        ends = {
            "difference": gap,
            "difference_low": gap and gap - 0.001,
            "difference_high": gap and gap + 0.001,
        }
        score = {"metric": "rmse", "value": value, "low": value - 0.01, "high": value + 0.01}
        scores.append(base | score | {"n_users": 30} | ends)
    summary = {"main_metric": "rmse", "users": 30, "rows": 150, "split": "test", "task": "rating"}
    tables = {"methods": pd.DataFrame(rows), "comparison": pd.DataFrame(scores)}
    return finished(ws, "comparison", name, inputs=inputs, summary=summary, tables=tables)


def words(app):
    assert not app.exception, app.exception
    parts = [*app.markdown, *app.text, *app.caption, *app.info, *app.warning, *app.error]
    return " ".join(str(part.value) for part in parts)


def press(app, label):
    (button,) = (button for button in app.button if button.label == label)
    return button.click().run()
