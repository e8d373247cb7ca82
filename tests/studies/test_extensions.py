"""Studies beyond the paper: both orders tuned, and backbones of three sizes."""

import os
from dataclasses import replace
from itertools import combinations

import pytest
from tiny import tiny_backbone_folder

from puma_engine.datasets.registry import data_root
from puma_engine.errors import BackboneError, ConfigError
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.store import Workspace
from puma_engine.studies import STUDIES, Options, collect, run_cells
from puma_engine.studies.builder import ALL_USERS, few_users
from puma_engine.studies.cells import ORDERS
from puma_engine.studies.claims import CLAIMS
from puma_engine.studies.extensions import SIZES
from puma_engine.studies.grids import CLICKS, RATINGS
from puma_engine.studies.reports import label_of
from puma_engine.studies.running import TRAINED
from puma_engine.zoo import SHIPPED, ZOO
from research.zoo.build import build_model
from research.zoo.recipe import Recipe

ONE_STEP = Recipe(steps=1, batch_size=4, validation_rows=2, validation_share=0.2, pairs=4)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """A source and a target that train in little time: how well they learn is not asked."""
    folder = tmp_path_factory.mktemp("models")
    families = {"source": "llama", "target": "qwen2"}
    return {role: str(tiny_backbone_folder(folder, family)) for role, family in families.items()}


def named(study, options):
    return {cell.name: cell for cell in STUDIES[study].cells(options)}


def short_cells(study, options):
    """The cells of a study with trainings of one epoch: how well they learn is not asked."""

    def short(cell):
        training = cell.settings.get("training", {}) | {"epochs": 1}
        return replace(cell, settings=cell.settings | {"training": training})

    return [
        short(cell) if cell.stage in TRAINED else cell for cell in STUDIES[study].cells(options)
    ]


@pytest.mark.parametrize(
    ("dataset", "task", "grids"),
    [("movietweetings", "rating", RATINGS), ("goodbooks-to-read", "click", CLICKS)],
)
def test_each_order_is_tuned_on_the_first_seed_with_its_own_template(dataset, task, grids):
    cells = named("templates", Options(datasets=(dataset,), seeds=(3, 4)))
    for name, suffix in ORDERS.items():
        order = name.replace("-", " ")
        for method, grid in (
            ("source", grids.prompts),
            ("retrained", grids.prompts),
            (ALL_USERS, grids.adapter),
            (few_users("kmeans-variance"), grids.small_adapter),
        ):
            best = cells[f"{dataset}/{method}, {order} best"]
            tries = [cells[name] for name in best.inputs["candidates"]]
            assert [candidate.settings.get("training", {}) for candidate in tries] == [
                settings.get("training", {}) for settings in grid
            ]
            assert {candidate.settings["seed"] for candidate in tries} == {3}
            for seed in (3, 4):
                trained = cells[f"{dataset}/{method}, {order} {seed}"]
                assert trained.settings_from == best.name and trained.settings["seed"] == seed
                if trained.stage == "fit_prompts":
                    assert trained.settings["template"] == f"{task}{suffix}"
                else:
                    assert trained.inputs["sources"] == f"{dataset}/source, {order} {seed}"


def test_fixed_orders_are_fitted_without_candidates():
    cells = named("templates", Options(datasets=("movietweetings",), seeds=(0,), fixed=True))
    assert not [cell for cell in cells.values() if cell.settings_from or cell.stage == "best"]
    # An order has two fits, a selection and two migrations.
    trained = [
        cell for cell in cells.values() if not cell.labels and cell.stage != "import_dataset"
    ]
    assert len(trained) == 5 * len(ORDERS)


def test_the_fixed_study_of_templates_compares_all_orders(tmp_path, tiny_models):
    ws = Workspace.open(tmp_path / "ws", create=True)
    options = Options(datasets=("movietweetings",), seeds=(0,), users=10, fixed=True, **tiny_models)
    cells = short_cells("templates", options)
    outcome = run_cells(ws, cells, device="cpu")
    assert not outcome.failed and not outcome.missing
    study_report = collect(ws, STUDIES["templates"], cells, outcome.runs)
    methods = {row["method"] for row in study_report["rows"]}
    assert {f"retrained, {order.replace('-', ' ')}" for order in ORDERS} <= methods
    against = {"method": "retrained, prompt first"}
    lines = [line for line in study_report["differences"] if line["against"] == against]
    assert {line["method"] for line in lines} >= methods - {against["method"]} - set(BASELINES)
    for order, suffix in ORDERS.items():
        name = f"movietweetings/{ALL_USERS}, {order.replace('-', ' ')} 0"
        run = ws.run(outcome.runs[name])
        assert run.config["template"] == f"rating{suffix}"


