"""The Summary in every state: empty, busy, failed, with a verdict, with an outdated one."""

import json
from dataclasses import replace
from typing import get_args

import compared
import numpy as np
import pandas as pd
import pytest
from dashboard_pages import (
    HOSTILE,
    add_comparison,
    add_job,
    assert_plain,
    finished,
    open_page,
    report,
    texts,
)
from store_edits import edited

from dashboard import engine
from dashboard.components import summary_decision, summary_figures, verdicts
from dashboard.components.formatting import escaped
from dashboard.engine import comparisons, summary
from puma_engine import jobs
from puma_engine.evaluation.formatting import format_percent, method_names, mid_sentence
from puma_engine.evaluation.verdict import MAX_MARGIN, Decision, DecisionRange, judge
from puma_engine.pipeline import compare, comparison_shares
from puma_engine.pipeline.verdicts import comparison_data, judge_comparison
from puma_engine.report import decision_texts, label_layout
from puma_engine.report.theme import DECISIONS
from puma_engine.store import Workspace
from puma_engine.studies.evidence import results_root
from puma_engine.studies.seeds_needed import seeds_to_decide


@pytest.mark.parametrize("exists", [False, True])
def test_an_empty_workspace_starts_the_demo_with_one_click(exists, tmp_path, monkeypatch):
    root = tmp_path / "ws"
    if exists:
        Workspace.open(root, create=True)
    monkeypatch.setattr(jobs, "ensure_worker", lambda ws: None)
    app = open_page("overview", root, monkeypatch)
    assert_plain(app)
    assert "Nothing here yet" in texts(app)
    app.button("start-demo").click().run()
    queued = jobs.jobs(Workspace.open(root))
    assert [job.command for job in queued] == ["demo"]
    assert "Worked example" in texts(app) and "Nothing here yet" not in texts(app)
    engine.start_demo()
    assert len(jobs.jobs(Workspace.open(root))) == 1


