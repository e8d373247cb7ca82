"""The Studies page: results, missing parts, and escaped text."""

import json

import pytest
from claim_reports import main_results, method, moved, report, retrained
from dashboard_pages import HOSTILE, assert_plain, open_page, texts

from puma_engine.files import write_json
from puma_engine.store import Workspace
from puma_engine.studies import collect, run_cells, save_report
from puma_engine.studies.cells import Cell, Options, Study

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
    study_report = {"study": "table2", "command": HOSTILE[0], "date": "2026-01-02"}
    study_report |= collect(ws, study, cells(None), outcome.runs)
    study_report |= {"failed": outcome.failed, "missing": outcome.missing}
    save_report(ws, study_report)
    return ws, study_report


def open_study(ws, monkeypatch, **query):
    return open_page("studies", ws.root, monkeypatch, view="study", **query)


@pytest.mark.parametrize("view", ["claims", "study"])
def test_without_a_study_the_page_says_how_to_run_one(tmp_path, monkeypatch, view):
    ws = Workspace.open(tmp_path / "ws", create=True)
    app = open_page("studies", ws.root, monkeypatch, view=view)
    assert not app.exception and "puma study table2 --quick" in texts(app)
    assert list(app.dataframe[0].value["Study"])[:2] == ["table2", "table3"]


def test_scores_differences_and_what_is_missing_are_shown(tmp_path, monkeypatch):
    ws, study_report = studied(tmp_path)
    app = open_study(ws, monkeypatch, study="table2", dataset="movietweetings")
    assert_plain(app)
    shown = app.dataframe[0].value.set_index("method")["rmse"]
    scores = {line["method"]: line["rmse"] for line in study_report["summary"]}
    assert shown["item mean"] == scores["item_mean"]
    assert shown["global mean"] == scores["global_mean"]
    assert "1 failed" in texts(app) and "Differences from global mean" in texts(app)
    real = sum(line["real"] for line in study_report["differences"])
    assert f"{real} of 1 differences are significant" in texts(app)


def test_facts_of_a_report_stand_above_its_figures(tmp_path, monkeypatch):
    ws, study_report = studied(tmp_path)
    write_json(
        ws.root / "studies" / "table2.json", study_report | {"note": f"Not tuned. {HOSTILE[0]}"}
    )
    app = open_study(ws, monkeypatch, study="table2", dataset="movietweetings")
    assert_plain(app)
    assert "Made on 2026" in texts(app) and "Not tuned" in texts(app)


def test_methods_are_ordered_by_kind(tmp_path, monkeypatch):
    ws, study_report = studied(tmp_path)
    kinds = {"global_mean": "shuffled", "item_mean": "source"}
    for name in ("summary", "differences"):
        for line in study_report[name]:
            line["kind"] = kinds[line["method"]]
    write_json(ws.root / "studies" / "table2.json", study_report)
    app = open_study(ws, monkeypatch)
    assert not app.exception
    assert app.dataframe[0].value["method"].tolist() == ["item mean", "global mean"]


def test_a_damaged_report_is_reported(tmp_path, monkeypatch):
    ws, _ = studied(tmp_path)
    (ws.root / "studies" / "table2.json").write_text("{")
    for view in ("claims", "study"):
        app = open_page("studies", ws.root, monkeypatch, view=view)
        assert not app.exception and "run `puma study table2`" in texts(app)


def test_a_study_without_results_says_so(tmp_path, monkeypatch):
    ws, study_report = studied(tmp_path)
    empty = study_report | {"rows": [], "summary": [], "differences": []}
    write_json(ws.root / "studies" / "table2.json", empty)
    app = open_study(ws, monkeypatch)
    assert not app.exception and "Nothing is finished yet" in texts(app)


