"""Studies: declared cells, run once each, reported with failures and missing parts."""

import gc
import json
import os
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_edits import edited
from typer.testing import CliRunner

from puma_engine import pipeline
from puma_engine.backbone import Reader
from puma_engine.cli import app
from puma_engine.errors import ConfigError, StudyError
from puma_engine.evaluation import metrics
from puma_engine.store import Workspace
from puma_engine.studies import STUDIES, Cell, Options, Study, collect, get_study, run_cells
from puma_engine.studies.reports import figures, markdown
from puma_engine.studies.results import differences_over_trainings, mark_significant
from puma_engine.training.device import gc_paused

SHORT = {"training": {"epochs": 1, "batch_size": 64}}
BACKBONE = "llama-small"


def tiny_cells(_options):
    prompts = {"backbone": BACKBONE, "seed": 0}
    on = {"dataset": "data"}
    labels = {"dataset": "films", "seed": 0}
    slow = {"training": {"epochs": 1, "batch_size": 64, "learning_rate": 1e-6}}
    return [
        Cell("scored again", "evaluate", {}, {"subject": "again"}, labels=labels | {"method": "again", "kind": "retrained"}),
        Cell("data", "import_dataset", {"source": "movietweetings", "users": 8}),
        Cell("one", "fit_prompts", prompts | slow, on),
        Cell("two", "fit_prompts", prompts | {"training": SHORT["training"] | {"learning_rate": 0.02}}, on),
        Cell("best", "best", {}, {"candidates": ["one", "two"]}),
        Cell("again", "fit_prompts", prompts | {"role": "retrained"}, on, settings_from="best"),
        Cell("bad", "select", {"strategy": "nothing", "budget": 2}, {"prompts": "one"}),
        Cell("after bad", "migrate", {"target": BACKBONE}, {"sources": "one", "selection": "bad"}),
        Cell("scored", "evaluate", {}, {"subject": "one"}, labels=labels | {"method": "one", "kind": "source"}),
        Cell("factors", "vectors_from_baseline", {"factors": 2}, on),
        Cell("mean", "evaluate", {"subject": "global_mean"}, on, labels={"dataset": "films", "method": "global_mean", "kind": "baseline"}),
    ]  # fmt: skip


