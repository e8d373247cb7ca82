"""The main claim on real data: migration against tuned retraining on goodbooks, test split.

    python benchmarks/goodbooks_migration.py --out benchmarks/results/goodbooks-migration.json

The first seed tries every candidate setting below for each method, and
the pooled RMSE of all users' validation rows picks one for each; its test rows and all
other seeds use these. Every method runs in this one process; its seconds are wall clock on
the device that is named, from the data set to the finished prompts of all users
(tokenising, prefixes, CUDA graph captures, selection and validation included). Rows are
written as they come, so that a run that is cut short still leaves what it measured.
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
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.evaluation import predict, user_variances
from puma_engine.migration import train_migration
from puma_engine.prompts import PromptTable, fit_prompts
from puma_engine.selection import Signals, select_users

Settings = dict[str, Any]


def prompts_with(rate: float, batch: int, decay: float, start: str = "shared") -> Settings:
    """Candidate settings of a prompt table."""
    training = {"learning_rate": rate, "batch_size": batch, "weight_decay": decay}
    return {"training": training, "prompt": {"start": start}}


def adapter_with(rate: float, batch: int, **adapter: float) -> Settings:
    """Candidate settings of an adapter."""
    training = {"learning_rate": rate, "batch_size": batch, "weight_decay": 0.01}
    return {"training": training, "adapter": {"hidden": 1024} | adapter}


CANDIDATES: dict[str, list[Settings]] = {
    "source": [
        prompts_with(7e-3, 1024, 1.0),
        prompts_with(1.5e-2, 1024, 0.1),
        prompts_with(1.5e-2, 1024, 0.3),
        prompts_with(2.5e-2, 1024, 0.3),
    ],
    "retrained": [
        prompts_with(1.5e-2, 1024, 0.1),
        prompts_with(1.5e-2, 1024, 0.3),
        prompts_with(2.5e-2, 1024, 0.1),
        prompts_with(7e-3, 512, 0.1, start="random"),
    ],
    "puma_all": [
        adapter_with(1e-3, 2048, noise=0.1),
        adapter_with(1e-3, 1024, noise=0.2),
        adapter_with(1e-3, 1024, noise=0.1, dropout=0.2),
        adapter_with(1e-3, 2048, noise=0.2, hidden=2048),
        adapter_with(2e-3, 2048, noise=0.2, dropout=0.2),
    ],
    "puma_small": [
        adapter_with(1e-3, 512, noise=0.3),
        adapter_with(1e-3, 1024, noise=0.3),
        adapter_with(2e-3, 1024, noise=0.3),
        adapter_with(2e-3, 1024, noise=0.3, hidden=512),
    ],
}
EPOCHS = {"source": 10, "retrained": 10, "puma_all": 10, "puma_small": 4}
PATIENCE = 3


class Bench:
    """Fits and scores methods on one data set, keeping rows and test predictions."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.template: str = options.template
        self.dataset = load_shipped(options.dataset, users=options.users)
        load = {"device": options.device, "precision": options.precision}
        self.source = FrozenBackbone.load(options.source, **load)
        self.target = FrozenBackbone.load(options.target, **load)
        self.test = self.dataset.rows("test")
        self.truth = self.test["outcome"].to_numpy(dtype=np.float64)
        self.users = self.test["user_id"].to_numpy()
        self.rows: list[Settings] = []
        self.tuning: list[Settings] = []
        self.chosen: dict[str, Settings] = {}
        self.predictions: dict[tuple[str, int], np.ndarray] = {}
        self.differences: list[Settings] = []

    def timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """Run some work from nothing kept, and return its result and wall-clock seconds."""
        self.source.forget()
        self.target.forget()
        start = time.perf_counter()
        result = work()
        if self.target.device.type == "cuda":
            torch.cuda.synchronize()
        return result, time.perf_counter() - start

    def prompts(
        self, backbone: FrozenBackbone, seed: int, settings: Settings, *, trainable: bool = True
    ) -> tuple[Any, float]:
        """Fit prompts of all users; return what was fitted, and seconds."""
        return self.timed(
            lambda: fit_prompts(
                backbone,
                self.dataset,
                template=self.template,
                training=TrainingConfig(**settings["training"], seed=seed),
                prompt=PromptConfig(**settings["prompt"]),
                trainable=trainable,
            )
        )

    def migration(
        self, source: PromptTable, seed: int, settings: Settings, users: np.ndarray | None = None
    ) -> tuple[Any, float]:
        """Train an adapter on some users (None: all) and migrate everybody."""
        return self.timed(
            lambda: train_migration(
                [source],
                self.target,
                self.dataset,
                template=self.template,
                training=TrainingConfig(**settings["training"], seed=seed),
                adapter=AdapterConfig(**settings["adapter"]),
                users=users,
            )
        )

    def tuned(
        self,
        name: str,
        run: Callable[[Settings], tuple[Any, float]],
        backbone: FrozenBackbone | None = None,
    ) -> tuple[Any, float, Settings]:
        """Run with the settings that were chosen, or try all candidates and choose."""
        if name in self.chosen:
            return *run(self.chosen[name]), self.chosen[name]
        best: tuple[float, Any, float, Settings] | None = None
        for candidate in CANDIDATES[name]:
            schedule = {"epochs": EPOCHS[name], "patience": PATIENCE}
            settings = candidate | {"training": schedule | candidate["training"]}
            fitted, seconds = run(settings)
            score = self.validation(fitted.table, backbone or self.target)
            self.tuning.append(
                {"method": name, **settings, "validation_rmse": score, "seconds": seconds}
            )
            print(json.dumps(self.tuning[-1]), file=sys.stderr, flush=True)
            if best is None or score < best[0]:
                best = (score, fitted, seconds, settings)
        assert best is not None
        self.chosen[name] = best[3]
        return best[1:]

    def validation(self, table: PromptTable, backbone: FrozenBackbone) -> float:
        """Pooled RMSE of a table over all users' validation rows."""
        truth = self.dataset.rows("validation")["outcome"].to_numpy(dtype=np.float64)
        found = predict(backbone, table, self.dataset, "validation", template=self.template)
        return round(float(np.sqrt(np.mean((found - truth) ** 2))), 5)

    def record(
        self,
        method: str,
        seed: int,
        fitted: Any,
        seconds: float,
        users: int,
        backbone: FrozenBackbone | None = None,
        **facts: float,
    ) -> None:
        """Score a fitted table on the test split and write all rows so far."""
        backbone = backbone or self.target
        predicted = predict(backbone, fitted.table, self.dataset, "test", template=self.template)
        self.keep(
            method,
            seed,
            predicted,
            users_trained=users,
            seconds=round(seconds, 2),
            device=device_name(backbone),
            epochs=len(fitted.result.history),
            **facts,
        )

    def keep(self, method: str, seed: int, predicted: np.ndarray, **facts: Any) -> None:
        """Score test predictions, keep and write them."""
        scores = metrics.pooled(self.dataset.task, self.truth, predicted, self.users)
        self.predictions[method, seed] = predicted
        row = {"method": method, "seed": seed}
        row |= {f"test_{name}": round(value, 5) for name, value in scores.items()}
        self.rows.append(row | facts)
        self.differences += differences(self, method, seed)
        print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)
        write(self)

    def baselines(self, seed: int) -> None:
        """Score the methods that need no language model."""
        for name, baseline in BASELINES.items():

            def fit(baseline: Any = baseline) -> np.ndarray:
                model = baseline()
                model.fit(self.dataset.rows("train"), self.dataset.rows("validation"))
                return model.predict(self.test)

            predicted, seconds = self.timed(fit)
            everyone = len(self.dataset.users)
            facts = {"users_trained": everyone, "seconds": round(seconds, 2), "device": "cpu"}
            self.keep(name, seed, predicted, **facts)