def test_a_workspace_that_cannot_be_created_is_reported(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    app = open_page("overview", blocked / "ws", monkeypatch)
    app.button("start-demo").click().run()
    assert_plain(app)
    assert "was not started" in texts(app) and str(blocked) in texts(app)


@pytest.fixture
def workspace(tmp_path):
    """A workspace with one finished comparison."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    return ws, add_comparison(ws).id


def test_the_last_comparison_is_summarised_in_one_sentence(workspace, monkeypatch):
    ws, run = workspace
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    decision, _, sentence = judge_comparison(ws, run).headline.partition(": ")
    assert decision == "Migrate" and decision in texts(app)
    assert sentence[1:] in texts(app)
    assert [metric.value for metric in app.metric][-5:] == ["0", "0", "0", "0", "1"]


def test_a_migration_that_orders_nobodys_items_is_recommended_with_a_caution(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = compared.import_data(ws, tmp_path)
    old, new = compared.backbone(ws, "old"), compared.backbone(ws, "new")
    source = compared.prompts(ws, data, old, "source", 50.0)
    moved = compared.evaluate(ws, compared.migrate(ws, [source], new), 0.0, ordered=False)
    again = compared.evaluate(ws, compared.prompts(ws, data, new, "retrained", 40.0), 1.6)
    drawn = compared.evaluate(ws, compared.prompts(ws, data, new, "random", 5.0), 3.0, seed=1)
    run = compare(ws, [moved, again, drawn])
    verdict = judge_comparison(ws, run)
    assert verdict.decision == "migrate" and verdict.disagreement == verdict.cautions[0]
    assert "of the ranking (pair accuracy), where it is behind" in verdict.disagreement
    app = open_page("overview", ws.root, monkeypatch)
    assert escaped(verdict.disagreement, 500) in texts(app)
    assert "Accuracy and ranking disagree" in texts(app)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Methods of two models, with random prompts, compared."""
    folder = tmp_path_factory.mktemp("measured")
    ws = Workspace.open(folder / "ws", create=True)
    data = compared.import_data(ws, folder)
    old, new = compared.backbone(ws, "old"), compared.backbone(ws, "new")
    source = compared.prompts(ws, data, old, "source", 50.0)
    few = compared.migrate(ws, [source], new, compared.select(ws, source), seconds=2.0, name="few")
    everybody = compared.migrate(ws, [source], new, seconds=8.0, name="everybody")
    again = compared.prompts(ws, data, new, "retrained", 40.0)
    drawn = compared.prompts(ws, data, new, "random", 5.0)
    noises = (source, 0.80), (few, 0.83), (everybody, 0.81), (again, 0.80), (drawn, 3.0)
    evaluated = [compared.evaluate(ws, run, noise, seed=i) for i, (run, noise) in enumerate(noises)]
    return ws, compare(ws, evaluated, baselines=True)


def test_the_summary_asks_about_the_models_and_shows_what_is_kept(measured, monkeypatch):
    ws, run = measured
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    assert app.title[0].value == "Move 60 users from old to new?"
    values = {metric.label: metric.value for metric in app.metric}
    verdict = judge_comparison(ws, run)
    shares = comparison_shares(ws, run).set_index(["method", "reference", "aspect"])["share"]
    for label, aspect in (("Rating accuracy kept", "level"), ("Ranking kept", "ranking")):
        assert values[label] == f"{100 * shares[verdict.method, 'random', aspect]:.0f} %"
    # No training counted its operations, so seconds are compared.
    seconds = {"Migration trained on all users": 8.0, "Migration trained on 30 users": 2.5}
    name = method_names([verdict.method])[verdict.method]
    assert values["Cost against retraining"] == f"{100 * seconds[name] / 40:.0f} %"
    saved = f"of its time, {100 - 100 * seconds[name] / 40:.0f} % saved: {seconds[name]} s against"
    assert saved in texts(app)
    assert int(values["People surely worse off"]) <= 60
    # The bar of decisions under the slider, cost against quality, and behaviour.
    assert len(app.get("plotly_chart")) == 3
    assert "Without any language model" in texts(app) and "One seed" in texts(app)


def test_the_accepted_error_is_in_the_address_and_leads_to_the_verdict(measured, monkeypatch):
    ws, run = measured
    ranges = decision_texts.recommended(summary.ranges(str(ws.root), run.id))
    assert ranges
    for part in ranges:
        app = open_page("overview", ws.root, monkeypatch, margin=f"{100 * part.low:.1f}")
        verdict = judge_comparison(ws, run, margin=part.low)
        assert app.slider(key="margin").value == pytest.approx(100 * part.low)
        assert verdict.headline.partition(": ")[2][1:] in texts(app)
    app.slider(key="margin").set_value(0.1).run()
    assert_plain(app)
    headline = judge_comparison(ws, run, margin=0.001).headline
    assert headline.partition(": ")[2][1:] in texts(app)


def test_the_first_screen_says_what_moving_changes_for_users(measured, monkeypatch):
    ws, run = measured
    source = judge_comparison(ws, run).source
    assert source.sentence.startswith("Against the old model, which users have now, ")
    assert "in rating accuracy" in source.sentence and "ranking: " in source.sentence
    assert escaped(source.sentence, 500) in texts(open_page("overview", ws.root, monkeypatch))


def test_bar_line_and_verdict_agree_at_every_accepted_error(measured):
    ws, run = measured
    ranges = summary.ranges(str(ws.root), run.id)
    names = method_names(ws.get_table(run.id, "methods")["method"])
    # The line says from which error on a plan is recommended.
    line = decision_texts.breakpoint_text(ranges).removeprefix("Recommended ")[:-1]
    said = dict(part.removeprefix("from ").split(": ") for part in line.split("; "))
    assert len(said) == len(decision_texts.recommended(ranges)) > 0
    inside, data = None, comparison_data(ws, run)
    for number in range(1, 201):
        share = number / 1000
        inside = said.get(format_percent(share), inside)
        verdict = judge(replace(data, margin=share))
        (part,) = [part for part in ranges if part.low <= share <= part.high]
        assert (part.decision, part.method) == (verdict.decision, names[verdict.method])
        recommends = verdict.decision in ("migrate", "refine")
        label = mid_sentence(decision_texts.decision_label(part))
        assert (inside == label) is recommends
        figure = summary_decision.decision_bar(ranges, share, MAX_MARGIN)
        (opaque,) = [bar for bar in figure.data if bar.marker.opacity == 1]
        assert opaque.base[0] == pytest.approx(part.low - 0.0005)
        assert opaque.marker.color == summary_decision.BAR_COLOURS[verdict.decision]


def test_the_bar_ends_where_the_slider_does(measured):
    ws, run = measured
    ranges = summary.ranges(str(ws.root), run.id)
    figure = summary_decision.decision_bar(ranges, 0.01, 0.05)
    ends = [bar.base[0] + bar.x[0] + summary_decision.GAP * 0.05 for bar in figure.data]
    assert ends[:-1] == pytest.approx([bar.base[0] for bar in figure.data[1:]])
    assert ends[-1] == pytest.approx(0.0505)


def test_the_legend_of_the_bar_names_each_of_its_decisions_once():
    decisions = ("undecided", "refine", "migrate", "refine", "retrain")
    ranges = tuple(
        DecisionRange(0.01 * number, 0.01 * number + 0.009, decision, "Moved")
        for number, decision in enumerate(decisions, start=1)
    )
    legend = summary_decision.bar_legend(ranges, 0.04).replace("\u00a0", " ")
    assert legend == (
        ":gray[■] not settled · :violet[■] migrate, refine some users · :green[■] migrate"
    )
    assert legend + " · :orange[■] retrain" == summary_decision.bar_legend(ranges, 0.05).replace(
        "\u00a0", " "
    )
    tables = (summary_decision.LEGEND, summary_decision.BAR_COLOURS, verdicts.LOOKS, DECISIONS)
    assert all(set(table) == set(get_args(Decision)) for table in tables)


@pytest.mark.parametrize(
    ("decisions", "text"),
    [
        (("retrain",), "Up to 20 %, nothing is recommended in place of full retraining."),
        (
            ("retrain", "refine", "migrate"),
            "Recommended from 1 %: moved, some refined; from 2 %: moved.",
        ),
        (("migrate",), "Recommended from 0.1 %: moved."),
    ],
)
def test_the_line_names_what_is_recommended_from_which_error_on(decisions, text):
    ends = (0.001, 0.01, 0.02)
    ranges = tuple(
        DecisionRange(low, low + 0.005, decision, "Moved")
        for low, decision in zip(ends, decisions, strict=False)
    )
    assert decision_texts.breakpoint_text(ranges) == text


def test_the_line_names_the_first_changes_and_counts_the_others():
    ranges = tuple(
        DecisionRange(number / 100, (number + 1) / 100, "migrate", f"Plan {number}")
        for number in range(1, 7)
    )
    text = decision_texts.breakpoint_text(ranges, 4)
    assert text.startswith("Recommended from 1 %: plan 1;")
    assert text.endswith("from 4 %: plan 4; then 2 more.")
    assert decision_texts.breakpoint_text(ranges[:4], 4) == decision_texts.breakpoint_text(
        ranges[:4]
    )


def test_a_migration_that_was_refined_is_refined_again():
    name = "Migration trained on 60 users, refined for 60 users"
    labels = [
        decision_texts.decision_label(DecisionRange(0.01, 0.02, decision, name))
        for decision in ("migrate", "refine")
    ]
    assert labels == ["60 users, refined", "60 users, refined, some again"]


@pytest.mark.parametrize(
    ("lowest", "given", "end"),
    [
        (0.01, None, 5.0),
        (0.05, None, 10.0),
        (0.01, "7.5", 10.0),
        (0.001, "x", 5.0),
        (0.5, "99", 20.0),
    ],
)
def test_the_slider_has_room_for_recommendations_and_address(lowest, given, end):
    ranges = (DecisionRange(lowest, lowest, "migrate", "Moved"),)
    assert summary_decision.slider_end(ranges, given) == end


def test_a_price_of_an_hour_turns_measured_seconds_into_money(measured, monkeypatch):
    ws, run = measured
    assert "in money" not in texts(open_page("overview", ws.root, monkeypatch))
    app = open_page("overview", ws.root, monkeypatch, price="90")
    assert_plain(app)
    plans = summary.plans(run)
    verdict = judge_comparison(ws, run)
    own = plans[plans["method"] == method_names([verdict.method])[verdict.method]]["seconds"].iloc[
        0
    ]
    assert f"{90 * own / 3600:,.2g} against 1 in money" in texts(app)


def test_another_verdict_is_chosen_by_the_switch_and_a_published_one_says_so(tmp_path, monkeypatch):
    parts = compared.workspace(tmp_path)
    ws, newest = parts["ws"], parts["comparison"]
    chosen = [parts["runs"][name] for name in ("source", "all", "again")]
    other = compare(ws, chosen, name="other")
    facts = json.dumps(newest.summary | {"published": {"comparison": newest.id}})
    with edited(ws) as db:
        db.execute("UPDATE runs SET summary = ? WHERE id = ?", [facts, newest.id])
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    # A published comparison is not the first one shown.
    box = app.selectbox(key="choose-comparison")
    assert box.value == other.id
    assert [label.partition(":")[0] for label in box.options] == ["This workspace", "Published"]
    app.selectbox(key="choose-comparison").select(newest.id).run()
    assert_plain(app)
    assert app.query_params["comparison"] == newest.id
    headline = judge_comparison(ws, newest).headline.partition(": ")[2]
    assert headline[1:] in texts(app)
    assert "not computed in this workspace" in texts(app)


def test_seeds_of_one_plan_are_compared(tmp_path, monkeypatch):
    parts = compared.workspace(tmp_path)
    ws, data = parts["ws"], parts["data"]
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    comparison = parts["comparison"]
    plans = summary.plans(comparison)
    assert summary.seed_spread(comparison, plans) is None
    (new,) = [run for run in ws.runs("backbone") if run.name == "new"]
    again = compared.prompts(ws, data, new, "retrained", 40.0, "again", seed=1)
    evaluation = compared.evaluate(ws, again, 1.0, seed=9)
    first, second = (run.summary["metrics"]["rmse"] for run in (parts["runs"]["again"], evaluation))
    far = max(first, second) / min(first, second) - 1
    assert summary.seed_spread(comparison, plans) == (1, 2, pytest.approx(far))
    # Trainings for another model are of no plan of this comparison.
    third = compared.backbone(ws, "third")
    for seed in (0, 1):
        again = compared.prompts(ws, data, third, "retrained", 40.0, f"third {seed}", seed=seed)
        compared.evaluate(ws, again, 1.0, seed=20 + seed)
    assert summary.seed_spread(comparison, plans) == (1, 2, pytest.approx(far))
    # Another template makes another plan.
    again = compared.prompts(ws, data, new, "retrained", 40.0, "chat", seed=2)
    compared.evaluate(ws, again, 5.0, seed=30, chat_template=True)
    assert summary.seed_spread(comparison, plans) == (1, 2, pytest.approx(far))
    text = texts(open_page("overview", ws.root, monkeypatch)).replace("\\", "")
    assert "Each figure is of one training" in text and "One seed" not in text
    assert f"One plan was trained with 2 seeds, up to {format_percent(far)} apart" in text


def test_a_verdict_that_is_not_settled_says_how_many_seeds_would_settle_it(tmp_path, monkeypatch):
    parts = compared.workspace(tmp_path)
    ws, comparison, few = parts["ws"], parts["comparison"], parts["runs"]["few"]
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    judged = method_names(ws.get_table(comparison.id, "methods")["method"])
    name = next(name for name in judged.values() if "30 users" in name)
    base = parts["runs"]["again"].summary["metrics"]["rmse"]
    verdict = replace(
        comparisons.verdict(str(ws.root), comparison.id),
        decision="undecided", method=name, metric="rmse", margin=0.05 * base,
    )  # fmt: skip
    assert "cannot be known from one" in summary.seeds_outlook(comparison, verdict, 0.05)
    moved = ws.run(few.inputs["prompts"])
    source, selection = (ws.run(moved.inputs[role]) for role in ("source_0", "selection"))
    new = ws.run(moved.inputs["backbone"])
    losses = [few.summary["metrics"]["rmse"] - base]
    for seed in (1, 2):
        again = compared.prompts(
            ws, parts["data"], new, "retrained", 40.0, f"again {seed}", seed=seed
        )
        other = compared.migrate(ws, [source], new, selection, name=f"few {seed}", seed=seed)
        rmse = [
            compared.evaluate(ws, run, 0.8 + 0.02 * seed, seed=40 + 10 * seed + number)
            for number, run in enumerate((other, again))
        ]
        losses.append(rmse[0].summary["metrics"]["rmse"] - rmse[1].summary["metrics"]["rmse"])
    # A migration with a seed that no retraining has is not paired.
    alone = compared.migrate(ws, [source], new, selection, name="few 3", seed=3)
    compared.evaluate(ws, alone, 5.0, seed=99)
    needed = seeds_to_decide(losses, verdict.margin)
    sentence = summary.seeds_outlook(comparison, verdict, 0.05)
    assert needed is not None and needed > 3
    assert f"about {needed - 3} more seed" in sentence and "(3 so far)" in sentence
    assert summary.seeds_outlook(comparison, replace(verdict, decision="retrain"), 0.05) == ""


def test_each_part_of_the_bar_has_its_name_however_short_it_is(measured):
    ranges = summary.ranges(str(measured[0].root), measured[1].id)
    figure = summary_decision.decision_bar(ranges, 0.01, 0.05)
    named = [bar.hovertemplate.partition(": ")[2].partition("<extra>")[0] for bar in figure.data]
    shown = [part for part in ranges if part.low <= 0.05]
    labels = [mid_sentence(decision_texts.decision_label(part)) for part in shown]
    assert named == labels
    spoken = decision_texts.ranges_text(ranges)
    assert all(decision_texts.range_text(part) in spoken for part in ranges)


def test_the_fine_print_says_what_methods_without_a_language_model_reach(measured, monkeypatch):
    ws, run = measured
    text = texts(open_page("overview", ws.root, monkeypatch)).replace("\\", "")
    scores = ws.get_table(run.id, "comparison")
    values = scores[scores["metric"] == "rmse"].set_index("method")["value"]
    shares = comparison_shares(ws, run).set_index(["method", "reference", "aspect"])["share"]
    first, second = sorted(("Matrix factorisation", "User + item bias"), key=values.get)
    level, ranking = (
        [f"{100 * shares[label, 'random', aspect]:.0f} %" for label in (first, second)]
        for aspect in ("level", "ranking")
    )
    assert (
        f"Without any language model, {first.lower()} keeps {level[0]} of the rating accuracy and "
        f"{ranking[0]} of the ranking (RMSE {values[first]:.4f}); {second.lower()} {level[1]} and "
        f"{ranking[1]} (RMSE {values[second]:.4f})."
    ) in text


def texts_of_chart(figure, width):
    """The text and rectangle of every label and name in a chart of some width, in pixels."""
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range

    def pixels(x, y):
        return (
            (x - left) / (right - left) * width,
            (y - low) / (high - low) * summary_figures.PLOT_HEIGHT,
        )

    shown = []
    for note in figure.layout.annotations:
        length = label_layout.CHARACTER * len(note.text)
        if note.xref == "x domain":
            bottom = note.y * summary_figures.PLOT_HEIGHT - label_layout.LINE / 2
            shown.append((note.text, label_layout.Spot(note.x, bottom).box(note.text, width)))
            assert note.xshift == pytest.approx(-note.x * length)
        else:
            place = label_layout.Placement(note.ax, -note.ay, None)
            box = label_layout.placed_box(*pixels(note.x, note.y), note.text, place)
            shown.append((note.text, box))
    for trace in figure.data:
        labelled = (trace.x, trace.y, trace.text, trace.textposition)
        for x, y, text, position in zip(*labelled, strict=True) if trace.text else ():
            if text:
                side, up = label_layout.POSITIONS[position]
                half = label_layout.CHARACTER * len(text) / 2
                right_by = side * (label_layout.MARK + half)
                up_by = up * (label_layout.MARK + label_layout.LINE / 2)
                place = label_layout.Placement(right_by, up_by, position)
                shown.append((text, label_layout.placed_box(*pixels(x, y), text, place)))
    return shown


def demo_plans():
    """Plans as close to each other as those of the demo."""
    names = ["Retrained", "all users", "180 users", "60 users, refined", "60 users", "18 users"]
    kept = np.array([1.0, 1.0, 0.98, 0.93, 0.89, 0.82, 0.64, 1.08])
    names = [*names, "6 users", "Old model"]
    kinds = ["retrained", "migrated", "migrated", "refined", "migrated", "migrated", "migrated"]
    return pd.DataFrame(
        {
            "method": [f"Migration trained on {name}" for name in names],
            "kind": [*kinds, "source"],
            "is_baseline": [True] + [False] * 7,
            "cost": [1.0, 0.72, 0.4, 0.35, 0.24, 0.11, 0.065, 0.0],
            "kept": kept,
            "kept_low": [np.nan, *(kept[1:] - 0.08)],
            "kept_high": [np.nan, *(kept[1:] + 0.09)],
            "seconds": 1.0,
        }
    )


def test_every_plan_has_a_label_that_covers_nothing_in_narrow_and_wide_windows():
    rows = demo_plans()
    best = pd.Series({"method": "Matrix factorisation", "kept": 0.99})
    curve = pd.DataFrame({"cost": [0.02, 0.04, 0.83], "kept": [0.87, 0.93, 0.985], "method": "x"})
    figure = summary_figures.cost_figure(rows, best, curve)
    expected = {decision_texts.plan_label(row) for row in rows.itertuples()}
    for width in summary_figures.PLOT_WIDTHS:
        shown = texts_of_chart(figure, width)
        assert expected <= {text for text, _ in shown}
        assert {text.lstrip("┄━ ") for text, _ in shown} - expected == {
            summary_figures.PUBLISHED,
            summary_figures.WITHOUT_MODEL,
        }
        (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
        for number, (_, box) in enumerate(shown):
            assert box.left >= -1e-9 and box.right <= width + 1e-9
            assert not any(box.meets(other) for _, other in shown[:number])
            for row in rows.itertuples():
                x = (100 * row.cost - left) / (right - left) * width
                bottom, top = (
                    (100 * value - low) / (high - low) * summary_figures.PLOT_HEIGHT
                    for value in (row.kept_low, row.kept_high)
                )
                if top > bottom:
                    assert not box.meets(label_layout.Box(x - 1, bottom, x + 1, top))


def test_the_name_of_the_line_says_which_method_it_is_when_the_mouse_is_over_it():
    best = pd.Series({"method": "Matrix factorisation", "kept": 0.99})
    figure = summary_figures.cost_figure(demo_plans(), best)
    (name,) = [note for note in figure.layout.annotations if "language" in note.text]
    assert name.hovertext == "Matrix factorisation: 99 %"


def test_the_published_curve_is_of_the_same_data_and_model_and_from_its_report(
    tmp_path, monkeypatch
):
    parts = compared.workspace(tmp_path)
    monkeypatch.setenv("PUMA_WORKSPACE", str(parts["ws"].root))
    run = parts["comparison"]
    assert summary.published_curve(run, "llama-medium", "random").empty
    facts = json.dumps(parts["data"].summary | {"dataset": "goodbooks"})
    with edited(parts["ws"]) as db:
        db.execute("UPDATE runs SET summary = ? WHERE id = ?", [facts, parts["data"].id])
    curve = summary.published_curve(run, "llama-medium", "random")
    # A study of another model says nothing about this one.
    assert summary.published_curve(run, "new", "random").empty
    real = summary.published_curve(run, "smollm2", "random")
    assert not set(real["kept"]) & set(curve["kept"])
    assert curve["method"].iloc[-1] == "all users" and len(curve) > 1
    assert curve["cost"].is_monotonic_increasing and curve["cost"].between(0, 1.1).all()
    report = json.loads((results_root() / "goodbooks" / "table2.json").read_text())
    (kept,) = [
        line["kept"]
        for line in report["shares_kept"]
        if (line["method"], line["reference"], line["aspect"])
        == ("PUMA, all users", "random", "level")
    ]
    assert curve["kept"].iloc[-1] == kept


def test_behaviour_is_the_mean_and_spread_of_each_users_predictions(measured):
    ws, run = measured
    evaluations = tuple(ws.get_table(run.id, "methods")["evaluation"][:2])
    shown = summary.behaviour(str(ws.root), evaluations, 0)
    assert shown is not None and shown.anchors == 0
    table = shown.frame
    rows = ws.get_table(evaluations[1], "predictions")
    one = rows[rows["user_id"] == "007"]["prediction"]
    row = table[table["user_id"] == "007"].iloc[0]
    assert row["mean_1"] == pytest.approx(one.mean(), rel=1e-5)
    assert row["spread_1"] == pytest.approx(one.std(), rel=1e-5)
    assert len(table) == rows["user_id"].nunique()


def test_plans_are_those_of_the_model_that_the_verdict_is_about(measured, monkeypatch):
    ws, run = measured
    source = ws.run("source-old")
    third = compared.migrate(ws, [source], compared.backbone(ws, "third"), name="elsewhere")
    members = [*ws.get_table(run.id, "methods")["evaluation"], compared.evaluate(ws, third, 0.8)]
    wider = compare(ws, members, reference=run.inputs["reference"])
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    plans, before = summary.plans(wider), summary.plans(run)
    assert (
        set(plans["evaluation"])
        == set(before["evaluation"])
        < {getattr(member, "id", member) for member in members}
    )
    assert judge_comparison(ws, wider).method == judge_comparison(ws, run).method
    # The other pages and tests of this module judge the newest comparison.
    ws.delete(wider.id)


def test_behaviour_of_many_users_is_that_of_a_sample(measured, monkeypatch):
    ws, run = measured
    evaluations = tuple(ws.get_table(run.id, "methods")["evaluation"][:2])
    everybody = summary.behaviour.__wrapped__(str(ws.root), evaluations, 0).frame
    monkeypatch.setattr(summary, "MAX_DRAWN", 5)
    few = summary.behaviour.__wrapped__(str(ws.root), evaluations, 0).frame
    assert few["user_id"].nunique() == len(few) == 5
    same = everybody.set_index("user_id").loc[few["user_id"]].reset_index()
    pd.testing.assert_frame_equal(same, few)


def test_a_later_evaluation_makes_the_verdict_outdated(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data = finished(ws, "dataset", "books")
    asked = {"config": {"split": "test"}, "inputs": {"dataset": data.id}}
    evaluation = finished(
        ws, "evaluation", "first", **asked | {"config": {"split": "test", "n": 1}}
    )
    comparison = finished(ws, "comparison", "old", inputs={"evaluation_0": evaluation.id})
    assert comparisons.newer_evaluations(comparison, ws.runs("evaluation")) == []
    two = finished(ws, "evaluation", "second", **asked | {"config": {"split": "test", "n": 2}})
    finished(ws, "evaluation", "other split", **asked | {"config": {"split": "train"}})
    assert comparisons.newer_evaluations(comparison, ws.runs("evaluation")) == [ws.run(two.id)]


def test_a_comparison_with_missing_files_is_reported_and_the_rest_is_shown(workspace, monkeypatch):
    ws, run = workspace
    for file in ws.folder(run).glob("*.parquet"):
        file.unlink()
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    assert "The last comparison has no verdict" in texts(app) and len(app.metric) == 5


def test_a_comparison_of_another_version_is_reported(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    tables = {name: pd.DataFrame({"method": ["a"]}) for name in ("methods", "comparison")}
    summary = {"task": "rating", "users": 1, "rows": 1}
    finished(ws, "comparison", "old", summary=summary, tables=tables)
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    assert "not those of this version" in texts(app)


def test_running_jobs_show_progress_and_can_be_cancelled(tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    finished(ws, "dataset", "books")
    job = add_job(ws, title="Migrate **all**", status="running")
    report(ws, job, stage="training", step=30, total=120, loss=0.5, left=[61, 92])
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    shown = app.get("progress")[0].proto
    assert shown.value == 25 and "step 30 of 120" in shown.text and "1 to 2 min left" in shown.text
    app.button(f"cancel-{job}").click().run()
    assert jobs.job(ws, job).cancel_asked and "Stopping" in texts(app)
    assert app.button(f"cancel-{job}").disabled


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_text(name, tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "ws", create=True)
    data, model = finished(ws, "dataset", name), finished(ws, "backbone", name)
    inputs = {"dataset": data.id, "backbone": model.id}
    finished(ws, "prompts", name, config={"role": "source"}, inputs=inputs, summary={"users": 5})
    add_job(ws, title=name, status="failed", error=f"It failed at {name}")
    app = open_page("overview", ws.root, monkeypatch)
    assert_plain(app)
    table = app.dataframe[0].value
    assert isinstance(table, pd.DataFrame) and table["name"].tolist() == [name]
