"""Summaries over many runs, from handmade tables and from real runs."""

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.errors import DataError
from puma_engine.evaluation import metrics, summaries
from puma_engine.pipeline.method_survey import COLUMNS
from puma_engine.store import Workspace

QUICK = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2}
SMALL = {"hidden": 8}


def methods(*rows):
    plain = {"kind": "migrated", "sources": 1, "users_trained": 10, "seed": 0, "seconds": 1.0}
    frame = []
    for number, row in enumerate(rows):
        numbered = {"evaluation": f"e{number}", "run": f"r{number}", "created": f"{number}"}
        frame.append(plain | numbered | {"value": 1.0, "low": 0.9, "high": 1.1} | row)
    return pd.DataFrame(frame, columns=COLUMNS)


def moved(origin, backbone, **more):
    inputs = {"origin": origin, "backbone": backbone, "hops": 1, "path": (origin, backbone)}
    return inputs | {"source_runs": (f"of-{origin}",), "strategy": "all"} | more


def again(backbone, **more):
    return {"kind": "retrained", "backbone": backbone, "origin": backbone, "hops": 0, **more}


def test_model_pairs_use_the_largest_then_latest_run_and_need_a_retraining():
    table = summaries.model_pairs(
        methods(
            moved("a", "b", value=0.7),
            moved("a", "b", value=0.8, users_trained=20),
            moved("a", "b", value=0.6, users_trained=20),
            moved("a", "c"),
            moved("a", "b", hops=2, users_trained=99),
            moved("a + d", "b", sources=2, users_trained=99),
            {**moved("a", "b"), "kind": "shuffled", "users_trained": 99},
            again("b", value=0.9),
        )
    )
    assert table[["origin", "target"]].values.tolist() == [["a", "b"]]
    row = table.iloc[0]
    assert (row["evaluation"], row["retrained"]) == ("e2", "e7")
    assert row["retrained_value"] / row["value"] == pytest.approx(1.5)


def test_a_migration_is_paired_with_retraining_in_its_own_template():
    first, last = {"template": "rating"}, {"template": "rating-prompt-last"}
    table = summaries.model_pairs(
        methods(
            moved("a", "b", **last),
            moved("a", "b", users_trained=20, template="rating-item-first"),
            again("b", users_trained=99, **first),
            again("b", users_trained=99, item_tokens=2, **last) | {"value": 0.1},
            again("b", value=0.9, **last),
        ).fillna({"item_tokens": 0})
    )
    assert table[["evaluation", "retrained"]].values.tolist() == [["e0", "e4"]]


def test_a_step_of_a_chain_is_scored_on_its_own_model():
    table = summaries.chains(
        methods(
            {**again("a", kind="source"), "run": "s"},
            moved("a", "b", run="one", steps=("s", "one")),
            moved("a", "c", run="two", hops=2, path=("a", "b", "c"), steps=("s", "one", "two")),
            {**again("d", kind="reused"), "run": "s", "users_trained": 99},
        )
    )
    assert table["evaluation"].tolist() == ["e0", "e1", "e2"]


def test_chains_are_complete_and_begin_with_their_source():
    table = summaries.chains(
        methods(
            {**again("a", kind="source"), "run": "s"},
            moved("a", "b", run="one", steps=("s", "one")),
            moved("a", "c", run="two", hops=2, path=("a", "b", "c"), steps=("s", "one", "two")),
            moved(
                "a",
                "d",
                run="three",
                hops=3,
                path=("a", "b", "c", "d"),
                steps=("s", "one", "two", "three"),
            ),
        )
    )
    assert table["chain"].unique().tolist() == ["a → b → c → d"]
    assert table["step"].tolist() == [0, 1, 2, 3]
    assert table["backbone"].tolist() == ["a", "b", "c", "d"]
    assert summaries.chains(methods(moved("a", "b", steps=("s", "r0")))).empty


