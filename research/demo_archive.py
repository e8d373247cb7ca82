"""Make the runs of the demo that ship with PUMA: `python -m research.demo_archive`.

It computes the whole demo in a new workspace, which takes some minutes, compares what is to ship, and
publishes that comparison to data/demo/measured.zip. Prompts are rounded to 16 bits before they are
evaluated, since the archive holds them so.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from puma_engine.defaults import DEMO_USERS
from puma_engine.pipeline import stage
from puma_engine.pipeline.demo import Demo, compare_shipped
from puma_engine.pipeline.demo_files import archive_file
from puma_engine.pipeline.publishing import publish
from puma_engine.pipeline.stored_prompts import ARTIFACT
from puma_engine.store import Run, Workspace


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the demo, and write its archive."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=archive_file())
    parser.add_argument("--workspace", type=Path, help="Where to compute (default: a new one).")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        ws = Workspace.open(args.workspace or Path(folder) / "workspace", create=True)
        published = publish(ws, computed(ws), args.out, command="python -m research.demo_archive")
        ws.close()
    print(f"{args.out}: {published.runs} runs, {published.bytes / 1e6:.1f} MB")


def computed(ws: Workspace, users: int = DEMO_USERS) -> Run:
    """Compute the demo, and return the comparison of what ships."""
    plan = Demo(ws, users, "cpu", prepare=lambda run: round_prompts(ws, run))
    for step in plan.steps():
        print(step.title, file=sys.stderr, flush=True)
        plan.runs[step.title] = step.make(stage.Execution("cpu"))
    return compare_shipped(plan)


def round_prompts(ws: Workspace, run: Run) -> None:
    """Round the prompts of a run to the nearest numbers of 16 bits."""
    arrays, ids, meta = ws.get_tensors(run.id, ARTIFACT)
    arrays["vectors"] = arrays["vectors"].astype(np.float16).astype(np.float32)
    ws.rewrite_tensors(run.id, ARTIFACT, arrays, ids or [], meta)


if __name__ == "__main__":
    main()
