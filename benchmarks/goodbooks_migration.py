"""The main claim on real data: migration against tuned retraining on goodbooks, test split.

    python benchmarks/goodbooks_migration.py --out benchmarks/results/goodbooks-migration.json

The first seed tries every candidate of `candidates.py` for each method, and the pooled RMSE of
all users' validation rows picks one for each; its test rows and all other seeds use these. Of the
source's settings those are picked that migrate best. Every method runs in this one process; its
seconds are wall clock on the device that is named, from the data set to the finished prompts of
all users (tokenising, prefixes, CUDA graph captures, selection and validation included). Rows are
written as they come, so that a run that is cut short still leaves what it measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from candidates import CANDIDATES, Settings
from provenance import provenance

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.evaluation import metrics
from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.prediction import predict, user_variances
from puma_engine.migration.adapter_training import train_migration
from puma_engine.prompts.tuning import PromptTable, fit_prompts
from puma_engine.selection import Signals, select_users

PARTS = ["baselines", "all", "refined", "items", "controls"]


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds, and processor seconds of this process over all its threads."""

    seconds: float
    cpu_seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    def rounded(self) -> dict[str, float]:
        return {"seconds": round(self.seconds, 2), "cpu_seconds": round(self.cpu_seconds, 2)}


class Bench:
    """Fits and scores methods on one data set, keeping rows and test predictions."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.template: str = options.template
        self.dataset = load_shipped(options.dataset, users=options.users)
        names = {"source": options.source, "target": options.target, "second": options.second}
        load = {"device": options.device, "precision": options.precision}
        self.backbones = {
            role: FrozenBackbone.load(name, **load) for role, name in names.items() if name
        }
        self.source, self.target = self.backbones["source"], self.backbones["target"]
        self.test = self.dataset.rows("test")
        self.truth = self.test["outcome"].to_numpy(dtype=np.float64)
        self.users = self.test["user_id"].to_numpy()
        self.rows: list[Settings] = []
        self.tuning: list[Settings] = []
        earlier = json.loads(options.add_to.read_text()) if options.add_to else {}
        self.chosen = earlier.get("settings", {})
        parts = ("earlier", "tuning", "rows", "differences")
        self.earlier: dict[str, list[Any]] = {part: earlier.get(part, []) for part in parts}
        if earlier:
            about = {name: earlier[name] for name in ("command", "date", "versions")}
            self.earlier["earlier"] = [*self.earlier["earlier"], about]
        self.predictions: dict[tuple[str, int], np.ndarray] = {}
        self.differences: list[Settings] = []

    def timed(self, work: Callable[[], Any]) -> tuple[Any, Cost]:
        """Run some work from nothing kept, and return its result and what it cost."""
        for backbone in self.backbones.values():
            backbone.forget()
        start, cpu = time.perf_counter(), time.process_time()
        result = work()
        if self.target.device.type == "cuda":
            torch.cuda.synchronize()
        return result, Cost(time.perf_counter() - start, time.process_time() - cpu)

    def prompts(
        self,
        backbone: FrozenBackbone,
        seed: int,
        settings: Settings,
        *,
        trainable: bool = True,
        start: PromptTable | None = None,
    ) -> tuple[Any, Cost]:
        """Fit prompts of all users; return what was fitted, and its cost."""
        return self.timed(
            lambda: fit_prompts(
                backbone,
                self.dataset,
                template=self.template,
                training=TrainingConfig(**settings["training"], seed=seed),
                prompt=PromptConfig(**settings["prompt"]),
                trainable=trainable,
                start=start,
                keep_start=start is not None,
            )
        )

    def migration(
        self,
        sources: list[PromptTable],
        seed: int,
        settings: Settings,
        users: np.ndarray | None = None,
    ) -> tuple[Any, Cost]:
        """Train an adapter on some users (None: all) and migrate everybody."""
        return self.timed(
            lambda: train_migration(
                sources,
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
        run: Callable[[Settings], tuple[Any, Cost]],
        score: Callable[[Any], float] | None = None,
    ) -> tuple[Any, Cost]:
        """Run with the settings that were chosen, or try all candidates and choose."""
        if name in self.chosen:
            return run(self.chosen[name])
        score = score or (lambda fitted: self.validation(fitted.table))
        best: tuple[float, Any, Cost] | None = None
        for settings in CANDIDATES[name]:
            fitted, cost = run(settings)
            value = score(fitted)
            self.tuning.append(
                {"method": name, **settings, "validation_rmse": value, "seconds": cost.seconds}
            )
            print(json.dumps(self.tuning[-1]), file=sys.stderr, flush=True)
            if best is None or value < best[0]:
                best = (value, fitted, cost)
                self.chosen[name] = settings
        assert best is not None
        return best[1:]

    def validation(self, table: PromptTable) -> float:
        """Pooled RMSE of a table on the target over all users' validation rows."""
        truth = self.dataset.rows("validation")["outcome"].to_numpy(dtype=np.float64)
        found = predict(self.target, table, self.dataset, "validation", template=self.template)
        return round(float(np.sqrt(np.mean((found - truth) ** 2))), 5)

    def record(
        self,
        method: str,
        seed: int,
        fitted: Any,
        cost: Cost,
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
            **cost.rounded(),
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

            predicted, cost = self.timed(fit)
            everyone = len(self.dataset.users)
            self.keep(name, seed, predicted, users_trained=everyone, **cost.rounded(), device="cpu")


def device_name(backbone: FrozenBackbone) -> str:
    """Name the device a backbone runs on."""
    if backbone.device.type == "cuda":
        return torch.cuda.get_device_name(backbone.device)
    return "cpu"


def one_seed(bench: Bench, seed: int) -> None:
    """Run every method once under one seed."""
    everyone, first = len(bench.dataset.users), seed == bench.options.seeds[0]
    parts = bench.options.parts
    if first and "baselines" in parts:
        bench.baselines(seed)
    if parts == ["baselines"]:
        return

    def after_migration(fitted: Any) -> float:
        """What source prompts are for: how well they migrate."""
        moved, _ = bench.migration([fitted.table], seed, CANDIDATES["puma_all"][0])
        return bench.validation(moved.table)

    fitted, cost = bench.tuned(
        "source", lambda tried: bench.prompts(bench.source, seed, tried), after_migration
    )
    source = fitted.table
    bench.record("source", seed, fitted, cost, everyone, bench.source)
    fitted, cost = bench.tuned("retrained", lambda tried: bench.prompts(bench.target, seed, tried))
    bench.record("retrained", seed, fitted, cost, everyone)
    for share in sorted(bench.options.shares, reverse=True):
        few(bench, seed, source, share)
    if "all" in parts:
        all_users(bench, seed, source)
    if first and "controls" in parts:
        fitted, cost = bench.prompts(bench.target, seed, bench.chosen["retrained"], trainable=False)
        bench.record("random_prompts", seed, fitted, cost, everyone)


def all_users(bench: Bench, seed: int, source: PromptTable) -> None:
    """Migrations trained on everybody: alone, refined, with items' prompts, from two sources."""
    everyone, parts = len(bench.dataset.users), bench.options.parts
    moved, base = bench.tuned("puma_all", lambda tried: bench.migration([source], seed, tried))
    bench.record("puma_all", seed, moved, base, everyone)
    for part, name in (("refined", "refined"), ("items", "refined_items")):
        if part in parts:
            fitted, cost = bench.tuned(
                name,
                lambda tried: bench.prompts(bench.target, seed, tried, start=moved.table),
            )
            bench.record(f"puma_all_{name}", seed, fitted, base + cost, everyone)
    if "items" in parts:
        fitted, cost = bench.tuned(
            "retrained_items", lambda tried: bench.prompts(bench.target, seed, tried)
        )
        bench.record("retrained_items", seed, fitted, cost, everyone)
    settings = bench.chosen["puma_all"]
    if "second" in bench.backbones:
        other, _ = bench.prompts(bench.backbones["second"], seed, bench.chosen["source"])
        fitted, cost = bench.migration([source, other.table], seed, settings)
        bench.record("puma_all_two_sources", seed, fitted, cost, everyone)
    if seed == bench.options.seeds[0] and "controls" in parts:
        fitted, cost = bench.migration([source.shuffled(seed)], seed, settings)
        bench.record("shuffled_control", seed, fitted, cost, everyone)


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
        fitted, cost = bench.tuned(
            "puma_few", lambda tried, users=users: bench.migration([source], seed, tried, users)
        )
        facts = {"selection_seconds": round(selecting.seconds, 2)}
        name = f"{name}_{share:.0%}"
        bench.record(name, seed, fitted, selecting + cost, len(users), **facts)
    if "controls" in bench.options.parts:
        mixed = [source.shuffled(seed)]
        fitted, cost = bench.migration(mixed, seed, bench.chosen["puma_few"], users)
        bench.record(f"shuffled_control_{share:.0%}", seed, fitted, cost, len(users))


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
            device = device_name(bench.target)
            names = {"method": method, "against": other, "seed": seed, "device": device}
            found.append(names | {"metric": metric} | ends)
    return found


def interval(
    bench: Bench, metric: str, first: np.ndarray, second: np.ndarray, seed: int
) -> dict[str, float]:
    """Value, low and high end of a difference of two sets of test predictions."""
    task, truth, users = bench.dataset.task, bench.truth, bench.users
    ends = metrics.bootstrap_difference(task, metric, truth, [first], [second], users, seed=seed)
    return {end: round(float(getattr(ends, end)), 5) for end in ("value", "low", "high")}


def write(bench: Bench) -> None:
    """Write what is known so far."""
    report = provenance() | {
        "earlier": bench.earlier["earlier"],
        "dataset": bench.dataset.name,
        "users": len(bench.dataset.users),
        "rows_train": len(bench.dataset.rows("train")),
        "rows_test": len(bench.test),
        "template": bench.template,
        "source": bench.source.info.spec,
        "target": bench.target.info.spec,
        "settings": bench.chosen,
        "tuning": bench.earlier["tuning"] + bench.tuning,
        "rows": bench.earlier["rows"] + bench.rows,
        "differences": bench.earlier["differences"] + bench.differences,
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
    parser.add_argument("--second", default="qwen2-small", help="second source; '' for none")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--add-to", type=Path, help="earlier report: its settings, rows and more")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.07])
    parser.add_argument("--device")
    parser.add_argument("--precision", default="auto", help="of the frozen backbones")
    bench = Bench(parser.parse_args())
    for seed in bench.options.seeds:
        one_seed(bench, seed)


if __name__ == "__main__":
    main()