def device_name(backbone: FrozenBackbone) -> str:
    """Name the device a backbone runs on."""
    if backbone.device.type == "cuda":
        return torch.cuda.get_device_name(backbone.device)
    return "cpu"


def one_seed(bench: Bench, seed: int) -> None:
    """Run every method once under one seed."""
    everyone = len(bench.dataset.users)
    fitted, seconds, _ = bench.tuned(
        "source", lambda tried: bench.prompts(bench.source, seed, tried), bench.source
    )
    source = fitted.table
    bench.record("source", seed, fitted, seconds, everyone, bench.source)
    fitted, seconds, settings = bench.tuned(
        "retrained", lambda tried: bench.prompts(bench.target, seed, tried)
    )
    bench.record("retrained", seed, fitted, seconds, everyone)
    if seed == bench.options.seeds[0]:
        bench.baselines(seed)
    fitted, seconds, adapter = bench.tuned(
        "puma_all", lambda tried: bench.migration(source, seed, tried)
    )
    bench.record("puma_all", seed, fitted, seconds, everyone)
    first, *rest = sorted(bench.options.shares, reverse=True)
    few(bench, seed, source, first)
    for share in rest:
        few(bench, seed, source, share)
    if seed == bench.options.seeds[0]:
        fitted, seconds = bench.migration(source.shuffled(seed), seed, adapter)
        bench.record("shuffled_control", seed, fitted, seconds, everyone)
        fitted, seconds = bench.prompts(bench.target, seed, settings, trainable=False)
        bench.record("random_prompts", seed, fitted, seconds, everyone)


