"""A workspace with evaluated methods and their comparison, without a language model.

Predictions are random; the engine computes everything else.
"""

import numpy as np
import pandas as pd

from puma_engine import pipeline
from puma_engine.pipeline import evaluating
from puma_engine.store import Workspace

HOSTILE = "<script>alert(1)</script> **bold** [x](javascript:y) $a$ <img src=x onerror=y>"
ROW = {"device": "cpu", "cost": {"users_trained": 60}}


def import_data(ws, folder, task="rating", users=60, rows=40, name="books"):
    """Import a table of random outcomes; user ids are numbers with leading zeros."""
    rng = np.random.default_rng(0)
    outcomes = (
        (lambda: int(rng.integers(1, 6))) if task == "rating" else (lambda: int(rng.integers(0, 2)))
    )
    frame = pd.DataFrame(
        [
            {
                "user_id": f"{user:03}",
                "item_id": f"i{item}",
                "outcome": outcomes(),
                "text": f"Book {item}",
            }
            for user in range(users)
            for item in rng.choice(60, size=rows, replace=False)
        ]
    )
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    return pipeline.import_dataset(ws, "table", path=path, task=task, name=name)


def run_of(ws, kind, name, config, inputs, seconds=1.0, summary=None, seed=0):
    run = ws.begin(kind, name=name, config=config, inputs=inputs, seed=seed)
    return ws.finish(run.id, seconds=seconds, summary=summary, **ROW)


def backbone(ws, name):
    return run_of(ws, "backbone", name, {"spec": name}, {}, seed=None)


def prompts(ws, data, model, role, seconds=1.0, name=None, seed=0):
    config = {"role": role, "template": "rating-item-first"}
    inputs = {"dataset": data.id, "backbone": model.id}
    summary = {"users": data.summary["users"], "tokens": 1, "width": 8}
    return run_of(
        ws, "prompts", name or f"{role}-{model.name}", config, inputs, seconds, summary, seed
    )


def select(ws, source, strategy="kmeans-variance", clusters=3):
    """A selection of every second user, with clusters."""
    users = [f"{user:03}" for user in range(60)]
    run = ws.begin(
        "selection",
        name=strategy,
        config={"strategy": strategy},
        inputs={"prompts": source.id},
        seed=0,
    )
    frame = pd.DataFrame({"user_id": users, "cluster": np.arange(60) % clusters})
    ws.put_table(run.id, "selection", frame.assign(selected=np.arange(60) % 2 == 0))
    summary = {
        "strategy": strategy,
        "selected": 30,
        "users": 60,
        "report": {"cluster_sizes": [20] * 3},
    }
    return ws.finish(run.id, seconds=0.5, summary=summary, **ROW)


def migrate(ws, sources, model, selection=None, role="migrated", seconds=1.0, name=None, seed=0):
    config = {"role": role, "template": "rating-item-first"}
    inputs = {"dataset": sources[0].inputs["dataset"], "backbone": model.id}
    inputs |= {f"source_{number}": run.id for number, run in enumerate(sources)}
    if selection is not None:
        inputs["selection"] = selection.id
    summary = {"users": 60, "tokens": 1, "width": 8}
    return run_of(
        ws, "migration", name or f"{role}-{model.name}", config, inputs, seconds, summary, seed
    )


def evaluate(ws, prompts_run, noise, hurt=0, seed=0, *, ordered=True, **config):
    """Evaluate random predictions; the first `hurt` users get far worse ones.

    ordered: False predicts the mean rating 3 with little noise, which orders no items. config: further
    settings of the evaluation.
    """
    data = pipeline.load_dataset(ws, prompts_run.inputs["dataset"])
    run = ws.begin(
        "evaluation",
        name=f"eval-{prompts_run.name}"[:150],
        config={"method": prompts_run.config["role"], "split": "test", **config},
        inputs={"prompts": prompts_run.id, "dataset": prompts_run.inputs["dataset"]},
    )
    rows = data.rows("test")
    rng = np.random.default_rng(seed)
    predictions = rows["outcome"].to_numpy(float) + noise * rng.normal(0, 1, len(rows))
    if not ordered:
        predictions = 3 + 0.01 * rng.normal(0, 1, len(rows))
    predictions += np.where(rows["user_id"].isin(data.users[:hurt]), 3.0, 0.0)
    if data.task == "click":
        predictions = 1 / (1 + np.exp(-2 * (predictions - 0.5)))
    summary = evaluating.store_scores(ws, run.id, data, "test", predictions)
    return ws.finish(run.id, seconds=1.0, device="cpu", summary=summary)


def workspace(folder, task="rating", hurt=3, hostile=False):
    """A workspace with two backbones, five methods and their comparison."""
    ws = Workspace.open(folder / "workspace", create=True)
    data = import_data(ws, folder, task)
    old, new = backbone(ws, "old"), backbone(ws, HOSTILE if hostile else "new")
    source = prompts(ws, data, old, "source", 50.0)
    on_few_users = migrate(ws, [source], new, select(ws, source), seconds=2.0, name="few")
    on_all_users = migrate(ws, [source], new, seconds=8.0, name="everybody")
    retrained = prompts(ws, data, new, "retrained", 40.0)
    control = migrate(ws, [source], new, role="shuffled", seconds=8.0)
    noises = (
        (source, 0.80),
        (on_few_users, 0.81),
        (on_all_users, 0.80),
        (retrained, 0.80),
        (control, 1.2),
    )
    evaluated = [
        evaluate(ws, run, noise, hurt if run is on_few_users else 0, seed)
        for seed, (run, noise) in enumerate(noises)
    ]
    name = HOSTILE if hostile else "all of them"
    compared = pipeline.compare(ws, evaluated, baselines=True, name=name)
    return {
        "ws": ws,
        "data": data,
        "runs": dict(zip(("source", "few", "all", "again", "control"), evaluated, strict=True)),
        "comparison": compared,
    }
