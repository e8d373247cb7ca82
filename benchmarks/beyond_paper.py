"""What the demo's users tell beyond the paper: foreseen regressions, closed-form maps, new users.

    puma demo
    python benchmarks/beyond_paper.py --workspace workspace --out build/beyond-paper.json

Reads the runs of a `puma demo` of 600 users; two small trainings a part are done anew. Settings
for new users are chosen on other new users than those reported. One seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import provenance
from sklearn.metrics import roc_auc_score

from puma_engine import Workbench
from puma_engine.backbone import FrozenBackbone
from puma_engine.config import TrainingConfig
from puma_engine.datasets import Dataset, load_shipped
from puma_engine.defaults import DEMO_TRAINING
from puma_engine.evaluation.metrics import bootstrap_difference
from puma_engine.evaluation.prediction import predict
from puma_engine.evaluation.user_effects import USER_MARGIN
from puma_engine.migration.adapter import apply_adapter, load_adapter
from puma_engine.migration.linear_maps import map_prompts
from puma_engine.pipeline.demo import DATASET, SOURCE, TARGET
from puma_engine.prompts.new_users import fit_new_users, mean_prompts
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import fit_prompts
from puma_engine.store import Run

TEMPLATE = "rating-item-first"
DRAWS = 1000
NEW_GRID = [(1e-2, 30, 0.3), (2e-2, 30, 1.0), (3e-2, 60, 1.0)]
TUNED_ON, REPORTED = 80, 200


class Beyond:
    """The demo's runs and both backbones."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        tables = {run.config["role"]: run for run in bench.runs("prompts")}
        self.source, self.retrained = tables["source"], tables["retrained"]
        moved = [run for run in bench.runs("migration") if run.config["role"] == "migrated"]
        self.all = next(run for run in moved if "selection" not in run.inputs)
        self.few = next(run for run in moved if "selection" in run.inputs)
        self.data = bench.dataset(self.source.inputs["dataset"])
        self.small = FrozenBackbone.load(SOURCE, device="cpu", precision="fp32")
        self.large = FrozenBackbone.load(TARGET, device="cpu", precision="fp32")

    def rmse(self, table: PromptTable, data: Dataset) -> float:
        y = data.rows("test")["outcome"].to_numpy(float)
        return float(np.sqrt(np.mean((self.predicted(table, data) - y) ** 2)))

    def predicted(self, table: PromptTable, data: Dataset) -> np.ndarray:
        return predict(self.large, table, data, "test", template=TEMPLATE)

    def losses(self, run: Run) -> pd.Series:
        """Mean squared error on test rows by user."""
        frame = self.bench.predictions(self.bench.evaluate(run, device="cpu"))
        return ((frame["prediction"] - frame["outcome"]) ** 2).groupby(frame["user_id"]).mean()

    def foreseen(self, moved: Run) -> dict[str, Any]:
        """How well a risk known before retraining ranks who loses against it on test rows."""
        risk = self.bench.workspace.get_table(
            self.bench.predict_regressions(moved, share=0.2, device="cpu").id, "selection"
        ).set_index("user_id")["risk"]
        if "selection" in moved.inputs:
            risk = risk.drop(self.bench.selected_users(moved.inputs["selection"]))
        base = self.losses(self.retrained)
        lost = (self.losses(moved) - base).reindex(risk.index).dropna()
        risk = risk.reindex(lost.index)
        worse = (lost > USER_MARGIN * base.mean()).to_numpy()
        generator = np.random.default_rng(0)
        draws = generator.integers(0, len(lost), (DRAWS, len(lost)))
        drawn = [roc_auc_score(worse[rows], risk.to_numpy()[rows]) for rows in draws]
        fifth = risk.nlargest(len(risk) // 5).index
        return {
            "users": len(lost),
            "regressing": float(worse.mean()),
            "auc": roc_auc_score(worse, risk),
            "auc_interval": np.quantile(drawn, [0.025, 0.975]).tolist(),
            "mean_loss_of_all": float(lost.mean()),
            "mean_loss_of_riskiest_fifth": float(lost[fifth].mean()),
        }

    def closed_form(self) -> dict[str, float]:
        """Test RMSE of maps found on users fitted on the target: the few of the demo, and all."""
        source = self.bench.prompts(self.source)
        users = self.bench.selected_users(self.few.inputs["selection"])
        fitted = fit_prompts(
            self.large,
            self.data.for_users(users),
            template=TEMPLATE,
            training=dataclasses.replace(DEMO_TRAINING["retrained"], batch_size=64),
        )
        found = {}
        for pairs in (fitted.table, self.bench.prompts(self.retrained)):
            for method in ("ridge", "procrustes"):
                mapped = map_prompts(source, pairs, method=method)  # type: ignore[arg-type]
                found[f"{method}, {len(pairs.user_ids)} pairs"] = self.rmse(mapped, self.data)
        return found

    def new_users(self) -> dict[str, Any]:
        """Users whom the demo lacks, by 3 and 10 ratings each, in three ways."""
        more = load_shipped(DATASET, users=len(self.data.users) + 400)
        known = self.bench.prompts(self.source).user_ids
        pool = np.random.default_rng(0).permutation(np.setdiff1d(more.users, known))
        tuned, reported = pool[:TUNED_ON], pool[TUNED_ON : TUNED_ON + REPORTED]
        found = {}
        for ratings in (3, 10):
            best = {}
            few = _first(more.for_users(tuned), ratings)
            for way in (self.carried, self.direct):
                scores = [self.rmse(way(few, _new(*one)), few) for one in NEW_GRID]
                best[way] = _new(*NEW_GRID[int(np.argmin(scores))])
            found[f"{ratings} ratings"] = self._ways(
                _first(more.for_users(reported), ratings), best
            )
        return found

    def _ways(self, few: Dataset, best: dict[Any, TrainingConfig]) -> dict[str, Any]:
        rows = few.rows("test")
        y, users = rows["outcome"].to_numpy(float), rows["user_id"].to_numpy()
        tables = {way.__name__: way(few, training) for way, training in best.items()}
        tables["mean"] = mean_prompts(self.bench.prompts(self.all), few.users)
        p = {name: self.predicted(table, few) for name, table in tables.items()}
        told: dict[str, Any] = {n: float(np.sqrt(np.mean((v - y) ** 2))) for n, v in p.items()}
        for other in ("direct", "mean"):
            gap = bootstrap_difference(
                "rating", "rmse", y, [p["carried"]], [p[other]], users, seed=0, draws=DRAWS
            )
            told[f"carried minus {other}"] = [gap.value, gap.low, gap.high]
        return told | {"users": len(few.users), "rows": len(y)}

    def carried(self, few: Dataset, training: TrainingConfig) -> PromptTable:
        """Fitted on the source, mapped by the adapter."""
        source = self.bench.prompts(self.source)
        own = fit_new_users(self.small, few, source, template=TEMPLATE, training=training)
        vectors = apply_adapter(load_adapter(*self.bench.adapter(self.all)), own.vectors)
        return PromptTable(own.user_ids, vectors, self.bench.prompts(self.all).head)

    def direct(self, few: Dataset, training: TrainingConfig) -> PromptTable:
        """Fitted on the target."""
        moved = self.bench.prompts(self.all)
        return fit_new_users(self.large, few, moved, template=TEMPLATE, training=training)


def _new(rate: float, epochs: int, decay: float) -> TrainingConfig:
    return TrainingConfig(
        epochs=epochs, batch_size=256, learning_rate=rate, weight_decay=decay, patience=0
    )


def _first(data: Dataset, ratings: int) -> Dataset:
    """Keep so many train rows of each user, and all others."""
    rows = data.interactions
    train = rows["split"] == "train"
    number = rows[train].groupby("user_id", observed=True).cumcount()
    kept = rows.drop(number.index[number >= ratings]).reset_index(drop=True)
    return dataclasses.replace(data, interactions=kept)


def main() -> None:
    """Parse the command line and measure every part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    beyond = Beyond(Workbench(given.workspace))
    found = provenance() | {
        "dataset": DATASET,
        "users": len(beyond.data.users),
        "seeds": [beyond.source.seed],
        "foreseen_all_users": beyond.foreseen(beyond.all),
        "foreseen_few_users": beyond.foreseen(beyond.few),
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    found["closed_form_rmse"] = beyond.closed_form()
    found["new_users_rmse"] = beyond.new_users()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
