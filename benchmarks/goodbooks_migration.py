"""The main claim on real data: migration against tuned retraining on goodbooks, test split.

    python benchmarks/goodbooks_migration.py --out benchmarks/results/goodbooks-migration.json

Every method is fitted in this one process, one after the other, and its seconds are wall
clock on the device that is named. `--tune` runs the grids that the settings below were
chosen from, on the validation split and one seed, and prints them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma_engine import metrics
from puma_engine.backbone import FrozenBackbone
from puma_engine.baselines import BASELINES
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.datasets import Dataset, load_shipped
from puma_engine.evaluation import ffn_activations, predict, user_losses, user_variances
from puma_engine.migration import train_migration
from puma_engine.prompts import PromptTable, fit_prompts
from puma_engine.selection import Signals, select_users
from puma_engine.settings import ADAPTER, ADAPTER_TRAINING, PROMPT_TRAINING, SMALL_ADAPTER_TRAINING

METHODS_WITH_PROMPTS = (
    "source",
    "retrained",
    "random_prompts",
    "puma_all",
    "puma_kmeans_variance",
    "puma_random",
    "shuffled_control",
)


class Bench:
    """Fits and scores methods on one data set, keeping rows and test predictions."""

    def __init__(
        self, dataset: Dataset, template: str, source: str, target: str, device: str | None
    ) -> None:
        self.dataset = dataset
        self.template = template
        self.source = FrozenBackbone.load(source, device=device, precision="fp32")
        self.target = FrozenBackbone.load(target, device=device, precision="fp32")
        self.test = dataset.rows("test")
        self.truth = self.test["outcome"].to_numpy(dtype=np.float64)
        self.users = self.test["user_id"].to_numpy()
        self.rows: list[dict[str, Any]] = []
        self.predictions: dict[tuple[str, int], np.ndarray] = {}

    def record(self, method: str, seed: int, predicted: np.ndarray, **facts: Any) -> None:
        """Score test predictions and remember them."""
        scores = metrics.pooled(self.dataset.task, self.truth, predicted, self.users)
        self.predictions[method, seed] = predicted
        row = {"method": method, "seed": seed}
        row |= {f"test_{name}": round(value, 5) for name, value in scores.items()}
        self.rows.append(row | facts)
        print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)

    def timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """Run some work and return its result and wall-clock seconds."""
        start = time.perf_counter()
        result = work()
        if self.target.device.type == "cuda":
            torch.cuda.synchronize()
        return result, time.perf_counter() - start

    def score_table(
        self, method: str, seed: int, backbone: FrozenBackbone, table: PromptTable, **facts: Any
    ) -> None:
        """Evaluate a prompt table on the test split and record it."""
        predicted, seconds = self.timed(
            lambda: predict(backbone, table, self.dataset, "test", template=self.template)
        )
        self.record(
            method,
            seed,
            predicted,
            evaluation_seconds=round(seconds, 2),
            device=device_name(backbone),
            **facts,
        )

    def baselines(self) -> None:
        """Score the methods that need no language model."""
        for name, baseline in BASELINES.items():

            def fit(baseline: Any = baseline) -> np.ndarray:
                model = baseline()
                model.fit(self.dataset.rows("train"), self.dataset.rows("validation"))
                return model.predict(self.test)

            predicted, seconds = self.timed(fit)
            self.record(
                name,
                0,
                predicted,
                users_trained=len(self.dataset.users),
                seconds=round(seconds, 2),
                device="cpu",
            )

    def prompts(
        self,
        method: str,
        seed: int,
        backbone: FrozenBackbone,
        training: TrainingConfig,
        *,
        trainable: bool = True,
    ) -> PromptTable:
        """Fit prompts for all users on a backbone and score them."""
        fitted, seconds = self.timed(
            lambda: fit_prompts(
                backbone,
                self.dataset,
                template=self.template,
                training=training,
                prompt=PromptConfig(),
                trainable=trainable,
            )
        )
        self.score_table(
            method,
            seed,
            backbone,
            fitted.table,
            users_trained=len(self.dataset.users),
            seconds=round(seconds, 2),
            epochs=len(fitted.result.history),
            validation=round(fitted.result.best_validation, 5),
        )
        return fitted.table

    def migration(
        self,
        method: str,
        seed: int,
        source: PromptTable,
        training: TrainingConfig,
        users: np.ndarray | None = None,
        extra_seconds: float = 0.0,
    ) -> None:
        """Train an adapter on some users, migrate everybody and score all."""
        moved, seconds = self.timed(
            lambda: train_migration(
                [source],
                self.target,
                self.dataset,
                template=self.template,
                training=training,
                adapter=ADAPTER,
                users=users,
            )
        )
        self.score_table(
            method,
            seed,
            self.target,
            moved.table,
            users_trained=len(self.dataset.users) if users is None else len(users),
            seconds=round(seconds + extra_seconds, 2),
            epochs=len(moved.result.history),
            validation=round(moved.result.best_validation, 5),
        )

    def signals(self, source: PromptTable) -> Signals:
        """What the selection strategies look at, from the source alone."""
        return Signals(
            user_ids=source.user_ids,
            embedding=source.vectors.reshape(len(source.vectors), -1),
            variance=user_variances(source, self.dataset),
            loss=user_losses(self.source, source, self.dataset, template=self.template),
            activations=ffn_activations(self.source, source),
        )


def device_name(backbone: FrozenBackbone) -> str:
    """Name the device a backbone runs on."""
    if backbone.device.type == "cuda":
        return torch.cuda.get_device_name(backbone.device)
    return "cpu"


def with_seed(config: TrainingConfig, seed: int) -> TrainingConfig:
    """Return the same settings under another seed."""
    return TrainingConfig(**{**config.to_dict(), "seed": seed})


def one_seed(bench: Bench, seed: int, share: float) -> None:
    """Run every method once under one seed."""
    source = bench.prompts("source", seed, bench.source, with_seed(PROMPT_TRAINING, seed))
    bench.prompts(
        "random_prompts", seed, bench.target, with_seed(PROMPT_TRAINING, seed), trainable=False
    )
    bench.prompts("retrained", seed, bench.target, with_seed(PROMPT_TRAINING, seed))
    bench.migration("puma_all", seed, source, with_seed(ADAPTER_TRAINING, seed))
    bench.migration(
        "shuffled_control", seed, source.shuffled(seed), with_seed(ADAPTER_TRAINING, seed)
    )
    budget = int(share * len(bench.dataset.users))
    signals, extra = bench.timed(lambda: bench.signals(source))
    small = with_seed(SMALL_ADAPTER_TRAINING, seed)
    for strategy in ("kmeans-variance", "random"):
        chosen, seconds = bench.timed(
            lambda strategy=strategy: select_users(strategy, signals, budget, seed=seed)
        )
        cost = seconds + (extra if strategy != "random" else 0.0)
        name = f"puma_{strategy.replace('-', '_')}"
        bench.migration(name, seed, source, small, users=chosen.user_ids, extra_seconds=cost)


def differences(bench: Bench, seeds: list[int], metric: str) -> list[dict[str, Any]]:
    """Paired bootstrap over users of each method against full retraining, a row a seed."""
    found = []
    names = [*METHODS_WITH_PROMPTS, *BASELINES]
    for seed in seeds:
        pairs = [(name, "retrained") for name in names if name != "retrained"]
        pairs.append(("shuffled_control", "puma_all"))
        for first, second in pairs:
            a = bench.predictions[first, 0 if first in BASELINES else seed]
            interval = metrics.bootstrap_difference(
                bench.dataset.task,
                metric,
                bench.truth,
                a,
                bench.predictions[second, seed],
                bench.users,
                seed=seed,
            )
            row = {"method": first, "against": second, "seed": seed, "metric": metric}
            ends = ("value", "low", "high")
            found.append(row | {end: round(float(getattr(interval, end)), 5) for end in ends})
    return found


def report(bench: Bench, seeds: list[int], command: str) -> dict[str, Any]:
    """Collect everything that the results file holds."""
    packages = ("torch", "transformers", "accelerate", "numpy")
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "dataset": bench.dataset.name,
        "users": len(bench.dataset.users),
        "rows_train": len(bench.dataset.rows("train")),
        "rows_test": len(bench.test),
        "template": bench.template,
        "source": bench.source.info.spec,
        "target": bench.target.info.spec,
        "settings": {
            "prompts": PROMPT_TRAINING.to_dict(),
            "adapter": ADAPTER.to_dict(),
            "adapter_training": ADAPTER_TRAINING.to_dict(),
            "adapter_training_small": SMALL_ADAPTER_TRAINING.to_dict(),
        },
        "rows": bench.rows,
        "differences": differences(
            bench, seeds, "rmse" if bench.dataset.task == "rating" else "uauc"
        ),
    }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default="goodbooks")
    parser.add_argument("--users", type=int, help="a seeded subset of product users (default: all)")
    parser.add_argument("--template", default="rating-item-first")
    parser.add_argument("--source", default="llama-small")
    parser.add_argument("--target", default="llama-medium")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=0.07)
    parser.add_argument("--device")
    options = parser.parse_args()
    dataset = load_shipped(options.dataset, users=options.users)
    bench = Bench(dataset, options.template, options.source, options.target, options.device)
    bench.baselines()
    for seed in options.seeds:
        one_seed(bench, seed, options.share)
    command = "python " + " ".join(sys.argv)
    options.out.write_text(json.dumps(report(bench, options.seeds, command), indent=1) + "\n")


if __name__ == "__main__":
    main()