@pytest.mark.parametrize(("order", "suffix"), ORDERS.items())
def test_a_study_takes_the_order_of_the_template_that_is_asked_for(order, suffix):
    cells = named("table2", Options(datasets=("goodbooks-to-read",), seeds=(0,), order=order))
    fits = [cell for cell in cells.values() if cell.stage == "fit_prompts"]
    assert len(fits) > 10
    assert {cell.settings["template"] for cell in fits} == {f"click{suffix}"}


def test_an_unknown_order_is_refused():
    with pytest.raises(ConfigError, match="no order 'last'.*prompt-last"):
        Options(order="last")


def test_the_study_of_sizes_migrates_to_every_larger_backbone():
    assert [ZOO[name].width for name in SIZES] == sorted(ZOO[name].width for name in SIZES)
    assert len({ZOO[name].family for name in SIZES}) == 1
    cells = named("sizes", Options(datasets=("movietweetings",), seeds=(0,)))
    moved = [cell for cell in cells.values() if cell.stage == "migrate"]
    for cell in moved:
        (origin,) = [size for size in SIZES if cell.inputs["sources"].endswith(f" {size} 0")]
        assert SIZES.index(origin) < SIZES.index(cell.settings["target"])
        if "selection" in cell.inputs:
            # Users are chosen from the very prompts that are moved.
            assert cells[cell.inputs["selection"]].inputs["prompts"] == cell.inputs["sources"]
    assert len(moved) == 6 and sum("selection" in cell.inputs for cell in moved) == 3


def test_the_study_of_sizes_needs_the_large_backbone(tmp_path, monkeypatch):
    with_data(tmp_path, monkeypatch)
    with pytest.raises(BackboneError, match="'llama-large' has no weights .*research.zoo"):
        sizes_on_few(tmp_path)
    build_model("llama-large", recipe=ONE_STEP, device="cpu", users=12)
    ws, cells, outcome = sizes_on_few(tmp_path)
    assert not outcome.failed and not outcome.missing
    study_report = collect(ws, STUDIES["sizes"], cells, outcome.runs)
    assert {row["target"] for row in study_report["rows"]} == set(SIZES)
    labels = {label_of(line) for line in study_report["differences"]}
    pairs = [f"{origin} → {target}" for origin, target in combinations(SIZES, 2)]
    assert labels == {f"PUMA, {users}, {pair}" for pair in pairs for users in ("all users", "7 %")}
    assert all(line["against"] == {"method": "retrained"} for line in study_report["differences"])


def with_data(tmp_path, monkeypatch):
    """A data folder of the test with the shipped zoo."""
    copied, shipped = tmp_path / "data", data_root()
    (copied / "zoo").mkdir(parents=True)
    for place in ("goodbooks", "movietweetings", *(f"zoo/{name}" for name in SHIPPED)):
        os.symlink(shipped / place, copied / place)
    monkeypatch.setenv("PUMA_DATA", str(copied))


