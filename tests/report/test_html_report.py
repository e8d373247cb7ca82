"""Reports and exported tables: numbers of the store, escaped text, no network."""

import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import compared
import numpy as np
import pandas as pd
import pytest
from dashboard_pages import open_page
from html_text import Page
from typer.testing import CliRunner

from dashboard.views.reports import file_name
from puma_engine import pipeline
from puma_engine.cli.application import app as cli
from puma_engine.errors import ConfigError, NotFoundError, StoreError
from puma_engine.evaluation.formatting import method_names
from puma_engine.pipeline.reporting import read_table, table_names
from puma_engine.report import svg
from puma_engine.report.templating import environment
from puma_engine.report.theme import KINDS
from puma_engine.store import Workspace

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return compared.workspace(tmp_path_factory.mktemp("reports"), hostile=True)


@pytest.fixture(scope="module")
def page(world):
    return pipeline.render_report(world["ws"], world["comparison"])


def test_the_numbers_of_the_report_are_those_of_the_store(world, page):
    ws, run = world["ws"], world["comparison"]
    text = Page(page).text
    scores = ws.get_table(run.id, "comparison")
    names = method_names(scores["method"])
    for row in scores.itertuples():
        assert names[row.method] in text and f"{row.value:.4f}" in text
        assert f"[{row.low:.4f}, {row.high:.4f}]" in text
        if not np.isnan(row.difference):
            assert f"{row.difference:+.4f}" in text or row.metric != "rmse"
    verdict = pipeline.judge_comparison(ws, run)
    sentences = (verdict.headline, *verdict.evidence, *verdict.cautions)
    assert all(sentence in text for sentence in sentences)
    assert all(ancestor.id in text for ancestor in ws.lineage(run.id))
    assert run.versions["numpy"] in text and "seed 0" in text
    users = ws.get_table(run.id, "users")
    assert f"{len(users):,} users" in text


def test_percentages_of_the_report_have_a_space_before_the_sign(page):
    shown = " ".join(text for text in Page(page).texts if "{" not in text)  # no style sheet
    percentages = re.findall(r"\d+(.?)%", shown)
    assert len(percentages) > 10 and set(percentages) == {" "}


def test_the_report_uses_the_given_margin(world):
    page = pipeline.render_report(world["ws"], world["comparison"], margin=0.05)
    verdict = pipeline.judge_comparison(world["ws"], world["comparison"], margin=0.05)
    assert verdict.headline in Page(page).text and "5 % of full" in Page(page).text


