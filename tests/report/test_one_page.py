"""The decision on one page: the store's numbers, its states, and one printed sheet without a network."""

import json
import re
from pathlib import Path

import compared
import numpy as np
import pandas as pd
import pytest
from dashboard_pages import open_page, texts
from html_text import Page
from store_edits import edited
from typer.testing import CliRunner

from dashboard.views.reports import page_address
from puma_engine import pipeline
from puma_engine.cli.application import app as cli
from puma_engine.errors import ConfigError
from puma_engine.evaluation.formatting import method_names
from puma_engine.pipeline.comparing import comparison_shares
from puma_engine.pipeline.summary_page import render_summary
from puma_engine.report import decision_texts, svg
from puma_engine.report.label_layout import CHARACTER

CHROMIUM = Path("/usr/bin/chromium")
ADDRESS = "https://puma.example/summary?margin=1.0"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return compared.workspace(tmp_path_factory.mktemp("page"), hostile=True)


@pytest.mark.parametrize("margin", [0.01, 0.3])
def test_the_page_says_what_the_store_holds_at_an_accepted_error(world, margin):
    ws, run = world["ws"], world["comparison"]
    parsed = Page(render_summary(ws, run, margin=margin, address=ADDRESS))
    verdict = pipeline.judge_comparison(ws, run, margin=margin)
    assert verdict.headline.partition(": ")[2][1:] in parsed.text
    assert verdict.source.sentence in parsed.text
    assert f"I accept up to {100 * margin:g} % more error" in " ".join(parsed.text.split())
    shares = comparison_shares(ws, run).set_index(["method", "aspect"])["share"]
    measured = shares.get((verdict.method, "level"), np.nan)
    share_text = "–" if np.isnan(measured) else f"{100 * measured:.0f} %"
    assert share_text in parsed.texts
    # No training counted its operations, so seconds are compared.
    seconds = {"Migration trained on all users": 8.0, "Migration trained on 30 users": 2.5}
    share = seconds[method_names([verdict.method])[verdict.method]] / 40
    assert f"{100 * share:.0f} %" in parsed.texts
    assert ("href", ADDRESS) in parsed.attributes
    assert compared.HOSTILE[:20] in parsed.text and "script" not in parsed.tags


@pytest.mark.parametrize(
    ("seeds", "spread", "sentence"),
    [
        (1, None, "One seed: intervals are over users, not over trainings."),
        (
            2,
            None,
            "Each figure is of one training: intervals are over users, not over trainings. The",
        ),
        (0, None, "Each figure is of one training: intervals are over users, not over trainings."),
        (1, (1, 2, 0.01), "Each figure is of one training: intervals are over users"),
        (2, None, "not over trainings. The trainings have 2 seeds."),
    ],
)
def test_the_fine_print_does_not_count_seeds_of_several_plans_as_repetitions(
    seeds, spread, sentence
):
    none = pd.DataFrame(columns=["method", "value"])
    assert sentence in decision_texts.fine_print("rating", none, seeds, spread, 0, "")


def test_the_cost_is_arithmetic_where_every_training_counted_its_operations(tmp_path):
    world = compared.workspace(tmp_path)
    ws, run = world["ws"], world["comparison"]
    with edited(ws) as db:
        for training in [*ws.runs("prompts"), *ws.runs("migration")]:
            flops = 1e14 if training.config["role"] == "retrained" else 7e12
            cost = json.dumps(training.cost | {"flops": flops})
            db.execute("UPDATE runs SET cost = ? WHERE id = ?", [cost, training.id])
    assert pipeline.judge_comparison(ws, run).arithmetic == pytest.approx(0.07)
    parsed = Page(render_summary(ws, run))
    assert "Cost against retraining" in parsed.texts and "7 %" in parsed.texts
    assert any(text.startswith("of its arithmetic, 93 % saved; ") for text in parsed.texts)