def with_reports(tmp_path, *reports):
    """A workspace in which studies with these reports were run."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    for study_report in reports:
        save_report(ws, study_report)
    return ws


def badges(app):
    return [element.value for element in app.markdown if "-badge[" in element.value]


def test_claims_have_a_verdict_figures_and_a_report_for_each_data_set(tmp_path, monkeypatch):
    films = report("figure4", [retrained(target="a"), moved(0.02, "migrated", target="a")])
    for part in ("rows", "summary", "differences"):
        films[part] = [row | {"dataset": "films"} for row in films[part]]
    ws = with_reports(tmp_path, main_results(-0.01, quick=True), films)
    app = open_page("studies", ws.root, monkeypatch)
    assert_plain(app)
    shown = texts(app)
    assert "A migration trained on all users is at least as good as full retraining" in plain(shown)
    assert "RMSE 0.8301 against 0.8401 of full retraining: -0.0100" in shown
    assert "Quick trial: " not in shown
    assert "No evidence on films: it needs a report of the study `table2`." in plain(shown)
    tally, rest = badges(app)[:3], badges(app)[3:]
    assert [" ".join(badge.split()[1:]) for badge in tally] == [
        "4 reproduced]", "1 not reproduced]", "13 no evidence]",
    ]  # fmt: skip
    # Four of table2, each with the mark of a trial, and one of figure4.
    assert sum("Quick trial]" in badge for badge in rest) == 4
    assert sum("Reproduced]" in badge for badge in rest) == 4
    assert sum("Not reproduced]" in badge for badge in rest) == 1


def plain(text):
    return text.replace("\\", "")


def test_a_verdict_leads_to_the_study_behind_it(tmp_path, monkeypatch):
    ws = with_reports(tmp_path, main_results())
    app = open_page("studies", ws.root, monkeypatch)
    assert {button.label for button in app.button} == {"table2"}
    app.button(key="few-users goodbooks").click().run()
    assert not app.exception and not app.warning
    assert app.query_params["view"] == "study"
    assert [choice.value for choice in app.selectbox] == ["table2", "goodbooks"]


def test_studies_without_claims_name_studies_with_claims(tmp_path, monkeypatch):
    ws = with_reports(tmp_path, report("templates", [method("prompt first", [0.8])]))
    app = open_page("studies", ws.root, monkeypatch)
    assert not app.exception and "No study here answers a claim" in texts(app)
    assert "table2, table4, figure4" in texts(app)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of published reports, named by the environment."""
    root = tmp_path / "published"
    for place, study_report in (
        ("films/table2", main_results(0.02, dataset=HOSTILE[1])),
        ("table2/table2", main_results(-0.02)),
    ):
        file = root / f"{place}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(study_report))
    monkeypatch.setenv("PUMA_RESULTS", str(root))
    return root


def test_published_claims_are_shown_beside_those_of_the_workspace(tmp_path, monkeypatch, published):
    ws = with_reports(tmp_path, main_results())
    app = open_page("studies", ws.root, monkeypatch, **{"from": "published"})
    assert_plain(app)
    assert {text.value for text in app.text} >= {"goodbooks", HOSTILE[1]}
    assert "1 not reproduced" in " ".join(badges(app))
    assert {button.label for button in app.button} == {"films/table2", "table2"}
    assert "2026-01-02, cpu" in plain(texts(app))


def test_a_published_study_is_shown_like_a_local_one(tmp_path, monkeypatch, published):
    ws = with_reports(tmp_path, main_results())
    query = {"from": "published", "report": "table2", "dataset": "goodbooks"}
    app = open_study(ws, monkeypatch, **query)
    assert_plain(app)
    assert not app.warning and app.selectbox[0].value == "table2"
    shown = app.dataframe[0].value.set_index("method")["rmse"]
    assert shown["PUMA, all users"] == pytest.approx(0.8201)
    # Another study has other data sets, which is no wrong address.
    app.selectbox[0].select("films/table2").run()
    assert_plain(app)
    assert not app.warning and app.selectbox[1].value == HOSTILE[1]
    app.segmented_control[1].set_value("workspace").run()
    assert not app.warning and app.selectbox[0].value == "table2"


