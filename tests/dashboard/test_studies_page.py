"""The Studies page: results, missing parts, and escaped text."""

import base64
import json

import numpy as np
import pytest
from claim_reports import main_results, method, moved, report, retrained
from dashboard_pages import HOSTILE, assert_plain, open_page, press, texts

from puma_engine.files import write_json
from puma_engine.store import Workspace
from puma_engine.studies import collect, run_cells, save_report
from puma_engine.studies.cells import Cell, Options, Study
from puma_engine.studies.claims import ALL_USERS, CLAIMS
from puma_engine.studies.evidence import findings_by_column, published_evidence, results_root

FACTS = {"dataset": "movietweetings"}


def cells(_options):
    on = {"dataset": "data"}
    methods = {
        name: FACTS | {"method": name, "kind": "baseline"} for name in ("global_mean", "item_mean")
    }
    return [
        Cell("data", "import_dataset", {"source": "movietweetings", "users": 30}),
        *(
            Cell(name, "evaluate", {"subject": name}, on, labels=labels)
            for name, labels in methods.items()
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
    return open_claims(ws, monkeypatch, view="study", **query)


def open_claims(ws, monkeypatch, **query):
    return open_page("studies", ws.root, monkeypatch, **{"from": "workspace"} | query)


@pytest.mark.parametrize("view", ["claims", "study"])
def test_without_a_study_the_page_says_how_to_run_one(tmp_path, monkeypatch, view):
    ws = Workspace.open(tmp_path / "ws", create=True)
    app = open_claims(ws, monkeypatch, view=view)
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
        app = open_claims(ws, monkeypatch, view=view)
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


def verdict_of(app, claim, column=0):
    """The label of a cell of the matrix, without its markup."""
    label = app.button(key=f"verdict {claim} {column}").label
    return label.partition("[")[2].removesuffix("]")


def drawn(app):
    return json.loads(app.get("plotly_chart")[0].proto.spec)


def numbers(values):
    """The numbers that plotly encodes as bytes."""
    return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()


def two_data_sets(tmp_path):
    """A workspace with a trial of table2 on goodbooks, and figure4 on films."""
    films = report("figure4", [retrained(target="a"), moved(0.02, "migrated", target="a")])
    for part in ("rows", "summary", "differences"):
        films[part] = [row | {"dataset": "films"} for row in films[part]]
    return with_reports(tmp_path, main_results(-0.01, quick=True), films)


def test_the_matrix_has_a_verdict_on_each_claim_and_data_set(tmp_path, monkeypatch):
    app = open_claims(two_data_sets(tmp_path), monkeypatch)
    assert_plain(app)
    assert "**films**" in texts(app) and "**goodbooks**" in texts(app)
    assert verdict_of(app, "pairs") == "Not reproduced"
    assert verdict_of(app, "all-users") == "No evidence"
    assert verdict_of(app, "all-users", 1) == "Reproduced °"
    assert verdict_of(app, "pairs", 1) == "No evidence"
    assert "quick trial on few users" in texts(app)
    tally = [badge.partition("[")[2] for badge in badges(app)[:2]]
    assert tally == ["4 reproduced]", "1 not reproduced]"]
    # The first claim with evidence is shown in full.
    assert "### " not in badges(app)[2] and badges(app)[2].endswith("[Not reproduced]")
    # Claims without evidence on any data set are named below the matrix.
    rows = {
        button.key.split()[1] for button in app.button if (button.key or "").startswith("verdict ")
    }
    assert "pairs" in rows and "chains" not in rows
    chains = next(claim.text for claim in CLAIMS if claim.name == "chains")
    assert chains in plain(texts(app))


def test_a_cell_shows_its_verdict_in_full_and_has_an_address(tmp_path, monkeypatch):
    ws = two_data_sets(tmp_path)
    app = open_claims(ws, monkeypatch)
    app.button(key="verdict all-users 1").click().run()
    assert app.query_params["claim"] == "all-users" and app.query_params["data"] == "goodbooks"
    again = open_claims(ws, monkeypatch, claim="all-users", data="goodbooks")
    for shown in (app, again):
        assert_plain(shown)
        assert "RMSE 0.8301 against 0.8401 of full retraining: -0.0100" in texts(shown)
        assert "Quick trial: " not in texts(shown) and "quick trial, 2026" in plain(texts(shown))
        figure = drawn(shown)
        (intervals,) = figure["data"]
        assert intervals["y"] == ["over users", "over trainings"]
        # The migration's RMSE is 0.01 lower, and the claim holds up to no loss.
        assert numbers(intervals["x"]) == pytest.approx([-0.01, -0.01])
        assert {line["x0"] for line in figure["layout"]["shapes"]} == {0.0}
    app = open_claims(ws, monkeypatch, claim="all-users", data="films")
    assert "It needs a report of the study table2" in texts(app)
    assert not app.get("plotly_chart")


def test_a_verdict_in_ranking_is_marked_and_shown_beside(tmp_path, monkeypatch):
    study_report = main_results(-0.02)
    lines = [
        line | {"metric": "mae", "value": 0.02, "low": 0.01, "high": 0.03}
        for line in study_report["differences"]
    ]
    rows = [row | {"mae": row["rmse"] + 0.05} for row in study_report["rows"]]
    for row in rows:
        row["mae"] += 0.04 if row["method"] == ALL_USERS else 0.0
    study_report |= {"rows": rows, "ranking_differences": lines}
    app = open_claims(with_reports(tmp_path, study_report), monkeypatch, claim="all-users")
    assert_plain(app)
    assert verdict_of(app, "all-users") == r"Reproduced \*"
    assert "Another verdict in ranking" in texts(app)
    assert badges(app)[-1].endswith("[Not reproduced]")
    assert len(app.get("plotly_chart")) == 2


@pytest.mark.parametrize("metric", ["rmse", "pair_accuracy"])
def test_chart_and_sentence_give_a_difference_one_sign(metric, tmp_path, monkeypatch):
    """More RMSE is worse, more pair accuracy better: both are drawn as they are written."""
    study_report = main_results(-0.02)
    lines = [
        line | {"metric": metric, "value": -0.0107, "low": -0.0145, "high": -0.0071}
        for line in study_report["differences"]
    ]
    rows = [
        row | {metric: 0.5997 - (0.0107 if row["method"] == ALL_USERS else 0.0)}
        for row in study_report["rows"]
    ]
    study_report |= {"rows": rows, "ranking_differences": lines}
    app = open_claims(with_reports(tmp_path, study_report), monkeypatch, claim="all-users")
    assert "-0.0107" in plain(texts(app)) and "+0.0107" not in plain(texts(app))
    figure = json.loads(app.get("plotly_chart")[-1].proto.spec)
    assert numbers(figure["data"][0]["x"]) == pytest.approx([-0.0107] * 2)
    better = "below" if metric == "rmse" else "above"
    title = figure["layout"]["xaxis"]["title"]["text"]
    assert f"{better} zero is better" in title and "Loss" not in title


def test_an_undecided_claim_says_what_would_settle_it(tmp_path, monkeypatch):
    scattered = moved(-0.005, half=0.001)
    scattered["scores"] = [
        score + 0.006 * (seed - 1) for seed, score in enumerate(scattered["scores"])
    ]
    ws = with_reports(tmp_path, report("table2", [retrained(), scattered]))
    app = open_claims(ws, monkeypatch, claim="all-users")
    assert_plain(app)
    assert verdict_of(app, "all-users") == "Not settled yet"
    # t(8 - 1) * 0.006 / sqrt(9) is below 0.005, and with 8 trainings it is not.
    assert "About 6 more seeds would settle it" in texts(app)
    ws = with_reports(tmp_path / "decided", main_results(-0.02))
    assert "more seeds" not in texts(open_claims(ws, monkeypatch, claim="all-users"))


def test_the_chart_of_a_cost_is_the_share_of_seconds_with_the_claims_limit(tmp_path, monkeypatch):
    ws = with_reports(tmp_path, main_results())
    app = open_claims(ws, monkeypatch, claim="cost")
    figure = drawn(app)
    assert numbers(figure["data"][0]["x"]) == pytest.approx([1.5])  # 1.5 s of 100 s
    assert {line["x0"] for line in figure["layout"]["shapes"]} == {2}
    assert "seconds" in figure["layout"]["xaxis"]["title"]["text"]
    assert figure["layout"]["xaxis"]["ticksuffix"] == " %"


def test_a_real_model_has_columns_of_its_own(tmp_path, monkeypatch):
    real = main_results(0.02, users=60)
    real["options"] |= {"target": "smollm2"}
    zoo = main_results(-0.02)
    zoo["options"] |= {"target": "llama-medium"}
    for place, study_report in (("zoo", zoo), ("real", real)):
        file = tmp_path / "published" / place / "table2.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(study_report))
    monkeypatch.setenv("PUMA_RESULTS", str(tmp_path / "published"))
    app = open_page("studies", tmp_path / "none", monkeypatch)
    assert_plain(app)
    assert "SmolLM2**" not in texts(app) and verdict_of(app, "all-users") == "Reproduced"
    models = next(control for control in app.button_group if control.label == "Models")
    models.set_value("smollm2").run()
    assert_plain(app)
    assert "**goodbooks on SmolLM2**" in plain(texts(app))
    assert verdict_of(app, "all-users") == "Not reproduced"
    # An address of a column opens its models.
    app = open_page("studies", tmp_path / "none", monkeypatch, data="goodbooks, on smollm2")
    assert verdict_of(app, "all-users") == "Not reproduced"


def plain(text):
    return text.replace("\\", "")


def test_a_verdict_leads_to_the_study_behind_it(tmp_path, monkeypatch):
    ws = with_reports(tmp_path, main_results())
    app = open_claims(ws, monkeypatch, claim="few-users")
    press(app, "Open the study")
    assert not app.exception and not app.warning
    assert app.query_params["view"] == "study"
    assert [choice.value for choice in app.selectbox] == ["table2", "goodbooks"]


def test_studies_without_claims_name_studies_with_claims(tmp_path, monkeypatch):
    ws = with_reports(tmp_path, report("templates", [method("prompt first", [0.8])]))
    app = open_claims(ws, monkeypatch)
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
    app = open_page("studies", ws.root, monkeypatch)
    assert_plain(app)
    assert "**goodbooks**" in texts(app)
    assert "1 not reproduced" in " ".join(badges(app))
    assert "films/table2: 2026-01-02, cpu" in plain(texts(app))
    assert f"on {HOSTILE[1]}" in {text.value for text in app.text}


def test_a_published_study_is_shown_like_a_local_one(tmp_path, monkeypatch, published):
    ws = with_reports(tmp_path, main_results())
    query = {"from": "published", "report": "table2", "dataset": "goodbooks"}
    app = open_study(ws, monkeypatch, **query)
    assert_plain(app)
    assert not app.warning and app.selectbox[0].value == "table2"
    shown = app.dataframe[0].value.set_index("method")["rmse"]
    assert shown["PUMA, all users"] == pytest.approx(0.8201)
    # Another study has other data sets, which is not a wrong address.
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
    for folder, said in (("bare", "No published studies here"), ("none", "which is not a folder")):
        monkeypatch.setenv("PUMA_RESULTS", str(tmp_path / folder))
        app = open_page("studies", ws.root, monkeypatch, **{"from": "published"})
        assert not app.exception and said in texts(app)


def test_shipped_reports_are_shown(tmp_path, monkeypatch):
    monkeypatch.delenv("PUMA_RESULTS", raising=False)
    app = open_page("studies", with_reports(tmp_path).root, monkeypatch)
    assert_plain(app)
    for name in ("goodbooks", "goodbooks-to-read", "movietweetings"):
        assert f"**{name}**" in plain(texts(app))
    # Every claim is answered on every data set with the models that ship, and each answer has a chart.
    for column in range(3):
        for claim in CLAIMS:
            assert verdict_of(app, claim.name, column).lower() != "no evidence"
    # SmolLM2 has columns of its own, without those claims that only other studies answer.
    app = open_page("studies", with_reports(tmp_path).root, monkeypatch, models="smollm2")
    assert_plain(app)
    for name in ("goodbooks on SmolLM2", "goodbooks from SmolLM2"):
        assert f"**{name}**" in plain(texts(app))
    assert "**goodbooks-to-read**" not in plain(texts(app))
    columns = {
        name: column
        for name, column in findings_by_column(published_evidence(results_root())).items()
        if "smollm2" in name
    }
    answered = {
        name
        for column in columns.values()
        for name, finding in column.items()
        if finding.evidence is not None
    }
    rows = {
        button.key.split()[1] for button in app.button if (button.key or "").startswith("verdict ")
    }
    assert rows == answered
    for claim in CLAIMS:
        shown = open_page("studies", tmp_path / "ws", monkeypatch, claim=claim.name)
        assert_plain(shown)
        assert shown.get("plotly_chart"), claim.name


def test_published_studies_need_no_workspace(tmp_path, monkeypatch):
    app = open_page("studies", tmp_path / "none", monkeypatch, **{"from": "workspace"})
    assert_plain(app)
    assert "No study was run here" in texts(app)
    app = open_page("studies", tmp_path / "none", monkeypatch)
    assert_plain(app)
    assert "goodbooks" in texts(app) and not app.error


def test_an_old_address_of_a_study_leads_to_it(tmp_path, monkeypatch):
    ws = with_reports(tmp_path, main_results())
    app = open_page("studies", ws.root, monkeypatch, view="study", study="table2")
    assert_plain(app)
    assert app.query_params["from"] == "workspace" and app.selectbox[0].value == "table2"


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
    assert shown["10 %"].tolist() == pytest.approx([0.845, 0.835, 0.855])
    assert shown["30 %"]["facility"] == pytest.approx(0.815)
    assert shown["difference"]["facility"] == pytest.approx(-0.01)
    assert (shown["pairs"]["facility"], shown["interval"]["facility"]) == (4, "-0.0100 to -0.0100")
    assert shown["difference"].isna().tolist() == [True, False, False]
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    named = [line["name"] for line in figure["data"] if line["showlegend"]]
    assert sorted(named) == ["facility", "kmeans-variance", "random"]


def test_percentages_in_names_of_methods_have_a_space_as_elsewhere(tmp_path, monkeypatch):
    few = moved(-0.00001, "PUMA, 7%")
    ws = with_reports(tmp_path, report("table2", [retrained(), few]))
    scores, differences = (table.value for table in open_study(ws, monkeypatch).dataframe[:2])
    assert "PUMA, 7 %" in set(scores["method"]) and set(differences["method"]) == {"PUMA, 7 %"}
    # A difference that rounds to zero has no sign.
    assert str(differences["value"].iloc[0]) == "0.0"