TINY = Study("tiny", "a small one", tiny_cells, {"method": "again"})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    ws = Workspace.open(tmp_path_factory.mktemp("study"), create=True)
    outcome = run_cells(ws, tiny_cells(Options()), device="cpu")
    return ws, outcome, collect(ws, TINY, tiny_cells(Options()), outcome.runs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_the_latest_training_has_a_kv_cache(tmp_path, precision):
    ws = Workspace.open(tmp_path / "ws", create=True)
    settings = {"backbone": BACKBONE} | SHORT
    cells = [Cell("data", "import_dataset", {"source": "movietweetings", "users": 8})] + [
        Cell(f"fitted {seed}", "fit_prompts", settings | {"seed": seed}, {"dataset": "data"})
        for seed in range(3)
    ]
    with gc_paused():
        before = readers()
        outcome = run_cells(ws, cells, device="cpu", precision=precision)
        (latest,) = [reader for reader in readers() if reader not in before]
    assert len(outcome.runs) == len(cells) and latest.cached_tokens


def readers():
    return [item for item in gc.get_objects() if type(item) is Reader]


@pytest.mark.parametrize("name", STUDIES)
def test_cells_of_every_study_have_unique_names_and_existing_dependencies(name):
    cells = STUDIES[name].cells(Options(seeds=(3, 4)))
    names = {cell.name for cell in cells}
    assert len(names) == len(cells)
    assert {expected for cell in cells for expected in cell.dependencies} <= names
    labels = [cell.labels for cell in cells if cell.labels]
    assert len({json.dumps(row, sort_keys=True) for row in labels}) == len(labels)
    assert any(
        all(row.get(key) == value for key, value in STUDIES[name].reference.items())
        for row in labels
    )


def test_a_failed_cell_stops_only_its_dependents(done):
    _, outcome, _ = done
    assert set(outcome.failed) == {"bad"} and "nothing" in outcome.failed["bad"]
    assert outcome.missing == ["after bad"]
    assert set(outcome.runs) == {cell.name for cell in tiny_cells(None)} - {"bad", "after bad"}


def test_settings_of_the_best_candidate_are_used(done):
    ws, outcome, _ = done
    values = {
        name: ws.run(outcome.runs[name]).summary["best_validation"] for name in ("one", "two")
    }
    assert outcome.runs["best"] == outcome.runs[min(values, key=values.get)]
    best, again = (ws.run(outcome.runs[name]).config for name in ("best", "again"))
    assert again["training"] == best["training"] and again["role"] == "retrained"


def test_existing_runs_are_not_repeated(done):
    ws, outcome, _ = done
    before = len(ws.runs())
    cells = [cell for cell in tiny_cells(None) if cell.name not in ("bad", "after bad")]
    again = run_cells(ws, cells, device="cpu")
    assert again.runs == outcome.runs and len(ws.runs()) == before


def test_a_precision_applies_to_every_training_and_makes_other_runs(done):
    ws, outcome, _ = done
    cells = [
        cell for cell in tiny_cells(None) if cell.name in ("data", "one", "two", "best", "again")
    ]
    coarse = run_cells(ws, cells, device="cpu", precision="bf16")
    for name in ("one", "again"):
        run = ws.run(coarse.runs[name])
        assert run.config["training"]["precision"] == run.summary["precision"] == "bf16"
        assert run.id != outcome.runs[name]
    # Rounding does not grow in a training that hardly moves.
    still, exact = (
        ws.run(runs["one"]).summary["best_validation"] for runs in (coarse.runs, outcome.runs)
    )
    assert still == pytest.approx(exact, abs=0.005) and still != exact


def test_no_cell_starts_after_the_time_limit(done):
    ws, _, _ = done
    outcome = run_cells(ws, tiny_cells(None), minutes=0, device="cpu")
    assert not outcome.runs and len(outcome.missing) == len(tiny_cells(None))


def test_rows_and_differences_equal_those_of_the_predictions(done):
    ws, outcome, report = done
    rows = {row["method"]: row for row in report["rows"]}
    assert set(rows) == {"again", "one", "global_mean"}
    frames = [pipeline.read_predictions(ws, outcome.runs[c]) for c in ("scored", "scored again")]
    truth = frames[0]["outcome"].to_numpy(np.float64)
    first, second = (frame["prediction"].to_numpy(np.float64) for frame in frames)
    assert rows["one"]["rmse"] == pytest.approx(np.sqrt(np.mean((first - truth) ** 2)), abs=1e-5)
    expected = metrics.bootstrap_difference(
        "rating", "rmse", truth, [first], [second], frames[0]["user_id"].to_numpy()
    )
    line = next(difference for difference in report["differences"] if difference["method"] == "one")
    assert line["value"] == pytest.approx(expected.value) and line["seeds"] == 1
    assert (line["low"], line["high"]) == (expected.low, expected.high)
    users = frames[0]["user_id"].to_numpy()
    expected = metrics.bootstrap_difference(
        "rating", "pair_accuracy", truth, [first], [second], users
    )
    (line,) = (row for row in report["ranking_differences"] if row["method"] == "one")
    assert (line["metric"], line["users"]) == ("pair_accuracy", expected.n_users)
    assert [line[end] for end in ("value", "low", "high")] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    assert rows["one"]["pair_accuracy"] - rows["again"]["pair_accuracy"] == pytest.approx(
        expected.value, abs=1e-3
    )


def test_shares_kept_are_over_the_users_of_the_predictions(done):
    ws, outcome, _ = done
    labels = {"dataset": "films", "method": "item_mean", "kind": "baseline"}
    mean = Cell("items", "evaluate", {"subject": "item_mean"}, {"dataset": "data"}, labels=labels)
    cells = [cell for cell in tiny_cells(None) if cell.name == "data"]
    runs = outcome.runs | run_cells(ws, [*cells, mean], device="cpu").runs
    report = collect(ws, TINY, [*tiny_cells(None), mean], runs)
    rows = {row["method"]: row for row in report["rows"]}
    lines = [line for line in report["shares_kept"] if line["method"] == "one"]
    assert [line["metric"] for line in lines] == ["rmse", "pair_accuracy"]
    for line in lines:
        sign = 1 if line["metric"] == "rmse" else -1
        item, own, best = (
            sign * rows[name][line["metric"]] for name in ("item_mean", "one", "again")
        )
        assert line["reference"] == "item_mean" and line["over"] == "users"
        assert line["gain"] == pytest.approx(item - best)
        sure = line["gain_low"] > 0
        expected = (item - own) / (item - best) if sure else None
        assert line["kept"] == (pytest.approx(expected) if sure else None)


def test_rows_of_an_older_evaluation_get_the_metrics_that_it_does_not_store(done):
    ws, outcome, report = done
    run = ws.run(outcome.runs["scored"])
    older = {name: value for name, value in run.summary["metrics"].items() if name == "rmse"}
    with edited(ws) as db:
        summary = json.dumps(run.summary | {"metrics": older})
        db.execute("UPDATE runs SET summary = ? WHERE id = ?", [summary, run.id])
    try:
        again = collect(ws, TINY, tiny_cells(Options()), outcome.runs)
    finally:
        with edited(ws) as db:
            db.execute(
                "UPDATE runs SET summary = ? WHERE id = ?", [json.dumps(run.summary), run.id]
            )
    for before, after in zip(report["rows"], again["rows"], strict=True):
        assert after == pytest.approx(before, abs=1e-5)


def test_ranking_differences_over_trainings_follow_from_the_rows():
    scores = {"one": [0.60, 0.61, 0.63], "again": [0.58, 0.60, 0.60]}
    rows = [
        {"dataset": "films", "method": method, "seed": seed, "rmse": 0.8, "pair_accuracy": value}
        | {"kind": "source", "users": 9, "rows": 90}
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    ranking = {"rating": "pair_accuracy"}
    (line,) = differences_over_trainings(TINY, rows, ranking)
    assert line["metric"] == "pair_accuracy" and line["over"] == "trainings"
    assert line["value"] == pytest.approx(0.02) and line["low"] < 0.02 < line["high"]
    without = [{name: row[name] for name in row if name != "pair_accuracy"} for row in rows]
    assert differences_over_trainings(TINY, without, ranking) == []


def test_several_seeds_are_averaged_for_the_same_users(done):
    ws, outcome, _ = done
    cells = [cell for cell in tiny_cells(None) if cell.labels]
    more = [replace(c, name=c.name + "'", labels=c.labels | {"seed": 1}) for c in cells[:2]]
    runs = outcome.runs | {cell.name + "'": outcome.runs[cell.name] for cell in cells[:2]}
    once = collect(ws, TINY, cells, runs)["differences"]
    twice = collect(ws, TINY, [*cells, *more], runs)["differences"]
    single, double = (next(d for d in lines if d["method"] == "one") for lines in (once, twice))
    # The same rows twice over change neither the value nor the resampled users.
    assert double["seeds"] == 2 and double["users"] == single["users"]
    assert double["value"] == pytest.approx(single["value"])
    assert double["low"] == pytest.approx(single["low"], abs=1e-6)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=8))
