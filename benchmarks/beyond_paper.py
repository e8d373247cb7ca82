"""Results beyond the paper on the demo's users: predicted regressions, linear maps, new users.

    puma demo
    python benchmarks/beyond_paper.py --workspace workspace --out build/beyond-paper.json

Reads the runs of a `puma demo` of 600 users; two small trainings in each part are done anew.
Settings for new users are chosen on other new users than those reported. One seed.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import provenance, write_results
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
from puma_engine.pipeline.demo import TARGET
from puma_engine.pipeline.demo_steps import DATASET, SOURCE
from puma_engine.prompts.new_users import fit_new_users, mean_prompts
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import fit_prompts
from puma_engine.store import Run

TEMPLATE = "rating-item-first"
DRAWS = 1000
NEW_GRID = [
    TrainingConfig(
        epochs=epochs, batch_size=256, learning_rate=rate, weight_decay=decay, patience=0
    )
    for rate, epochs, decay in ((1e-2, 30, 0.3), (2e-2, 30, 1.0), (3e-2, 60, 1.0))
]
TUNED_ON, REPORTED = 80, 200


class DemoRuns:
    """The runs of `puma demo` and both backbones.

    all_users, few_users: migrations that all users train, or a few.
    """

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        tables = {run.config["role"]: run for run in bench.runs("prompts")}
        self.source, self.retrained = tables["source"], tables["retrained"]
        migrated = [run for run in bench.runs("migration") if run.config["role"] == "migrated"]
        self.all_users = next(run for run in migrated if "selection" not in run.inputs)
        self.few_users = next(run for run in migrated if "selection" in run.inputs)
        self.data = bench.dataset(self.source.inputs["dataset"])
        self.small = FrozenBackbone.load(SOURCE, device="cpu", precision="fp32")
        self.large = FrozenBackbone.load(TARGET, device="cpu", precision="fp32")

    def rmse(self, table: PromptTable, data: Dataset) -> float:
        y = data.rows("test")["outcome"].to_numpy(float)
        return float(np.sqrt(np.mean((self.predicted(table, data) - y) ** 2)))

    def predicted(self, table: PromptTable, data: Dataset) -> np.ndarray:
        return predict(self.large, table, data, "test", template=TEMPLATE)

    def losses(self, run: Run) -> pd.Series:
        """Return the mean squared error on test rows by user."""
        frame = self.bench.predictions(self.bench.evaluate(run, device="cpu"))
        return ((frame["prediction"] - frame["outcome"]) ** 2).groupby(frame["user_id"]).mean()

    def predicted_regressions(self, migrated: Run) -> dict[str, Any]:
        """Return how well the risk ranks the users who lose against retraining on test rows."""
        risk = self.bench.workspace.get_table(
            self.bench.predict_regressions(migrated, share=0.2, device="cpu").id, "selection"
        ).set_index("user_id")["risk"]
        if "selection" in migrated.inputs:
            risk = risk.drop(self.bench.selected_users(migrated.inputs["selection"]))
        base = self.losses(self.retrained)
        lost = (self.losses(migrated) - base).reindex(risk.index).dropna()
        risk = risk.reindex(lost.index)
        worse = (lost > USER_MARGIN * base.mean()).to_numpy()
        generator = np.random.default_rng(0)
        draws = generator.integers(0, len(lost), (DRAWS, len(lost)))
        scores = [roc_auc_score(worse[rows], risk.to_numpy()[rows]) for rows in draws]
        fifth = risk.nlargest(len(risk) // 5).index
        return {
            "users": len(lost),
            "regressing": float(worse.mean()),
            "auc": roc_auc_score(worse, risk),
            "auc_interval": np.quantile(scores, [0.025, 0.975]).tolist(),
            "mean_loss_of_all": float(lost.mean()),
            "mean_loss_of_riskiest_fifth": float(lost[fifth].mean()),
        }

    def closed_form(self) -> dict[str, float]:
        """Return test RMSE of linear maps, fitted on prompts of the selected users on the target, and of all users."""
        source = self.bench.prompts(self.source)
        users = self.bench.selected_users(self.few_users.inputs["selection"])
        fitted = fit_prompts(
            self.large,
            self.data.for_users(users),
            template=TEMPLATE,
            training=dataclasses.replace(DEMO_TRAINING["retrained"], batch_size=64),
        )
        rmse = {}
        for pairs in (fitted.table, self.bench.prompts(self.retrained)):
            for method in ("ridge", "procrustes"):
                mapped = map_prompts(source, pairs, method=method)  # type: ignore[arg-type]
                rmse[f"{method}, {len(pairs.user_ids)} pairs"] = self.rmse(mapped, self.data)
        return rmse

    def new_users(self) -> dict[str, Any]:
        """Return test RMSE on users outside the demo, by 3 and 10 ratings each, for three methods.

        carried: fitted on the source and mapped by the adapter. direct: fitted on the target.
        mean: the mean migrated prompt. Settings are chosen on other new users.
        """
        more = load_shipped(DATASET, users=len(self.data.users) + 400)
        known = self.bench.prompts(self.source).user_ids
        pool = np.random.default_rng(0).permutation(np.setdiff1d(more.users, known))
        tuned, reported = pool[:TUNED_ON], pool[TUNED_ON : TUNED_ON + REPORTED]
        results = {}
        for ratings in (3, 10):
            tuning = _first(more.for_users(tuned), ratings)
            data = _first(more.for_users(reported), ratings)
            tables = {"mean": mean_prompts(self.bench.prompts(self.all_users), data.users)}
            for name, fit in {"carried": self.carried, "direct": self.direct}.items():
                settings = min(NEW_GRID, key=lambda new: self.rmse(fit(tuning, new), tuning))
                tables[name] = fit(data, settings)
            results[f"{ratings} ratings"] = self.compared(tables, data)
        return results

    def compared(self, tables: dict[str, PromptTable], data: Dataset) -> dict[str, Any]:
        """Return the test RMSE of prompts of the same users, and differences with intervals."""
        rows = data.rows("test")
        y, users = rows["outcome"].to_numpy(float), rows["user_id"].to_numpy()
        p = {name: self.predicted(table, data) for name, table in tables.items()}
        scores: dict[str, Any] = {
            name: float(np.sqrt(np.mean((values - y) ** 2))) for name, values in p.items()
        }
        for other in ("direct", "mean"):
            difference = bootstrap_difference(
                "rating", "rmse", y, [p["carried"]], [p[other]], users, seed=0, draws=DRAWS
            )
            ends = [difference.value, difference.low, difference.high]
            scores[f"carried minus {other}"] = ends
        return scores | {"users": len(data.users), "rows": len(y)}

    def carried(self, new_users: Dataset, training: TrainingConfig) -> PromptTable:
        """Fit prompts on the source and map them by the adapter."""
        source = self.bench.prompts(self.source)
        fitted = fit_new_users(self.small, new_users, source, template=TEMPLATE, training=training)
        vectors = apply_adapter(load_adapter(*self.bench.adapter(self.all_users)), fitted.vectors)
        return PromptTable(fitted.user_ids, vectors, self.bench.prompts(self.all_users).head)

    def direct(self, new_users: Dataset, training: TrainingConfig) -> PromptTable:
        """Fit prompts on the target."""
        moved = self.bench.prompts(self.all_users)
        return fit_new_users(self.large, new_users, moved, template=TEMPLATE, training=training)


def _first(data: Dataset, ratings: int) -> Dataset:
    """Return the data with the first `ratings` train rows of each user, and all rows of other splits."""
    rows = data.interactions
    train = rows["split"] == "train"
    number = rows[train].groupby("user_id", observed=True).cumcount()
    shown = rows.drop(number.index[number >= ratings]).reset_index(drop=True)
    return dataclasses.replace(data, interactions=shown)


def main() -> None:
    """Parse the command line and measure every part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    demo = DemoRuns(Workbench(args.workspace))
    results = provenance() | {
        "dataset": DATASET,
        "users": len(demo.data.users),
        "seeds": [demo.source.seed],
        "foreseen_all_users": demo.predicted_regressions(demo.all_users),
        "foreseen_few_users": demo.predicted_regressions(demo.few_users),
    }
    print(json.dumps(results), file=sys.stderr, flush=True)
    results["closed_form_rmse"] = demo.closed_form()
    results["new_users_rmse"] = demo.new_users()
    write_results(args.out, results)


if __name__ == "__main__":
    main()