def test_a_curve_over_users_has_one_template():
    some = {"strategy": "kmeans", "template": "rating"}
    other = {"strategy": "kmeans", "template": "rating-prompt-last"}
    table = summaries.budgets(
        methods(
            moved("a", "b", budget=5, **some),
            moved("a", "b", budget=9, **some),
            moved("a", "b", budget=7, **other),
            moved("a", "b", budget=24, template="rating"),
            moved("a", "b", budget=24, template="rating-prompt-last"),
        ).fillna({"item_tokens": 0})
    )
    assert table["evaluation"].tolist() == ["e0", "e1", "e3"]


def test_aggregations_are_listed_with_the_single_migrations_of_their_sources():
    joined = {"sources": 2, "source_runs": ("of-a", "of-b"), "path": ("a + b", "t")}
    table = summaries.aggregations(
        methods(
            moved("a", "t", value=0.9),
            moved("b", "t", value=0.95),
            moved("z", "t"),
            moved("a + b", "t", value=0.85, **joined),
            moved("a", "u"),
        )
    )
    assert set(table["origin"]) == {"a", "b", "a + b"}
    assert table["target"].unique().tolist() == ["t"] and table["sources"].iloc[-1] == 2
    assert summaries.aggregations(methods(moved("a", "t"))).empty
    assert summaries.aggregations(methods(moved("a + b", "t", **joined))).empty


def test_strategies_are_those_of_the_pair_with_most_strategies():
    table = summaries.strategies(
        methods(
            moved("a", "b", strategy="random", budget=10, seed=0),
            moved("a", "b", strategy="random", budget=10, seed=1),
            moved("a", "b", strategy="kmeans", budget=10),
            moved("a", "c", strategy="random", budget=10),
        )
    )
    assert table["strategy"].tolist() == ["kmeans", "random", "random"]
    assert set(table["target"]) == {"b"}
    assert summaries.strategies(methods(again("b"))).empty


def test_budgets_are_those_of_the_strategy_that_was_tried_with_most_of_them():
    table = summaries.budgets(
        methods(
            moved("a", "b", strategy="random", budget=10),
            moved("a", "b", strategy="kmeans", budget=30, seed=1),
            moved("a", "b", strategy="kmeans", budget=10),
            moved("a", "b", budget=100),
            moved("a", "c", strategy="kmeans", budget=20),
        )
    )
    assert table["budget"].tolist() == [10, 30, 100]
    assert table["strategy"].tolist() == ["kmeans", "kmeans", "all"]
    assert set(table["target"]) == {"b"}
    assert summaries.budgets(methods(moved("a", "b", budget=100))).empty


@pytest.mark.parametrize("metric", ["rmse", "mae", "uauc", "log_loss"])
def test_gain_is_the_ratio_of_pooled_metrics_with_the_bootstraps_interval(metric):
    rng = np.random.default_rng(1)
    task = "rating" if metric in ("rmse", "mae") else "click"
    user = np.repeat(np.arange(150), 20)
    if task == "rating":
        y = rng.integers(1, 6, len(user)).astype(float)
        first, second = (y + rng.normal(0, sd, len(user)) for sd in (1.0, 0.9))
    else:
        y = rng.integers(0, 2, len(user)).astype(float)
        first, second = (
            np.clip(0.5 + slope * (y - 0.5) + rng.normal(0, 0.3, len(user)), 0.01, 0.99)
            for slope in (0.1, 0.2)
        )
    frames = [metrics.per_user(task, y, p, user) for p in (first, second)]
    shuffled = frames[1].sample(frac=1, random_state=0)
    gain = summaries.gain(frames[0], shuffled, metric)
    first_value, second_value = (metrics.pooled(task, y, p, user)[metric] for p in (first, second))
    higher = metrics.METRICS[metric].higher_is_better
    assert gain.value == pytest.approx(
        second_value / first_value if higher else first_value / second_value
    )
    gains = []
    for _ in range(400):
        chosen = rng.integers(0, 150, 150)
        parts = [frame.iloc[chosen].assign(user_id=np.arange(150)) for frame in frames]
        gains.append(summaries.gain(parts[0], parts[1], metric).value)
    low, high = np.quantile(gains, [0.025, 0.975])
    width = high - low
    assert abs(gain.low - low) < 0.2 * width and abs(gain.high - high) < 0.2 * width