def test_holm_rejects_the_smallest_p_values_until_one_is_too_large(values):
    lines = [{"dataset": "a", "p": p} for p in values] + [{"dataset": "b", "p": 0.049}]
    mark_significant(lines, ())
    real = [line["real"] for line in sorted(lines[:-1], key=lambda line: line["p"])]
    steps = [p * (len(values) - rank) < 0.05 for rank, p in enumerate(sorted(values))]
    assert real == [all(steps[: rank + 1]) for rank in range(len(steps))]
    # Another data set is a family of its own.
    assert lines[-1]["real"]


def test_two_processes_give_the_same_scores(done, tmp_path):
    ws, outcome, _ = done
    other = Workspace.open(tmp_path / "two", create=True)
    cells = [c for c in tiny_cells(None) if c.name in ("data", "one", "two", "scored", "best")]
    repeated = run_cells(other, cells, processes=2, device="cpu")
    assert not repeated.failed
    scores = [
        w.run(o.runs["scored"]).summary["metrics"] for w, o in ((ws, outcome), (other, repeated))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    # What the user sets holds for all processes.
    assert other.run(repeated.runs["one"]).cost["threads"] == int(os.environ["OMP_NUM_THREADS"])


def test_workers_end_with_the_process_that_started_them(tmp_path):
    script = (
        "from puma_engine.store import Workspace\n"
        "from puma_engine.studies import Cell, run_cells\n"
        "if __name__ == '__main__':\n"
        f"    ws = Workspace.open({str(tmp_path / 'ws')!r}, create=True)\n"
        "    long = {'backbone': 'llama-small', 'training': {'epochs': 500, 'batch_size': 16}}\n"
        "    cells = [Cell('data', 'import_dataset', {'source': 'movietweetings', 'users': 8}),\n"
        "             Cell('one', 'fit_prompts', long, {'dataset': 'data'})]\n"
        "    run_cells(ws, cells, processes=2, device='cpu')\n"
    )
    (tmp_path / "main.py").write_text(script)
    parent = psutil.Popen([sys.executable, str(tmp_path / "main.py")])

    def training():
        database = tmp_path / "ws" / "puma.db"
        ws = Workspace.open(tmp_path / "ws") if database.is_file() else None
        return ws is not None and any(r.kind == "prompts" for r in ws.runs(status="running"))

    until(training)
    workers = parent.children(recursive=True)
    assert workers
    parent.kill()
    parent.wait()
    until(lambda: not any(w.is_running() and w.status() != "zombie" for w in workers))


def until(happened):
    end = time.monotonic() + 90
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_tables_and_figures_need_only_the_report(done):
    *_, report = done
    labels = {"study": "tiny", "command": "puma study tiny", "date": "2026-01-01"}
    whole = json.loads(json.dumps(labels | report | {"missing": ["x"], "failed": {}}))
    text = markdown(whole)
    assert "1 cells were not run" in text and "| global mean | – |" in text
    line = next(difference for difference in report["differences"] if difference["method"] == "one")
    assert f"{line['value']:+.4f}" in text
    (picture,) = figures(whole).values()
    assert picture.startswith("<svg") and "films: what differs from again" in picture


def test_cells_of_one_name_and_wrong_options_are_refused(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    cell = Cell("same", "import_dataset", {"source": "movietweetings", "users": 5})
    with pytest.raises(StudyError, match="same name"):
        run_cells(ws, [cell, cell])
    with pytest.raises(ConfigError, match=r"share of all users in \(0, 1\], not 7"):
        Options(shares=(7.0,))
    with pytest.raises(ConfigError, match="table2"):
        get_study("table9")


def test_the_command_lists_and_refuses(tmp_path):
    run = CliRunner()
    listed = run.invoke(app, ["--json", "study"])
    assert [study["study"] for study in json.loads(listed.stdout)] == list(STUDIES)
    lost = run.invoke(app, ["study", "table2", "--render", "--out", str(tmp_path)])
    assert lost.exit_code == 1 and "puma study table2" in lost.stderr
    (tmp_path / "table2.json").write_text("{")
    damaged = run.invoke(app, ["study", "table2", "--render", "--out", str(tmp_path)])
    assert damaged.exit_code == 1 and "cannot be read" in damaged.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("table2 --render --seed 3 --users 10", "which --seed, --users would not change"),
        ("table2 --render --device cpu --out x", "which --device would not change"),
        ("--share 0.1", "which --share would not change"),
        ("table2 --default-settings --settings-from report.json", "nothing is tuned"),
    ],
)
def test_options_that_would_change_nothing_are_refused(tmp_path, options, said):
    command = ["--workspace", str(tmp_path / "ws"), "study", *options.split()]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and said in " ".join(refused.stderr.split())
    assert not (tmp_path / "ws").exists()