def test_a_wrong_data_set_in_the_address_is_reported(tmp_path, monkeypatch):
    app = open_study(with_reports(tmp_path, main_results()), monkeypatch, dataset="nowhere")
    assert "unknown value" in app.warning[0].value and app.selectbox[1].value == "goodbooks"


def test_without_published_studies_the_page_says_where_to_find_them(tmp_path, monkeypatch):
    ws = with_reports(tmp_path)
    (tmp_path / "bare").mkdir()
    for folder, said in (("bare", "No published studies here"), ("none", "which is no folder")):
        monkeypatch.setenv("PUMA_RESULTS", str(tmp_path / folder))
        app = open_page("studies", ws.root, monkeypatch, **{"from": "published"})
        assert not app.exception and said in texts(app)


def test_shipped_reports_are_shown(tmp_path, monkeypatch):
    monkeypatch.delenv("PUMA_RESULTS", raising=False)
    app = open_page("studies", with_reports(tmp_path).root, monkeypatch, **{"from": "published"})
    assert_plain(app)
    assert {text.value for text in app.text} >= {"goodbooks", "goodbooks-to-read", "movietweetings"}
    assert len(app.button) >= 9


def test_published_studies_need_no_workspace(tmp_path, monkeypatch):
    app = open_page("studies", tmp_path / "none", monkeypatch)
    assert_plain(app)
    assert "No study was run here" in texts(app)
    app = open_page("studies", tmp_path / "none", monkeypatch, **{"from": "published"})
    assert_plain(app)
    assert "goodbooks" in texts(app) and not app.error


@pytest.mark.parametrize("over", ["users", "trainings"])
def test_intervals_say_whether_they_are_over_users_or_trainings(tmp_path, monkeypatch, over):
    ws = Workspace.open(tmp_path / "ws", create=True)
    study_report = report("table2", [retrained(), moved(0.002)])
    for line in study_report["differences"]:
        line["over"] = over
    save_report(ws, study_report)
    assert f"intervals are over {over}." in texts(open_study(ws, monkeypatch, study="table2"))


def test_differences_are_shown_with_both_intervals(tmp_path, monkeypatch):
    ws = with_reports(tmp_path, report("table2", [retrained(), moved(0.002), moved(0.1, "few")]))
    shown = open_study(ws, monkeypatch, study="table2").dataframe[1].value.set_index("method")
    assert shown["value"]["few"] == pytest.approx(0.1)
    assert shown["users"]["few"] == "+0.0990 to +0.1010"
    # The same in every seed, so that nothing is left of an interval.
    assert shown["trainings"]["few"] == "+0.1000 to +0.1000"


def test_strategies_are_shown_per_budget_and_overall(tmp_path, monkeypatch):
    random = {0.1: [0.84, 0.85], 0.3: [0.82, 0.83]}
    gains = {"random": 0.0, "facility": -0.01, "kmeans-variance": 0.01}
    rows = [
        method(name, [score + gain for score in scores], None, strategy=name, share=share)
        for name, gain in gains.items()
        for share, scores in random.items()
    ]
    ws = with_reports(tmp_path, report("table4", rows, against={"method": "random"}))
    app = open_study(ws, monkeypatch, study="table4")
    assert_plain(app)
    shown = app.dataframe[0].value.set_index("method")
    assert shown["10%"].tolist() == pytest.approx([0.845, 0.835, 0.855])
    assert shown["30%"]["facility"] == pytest.approx(0.815)
    assert shown["difference"]["facility"] == pytest.approx(-0.01)
    assert (shown["pairs"]["facility"], shown["interval"]["facility"]) == (4, "-0.0100 to -0.0100")
    assert shown["difference"].isna().tolist() == [True, False, False]
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    named = [line["name"] for line in figure["data"] if line["showlegend"]]
    assert sorted(named) == ["facility", "kmeans-variance", "random"]
