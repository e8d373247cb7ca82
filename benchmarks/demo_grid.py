"""The grids behind the settings of `puma demo`: every row tuned on the validation split.

    python benchmarks/demo_grid.py --out build/demo-grid.json

One grid of learning rates and batch sizes for each of: prompts (source and full
retraining), the adapter on all users, the adapter on a small budget. The epochs are those
of the demo, so the best row is the best for the time that the demo has.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import TrainingConfig
from puma_engine.datasets import Dataset, load_shipped
from puma_engine.migration import train_migration
from puma_engine.pipeline import demo
from puma_engine.pipeline.prompts import DEFAULT_TEMPLATES
from puma_engine.prompts import PromptTable, fit_prompts

RATES = {"prompts": (3e-3, 5e-3, 1e-2, 2e-2, 4e-2), "adapter": (3e-4, 1e-3, 2e-3, 4e-3)}
BATCHES = {"prompts": (128, 256, 512), "all": (128, 256), "few": (32, 64, 128)}


def variants(
    config: TrainingConfig, rates: tuple[float, ...], batches: tuple[int, ...]
) -> list[Any]:
    """Return the settings of one grid."""
    return [
        dataclasses.replace(config, learning_rate=rate, batch_size=batch)
        for rate, batch in itertools.product(rates, batches)
    ]


def row(what: str, config: TrainingConfig, result: Any, started: float) -> dict[str, Any]:
    """Describe one trial and print it."""
    found = {
        "what": what,
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "validation": round(result.best_validation, 5),
        "best_epoch": result.best_epoch,
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def prompt_grid(
    what: str, backbone: FrozenBackbone, data: Dataset
) -> tuple[list[Any], PromptTable]:
    """Try the prompt settings on a backbone; also return the best table."""
    rows, tables = [], []
    for config in variants(demo.PROMPTS, RATES["prompts"], BATCHES["prompts"]):
        started = time.perf_counter()
        template = DEFAULT_TEMPLATES[data.task]
        fitted = fit_prompts(backbone, data, template=template, training=config)
        rows.append(row(what, config, fitted.result, started))
        tables.append(fitted.table)
    return rows, tables[int(np.argmin([trial["validation"] for trial in rows]))]


def adapter_grid(
    what: str, source: PromptTable, target: FrozenBackbone, data: Dataset, users: Any
) -> list[Any]:
    """Try the adapter settings on all users (None) or some."""
    rows = []
    config = demo.ADAPTER_ALL if users is None else demo.ADAPTER_FEW
    for trial in variants(config, RATES["adapter"], BATCHES[what]):
        started = time.perf_counter()
        moved = train_migration(
            [source],
            target,
            data,
            template=DEFAULT_TEMPLATES[data.task],
            training=trial,
            adapter=demo.ADAPTER,
            users=users,
        )
        rows.append(row(what, trial, moved.result, started))
    return rows


def main() -> None:
    """Parse the command line and run every grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=demo.USERS)
    parser.add_argument("--device")
    given = parser.parse_args()
    data = load_shipped(demo.DATASET, users=given.users)
    source = FrozenBackbone.load(demo.SOURCE, device=given.device, precision="fp32")
    target = FrozenBackbone.load(demo.TARGET, device=given.device, precision="fp32")
    rows, table = prompt_grid("source", source, data)
    rows += prompt_grid("retrained", target, data)[0]
    rows += adapter_grid("all", table, target, data, None)
    budget = int(demo.SHARE * len(data.users))
    few = np.random.default_rng(0).choice(data.users, budget, replace=False)
    rows += adapter_grid("few", table, target, data, few)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