def few(bench: Bench, seed: int, source: PromptTable, share: float) -> None:
    """Migrate with the paper's strategy and with random users, on a share of all users."""
    budget = int(share * len(bench.dataset.users))

    def choose(strategy: str) -> np.ndarray:
        signals = Signals(
            user_ids=source.user_ids,
            embedding=source.vectors.reshape(len(source.vectors), -1),
            variance=user_variances(source, bench.dataset),
        )
        return select_users(strategy, signals, budget, seed=seed).user_ids

    for strategy, name in (("kmeans-variance", "puma_kmeans_variance"), ("random", "puma_random")):
        users, selecting = bench.timed(lambda strategy=strategy: choose(strategy))
        fitted, seconds, settings = bench.tuned(
            "puma_small", lambda tried, users=users: bench.migration(source, seed, tried, users)
        )
        bench.record(
            f"{name}_{share:.0%}",
            seed,
            fitted,
            seconds + selecting,
            len(users),
            selection_seconds=round(selecting, 2),
        )
    fitted, seconds = bench.migration(source.shuffled(seed), seed, settings, users)
    bench.record(f"shuffled_control_{share:.0%}", seed, fitted, seconds, len(users))


def differences(bench: Bench, method: str, seed: int) -> list[Settings]:
    """Paired bootstrap over users: a method against retraining, and a control against its own."""
    found = []
    metric = "rmse" if bench.dataset.task == "rating" else "uauc"
    own = method.replace("shuffled_control", "puma_random" if "%" in method else "puma_all")
    for other in dict.fromkeys(("retrained", own)):
        if method != other and (other, seed) in bench.predictions:
            ends = interval(
                bench,
                metric,
                bench.predictions[method, seed],
                bench.predictions[other, seed],
                seed,
            )
            names = {"method": method, "against": other, "seed": seed}
            found.append(names | {"metric": metric} | ends)
    return found


def interval(
    bench: Bench, metric: str, first: np.ndarray, second: np.ndarray, seed: int
) -> dict[str, float]:
    """Value, low and high end of a difference of two sets of test predictions."""
    task, truth, users = bench.dataset.task, bench.truth, bench.users
    ends = metrics.bootstrap_difference(task, metric, truth, first, second, users, seed=seed)
    return {end: round(float(getattr(ends, end)), 5) for end in ("value", "low", "high")}


def write(bench: Bench) -> None:
    """Write what is known so far."""
    packages = ("torch", "transformers", "accelerate", "numpy")
    report = {
        "command": "python " + " ".join(sys.argv),
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
        "settings": bench.chosen,
        "tuning": bench.tuning,
        "rows": bench.rows,
        "differences": bench.differences,
    }
    bench.options.out.write_text(json.dumps(report, indent=1) + "\n")


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
    parser.add_argument("--shares", type=float, nargs="+", default=[0.07, 0.03])
    parser.add_argument("--device")
    parser.add_argument("--precision", default="auto", help="of the frozen backbones")
    bench = Bench(parser.parse_args())
    for seed in bench.options.seeds:
        one_seed(bench, seed)


if __name__ == "__main__":
    main()
