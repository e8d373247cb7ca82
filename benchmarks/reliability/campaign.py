"""The campaign: what is asked for on the command line, spread over processes, and its figures."""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Loaded once, before any fork. What the references load besides is loaded afterwards.
LIBRARIES = (
    *("torch", "transformers", "transformers.models.llama.modeling_llama", "accelerate"),
    *("pandas", "pyarrow.parquet", "pyarrow.csv", "safetensors.torch", "sklearn.cluster"),
    *("puma_engine.cli", "puma_engine.pipeline", "puma_engine.jobs.runner", "rich.progress"),
    *("puma_engine.serving.bulk", "puma_engine.serving.mapper"),
)
# Sentences of problems that are kept of each kind.
EXAMPLES = 20


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for and write the figures, also when time is up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs of commands")
    parser.add_argument("--mutations", type=int, default=0, help="damaged inputs")
    parser.add_argument(
        "--power-loss",
        type=int,
        nargs="?",
        const=10**6,
        default=0,
        metavar="N",
        help="power losses at every operation, or a draw of N of them",
    )
    parser.add_argument(
        "--sessions", type=int, default=0, metavar="N", help="sessions of the dashboard at once"
    )
    parser.add_argument(
        "--workspace", type=Path, help="workspace that sessions open (default: a demo is run)"
    )
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of everything")
    parser.add_argument("--only", default="", help="commands and readers that match")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for workspaces, best in memory")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/reliability.json")
    given = parser.parse_args(arguments)
    # Commands are many, and each is small.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    work = Path(tempfile.mkdtemp(prefix="puma-reliability-", dir=given.work))
    try:
        run(given, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the parts that are asked for, one after the other, and return the figures."""
    from benchmarks.provenance import machine, provenance, write_results

    end = time.monotonic() + 60 * given.minutes
    about = provenance() | machine() | {"processes": given.processes, "seed": given.seed}
    about["command"] = about["command"].replace(
        "benchmarks/reliability/__main__.py", "-m benchmarks.reliability"
    )
    # Parts that were measured before, on another machine perhaps, stay.
    results = json.loads(given.out.read_text("utf-8")) if given.out.is_file() else {}
    asked = {name: getattr(given, name) for name in PARTS if getattr(given, name)}
    for library in LIBRARIES if asked.keys() - {"sessions"} else ():
        import_module(library)
    left = sum(SHARES[name] for name in asked)
    for name in asked:
        # What one part leaves of its time goes to the next.
        seconds = (end - time.monotonic()) * SHARES[name] / left
        left -= SHARES[name]
        began = time.monotonic()
        figures = PARTS[name](given, work, began + seconds)
        facts = about | {"seconds": round(time.monotonic() - began, 1)}
        results[TITLES.get(name, name)] = {"about": facts} | figures
        write_results(given.out, results)
    return results


def references_in(base: Path, only: str) -> dict[str, Any]:
    """Make the inputs, templates and references of the commands that match, unless they are there."""
    from benchmarks.reliability.forking import forked
    from benchmarks.reliability.workloads import WORKLOADS, reference_of, write_inputs

    if base not in _REFERENCES:
        base.mkdir()
        forked(write_inputs, base)
        chosen = [workload for workload in WORKLOADS if re.search(only, workload.name)]
        for workload in chosen:
            load_modules(reference_of(base, workload).place / "counts")
        # Again, with everything loaded, and compared with the first time.
        _REFERENCES[base] = {workload.name: reference_of(base, workload) for workload in chosen}
    return _REFERENCES[base]


_REFERENCES: dict[Path, dict[str, Any]] = {}


def run_kills(given: argparse.Namespace, work: Path, deadline: float) -> dict[str, Any]:
    """Kill commands, and return what came out."""
    from benchmarks.reliability import kills
    from benchmarks.reliability.forking import in_slots

    base = work / "base"
    references = references_in(base, given.only)
    planned = kills.plan(references, given.kills, given.seed)

    def slot(number: int) -> Iterator[dict[str, Any]]:
        part = planned[number :: given.processes]
        return kills.tries(base, references, part, work / f"slot-{number}", deadline, given.seed)

    rows: list[dict[str, Any]] = []
    done = 0
    # A try that has begun is waited for, for a while.
    for row in in_slots(given.processes, slot, deadline + 60):
        rows.append(row)
        done += row.get("kills", 0)
        say(f"kills: {done} of {given.kills}", row.get("problems") or row.get("broken"))
        if done >= given.kills:
            break
    return failure_figures(rows) | {
        "moments": {name: reference.moments for name, reference in references.items()},
        "undisturbed_seconds": {
            name: round(reference.ended.seconds, 2) for name, reference in references.items()
        },
    }


def run_power_losses(given: argparse.Namespace, work: Path, deadline: float) -> dict[str, Any]:
    """Lose what was not synced, and return what came out."""
    from benchmarks.reliability import power_loss
    from benchmarks.reliability.forking import in_slots
    from benchmarks.reliability.workloads import WORKLOADS

    base = work / "base"
    references = references_in(base, given.only)
    recorded = [w for w in WORKLOADS if w.name in references and w.name != "worker"]
    states = work / "recorded"

    def record(number: int) -> Iterator[dict[str, Any]]:
        for workload in recorded[number :: given.processes]:
            yield from power_loss.record(base, workload, states / workload.name, given.seed)

    planned = list(in_slots(given.processes, record, deadline))
    broken = [row for row in planned if "broken" in row]
    planned = [row for row in planned if "broken" not in row]
    random.Random(given.seed).shuffle(planned)
    planned = planned[: given.power_loss]

    def slot(number: int) -> Iterator[dict[str, Any]]:
        place = work / f"after-{number}"
        part = planned[number :: given.processes]
        return power_loss.tries(base, references, part, place, deadline)

    rows: list[dict[str, Any]] = list(broken)
    for row in in_slots(given.processes, slot, deadline + 60):
        rows.append(row)
        say(
            f"power losses: {len(rows)} of {len(planned)}", row.get("problems") or row.get("broken")
        )
    return failure_figures(rows) | {"model": power_loss.__doc__, "states": len(planned)}


def failure_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts a workload, and examples of problems."""
    broken = [row["broken"] for row in rows if "broken" in row]
    rows = [row for row in rows if "broken" not in row]
    columns = ("traceback", "hang", "refused", "other_values", "lost", "half_written")
    table = []
    for name in sorted({row["workload"] for row in rows}):
        own = [row for row in rows if row["workload"] == name]
        counts = {column: sum(column in row["problems"] for row in own) for column in columns}
        table.append(
            {
                "workload": name,
                "tries": len(own),
                "kills": sum(row["kills"] for row in own),
                "at_operations": sum(row.get("kind") == "at an operation" for row in own),
                "cpu_seconds_a_try": round(sum(row["cpu_seconds"] for row in own) / len(own), 2),
                **counts,
            }
        )
    totals = {column: sum(row[column] for row in table) for column in ("tries", "kills", *columns)}
    examples = [
        {name: row[name] for name in row if name not in ("kills", "cpu_seconds", "seconds")}
        for row in rows
        if row["problems"]
    ]
    return {
        "totals": totals,
        "rows": table,
        "examples": examples[:EXAMPLES],
        "broken_processes": broken,
    }


def load_modules(folder: Path) -> None:
    """Load the modules that the processes of a reference loaded."""
    for file in folder.glob("*.modules"):
        for name in file.read_text(encoding="utf-8").split():
            if name not in sys.modules:
                with suppress(Exception):
                    import_module(name)


def say(text: str, problem: Any = None) -> None:
    """Print progress, and problems at once."""
    if problem:
        print(f"\n{text}: {problem}", flush=True)
    elif sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


def run_mutations(given: argparse.Namespace, work: Path, deadline: float) -> dict[str, Any]:
    """Read damaged inputs, and return what came out."""
    from benchmarks.reliability import mutations
    from benchmarks.reliability.forking import forked, in_slots

    originals = work / "originals"
    forked(mutations.write_originals, originals)
    names = [name for name in mutations.READERS if re.search(given.only, name)]
    # Every reader gets as many; whole batches go to one process, and all readers come early.
    each = -(-given.mutations // len(names))
    batches = [
        [(name, number) for number in range(start, min(start + mutations.BATCH, each))]
        for start in range(0, each, mutations.BATCH)
        for name in names
    ]

    def slot(number: int) -> Iterator[dict[str, Any]]:
        cases = [case for batch in batches[number :: given.processes] for case in batch]
        place = work / f"damaged-{number}"
        return mutations.tries(originals, cases, place, deadline, given.seed)

    rows: list[dict[str, Any]] = []
    for row in in_slots(given.processes, slot, deadline + 60):
        rows.append(row)
        bad = row.get("outcome") not in ("refused", "accepted")
        say(f"damaged inputs: {len(rows)} of {given.mutations}", row if bad else None)
    return mutation_figures(rows)


OUTCOMES = ("refused", "accepted", "traceback", "hang", "no sentence", "other values")


def mutation_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts a reader, and examples of problems."""
    broken = [row["broken"] for row in rows if "broken" in row]
    rows = [row for row in rows if "broken" not in row]
    table = []
    for name in dict.fromkeys(row["reader"] for row in rows):
        own = [row["outcome"] for row in rows if row["reader"] == name]
        counts = {outcome.replace(" ", "_"): own.count(outcome) for outcome in OUTCOMES}
        table.append({"reader": name, "tries": len(own), **counts})
    columns = ["tries", *(outcome.replace(" ", "_") for outcome in OUTCOMES)]
    return {
        "totals": {column: sum(row[column] for row in table) for column in columns},
        "rows": table,
        "examples": [row for row in rows if row["outcome"] not in OUTCOMES[:2]][:EXAMPLES],
        "broken_processes": broken,
    }


def run_sessions(given: argparse.Namespace, work: Path, _deadline: float) -> dict[str, Any]:
    """Open sessions of the dashboard on a copy of a workspace, and return their times and memory."""
    from benchmarks.reliability import sessions

    place = work / "sessions"
    if given.workspace is None:
        command = [sys.executable, "-m", "puma_engine.cli", "demo", "-w", str(place)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    else:
        # The socket of a what-if process is no file to copy.
        shutil.copytree(given.workspace, place, ignore=shutil.ignore_patterns("whatif"))
    return {"rows": sessions.measure(place, given.sessions)}


Part = Callable[[argparse.Namespace, Path, float], dict[str, Any]]
PARTS: dict[str, Part] = {
    "kills": run_kills,
    "power_loss": run_power_losses,
    "mutations": run_mutations,
    "sessions": run_sessions,
}
TITLES = {"power_loss": "power_losses"}
# Of the time, relative to each other.
SHARES = {"kills": 3.0, "mutations": 2.0, "power_loss": 2.0, "sessions": 1.0}
