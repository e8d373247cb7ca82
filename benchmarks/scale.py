"""Time and memory of selecting and migrating many users' prompts from shards on a disk.

    python benchmarks/scale.py --users 10000 100000 1000000 --folder /a/large/disk

Writes prompts of --shape's first width (default: 2048) as shards of 50,000 users, then, each
in a process of its own: chooses 2 % of the users by k-means and outcome variance
(`puma select-stream`), maps everybody (`puma migrate-stream`) through adapters of the hidden
sizes given by --hidden, and writes each user's metrics to a workspace. Peak memory is the
process's largest resident size, with all libraries. Needs about 20 GB of disk for a million
users. Writes benchmarks/results/scale.json.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import machine, measured, provenance, write_results
from serving import make_adapter

RESULTS = Path(__file__).parent / "results" / "scale.json"
SHARD = 50_000
BLOCK = 5_000
SHARE = 0.02
GROUPS = 40
LOADED = (
    "puma_engine.exchange.packed",
    "puma_engine.prompts.table",
    "puma_engine.serving.bulk",
    "puma_engine.serving.mapper",
    "puma_engine.store",
    "pyarrow.parquet",
    "sklearn.cluster",
    "sklearn.decomposition",
)
METRICS = ("rmse", "mae", "accuracy", "ndcg")


def write_prompts(folder: Path, users: int, width: int, *, named: bool = True) -> None:
    """Write shards of prompts in some groups, and signals.parquet beside the folder.

    named: whether shards name their users.
    """
    from puma_engine.exchange.shards import begin_tensor_file

    folder.mkdir()
    generator = np.random.default_rng(0)
    centres = generator.normal(0, 0.05, (GROUPS, width)).astype(np.float32)
    ids = np.array([f"user-{number:08}" for number in generator.permutation(users)])
    for number, start in enumerate(range(0, users, SHARD)):
        mine = ids[start : start + SHARD]
        meta = {"meta": json.dumps({"user_ids": mine.tolist()})} if named else {}
        with (folder / f"prompts-{number:05}.safetensors").open("wb") as file:
            begin_tensor_file(file, [len(mine), 1, width], meta)
            for at in range(0, len(mine), BLOCK):
                shape = (len(mine[at : at + BLOCK]), width)
                block = generator.standard_normal(shape, np.float32) * np.float32(0.1)
                block += centres[generator.integers(0, GROUPS, len(block))]
                file.write(block.tobytes())
    signals = pd.DataFrame({"user_id": ids, "variance": generator.random(users)})
    signals.to_parquet(folder.with_suffix(".parquet"), index=False)


def select(folder: Path, users: int) -> None:
    """Select a share of the users."""
    from puma_engine.serving.bulk import select_stream

    signals = folder.with_suffix(".parquet")
    select_stream(folder, folder / "chosen", budget=int(SHARE * users), signals=signals)


def migrate(folder: Path, adapter: Path) -> None:
    """Map all users."""
    from puma_engine.serving.bulk import migrate_stream
    from puma_engine.serving.mapper import Mapper, adapter_of

    migrate_stream(Mapper(adapter_of(None, str(adapter)), "cpu"), folder, folder / "moved")


def store_metrics(folder: Path, users: int) -> None:
    """Write the metrics of every user to a workspace."""
    from puma_engine.store import Workspace

    generator = np.random.default_rng(0)
    columns = {name: generator.random(users) for name in METRICS}
    frame = pd.DataFrame({"user_id": np.arange(users).astype(str), "n": 7} | columns)
    ws = Workspace.open(folder / "workspace", create=True)
    run = ws.begin("evaluation", name="all", config={}, inputs={}, seed=0)
    ws.put_user_metrics(run.id, frame)


def cost_of(work: Callable[..., None], *arguments: Any) -> dict[str, float]:
    """Return seconds, processor seconds and peak memory of work in a fresh process."""
    load = os.getloadavg()[0]
    _, cost = measured(work, *arguments, loaded=LOADED)
    return {
        "seconds": round(cost["seconds"], 2),
        "cpu_seconds": round(cost["cpu_seconds"], 2),
        "peak_memory_gb": round(cost["peak_kib"] / 2**20, 3),
        "load_before": round(load, 1),
    }


def main() -> None:
    """Measure every size and write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--shape", type=int, nargs=2, default=[2048, 3072])
    parser.add_argument("--hidden", type=int, nargs="+", default=[256])
    parser.add_argument("--folder", type=Path, help="where the files go (default: temporary)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for hidden in args.hidden:
            make_adapter(Path(name) / f"adapter-{hidden}", *args.shape, hidden)
        for users in args.users:
            folder = Path(name) / "prompts"
            write_prompts(folder, users, args.shape[0])
            for row in stages(folder, Path(name), users, args):
                rows.append(row)
                print(json.dumps(row), flush=True)
                write_results(
                    args.out,
                    provenance("scikit-learn", "safetensors")
                    | {"device": "cpu", "cores": machine()["cores"], "rows": rows},
                )
            shutil.rmtree(folder)


def stages(folder: Path, root: Path, users: int, args: argparse.Namespace) -> Any:
    """Yield the rows of one number of users."""

    def row(stage: str, cost: dict[str, float], **more: Any) -> dict[str, Any]:
        rate = round(users / cost["seconds"], 1)
        return {"stage": stage, "users": users} | more | cost | {"users_per_s": rate}

    width, out = args.shape
    yield row("select", cost_of(select, folder, users), d_in=width)
    shutil.rmtree(folder / "chosen")
    for hidden in args.hidden:
        cost = cost_of(migrate, folder, root / f"adapter-{hidden}")
        yield row("migrate", cost, d_in=width, d_out=out, hidden=hidden)
        shutil.rmtree(folder / "moved")
    yield row("user_metrics", cost_of(store_metrics, folder, users), metrics=len(METRICS))


if __name__ == "__main__":
    main()