def test_the_report_loads_nothing_from_outside(page):
    parsed = Page(page)
    assert not parsed.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert {"svg", "table", "style"} <= parsed.tags
    names = {name for name, _ in parsed.attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "action", "background"}
    assert not any(name.startswith("on") for name in names)
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    assert "url(" not in style and "@import" not in style
    policy = next(value for _, value in parsed.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert len(page) < 300_000


def test_names_with_markup_are_escaped(page):
    assert compared.HOSTILE in Page(page).text
    assert "<script>alert" not in page and "<img" not in page


def test_control_and_bidirectional_characters_are_removed():
    template = environment().from_string('<p title="{{ title }}">{{ text }}</p>{{ chart }}')
    chart = svg.interval_rows("t\u2066", [("<b>\u202e", "source", 1.0, 0.5, 1.5)], "x")
    written = template.render(title='"><b>', text="a\u202eb\u0000c", chart=chart)
    assert not {"\u202e", "\u0000", "\u2066"} & set(written + chart.file())
    (title,) = [value for name, value in Page(written).attributes if name == "title"]
    assert title == '"><b>' and "a b c" in Page(written).text and "b" not in Page(written).tags
    assert ElementTree.fromstring(chart.file()).tag.endswith("svg")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium")
def test_a_browser_without_a_network_shows_the_report(page, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with playwright.sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=options)
        context = browser.new_context(offline=True, viewport={"width": 1000, "height": 800})
        page_view, requests, messages = context.new_page(), [], []
        page_view.on("request", lambda request: requests.append(request.url))
        page_view.on("console", lambda message: messages.append(message.text))
        page_view.on("dialog", lambda dialog: (messages.append("dialog"), dialog.dismiss()))
        page_view.goto(file.as_uri())
        wide = page_view.evaluate("document.documentElement.scrollWidth - innerWidth")
        pictures = page_view.locator("figure svg").all()
        heights = [picture.bounding_box()["height"] for picture in pictures]
        title = page_view.locator("h1").inner_text()
        browser.close()
    assert requests == [file.as_uri()] and messages == [] and wide <= 0
    assert len(heights) == 6 and min(heights) > 80
    assert compared.HOSTILE in title


def test_a_click_task_and_a_missing_retraining_are_reported(tmp_path):
    world = compared.workspace(tmp_path, task="click")
    ws = world["ws"]
    text = Page(pipeline.render_report(ws, world["comparison"])).text
    assert "uAUC" in text and "Log loss of a user" in text and "RMSE" not in text
    assert "1,000 draws (AUC 200)" in text
    comparison = pipeline.compare(ws, [world["runs"]["source"]], baselines=True, name="alone")
    parsed = Page(pipeline.render_report(ws, comparison))
    assert "No verdict yet" in parsed.text and "Who gains" not in parsed.text


def test_users_to_refine_are_listed(tmp_path):
    world = compared.workspace(tmp_path, hurt=0)
    ws, again = world["ws"], world["runs"]["again"]
    new = ws.run("new")
    moved = compared.migrate(ws, [ws.run("source-old")], new, seconds=1.0, name="hurts", seed=4)
    # The predictions of the retraining, except for four users who lose.
    hurt = compared.evaluate(ws, moved, 0.80, hurt=4, seed=3)
    run = pipeline.compare(ws, [hurt, again], name="hurts")
    verdict = pipeline.judge_comparison(ws, run, margin=0.5)
    text = Page(pipeline.render_report(ws, run, margin=0.5)).text
    if verdict.decision == "refine":
        assert f"Users to refine ({len(verdict.refine)})" in text
    assert verdict.decision == "refine" and set(verdict.refine) == {"000", "001", "002", "003"}


def test_the_command_writes_a_complete_file_or_none(world, tmp_path):
    root, run = str(world["ws"].root), world["comparison"]
    common = ["--workspace", root, "--json"]
    out = tmp_path / "r.html"
    result = CliRunner().invoke(cli, ["report", run.id, "--out", str(out), *common])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bytes"] == out.stat().st_size
    for arguments in (
        ["report", run.id, "--out", str(tmp_path / "r.pdf")],
        ["report", "nothing", "--out", str(tmp_path / "s.html")],
        ["report", run.id, "--out", str(tmp_path / "t.html"), "--margin", "7"],
        ["report", world["data"].id, "--out", str(tmp_path / "u.html")],
        ["export", "table", run.id, "nothing", "--out", str(tmp_path / "v.csv")],
        ["export", "table", run.id, "methods", "--out", str(tmp_path / "w.xlsx")],
    ):
        failed = CliRunner().invoke(cli, [*arguments, *common])
        assert failed.exit_code == 1 and "error" in json.loads(failed.stderr), arguments
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


def test_exported_tables_equal_the_stored_ones(world, tmp_path):
    ws, run = world["ws"], world["runs"]["few"]
    assert table_names(ws, run) == ["predictions", "metrics", "user_metrics"]
    for name in table_names(ws, run):
        frame = read_table(ws, run, name)
        parquet = pipeline.export_table(ws, run, name, tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(parquet), frame, check_dtype=False)
        csv = pipeline.export_table(ws, run, name, tmp_path / f"{name}.csv")
        loaded = pd.read_csv(csv, dtype={"user_id": str, "item_id": str})
        assert list(loaded) == list(frame) and len(loaded) == len(frame)
    users = pd.read_csv(tmp_path / "user_metrics.csv", dtype={"user_id": str})
    assert users["user_id"][0] == "000"
    with pytest.raises(NotFoundError, match="predictions"):
        read_table(ws, run, "prompts")
    with pytest.raises(ConfigError, match=r"\.csv"):
        pipeline.export_table(ws, run, "metrics", tmp_path / "x.txt")
    with pytest.raises(StoreError, match="cannot be written"):
        pipeline.export_table(ws, run, "metrics", tmp_path / "metrics.csv" / "x.csv")


def test_an_exported_table_keeps_its_ids_and_warns_of_spreadsheet_formulas(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    run = ws.begin("dataset", name="data", config={}, inputs={})
    frame = pd.DataFrame({"user_id": ["-12", "007", "=1+1"], "text": ["@x", "plain", None]})
    ws.put_table(run.id, "items", frame)
    ws.finish(run.id, seconds=1, device="cpu")
    arguments = ["-w", str(ws.root), "export", "table", "data", "items", "--out"]
    read = {"dtype": str, "keep_default_na": False}
    result = CliRunner().invoke(cli, [*arguments, str(tmp_path / "a.csv")])
    assert result.exit_code == 0 and "would run 3 texts of" in result.stderr
    assert pd.read_csv(tmp_path / "a.csv", **read)["user_id"].tolist() == ["-12", "007", "=1+1"]
    safe = CliRunner().invoke(cli, [*arguments, str(tmp_path / "b.csv"), "--spreadsheet"])
    assert safe.exit_code == 0 and not safe.stderr
    loaded = pd.read_csv(tmp_path / "b.csv", **read)
    assert loaded["user_id"].tolist() == ["'-12", "007", "'=1+1"]
    assert loaded["text"].tolist() == ["'@x", "plain", ""]
    with pytest.raises(ConfigError, match="is a .csv file"):
        pipeline.export_table(ws, run, "items", tmp_path / "c.parquet", spreadsheet=True)


def test_every_kind_of_method_has_a_symbol():
    assert {kind.symbol for kind in KINDS.values()} <= set(svg.MARKS)


def test_axes_have_two_to_nine_ticks_inside_their_range():
    for low, high, log in ((0.8, 1.05, False), (-0.02, 0.3, False), (0.3, 152, True), (4, 5, True)):
        ticks = svg.Scale(low, high, 0, 100, log).ticks()
        assert 2 <= len(ticks) <= 9 and all(low <= tick <= high * 1.0001 for tick in ticks)
    same = svg.Scale.of([3.0, 3.0], 0, 100)
    assert 0 < same(3.0) < 100


def see(world, monkeypatch, **query):
    app = open_page("reports", world["ws"].root, monkeypatch, **query)
    assert not app.exception, app.exception
    return app


def test_the_page_offers_the_report_with_its_verdict(world, monkeypatch):
    app = see(world, monkeypatch, margin="5.0")
    verdict = pipeline.judge_comparison(world["ws"], world["comparison"], margin=0.05)
    assert verdict.headline.partition(": ")[2][1:] in app.text[0].value.replace("\u00a0", " ")
    assert [button.label for button in app.get("download_button")] == [
        "One page to print",
        "Full report",
    ]


def test_the_page_exports_any_table_of_any_run(world, monkeypatch):
    evaluation = world["runs"]["few"]
    app = see(world, monkeypatch, part="table", run=evaluation.id, table="user_metrics")
    expected = world["ws"].user_metrics(evaluation.id)
    pd.testing.assert_frame_equal(app.dataframe[0].value, expected.head(200), check_dtype=False)
    app.selectbox(key="choose-table").select("predictions").run()
    assert len(app.dataframe[0].value) == 200 and "480 rows" in app.caption[0].value
    reopened = see(world, monkeypatch, part="table", run=world["data"].id)
    assert "predictions" not in reopened.selectbox(key="choose-table").options


def test_large_tables_and_prompts_are_exported_by_command_only(world, monkeypatch):
    monkeypatch.setattr("dashboard.engine.reports.MAX_ROWS", 10)
    app = see(world, monkeypatch, part="table", run=world["runs"]["few"].id, table="predictions")
    assert "puma export table" in app.code[0].value and not app.dataframe
    monkeypatch.setattr("dashboard.engine.reports.MAX_BYTES", -1)
    app = see(world, monkeypatch, part="prompts")
    assert "puma prompts export" in app.code[0].value


def test_missing_prompts_are_reported(world, monkeypatch):
    app = see(world, monkeypatch, part="prompts")
    next(button for button in app.button if button.label == "Prepare the file").click().run()
    assert "not written" in app.error[0].value and "prompts" in app.text[0].value


def test_pages_without_results_say_so(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    for part, words in (
        ("report", "No comparison is finished"),
        ("table", "No tables yet"),
        ("prompts", "No prompts yet"),
    ):
        app = see({"ws": ws}, monkeypatch, part=part)
        assert any(words in text.value for text in app.markdown), part


def test_file_names_are_safe(world):
    run = dataclasses.replace(world["comparison"], name="../../etc/<b>passwd\u202e")
    assert file_name(run) == "etc-b-passwd"
    assert file_name(dataclasses.replace(run, name="…")) == "comparison"