def sizes_on_few(tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    options = Options(datasets=("movietweetings",), seeds=(0,), users=2, quick=True)
    cells = short_cells("sizes", options)
    return ws, cells, run_cells(ws, cells, device="cpu")


def test_the_mixed_study_refines_equally_many_users_at_risk_and_at_random(tmp_path, tiny_models):
    ws = Workspace.open(tmp_path / "ws", create=True)
    options = Options(
        datasets=("movietweetings",), seeds=(0,), users=12, shares=(0.25,), **tiny_models
    )
    cells = short_cells("mixed", options)
    outcome = run_cells(ws, cells, device="cpu")
    assert not outcome.failed and not outcome.missing
    rows = collect(ws, STUDIES["mixed"], cells, outcome.runs)["rows"]
    kinds = {row["method"]: row["kind"] for row in rows}
    assert list(kinds.values()) == ["retrained", "migrated", "refined", "refined", "refined"]
    refined = [
        ws.run(outcome.runs[f"movietweetings/{name} 0"])
        for name in ("0.25 refined at risk", "0.25 refined at random", "all refined")
    ]
    assert [ws.run(run.inputs["selection"]).summary["selected"] for run in refined[:2]] == [3, 3]
    assert "selection" not in refined[2].inputs


def test_the_study_of_item_prompts_migrates_or_refits_them(tmp_path, tiny_models):
    ws = Workspace.open(tmp_path / "ws", create=True)
    options = Options(datasets=("movietweetings",), seeds=(0,), users=8, **tiny_models)
    cells = short_cells("items", options)
    outcome = run_cells(ws, cells, device="cpu")
    assert not outcome.failed and not outcome.missing
    scored = {cell.labels["method"]: cell for cell in cells if cell.labels}
    tokens = {
        method: ws.run(outcome.runs[cell.inputs["subject"]]).summary.get("item_tokens", 0)
        for method, cell in scored.items()
    }
    assert tokens == {method: int("item prompts" in method) for method in scored}
    kinds = [scored[method].labels["kind"] for method in scored]
    assert kinds == ["source", "retrained"] * 2 + ["migrated"] * 2 + ["refined"]
    for method in ("PUMA, all users", "PUMA, all users, item prompts too"):
        moved = ws.run(outcome.runs[scored[method].inputs["subject"]])
        start = ws.run(moved.inputs["source_0"])
        assert start.summary.get("item_tokens", 0) == tokens[method]


def test_bounded_and_unbounded_prompts_differ_in_the_bound_only(tmp_path, tiny_models):
    ws = Workspace.open(tmp_path / "ws", create=True)
    options = Options(
        datasets=("goodbooks-to-read",), seeds=(0,), users=12, source=tiny_models["source"]
    )
    cells = [
        cell
        for cell in short_cells("norms", options)
        if not any(family in cell.name for family in ("qwen2", "gemma3", "stablelm"))
    ]
    outcome = run_cells(ws, cells, device="cpu")
    assert not outcome.failed and not outcome.missing
    free, short = (
        ws.run(outcome.runs[f"goodbooks-to-read/{name} to phi3-small 0"])
        for name in ("free", "bounded")
    )
    assert free.inputs == short.inputs and free.config["training"] == short.config["training"]
    assert free.config["adapter"] | {"norm_limit": 1.0} == short.config["adapter"]
    (line,) = collect(ws, STUDIES["norms"], cells, outcome.runs)["differences"]
    assert line["method"] == "bounded" and line["target"] == "phi3-small"


def test_the_study_of_adapters_tries_each_setting_on_few_users_and_on_all(tmp_path, tiny_models):
    options = Options(datasets=("movietweetings",), seeds=(0,), users=8, **tiny_models)
    chosen = ("default", "averaged weights")
    cells = [
        cell
        for cell in short_cells("adapters", options)
        if cell.labels.get("kind") != "migrated" or cell.labels["method"] in chosen
    ]
    needed = {name for cell in cells for name in cell.dependencies}
    cells = [cell for cell in cells if cell.labels or cell.name in needed]
    ws = Workspace.open(tmp_path / "ws", create=True)
    outcome = run_cells(ws, cells, device="cpu")
    assert not outcome.failed and not outcome.missing
    report = collect(ws, STUDIES["adapters"], cells, outcome.runs)
    assert all(row["participation_ratio"] >= 1 for row in report["rows"])
    migrated = {(row["method"], row["trained_on"]) for row in report["rows"][2:]}
    assert migrated == {(method, who) for method in chosen for who in ("7%", "all users")}
    # Each is compared with the default on the same users.
    assert {(line["method"], line["trained_on"]) for line in report["differences"]} == {
        (method, who) for method, who in migrated if method != "default"
    }
    settings = {
        cell.labels["method"]: ws.run(ws.run(outcome.runs[cell.name]).inputs["prompts"]).config
        for cell in cells
        if cell.labels.get("trained_on") == "7%"
    }
    default, averaged = (settings[method]["training"] for method in chosen)
    assert averaged == default | {"ema_decay": 0.98} and "ema_decay" not in default


def test_studies_beyond_the_paper_are_no_evidence_for_its_claims():
    beyond = {"templates", "lengths", "sizes", "mixed", "adapters", "items", "norms"}
    assert beyond <= set(STUDIES) and not beyond & {claim.study for claim in CLAIMS}


def test_the_study_of_changes_refines_the_reused_prompts_for_what_reads_them_then():
    options = Options(datasets=("movietweetings",), seeds=(0,), source="before", target="after")
    cells = named("changes", options)
    rows = [cell for cell in cells.values() if cell.labels]
    methods = {(row.labels["change"], row.labels["method"]) for row in rows}
    assert len(methods) == len(rows)
    for change in ("source to target", "target to source", "source to other words"):
        reused, refined = (
            cells[f"movietweetings/score of {change}: {method} 0"]
            for method in ("reused as they are", "reused, refined")
        )
        training = cells[refined.inputs["subject"]]
        assert training.stage == "refine" and training.inputs["start"] == reused.inputs["subject"]
        reading = {name: training.settings.get(name) for name in ("backbone", "template")}
        assert reading == {name: reused.settings.get(name) for name in reading}
