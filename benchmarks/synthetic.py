"""Write a workspace with any number of synthetic users through the store's functions.

It has everything that pages read, in realistic sizes and shapes; values are random with a seed.
Backbones are those of the zoo.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from puma_engine import jobs, pipeline
from puma_engine.backbone.tasks import get_task
from puma_engine.datasets import Dataset, item_profiles, user_profiles
from puma_engine.defaults import fit_defaults, migration_defaults
from puma_engine.evaluation.metrics import metrics_of
from puma_engine.pipeline.evaluating import PREDICTIONS, put_user_metrics
from puma_engine.pipeline.importing_data import describe_dataset
from puma_engine.pipeline.stage import StageResult, run_stage
from puma_engine.prompts.tuning import head_tensors
from puma_engine.store import Run, Workspace

SPLITS = ("train",) * 5 + ("validation",) + ("test",) * 2
ITEMS = 20_000
JOBS = 40
# The backbone of each table of prompts, and the noise of each method's predictions.
TABLES = {"source": "llama-small", "migrated": "llama-medium", "retrained": "llama-medium"}
NOISE = {"source": 0.90, "migrated": 0.92, "retrained": 0.91, "user_item_bias": 0.88}


def build(root: Path, users: int, seed: int = 0) -> Workspace:
    """Make the workspace with `users` users, or return the existing one."""
    ws = Workspace.open(root, create=True)
    rng = np.random.default_rng(seed)
    data = _dataset(ws, users, rng)
    models = {name: pipeline.add_backbone(ws, name) for name in ("llama-small", "llama-medium")}
    prompts: dict[str, Run] = {}
    for role, model in TABLES.items():
        prompts[role] = _prompts(ws, data, models[model], role, prompts.get("source"), rng)
    evaluations = {name: _evaluation(ws, data, name, prompts.get(name), rng) for name in NOISE}
    pipeline.compare(
        ws, list(evaluations.values()), reference=evaluations["retrained"], name="synthetic"
    )
    pipeline.project(ws, prompts["source"], prompts["migrated"], method="pca")
    while len(jobs.jobs(ws)) < JOBS:
        made = jobs.enqueue(ws, "select", {"prompts": prompts["source"]}, title="Choose users")
        jobs.cancel(ws, made.id)
    return ws


def _stage(
    ws: Workspace, kind: str, name: str, inputs: dict[str, str], work: Any, **config: Any
) -> Run:
    return run_stage(
        ws,
        kind,
        name=name,
        config={"synthetic": True, **config},
        inputs=inputs,
        compute=lambda run_id, _folder, _clock: work(run_id),
    )


def _dataset(ws: Workspace, users: int, rng: np.random.Generator) -> Run:
    def work(run_id: str) -> StageResult:
        rows = len(SPLITS)
        names = np.sort(np.arange(users).astype(str))
        # One stride apart, so that no user has an item twice.
        start = rng.integers(0, ITEMS, users)[:, None]
        item = (start + 7 * np.arange(rows)) % ITEMS
        interactions = pd.DataFrame(
            {
                "user_id": pd.array(np.repeat(names, rows), dtype="str"),
                "item_id": pd.array(np.char.add("i", item.ravel().astype(str)), dtype="str"),
                "outcome": rng.integers(1, 6, users * rows).astype(np.float32),
                "split": pd.array(np.tile(SPLITS, users), dtype="str"),
            }
        )
        ids = [f"i{i}" for i in range(ITEMS)]
        items = pd.DataFrame(
            {"item_id": ids, "text": [f"Made-up title {i} by Nobody" for i in ids]}
        )
        items = items[items["item_id"].isin(set(interactions["item_id"].unique()))]
        dataset = Dataset("synthetic", "rating", interactions, items.reset_index(drop=True), {})
        ws.put_table(run_id, "interactions", dataset.interactions)
        ws.put_table(run_id, "items", dataset.items)
        ws.put_table(run_id, "user-profiles", user_profiles(dataset))
        ws.put_table(run_id, "item-profiles", item_profiles(dataset))
        return StageResult(summary=describe_dataset(dataset))

    return _stage(ws, "dataset", f"synthetic-{users}", {}, work, users=users)


def _prompts(
    ws: Workspace, data: Run, model: Run, role: str, source: Run | None, rng: np.random.Generator
) -> Run:
    users, width = data.summary["users"], model.summary["width"]
    inputs = {"dataset": data.id, "backbone": model.id}
    if role == "migrated":
        assert source is not None
        chosen = rng.random(users) < 0.1

        def select(run_id: str) -> StageResult:
            names = np.sort(np.arange(users).astype(str))
            ws.put_table(run_id, "selection", pd.DataFrame({"user_id": names, "selected": chosen}))
            summary = {"strategy": "random", "selected": int(chosen.sum()), "users": users}
            return StageResult(summary=summary)

        selection = _stage(
            ws, "selection", "random-10-percent", {"prompts": source.id}, select, strategy="random"
        )
        inputs |= {"source_0": source.id, "selection": selection.id}

    def work(run_id: str) -> StageResult:
        arrays = {"vectors": rng.standard_normal((users, 1, width), np.float32)}
        head = get_task("rating").head(3.0, torch.Generator().manual_seed(0))
        arrays |= {f"head.{name}": value for name, value in head_tensors(head).items()}
        ids = np.sort(np.arange(users).astype(str)).tolist()
        ws.put_tensors(run_id, "prompts", arrays, ids=ids)
        cost = {"users_trained": users // 10 if role == "migrated" else users}
        history = [{"epoch": i, "loss": 1 / (i + 1), "validation": 1.0} for i in range(4)]
        shape = {"users": users, "tokens": 1, "width": width, "history": history}
        cost |= {"training_seconds": 60.0, "epochs": 4, "steps": 400, "examples": 20 * users}
        return StageResult("cpu", cost, shape)

    kind = "migration" if role == "migrated" else "prompts"
    name = f"{role}-{model.name}-{users}"
    how: dict[str, Any] = {"role": role, "template": "rating-item-first"}
    how["training"] = fit_defaults("rating", users).to_dict()
    if role == "migrated":
        how["adapter"] = migration_defaults("rating", users)[1].to_dict()
    return _stage(ws, kind, name, inputs, work, **how)


def _evaluation(
    ws: Workspace, data: Run, method: str, prompts: Run | None, rng: np.random.Generator
) -> Run:
    def work(run_id: str) -> StageResult:
        rows = pipeline.load_dataset(ws, data).rows("test")[["user_id", "item_id", "outcome"]]
        y = rows["outcome"].to_numpy(np.float64)
        p = np.clip(y + rng.normal(0, NOISE[method], len(y)), 1, 5)
        ws.put_table(run_id, PREDICTIONS, rows.assign(prediction=p.astype(np.float32)))
        code, names = pd.factorize(rows["user_id"])
        n = np.bincount(code)
        user_metrics = {
            "user_id": names,
            "n": n,
            "rmse": np.sqrt(np.bincount(code, weights=(p - y) ** 2) / n),
            "mae": np.bincount(code, weights=np.abs(p - y)) / n,
            "accuracy": np.bincount(code, weights=np.rint(p) == y) / n,
            "ndcg": rng.uniform(0.8, 1, len(names)),
        }
        put_user_metrics(ws, run_id, pd.DataFrame(user_metrics))
        values = {name: float(np.mean(np.abs(p - y))) for name in metrics_of("rating")}
        ws.put_metrics(
            run_id, [{"split": "test", "metric": k, "value": v} for k, v in values.items()]
        )
        summary = {"task": "rating", "split": "test", "rows": len(rows), "metrics": values}
        return StageResult(summary=summary | {"users": data.summary["users"]})

    inputs = {"dataset": data.id} | ({"prompts": prompts.id} if prompts else {})
    return _stage(ws, "evaluation", f"eval-{method}", inputs, work, method=method, split="test")
