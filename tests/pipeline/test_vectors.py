"""User vectors from other models, such as a recommender, as the source of migrations."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from command_line import puma
from small_runs import SMALL, write_ratings
from tiny import tiny_backbone_folder

from dashboard.engine import plans, user_maps
from puma_engine import Workbench, pipeline
from puma_engine.errors import ConfigError, DataError, NotFoundError, SelectionError
from puma_engine.evaluation.baselines import MatrixFactorisation
from puma_engine.files import save_tensors
from puma_engine.migration.adapter import apply_adapter, load_adapter
from puma_engine.pipeline.erasing import erase_user
from puma_engine.pipeline.evaluating import method_label
from puma_engine.pipeline.method_survey import evaluated_methods
from puma_engine.requests import PlanRequest

TRAINING = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-2}
SETTINGS = {"training": TRAINING, "adapter": SMALL}
USERS = [f"{user:03}" for user in range(24)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with a data set, prompts on one model, a second model, and tables of vectors."""
    folder = tmp_path_factory.mktemp("vectors")
    bench = Workbench(folder / "ws", create=True)
    bench.import_dataset("table", path=write_ratings(folder / "r.csv"), task="rating", name="data")
    bench.fit_prompts("data", tiny_backbone_folder(folder, "llama"), training=TRAINING, name="llm")
    bench.add_backbone(tiny_backbone_folder(folder, "qwen2", width=48), name="target")
    rng = np.random.default_rng(1)
    users = pd.DataFrame(rng.normal(3, [1, 100, 1e-3, 5, 2], size=(24, 5)))
    users.insert(0, "user_id", USERS)
    users.sample(frac=1, random_state=0).to_csv(folder / "users.csv", index=False)
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(25)]})
    items["vector"] = list(rng.normal(size=(25, 7)))
    items.to_parquet(folder / "items.parquet")
    return bench, folder


@pytest.fixture(scope="module")
def vectors(world):
    bench, folder = world
    return bench.import_prompts(
        "data", None, folder / "users.csv", items=folder / "items.parquet", name="vectors"
    )