def test_the_page_loads_nothing_and_says_where_a_published_run_was_measured(tmp_path, monkeypatch):
    world = compared.workspace(tmp_path)
    ws, run = world["ws"], world["comparison"]
    unpublished = Page(render_summary(ws, run))
    assert "Published" not in unpublished.text
    assert not {name for name, _ in unpublished.attributes} & {"src", "href", "action"}
    facts = {"comparison": run.id, "device": "NVIDIA H200", "date": "2026-11-01T00:00"}
    with edited(ws) as db:
        summary = json.dumps(run.summary | {"published": facts})
        db.execute("UPDATE runs SET summary = ? WHERE id = ?", [summary, run.id])
    page = render_summary(ws, run.id)
    assert "measured on NVIDIA H200 on 2026-11-01, not in this workspace" in Page(page).text
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    assert "url(" not in style and "@import" not in style
    app = open_page("reports", ws.root, monkeypatch)
    assert not app.exception and "not computed in this workspace" in texts(app)
    policy = next(value for _, value in unpublished.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_a_page_without_a_judged_migration_or_predictions_says_so(tmp_path):
    world = compared.workspace(tmp_path, task="click")
    ws = world["ws"]
    text = " ".join(Page(render_summary(ws, world["comparison"])).text.split())
    assert "less uAUC" in text and "(probability)" in text
    comparison = pipeline.compare(ws, [world["runs"]["source"]], baselines=True, name="alone")
    parsed = Page(render_summary(ws, comparison))
    assert "No verdict yet" in parsed.text and "svg" not in parsed.tags
    for name in ("few", "all"):
        next(ws.folder(world["runs"][name].id).glob("predictions*")).unlink()
    assert "predictions are gone" in Page(render_summary(ws, world["comparison"])).text


def test_the_command_writes_the_page_and_refuses_invalid_addresses(world, tmp_path):
    ws, run = world["ws"], world["comparison"]
    out = tmp_path / "page.html"
    arguments = ["report", run.id, "--workspace", str(ws.root), "--out", str(out)]
    result = CliRunner().invoke(cli, [*arguments, "--one-page", "--address", ADDRESS])
    assert result.exit_code == 0, result.output
    assert ADDRESS in out.read_text(encoding="utf-8")
    out.unlink()
    for more in (["--one-page", "--address", "javascript:alert(1)"], ["--address", ADDRESS]):
        failed = CliRunner().invoke(cli, [*arguments, *more])
        assert failed.exit_code == 1 and not out.exists()
    with pytest.raises(ConfigError, match="http"):
        render_summary(ws, run, address="file:///etc/passwd")


def test_the_dashboard_offers_the_page_that_the_engine_writes(world, monkeypatch):
    app = open_page("reports", world["ws"].root, monkeypatch, margin="5.0")
    assert not app.exception
    labels = [button.label for button in app.get("download_button")]
    assert labels == ["One page to print", "Full report"]
    assert "prints on a sheet of A4" in texts(app)
    # A read-only workspace gives the same files.
    monkeypatch.setattr("dashboard.engine.read_only", lambda: True)
    viewed = open_page("reports", world["ws"].root, monkeypatch, margin="5.0")
    assert "may only be viewed" in texts(viewed)
    assert [button.label for button in viewed.get("download_button")] == labels
    page = f"summary?comparison={world['comparison'].id}&margin=5.0"
    assert page_address("https://host/puma/export", page) == f"https://host/puma/{page}"
    assert page_address(None, page) is None


def test_labels_of_plans_cover_no_interval():
    unknown = float("nan")
    plans = [
        svg.PlanPoint("Retrained", "retrained", 100.0, 100.0, 100.0, 100.0),
        svg.PlanPoint("All users", "migrated", 80.0, 99.0, 90.0, 110.0),
        svg.PlanPoint("60 users", "migrated", 76.0, 98.0, unknown, unknown),
    ]
    chart = svg.share_kept_by_cost("Costs", plans, ("Bias", 95.0), ("x", "y"))
    (interval,) = [line[0] for line in chart.lines if line[0] == line[2] and line[1] != line[3]]
    anchors = {text: (x, anchor) for x, _, text, anchor in chart.labels}
    assert set(anchors) == {"Retrained", "All users", "60 users", "Bias"}
    for text, (x, anchor) in anchors.items():
        width = CHARACTER * len(text)
        left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
        assert not left < interval < left + width


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium")
def test_the_page_prints_on_one_sheet_of_a4_without_a_network(world, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "page.html"
    page = render_summary(world["ws"], world["comparison"], address=ADDRESS)
    file.write_text(page, encoding="utf-8")
    with playwright.sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=options)
        view = browser.new_context(offline=True).new_page()
        view.goto(file.as_uri())
        view.emulate_media(media="print")
        main = view.locator("main")
        cut = main.evaluate("node => node.scrollHeight - node.clientHeight")
        heights = [svg.bounding_box()["height"] for svg in view.locator("svg").all()]
        printed = view.pdf(prefer_css_page_size=True)
        browser.close()
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    box = re.search(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", printed)
    # A4 across, in points.
    assert [float(side) for side in box.groups()] == pytest.approx([841.9, 595.3], abs=1)
    assert cut <= 0 and len(heights) == 4 and min(heights) > 120
