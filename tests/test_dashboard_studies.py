"""The Studies page: what was measured, what is missing, and other people's text as text."""

from dashboard_pages import HOSTILE, assert_plain, open_page, texts

from puma_engine.store import Workspace
from puma_engine.study import collect, keep_report, run_cells
from puma_engine.study.cells import Cell, Options, Study
from puma_engine.tensors import write_json

FACTS = {"dataset": "movietweetings"}


def cells(_options):
    on = {"dataset": "data"}
    methods = {
        name: FACTS | {"method": name, "kind": "baseline"} for name in ("global_mean", "item_mean")
    }
    return [
        Cell("data", "import_dataset", {"source": "movietweetings", "users": 30}),
        *(
            Cell(name, "evaluate", {"subject": name}, on, facts=facts)
            for name, facts in methods.items()
        ),
        Cell("lost", "select", {"strategy": "nothing", "budget": 2}, {"prompts": "data"}),
    ]


def studied(tmp_path):
    """A workspace with a finished small study under a shipped name."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    study = Study("table2", "small", cells, {"method": "global_mean"})
    outcome = run_cells(ws, cells(Options()), device="cpu")
    report = {"study": "table2", "command": HOSTILE[0], "date": "2026-01-02"}
    report |= collect(ws, study, cells(None), outcome.runs)
    report |= {"failed": outcome.failed, "missing": outcome.missing}
    keep_report(ws, report)
    return ws, report


def test_without_a_study_the_page_says_how_to_run_one(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    app = open_page("studies", ws.root, monkeypatch)
    assert not app.exception and "puma study" in texts(app)
    assert list(app.dataframe[0].value["Study"])[:2] == ["table2", "table3"]


def test_scores_differences_and_what_is_missing_are_shown(tmp_path, monkeypatch):
    ws, report = studied(tmp_path)
    app = open_page("studies", ws.root, monkeypatch, study="table2", dataset="movietweetings")
    assert_plain(app)
    shown = app.dataframe[0].value.set_index("method")["rmse"]
    scores = {line["method"]: line["rmse"] for line in report["summary"]}
    assert shown["item mean"] == scores["item_mean"]
    assert shown["global mean"] == scores["global_mean"]
    assert "1 failed" in texts(app) and "What differs from global mean" in texts(app)
    real = sum(line["real"] for line in report["differences"])
    assert f"{real} of 1 differences are more than chance" in texts(app)


def test_methods_come_in_the_order_of_their_kinds(tmp_path, monkeypatch):
    ws, report = studied(tmp_path)
    kinds = {"global_mean": "shuffled", "item_mean": "source"}
    for name in ("summary", "differences"):
        for line in report[name]:
            line["kind"] = kinds[line["method"]]
    write_json(ws.root / "studies" / "table2.json", report)
    app = open_page("studies", ws.root, monkeypatch)
    assert not app.exception
    assert app.dataframe[0].value["method"].tolist() == ["item mean", "global mean"]


def test_a_damaged_report_is_told(tmp_path, monkeypatch):
    ws, _ = studied(tmp_path)
    (ws.root / "studies" / "table2.json").write_text("{")
    app = open_page("studies", ws.root, monkeypatch)
    assert not app.exception and "puma study table2" in texts(app)


def test_a_study_without_results_yet_says_so(tmp_path, monkeypatch):
    ws, report = studied(tmp_path)
    empty = report | {"rows": [], "summary": [], "differences": []}
    write_json(ws.root / "studies" / "table2.json", empty)
    app = open_page("studies", ws.root, monkeypatch)
    assert not app.exception and "Nothing is finished yet" in texts(app)
