"""The first page in its states, against a real workspace."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from dashboard_pages import open_page

from puma_engine.store import Workspace

METHODS = [
    ("Source prompts", "source", 0.86, np.nan, 3.0),
    ("Migrated, 70 users (kmeans-variance)", "migrated", 0.85, 0.004, 1.0),
    ("Full retraining", "retrained", 0.846, np.nan, 20.0),
]


def users(shift):
    values = np.linspace(0.4, 1.4, 30)
    return pd.DataFrame({"user_id": [f"u{i}" for i in range(30)], "n": 5, "rmse": values + shift})


@pytest.fixture
def workspace(tmp_path):
    """A workspace with one finished comparison of three methods."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    methods, scores, inputs = [], [], {}
    for number, (label, kind, value, gap, seconds) in enumerate(METHODS):
        run = ws.begin("evaluation", name=f"eval {label}", config={"method": kind}, inputs={})
        ws.put_user_metrics(run.id, users(0.01 * number))
        ws.finish(run.id, seconds=1.0, device="cpu")
        inputs[f"evaluation_{number}"] = run.id
        row = {"method": label, "kind": kind, "evaluation": run.id, "run": None}
        methods.append(row | {"users_trained": 70, "seconds": seconds, "seed": 0, "device": "cpu"})
        ends = {"difference": gap, "difference_low": gap - 0.01, "difference_high": gap + 0.01}
        row = {"method": label, "kind": kind, "metric": "rmse", "value": value, "low": value - 0.01}
        scores.append(row | {"high": value + 0.01, "n_users": 30} | ends)
    run = ws.begin("comparison", name="<b>mine</b>", config={}, inputs=inputs)
    ws.put_table(run.id, "methods", pd.DataFrame(methods))
    ws.put_table(run.id, "comparison", pd.DataFrame(scores))
    summary = {"main_metric": "rmse", "users": 30, "rows": 150, "split": "test"}
    ws.finish(run.id, seconds=1.0, device="cpu", summary=summary)
    return ws, run.id


def test_a_comparison_shows_its_verdict_and_methods(workspace, monkeypatch):
    ws, run = workspace
    app = open_page("compare", ws.root, monkeypatch, comparison=run)
    assert not app.exception
    shown = " ".join(element.value for element in app.markdown)
    assert "Migrate (Migrated, 70 users (kmeans-variance))" in shown and "5% of" in shown
    table = app.dataframe[0].value
    assert table["Method"].tolist() == [label for label, *_ in METHODS]
    assert app.query_params["comparison"] in (run, [run])


def test_an_unknown_address_is_said(workspace, monkeypatch):
    app = open_page("compare", workspace[0].root, monkeypatch, comparison="../../etc")
    assert not app.exception and "not here" in app.warning[0].value


def test_no_workspace_and_an_empty_one_say_how_to_begin(tmp_path, monkeypatch):
    app = open_page("compare", tmp_path / "none", monkeypatch)
    assert not app.exception and "make demo" in app.warning[0].value
    Workspace.open(tmp_path / "empty", create=True)
    app = open_page("compare", tmp_path / "empty", monkeypatch)
    assert not app.exception and "puma demo" in app.info[0].value


def test_pages_load_without_torch_or_umap():
    code = "import sys, dashboard.views.compare; print({'torch', 'umap'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
