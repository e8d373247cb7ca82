"""Migrations without records: the adapter learns from the sources' predictions of random pairs."""

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.backbone import Context, Reader
from puma_engine.backbone.templates import get_template
from puma_engine.config import TrainingConfig
from puma_engine.defaults import held_out_pairs
from puma_engine.errors import BackboneError, Cancelled, ConfigError, MigrationError
from puma_engine.pipeline.comparing import method_cost
from puma_engine.pipeline.evaluating import method_label
from puma_engine.pipeline.source_predictions import ARTIFACT
from puma_engine.store import Workspace

PAIRS = 8
TRAINING = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2, "checkpoint_seconds": 0.0}
SETTINGS = {"training": TRAINING, "adapter": SMALL}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with source prompts on one model, a second model, and a folder."""
    folder = tmp_path_factory.mktemp("predictions")
    return prepared(folder), folder


def prepared(folder, name="workspace"):
    ws = Workspace.open(folder / name, create=True)
    if not (folder / "models").exists():
        write_ratings(folder / "ratings.csv")
        tiny_backbone_folder(folder / "models", "llama")
        tiny_backbone_folder(folder / "models", "qwen2", width=48)
    data = pipeline.import_dataset(
        ws, "table", path=folder / "ratings.csv", task="rating", name="ratings"
    )
    pipeline.fit_prompts(
        ws,
        data,
        folder / "models" / "llama",
        template="rating-item-first",
        training=TRAINING,
        name="source",
    )
    pipeline.add_backbone(ws, folder / "models" / "qwen2", name="target")
    return ws


def other_records(folder, name):
    """A file with the same items: other outcomes, or one row an item by a user without a prompt."""
    frame = pd.read_csv(folder / "ratings.csv", dtype={"user_id": str})
    if name == "permuted":
        frame["outcome"] = np.random.default_rng(1).permutation(frame["outcome"].to_numpy())
    else:
        frame = frame.drop_duplicates("item_id").assign(user_id="nobody", outcome=3)
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("records", ["permuted", "catalogue"])
@pytest.mark.parametrize(
    "selection", [{}, {"strategy": "facility", "budget": 6}], ids=["all", "few"]
)
def test_outcomes_of_records_do_not_change_the_result(world, records, selection):
    ws, folder = world
    data = pipeline.import_dataset(
        ws, "table", path=other_records(folder, records), task="rating", name=records
    )
    first, second = (
        pipeline.migrate(
            ws, "source", "target", dataset=dataset, from_predictions=PAIRS, **selection, **SETTINGS
        )
        for dataset in ("ratings", data)
    )
    assert first.id != second.id and first.inputs["dataset"] != second.inputs["dataset"]
    assert first.summary["history"] == second.summary["history"]
    tables = [pipeline.load_prompts(ws, run) for run in (first, second)]
    np.testing.assert_array_equal(tables[0].vectors, tables[1].vectors)
    for name, values in tables[0].head.items():
        np.testing.assert_array_equal(values, tables[1].head[name])
    assert first.cost["users_trained"] == selection.get("budget", 24)
    assert first.cost["examples"] == 2 * PAIRS * first.cost["users_trained"]


def test_the_pairs_are_distinct_items_with_the_predictions_of_the_source(world):
    ws, _ = world
    run = pipeline.migrate(ws, "source", "target", from_predictions=PAIRS, **SETTINGS)
    frame = ws.get_table(run.id, ARTIFACT)
    assert not frame.duplicated(["user_id", "item_id"]).any()
    counts = frame.groupby(["user_id", "split"]).size().unstack()
    assert (counts["train"] == PAIRS).all() and len(counts) == 24
    assert (counts["validation"] == held_out_pairs(PAIRS)).all()
    texts = pipeline.load_dataset(ws, "ratings").items.set_index("item_id")["text"]
    row = frame.iloc[17]
    expected = pipeline.predict_title(ws, "source", row["user_id"], texts[row["item_id"]])
    assert row["outcome"] == pytest.approx(expected.value, abs=1e-4)
    answers = [row[f"probability_of_{answer}"] for answer in expected.answers]
    np.testing.assert_allclose(answers, list(expected.answers.values()), atol=1e-4)


def test_the_predictions_count_as_cost(world):
    ws, _ = world
    run = pipeline.migrate(ws, "source", "target", from_predictions=PAIRS, **SETTINGS)
    frame = ws.get_table(run.id, ARTIFACT)
    assert run.cost["predicted_pairs"] == len(frame)
    assert run.cost["predicted_items"] == frame["item_id"].nunique()
    source = pipeline.find(ws, "source")
    model = pipeline.load_backbone(ws, source.inputs["backbone"])
    texts = pipeline.load_dataset(ws, "ratings").items.set_index("item_id")["text"]
    template = get_template(source.config["template"])
    reader = Reader(model, template, [Context(texts[item]) for item in frame["item_id"]])
    rows = torch.arange(len(frame))
    reader.prepare(rows)
    # Positions of the prompt and the text behind it for each pair, and of each text before it once.
    positions = len(frame) + int(reader.suffix_lengths(rows).sum()) + reader.cached_tokens
    assert run.cost["prediction_flops"] == 2 * model.layer_weights * positions
    plain = pipeline.migrate(ws, "source", "target", **SETTINGS)
    assert run.cost["flops"] > run.cost["prediction_flops"] > 0
    assert "prediction_flops" not in plain.cost
    predicted = run.cost["prediction_item_seconds"] + run.cost["prediction_pair_seconds"]
    assert run.seconds > run.cost["training_seconds"] + predicted
    cost = method_cost(ws, pipeline.evaluate(ws, run))
    assert cost["flops"] == run.cost["flops"] and cost["seconds"] == run.seconds


def test_ordinary_migrations_keep_their_ids(world):
    ws, _ = world
    plain = pipeline.migrate(ws, "source", "target", **SETTINGS)
    off = pipeline.migrate(ws, "source", "target", from_predictions=0, **SETTINGS)
    learned = pipeline.migrate(ws, "source", "target", from_predictions=PAIRS, **SETTINGS)
    assert plain.id == off.id and "from_predictions" not in plain.config
    assert learned.config == plain.config | {"from_predictions": PAIRS}
    assert learned.id != plain.id and learned.name == f"{plain.name}-from-predictions"
    more = pipeline.migrate(ws, "source", "target", from_predictions=PAIRS + 1, **SETTINGS)
    assert more.id not in (plain.id, learned.id)
    evaluated = pipeline.evaluate(ws, learned)
    assert method_label(ws, evaluated) == "Migrated, all users, from predictions"


@pytest.mark.parametrize("calls", [1, 5, 10])
def test_a_cancelled_run_resumes_to_the_same_prompts(world, calls):
    """Runs cancelled while predicting, in the first epoch, and in the second."""
    uninterrupted_ws, folder = world
    ws = prepared(folder, f"cancelled-{calls}")
    uninterrupted = pipeline.migrate(
        uninterrupted_ws, "source", "target", from_predictions=PAIRS, **SETTINGS
    )
    cancel_checks = iter(range(100))
    with pytest.raises(Cancelled):
        pipeline.migrate(
            ws,
            "source",
            "target",
            from_predictions=PAIRS,
            should_cancel=lambda: next(cancel_checks) >= calls,
            **SETTINGS,
        )
    (interrupted,) = ws.runs(kind="migration")
    assert interrupted.status == "interrupted" and interrupted.id == uninterrupted.id
    reports = []
    resumed = pipeline.migrate(
        ws, "source", "target", from_predictions=PAIRS, progress=reports.append, **SETTINGS
    )
    predicted = any(report.stage.startswith("predicting") for report in reports)
    assert predicted == (calls == 1)
    np.testing.assert_array_equal(
        pipeline.load_prompts(ws, resumed).vectors,
        pipeline.load_prompts(uninterrupted_ws, uninterrupted).vectors,
    )
    assert resumed.cost["prediction_flops"] == uninterrupted.cost["prediction_flops"]


def test_on_the_source_model_predictions_approach_those_of_the_source(world):
    ws, _ = world
    source = pipeline.find(ws, "source")
    training = TrainingConfig(epochs=12, batch_size=16, learning_rate=3e-3, patience=0)
    adapter = {"hidden": 64, "depth": 2, "dropout": 0.0, "noise": 0.0}
    run = pipeline.migrate(
        ws,
        source,
        source.inputs["backbone"],
        from_predictions=24,
        training=training,
        adapter=adapter,
    )
    errors = [epoch["validation"] for epoch in run.summary["history"]]
    losses = [epoch["train_loss"] for epoch in run.summary["history"]]
    assert losses[-1] < losses[0]
    assert min(errors) < 0.5 * errors[0], errors
    predictions, source_predictions, other_predictions = (
        pipeline.read_predictions(ws, pipeline.evaluate(ws, prompts))["prediction"]
        for prompts in (run, source, pipeline.migrate(ws, source, "target", **SETTINGS))
    )
    assert np.corrcoef(predictions, source_predictions)[0, 1] > 0.9, np.corrcoef(
        predictions, source_predictions
    )
    assert (
        np.abs(predictions - source_predictions).mean()
        < np.abs(other_predictions - source_predictions).mean()
    )


def test_the_target_of_several_sources_is_the_mean_of_their_predictions(world):
    ws, folder = world
    data, model = pipeline.find(ws, "ratings"), folder / "models" / "qwen2"
    pipeline.fit_prompts(ws, data, model, training=TRAINING | {"seed": 2}, name="second")
    shared = SETTINGS | {"from_predictions": PAIRS}
    runs = [
        pipeline.migrate(ws, sources, "target", **shared)
        for sources in ("source", "second", ["source", "second"])
    ]
    one, two, both = (ws.get_table(run.id, ARTIFACT) for run in runs)
    pd.testing.assert_frame_equal(one[["user_id", "item_id"]], both[["user_id", "item_id"]])
    columns = [name for name in both if name not in ("user_id", "item_id", "split")]
    assert len(columns) == 6
    np.testing.assert_allclose(
        both[columns].to_numpy(), (one[columns] + two[columns]).to_numpy() / 2, atol=1e-6
    )
    assert runs[2].cost["predicted_pairs"] == 2 * len(both)


def test_a_chain_learns_from_the_predictions_of_each_hop(world):
    ws, folder = world
    first, second = pipeline.chain(
        ws, "source", ["target", folder / "models" / "llama"], from_predictions=PAIRS, **SETTINGS
    )
    assert second.inputs["source_0"] == first.id
    frame = ws.get_table(second.id, ARTIFACT)
    texts = pipeline.load_dataset(ws, "ratings").items.set_index("item_id")["text"]
    row = frame.iloc[5]
    expected = pipeline.predict_title(ws, first, row["user_id"], texts[row["item_id"]])
    assert row["outcome"] == pytest.approx(expected.value, abs=1e-4)


def test_the_shuffled_control_has_the_same_targets_and_prompts_of_other_users(world):
    ws, _ = world
    shared = SETTINGS | {"from_predictions": PAIRS}
    run, control = (
        pipeline.migrate(ws, "source", "target", shuffled=shuffled, **shared)
        for shuffled in (False, True)
    )
    pd.testing.assert_frame_equal(*(ws.get_table(r.id, ARTIFACT) for r in (run, control)))
    assert control.config["role"] == "shuffled"
    vectors = [pipeline.load_prompts(ws, r).vectors for r in (run, control)]
    assert not np.allclose(*vectors)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"strategy": "kmeans-variance", "budget": 6},
            ConfigError,
            "chooses users by their records",
        ),
        ({"strategy": "activity", "budget": 6}, ConfigError, "choose one of all, random"),
        (
            {"from_predictions": 28},
            MigrationError,
            "need 32 items, but the data set 'ratings' has 30",
        ),
        ({"from_predictions": -1}, ConfigError, "or 0 to learn from records, not -1"),
    ],
)
def test_strategies_that_need_records_and_too_few_items_are_refused(
    world, settings, error, message
):
    ws, _ = world
    before = len(ws.runs())
    with pytest.raises(error, match=message):
        pipeline.migrate(ws, "source", "target", **({"from_predictions": PAIRS} | settings))
    assert len(ws.runs()) == before


def test_a_selection_by_records_is_refused(world):
    ws, _ = world
    chosen = pipeline.select(ws, "source", strategy="variance", budget=5)
    with pytest.raises(ConfigError, match="'variance' chooses users by their records"):
        pipeline.migrate(ws, "source", "target", selection=chosen, from_predictions=PAIRS)


def test_a_missing_source_model_is_refused_before_anything_runs(tmp_path):
    ws = prepared(tmp_path)
    (tmp_path / "models" / "llama").rename(tmp_path / "gone")
    with pytest.raises(BackboneError, match="reads the source model; without it, migrate from rec"):
        pipeline.migrate(ws, "source", "target", from_predictions=PAIRS, **SETTINGS)
    assert not ws.runs(kind="migration")
    assert pipeline.migrate(ws, "source", "target", **SETTINGS).status == "finished"


def test_item_prompts_are_mapped_too(world):
    ws, folder = world
    source = pipeline.fit_prompts(
        ws,
        "ratings",
        folder / "models" / "llama",
        training=TRAINING,
        prompt={"item_tokens": 1},
        name="with-items",
    )
    run = pipeline.migrate(ws, source, "target", from_predictions=PAIRS, **SETTINGS)
    items = pipeline.load_prompts(ws, run).items
    assert items.vectors.shape[1:] == (1, 48)
    assert set(items.item_ids) == set(pipeline.load_prompts(ws, source).items.item_ids)


def test_clicks_are_learned_as_probabilities_and_histories_refused(tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    frame = pd.read_csv(write_ratings(tmp_path / "ratings.csv"), dtype={"user_id": str})
    frame = frame.assign(outcome=(frame["outcome"] > 3).astype(int))
    frame["history"] = frame["item_id"].where(frame.index % 2 == 0, "").shift(1, fill_value="")
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    pipeline.import_dataset(
        ws, "table", path=tmp_path / "clicks.csv", task="click", name="clicks",
        history_separator="|",
    )  # fmt: skip
    models = [tiny_backbone_folder(tmp_path / "models", name) for name in ("llama", "qwen2")]
    source = pipeline.fit_prompts(ws, "clicks", models[0], training=TRAINING)
    run = pipeline.migrate(ws, source, models[1], from_predictions=PAIRS, **SETTINGS)
    table = ws.get_table(run.id, ARTIFACT)
    assert list(table) == ["user_id", "item_id", "split", "outcome"]
    assert table["outcome"].between(0, 1, inclusive="neither").all()
    assert pipeline.evaluate(ws, run).summary["metrics"]["log_loss"] > 0
    with pytest.raises(ConfigError, match="'click-history' shows users' histories, which are rec"):
        pipeline.migrate(
            ws, source, models[1], from_predictions=PAIRS, template="click-history", **SETTINGS
        )