WRITERS = {
    "t.tsv": lambda path, frame: frame.to_csv(path, sep="\t", index=False),
    "wide.parquet": lambda path, frame: frame.to_parquet(path),
    "t.npz": lambda path, frame: np.savez(
        path, vectors=frame.iloc[:, 1:].to_numpy(), user_ids=frame["user_id"].to_numpy(dtype=str)
    ),
    "t.npy": lambda path, frame: np.save(path, frame.iloc[:, 1:].to_numpy()),
    "t.safetensors": lambda path, frame: save_tensors(
        path, {"embeddings": frame.iloc[:, 1:].to_numpy()}
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_vectors_by_user(world, vectors, tmp_path, name):
    bench, folder = world
    frame = pd.read_csv(folder / "users.csv", dtype={"user_id": str})
    frame.columns = map(str, frame.columns)
    WRITERS[name](tmp_path / name, frame)
    (tmp_path / "ids.txt").write_text("\n".join(frame["user_id"]))
    ids = tmp_path / "ids.txt" if name in ("t.npy", "t.safetensors") else None
    run = bench.import_prompts("data", None, tmp_path / name, users=ids)
    expected = bench.prompts(vectors).take(USERS)
    np.testing.assert_allclose(bench.prompts(run).take(USERS), expected, rtol=1e-6)
    assert run.inputs == {"dataset": pipeline.find(bench.workspace, "data").id}


def test_vectors_migrate_to_a_model_independently_of_their_scale(world, vectors, tmp_path):
    bench, folder = world
    run = bench.migrate(vectors, "target", **SETTINGS)
    assert run.config["template"] == "rating-prompt-last"
    table = bench.prompts(run)
    assert table.width == 48 and sorted(table.user_ids) == USERS
    assert table.items is not None and table.items.other.shape == (1, 48)
    evaluation = bench.evaluate(run)
    assert method_label(bench.workspace, evaluation).startswith("Migrated from vectors, all users")
    rows = evaluated_methods(bench.workspace, run.inputs["dataset"], "test").set_index("run")
    assert rows.loc[run.id, "path"] == ("vectors", "target")

    # The stored adapter maps raw vectors, whatever their units.
    source = bench.prompts(vectors)
    mapped = apply_adapter(load_adapter(*bench.adapter(run)), source.take(USERS))
    np.testing.assert_allclose(mapped, table.take(USERS), atol=1e-5)
    frame = pd.read_csv(folder / "users.csv", dtype={"user_id": str})
    frame.iloc[:, 1:] = 64 * frame.iloc[:, 1:]
    frame.to_csv(tmp_path / "other-units.csv", index=False)
    other = bench.import_prompts(
        "data", None, tmp_path / "other-units.csv", items=folder / "items.parquet"
    )
    assert other.id != vectors.id
    again = bench.prompts(bench.migrate(other, "target", **SETTINGS))
    np.testing.assert_allclose(again.take(USERS), table.take(USERS), atol=1e-4)
    chosen = [
        bench.select(run, strategy="facility", budget=6, name=f"of {run.id}")
        for run in (vectors, other)
    ]
    first, second = (bench.selected_users(run) for run in chosen)
    np.testing.assert_array_equal(first, second)


def test_every_interface_makes_the_same_runs(world, vectors, monkeypatch):
    bench, folder = world
    tables = ["--dataset", "data", "--items", folder / "items.parquet"]
    assert (
        puma(bench.workspace, "prompts", "import", folder / "users.csv", *tables)["id"]
        == vectors.id
    )
    factors = bench.vectors_from_baseline("data", factors=4)
    assert (
        puma(bench.workspace, "prompts", "from-baseline", "data", "--factors", 4)["id"]
        == factors.id
    )
    expected = bench.migrate([factors, "llm"], "target", **SETTINGS).id
    options = ["--epochs=2", "--batch-size=32", "--learning-rate=1e-2", "--hidden=16"]
    printed = puma(bench.workspace, "aggregate", factors.id, "llm", "--target", "target", *options)
    assert printed["id"] == expected
    monkeypatch.setenv("PUMA_WORKSPACE", str(bench.workspace.root))
    target = bench.run("target").id
    plan = plans.Plan("single", (vectors.id,), (target,), "all", None)
    assert plans.problems(plan) == []
    refused = plans.problems(dataclasses.replace(plan, from_predictions=4))
    assert refused == ["vectors holds vectors, and no model that could predict; use records."]
    asking = plans.problems(dataclasses.replace(plan, strategy="kmeans-loss", budget=5))
    assert asking == [
        "The strategy kmeans-loss needs the source's model, and vectors has none; choose another."
    ]
    assert plans.problems(dataclasses.replace(plan, strategy="facility", budget=5)) == []
    request = plan.request()
    assert request == PlanRequest(sources=(vectors.id,), targets=(target,))


def test_vectors_and_prompts_are_aggregated(world, vectors):
    bench, _ = world
    for sources in (["llm", "vectors"], ["vectors", "llm"]):
        run = bench.migrate(sources, "target", **SETTINGS)
        _, meta = bench.adapter(run)
        assert meta["d_in"] == 32 + 5
        assert run.config["template"] == bench.run("llm").config["template"]
        tensors, _ = bench.adapter(run)
        start = 0 if sources[0] == "vectors" else 32
        joined = bench.prompts(vectors).take(USERS)[:, 0]
        part = slice(start, start + 5)
        scaled = joined * tensors["gain"][0, part] + tensors["shift"][0, part]
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-4)
        assert bench.evaluate(run).summary["metrics"]["rmse"] > 0


def test_a_map_and_its_preview_of_a_selection_standardise_vectors(world, vectors, monkeypatch):
    bench, _ = world
    monkeypatch.setenv("PUMA_WORKSPACE", str(bench.workspace.root))
    migrated = bench.migrate(vectors, "target", **SETTINGS)
    projection = bench.project(vectors, migrated, method="pca", clusters=4)
    space, users, _ = bench.workspace.get_tensors(projection.id, "space")
    numbers = bench.prompts(vectors).take(users)[:, 0]
    standard = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    # Principal components keep the distances between users.
    expected, distances = (
        np.linalg.norm(points[:, None] - points[None], axis=2)
        for points in (standard, space["space"])
    )
    np.testing.assert_allclose(distances, expected, atol=1e-3)
    chosen = bench.selected_users(bench.select(vectors, strategy="facility", budget=6))
    preview = user_maps.preview(str(bench.workspace.root), projection.id, "facility", 6)
    table = user_maps.users(str(bench.workspace.root), projection.id)
    assert set(table["user_id"][preview]) == set(chosen)


def test_a_plan_from_vectors_compares_methods_of_the_target_model(world, vectors):
    bench, _ = world
    bench.fit_prompts(
        "data", "target", role="retrained", training=TRAINING, prompt={"item_tokens": 1}
    )
    done = bench.run_plan(vectors, "target", **SETTINGS)
    assert done.kind == "comparison"
    methods = bench.workspace.get_table(done.id, "methods")
    assert sorted(methods["kind"]) == ["migrated", "retrained"]


def test_baseline_vectors_are_the_factorisation_of_train_rows(world):
    bench, _ = world
    run = bench.vectors_from_baseline("data", factors=4, seed=3)
    dataset = bench.dataset("data")
    model = MatrixFactorisation(4, 3).fit(dataset.rows("train"), dataset.rows("validation"))
    table = bench.prompts(run)
    rows = dataset.rows("test")
    users = table.take(rows["user_id"].to_numpy())[:, 0].astype(np.float64)
    items = table.items.take(rows["item_id"].to_numpy())[:, 0].astype(np.float64)
    known = np.isin(rows["item_id"].to_numpy(dtype=str), table.items.item_ids)
    predicted = model.mean + users[:, 0] + items[:, 0] + (users[:, 1:] * items[:, 1:]).sum(axis=1)
    predicted = np.clip(predicted, 1, 5)
    np.testing.assert_allclose(predicted[known], model.predict(rows)[known], atol=1e-5)
    assert run.seed == 3 and run.config["factors"] == 4 and run.summary["factors"] == 4
    assert bench.vectors_from_baseline("data", factors=4, users_only=True).summary["width"] == 5
    assert bench.vectors_from_baseline("data", factors=4).id != run.id


def test_users_and_items_without_a_vector_are_counted_and_get_the_mean(world, tmp_path):
    bench, folder = world
    frame = pd.read_csv(folder / "users.csv", dtype={"user_id": str})
    frame[frame["user_id"] > "004"].to_csv(tmp_path / "some.csv", index=False)
    run = bench.import_prompts(
        "data", None, tmp_path / "some.csv", items=folder / "items.parquet", name="some"
    )
    assert run.summary["users"] == 19 and run.summary["users_missing"] == 5
    assert run.summary["items_missing"] == 30 - 25
    migrated = bench.migrate(run, "target", **SETTINGS)
    assert migrated.summary["users_filled"] == 5 and migrated.cost["users_trained"] == 19
    table = bench.prompts(migrated)
    filled = table.take(USERS[:5])
    np.testing.assert_array_equal(filled, np.broadcast_to(filled[:1], filled.shape))
    assert bench.evaluate(migrated).summary["users"] == 24
    dropped = bench.migrate(run, "target", missing="drop", **SETTINGS)
    assert sorted(bench.prompts(dropped).user_ids) == USERS[5:]


def test_vectors_of_few_users_give_a_warning(world, tmp_path, caplog):
    bench, folder = world
    frame = pd.read_csv(folder / "users.csv", dtype={"user_id": str})
    padded = frame["user_id"].where(frame["user_id"] < "011", "0" + frame["user_id"])
    frame.assign(user_id=padded).to_csv(tmp_path / "padded.csv", index=False)
    run = bench.import_prompts("data", None, tmp_path / "padded.csv", name="padded")
    assert run.summary["users_missing"] == 13
    assert [
        record.getMessage() for record in caplog.records if record.name.endswith("vectors")
    ] == [
        "13 of 24 users have no vector, and migrations give them the mean one; check that their ids "
        "are written as in the data set."
    ]


def test_a_user_is_erased_from_vectors(world, tmp_path):
    _, folder = world
    ws = Workbench(tmp_path / "ws", create=True)
    data = ws.import_dataset("table", path=folder / "r.csv", task="rating")
    imported = ws.import_prompts(data, None, folder / "users.csv", name="imported")
    factors = ws.vectors_from_baseline(data, factors=4, name="factors")
    erased = erase_user(ws.workspace, "007")
    # Imported vectors were trained elsewhere; the factors of items were trained in this workspace on the user.
    assert erased.trained_on == [f"factors ({factors.id})"]
    for run in (imported, factors):
        assert "007" not in ws.prompts(run.id).user_ids
        assert ws.run(run.id).summary["users"] == 23


@pytest.mark.parametrize(
    "stage", ["evaluate", "refine", "export_prompts", "predict_title", "chain"]
)
def test_stages_that_need_a_model_refuse_vectors(world, vectors, tmp_path, stage):
    bench, _ = world
    calls = {
        "evaluate": lambda: bench.evaluate(vectors),
        "refine": lambda: bench.refine(vectors),
        "export_prompts": lambda: bench.export_prompts(vectors, tmp_path / "x.safetensors"),
        "predict_title": lambda: bench.predict_title(vectors, "001", "Book"),
        "chain": lambda: bench.chain(vectors, ["target"], from_predictions=4),
    }
    errors = ConfigError, NotFoundError
    with pytest.raises(errors, match=r"no language model reads|have none|is of kind prompts"):
        calls[stage]()
    assert not list(tmp_path.iterdir())


def test_a_strategy_that_needs_the_model_is_refused(world, vectors):
    bench, _ = world
    with pytest.raises(SelectionError, match="'kmeans-loss' needs the source's language model"):
        bench.select(vectors, strategy="kmeans-loss", budget=6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("user_id,a,b\nx1,1,2\nx2,2,1\n", "No user of .* is in the data set"),
        ("user_id,a,b\n001,1,2\n002,2,one\n", "column 'b' of .* is not a number"),
        ("user_id,a,b\n001,1,2\n002,2,\n", "column 'b' of .* is not a number|NaN"),
        ("user_id,a\n001,1\n002,2\n", "have 1 numbers each"),
        ("user_id,a,b\n001,1,2\n002,1,2\n", "tell no users apart"),
        ("user_id,a,b\n001,1,2\n001,2,1\n", "'001' occurs twice"),
        ("name,a,b\n001,1,2\n", "user_id"),
        ("user_id,a,b\n001,1,inf\n002,1,2\n", "NaN or infinite"),
    ],
)
def test_bad_tables_are_refused_before_a_run_is_finished(world, tmp_path, table, message):
    bench, _ = world
    before = len(bench.workspace.runs(status="finished"))
    (tmp_path / "bad.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        bench.import_prompts("data", None, tmp_path / "bad.csv")
    assert len(bench.workspace.runs(status="finished")) == before


def test_prompts_and_vectors_are_refused_in_place_of_each_other(world, tmp_path):
    bench, folder = world
    bench.export_prompts("llm", tmp_path / "llm.safetensors")
    with pytest.raises(ConfigError, match="fitted on .*; name that model with --backbone"):
        bench.import_prompts("data", None, tmp_path / "llm.safetensors")
    with pytest.raises(ConfigError, match="no head, role or template"):
        bench.import_prompts("data", None, folder / "users.csv", template="rating")
    with pytest.raises(ConfigError, match="beside vectors of users, without --backbone"):
        bench.import_prompts("data", "target", folder / "users.csv", items=folder / "items.parquet")
    with pytest.raises(ConfigError, match="--items, which is missing"):
        bench.import_prompts("data", None, folder / "users.csv", item_ids=folder / "items.parquet")
    with pytest.raises(DataError, match="No item of"):
        frame = pd.DataFrame({"item_id": ["x", "y"], "a": [1.0, 2.0], "b": [2.0, 1.0]})
        frame.to_csv(tmp_path / "items.csv", index=False)
        bench.import_prompts("data", None, folder / "users.csv", items=tmp_path / "items.csv")
    with pytest.raises(ConfigError, match="1 or more, not 0"):
        bench.vectors_from_baseline("data", factors=0)


def test_factors_of_a_recommender_beat_the_shuffled_control(tmp_path):
    """On two groups of users with opposite tastes, factors tell the groups apart."""
    rows = [
        (f"{user:03}", f"i{item}", 5 if user % 2 == item % 2 else 1, f"Book {item}")
        for user in range(40)
        for item in np.random.default_rng(user).choice(24, size=14, replace=False)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "outcome", "text"])
    frame.to_csv(tmp_path / "r.csv", index=False)
    bench = Workbench(tmp_path / "ws", create=True)
    data = bench.import_dataset("table", path=tmp_path / "r.csv", task="rating")
    factors = bench.vectors_from_baseline(data, factors=4)
    training = {"epochs": 6, "batch_size": 32, "learning_rate": 3e-3}
    settings = {"training": training, "adapter": {"hidden": 64}}
    real, control = (
        bench.evaluate(
            bench.migrate(factors, "llama-small", shuffled=shuffled, **settings)
        ).summary["metrics"]["rmse"]
        for shuffled in (False, True)
    )
    assert real < 0.8 * control, (real, control)
