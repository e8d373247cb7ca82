"""Builds models of the zoo: `python -m research.zoo --only NAME`.

Several processes may build different models at the same time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from puma_engine.errors import PumaError
from puma_engine.training.loop import Progress
from puma_engine.zoo import SHIPPED, ZOO
from research.zoo.build import build_model
from research.zoo.recipe import Recipe

PRINT_SECONDS = 10.0
SETTINGS = {
    "steps": "steps; sequences are drawn anew for each",
    "batch_size": "sequences a step",
    "learning_rate": "peak of the cosine schedule",
    "weight_decay": "of AdamW",
    "pairs": "known outcomes in the prompt slot, at most",
    "outcome_weight": "loss weight of outcomes in the slot (the answer's is 1)",
    "text_weight": "loss weight of all other text",
    "user_vectors_share": "share of sequences with a learned user vector in the slot",
    "seed": "of weights, plan and order",
}


def _print_progress(name: str) -> Callable[[Progress], None]:
    """Return a callback that prints the first step, and then one line every ten seconds."""
    last = [0.0]

    def show(progress: Progress) -> None:
        now = time.monotonic()
        if progress.step == progress.total or (last[0] and now - last[0] < PRINT_SECONDS):
            return
        last[0] = now
        print(
            f"{name}: step {progress.step}/{progress.total} loss {progress.loss:.3f} "
            f"{progress.examples_per_second:,.0f} sequences/s, {progress.eta_seconds:.0f} s left",
            flush=True,
        )

    return show


def main(argv: list[str] | None = None) -> int:
    """Build models from command-line arguments; return an exit code."""
    default = Recipe()
    parser = argparse.ArgumentParser(prog="python -m research.zoo", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=list(ZOO), help="build this model (default: all shipped)"
    )
    parser.add_argument("--out", type=Path, help="folder of the zoo (default: data/zoo)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--users", type=int, help="users of each data set, at most (for trials)")
    for name, text in SETTINGS.items():
        value = getattr(default, name)
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(value),
            default=value,
            help=f"{text} (default: %(default)s)",
        )
    given = parser.parse_args(argv)
    try:
        recipe = Recipe(**{name: getattr(given, name) for name in SETTINGS})
        for name in given.only or SHIPPED:
            built = build_model(
                name,
                out=given.out,
                recipe=recipe,
                device=given.device,
                users=given.users,
                progress=_print_progress(name),
            )
            summary = {key: built.card[key] for key in ("training_answer_loss", "validation")}
            print(f"{name}: {built.card['seconds']} s, {json.dumps(summary)}", flush=True)
    except PumaError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
