"""The grids behind the settings of `puma demo`, on the validation rows of its users.

    python benchmarks/demo_grid.py --out build/demo-grid.json

One grid of learning rates and weight decays for prompts (source and full retraining), and
one of learning rates, batch sizes and noise for adapters (on all users and on few). The
epochs are those of the demo, so the best row is the best for the time that the demo has;
`validation` is the RMSE over the validation rows of all users.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.backbone import FrozenBackbone
from puma_engine.datasets import Dataset, load_shipped
from puma_engine.evaluation.prediction import predict
from puma_engine.migration.adapter_training import train_migration
from puma_engine.pipeline.demo import (
    ADAPTER_ALL,
    ADAPTER_FEW,
    DATASET,
    RETRAINED,
    SHAPE_ALL,
    SHARE,
    SOURCE,
    SOURCE_PROMPTS,
    TARGET,
    USERS,
)
from puma_engine.pipeline.fitting import DEFAULT_TEMPLATES
from puma_engine.prompts.tuning import PromptTable, fit_prompts

PROMPTS = [(1e-2, 0.1), (1e-2, 1.0), (2e-2, 0.3), (2e-2, 1.0)]
ADAPTERS = [(1e-3, 128, 0.1), (1e-3, 128, 0.3), (1e-3, 256, 0.1), (2e-3, 64, 0.3)]


class Grid:
    """Trials on one data set; every row is printed as it comes."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.template = DEFAULT_TEMPLATES[data.task]
        self.truth = data.rows("validation")["outcome"].to_numpy(dtype=np.float64)
        self.rows: list[dict[str, Any]] = []

    def row(self, backbone: FrozenBackbone, table: PromptTable, **facts: Any) -> float:
        """Keep a trial with its validation RMSE, and return that."""
        found = predict(backbone, table, self.data, "validation", template=self.template)
        score = float(np.sqrt(np.mean((found - self.truth) ** 2)))
        self.rows.append(facts | {"validation": round(score, 5)})
        print(json.dumps(self.rows[-1]), file=sys.stderr, flush=True)
        return score

    def prompts(self, what: str, backbone: FrozenBackbone) -> PromptTable:
        """Try the prompt settings on a backbone; return the best table."""
        tables, scores = [], []
        for rate, decay in PROMPTS:
            base = SOURCE_PROMPTS if what == "source" else RETRAINED
            config = dataclasses.replace(base, learning_rate=rate, weight_decay=decay)
            started = time.perf_counter()
            fitted = fit_prompts(backbone, self.data, template=self.template, training=config)
            facts = {"what": what, "learning_rate": rate, "weight_decay": decay}
            facts |= {"seconds": round(time.perf_counter() - started, 1)}
            tables.append(fitted.table)
            scores.append(self.row(backbone, fitted.table, **facts))
        return tables[int(np.argmin(scores))]

    def adapters(self, source: PromptTable, target: FrozenBackbone, users: Any) -> None:
        """Try the adapter settings on all users (None) or some."""
        base = ADAPTER_ALL if users is None else ADAPTER_FEW
        for rate, batch, noise in ADAPTERS:
            started = time.perf_counter()
            moved = train_migration(
                [source],
                target,
                self.data,
                template=self.template,
                training=dataclasses.replace(base, learning_rate=rate, batch_size=batch),
                adapter=dataclasses.replace(SHAPE_ALL, noise=noise),
                users=users,
            )
            facts = {"what": "all" if users is None else "few", "learning_rate": rate}
            facts |= {"batch_size": batch, "noise": noise}
            facts |= {"seconds": round(time.perf_counter() - started, 1)}
            self.row(target, moved.table, **facts)


def main() -> None:
    """Parse the command line and run every grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--device")
    given = parser.parse_args()
    data = load_shipped(DATASET, users=given.users)
    source = FrozenBackbone.load(SOURCE, device=given.device, precision="fp32")
    target = FrozenBackbone.load(TARGET, device=given.device, precision="fp32")
    grid = Grid(data)
    table = grid.prompts("source", source)
    grid.prompts("retrained", target)
    grid.adapters(table, target, None)
    budget = int(SHARE * len(data.users))
    grid.adapters(table, target, np.random.default_rng(0).choice(data.users, budget, replace=False))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(grid.rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