def test_gain_refuses_metrics_that_are_no_mean_over_users():
    frame = pd.DataFrame({"user_id": ["a", "b"], "n": [1, 1], "rmse": [1.0, 2.0]})
    with pytest.raises(DataError, match="ndcg"):
        summaries.gain(frame, frame, "ndcg")
    with pytest.raises(DataError, match="fewer than two"):
        summaries.gain(frame, frame.assign(user_id=["c", "d"]), "rmse")


def test_evaluated_methods_of_real_runs_have_their_origin(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"{u:02}", "item_id": f"i{i}", "outcome": 1 + (u + i) % 5, "text": f"Book {i}"}
        for u in range(12)
        for i in rng.choice(20, 10, replace=False)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "r.csv", index=False)
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = pipeline.import_dataset(ws, "table", path=tmp_path / "r.csv", task="rating")
    a = tiny_backbone_folder(tmp_path / "models", "llama")
    b = tiny_backbone_folder(tmp_path / "models", "qwen2", width=48)
    source = pipeline.fit_prompts(ws, data, a, training=QUICK)
    settings = {"training": QUICK, "adapter": SMALL}
    hop_one, hop_two = pipeline.chain(ws, source, [b, a], strategy="random", budget=4, **settings)
    both = pipeline.migrate(ws, [source, hop_one], b, **settings)
    retrained = pipeline.fit_prompts(ws, data, b, role="retrained", training=QUICK)
    for prompts in (source, hop_one, hop_two, both, retrained):
        pipeline.evaluate(ws, prompts)
    pipeline.evaluate(ws, "item_mean", dataset=data)
    table = pipeline.evaluated_methods(ws, data.id, "test").set_index("run")
    assert len(table) == 6 and pipeline.evaluated_methods(ws, data.id, "train").empty
    assert table.loc[hop_two.id, "path"] == ("llama", "qwen2", "llama")
    assert table.loc[hop_two.id, "hops"] == 2 and table.loc[source.id, "hops"] == 0
    assert table.loc[hop_one.id, ["strategy", "budget"]].tolist() == ["random", 4]
    assert table.loc[both.id, "origin"] == "llama + qwen2" and table.loc[both.id, "sources"] == 2
    methods = table.reset_index()
    pairs = summaries.model_pairs(methods)
    assert pairs[["origin", "target"]].values.tolist() == [["llama", "qwen2"]]
    gain = pipeline.gain_between(ws, *pairs.loc[0, ["retrained", "evaluation"]], "rmse")
    assert gain.value == pytest.approx(pairs["retrained_value"][0] / pairs["value"][0], abs=1e-5)
    assert summaries.chains(methods)["step"].tolist() == [0, 1, 2]
    assert set(summaries.aggregations(methods)["origin"]) == {"llama", "llama + qwen2"}


def test_the_frontier_holds_the_pareto_optimal_methods():
    rows = pd.DataFrame({"cost": [1.0, 2, 3, 4, 2], "value": [0.9, 0.8, 0.85, 0.7, 0.95]})
    edge = summaries.frontier(rows, "rmse")
    assert edge["value"].tolist() == [0.9, 0.8, 0.7]
    assert summaries.frontier(rows, "auc")["value"].tolist() == [0.9, 0.95]


def test_costs_are_arithmetic_where_all_trained_methods_have_it_and_seconds_else():
    methods = pd.DataFrame(
        {
            "kind": ["migrated", "retrained", "source", "baseline"],
            "is_baseline": [False, True, False, False],
            "seconds": [9.0, 3.0, 0.0, 1.0],
            "flops": pd.Series([1e9, 4e9, 0.0, None], dtype=object),
        }
    )
    rows, arithmetic = summaries.with_costs(methods)
    assert arithmetic and dict(zip(rows["kind"], rows["cost"], strict=True)) == {
        "migrated": 25.0,
        "retrained": 100.0,
    }
    for kind in ("migrated", "retrained"):
        unknown = methods.assign(flops=methods["flops"].where(methods["kind"] != kind, None))
        rows, arithmetic = summaries.with_costs(unknown)
        assert not arithmetic and rows["cost"].tolist() == methods["seconds"].tolist()
