"""The campaign: runs the parts of the command line in several processes, and writes the figures."""

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
# Loaded once, before any fork. Further modules that the references load are loaded afterwards.
LIBRARIES = (
    *("torch", "transformers", "transformers.models.llama.modeling_llama", "accelerate"),
    *("pandas", "pyarrow.parquet", "pyarrow.csv", "safetensors.torch", "sklearn.cluster"),
    *("puma_engine.cli", "puma_engine.pipeline", "puma_engine.jobs.runner", "rich.progress"),
    *("puma_engine.serving.bulk", "puma_engine.serving.mapper"),
)
# Largest number of problems of each kind in the results.
EXAMPLES = 20


def main(arguments: list[str] | None = None) -> None:
    """Run the parts of the command line and write the figures, also after the time limit."""
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
    args = parser.parse_args(arguments)
    # There are many small commands.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    work = Path(tempfile.mkdtemp(prefix="puma-reliability-", dir=args.work))
    try:
        run(args, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the requested parts one after the other, and return the figures."""
    from benchmarks.provenance import machine, provenance, write_results

    end = time.monotonic() + 60 * args.minutes
    header = provenance() | machine() | {"processes": args.processes, "seed": args.seed}
    header["command"] = header["command"].replace(
        "benchmarks/reliability/__main__.py", "-m benchmarks.reliability"
    )
    # Parts that were measured before, perhaps on another machine, are kept.
    results = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    requested = {name: getattr(args, name) for name in PARTS if getattr(args, name)}
    for library in LIBRARIES if requested.keys() - {"sessions"} else ():
        import_module(library)
    left = sum(SHARES[name] for name in requested)
    for name in requested:
        # The remaining time of a part goes to the next.
        seconds = (end - time.monotonic()) * SHARES[name] / left
        left -= SHARES[name]
        began = time.monotonic()
        figures = PARTS[name](args, work, began + seconds)
        about = header | {"seconds": round(time.monotonic() - began, 1)}
        results[TITLES.get(name, name)] = {"about": about} | figures
        write_results(args.out, results)
    return results


def references_in(base: Path, only: str) -> dict[str, Any]:
    """Make the inputs, templates and references of the matching commands, unless they exist."""
    from benchmarks.reliability.forking import forked
    from benchmarks.reliability.workloads import WORKLOADS, reference_of, write_inputs

    if base not in _REFERENCES:
        base.mkdir()
        forked(write_inputs, base)
        chosen = [workload for workload in WORKLOADS if re.search(only, workload.name)]
        for workload in chosen:
            load_modules(reference_of(base, workload).place / "counts")
        # Once more, with everything loaded, and compared with the first run.
        _REFERENCES[base] = {workload.name: reference_of(base, workload) for workload in chosen}
    return _REFERENCES[base]


_REFERENCES: dict[Path, dict[str, Any]] = {}


def run_kills(args: argparse.Namespace, work: Path, deadline: float) -> dict[str, Any]:
    """Kill commands, and return the figures."""
    from benchmarks.reliability import kills
    from benchmarks.reliability.forking import in_processes

    base = work / "base"
    references = references_in(base, args.only)
    planned = kills.plan(references, args.kills, args.seed)

    def work_of(number: int) -> Iterator[dict[str, Any]]:
        part = planned[number :: args.processes]
        return kills.tries(base, references, part, work / f"process-{number}", deadline, args.seed)

    rows: list[dict[str, Any]] = []
    done = 0
    # A try that has begun may end within a minute after the deadline.
    for row in in_processes(args.processes, work_of, deadline + 60):
        rows.append(row)
        done += row.get("kills", 0)
        report(f"kills: {done} of {args.kills}", row.get("problems") or row.get("broken"))
        if done >= args.kills:
            break
    return failure_figures(rows) | {
        "moments": {name: reference.moments for name, reference in references.items()},
        "undisturbed_seconds": {
            name: round(reference.result.seconds, 2) for name, reference in references.items()
        },
    }


def run_power_losses(args: argparse.Namespace, work: Path, deadline: float) -> dict[str, Any]:
    """Simulate power losses, and return the figures."""
    from benchmarks.reliability import power_loss
    from benchmarks.reliability.forking import in_processes
    from benchmarks.reliability.workloads import WORKLOADS

    base = work / "base"
    references = references_in(base, args.only)
    recorded = [w for w in WORKLOADS if w.name in references and w.name != "worker"]
    states = work / "recorded"

    def record(number: int) -> Iterator[dict[str, Any]]:
        for workload in recorded[number :: args.processes]:
            yield from power_loss.record(base, workload, states / workload.name, args.seed)

    planned = list(in_processes(args.processes, record, deadline))
    broken = [row for row in planned if "broken" in row]
    planned = [row for row in planned if "broken" not in row]
    random.Random(args.seed).shuffle(planned)
    planned = planned[: args.power_loss]

    def work_of(number: int) -> Iterator[dict[str, Any]]:
        place = work / f"after-{number}"
        part = planned[number :: args.processes]
        return power_loss.tries(base, references, part, place, deadline)

    rows: list[dict[str, Any]] = list(broken)
    for row in in_processes(args.processes, work_of, deadline + 60):
        rows.append(row)
        report(
            f"power losses: {len(rows)} of {len(planned)}", row.get("problems") or row.get("broken")
        )
    return failure_figures(rows) | {"model": power_loss.__doc__, "states": len(planned)}


def failure_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts for each workload, and examples of problems."""
    broken = [row["broken"] for row in rows if "broken" in row]
    rows = [row for row in rows if "broken" not in row]
    columns = ("traceback", "hang", "refused", "other_values", "lost", "half_written")
    table = []
    for name in sorted({row["workload"] for row in rows}):
        of_workload = [row for row in rows if row["workload"] == name]
        counts = {
            column: sum(column in row["problems"] for row in of_workload) for column in columns
        }
        table.append(
            {
                "workload": name,
                "tries": len(of_workload),
                "kills": sum(row["kills"] for row in of_workload),
                "at_operations": sum(row.get("kind") == "at an operation" for row in of_workload),
                "cpu_seconds_a_try": round(
                    sum(row["cpu_seconds"] for row in of_workload) / len(of_workload), 2
                ),
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


def report(text: str, problem: Any = None) -> None:
    """Print progress, and problems at once."""
    if problem:
        print(f"\n{text}: {problem}", flush=True)
    elif sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


def run_mutations(args: argparse.Namespace, work: Path, deadline: float) -> dict[str, Any]:
    """Read damaged inputs, and return the figures."""
    from benchmarks.reliability import mutations
    from benchmarks.reliability.forking import forked, in_processes

    originals = work / "originals"
    forked(mutations.write_originals, originals)
    names = [name for name in mutations.READERS if re.search(args.only, name)]
    # Every reader gets the same number; batches go to one process, and all readers are tried early.
    each = -(-args.mutations // len(names))
    batches = [
        [(name, number) for number in range(start, min(start + mutations.BATCH, each))]
        for start in range(0, each, mutations.BATCH)
        for name in names
    ]

    def work_of(number: int) -> Iterator[dict[str, Any]]:
        cases = [case for batch in batches[number :: args.processes] for case in batch]
        place = work / f"damaged-{number}"
        return mutations.tries(originals, cases, place, deadline, args.seed)

    rows: list[dict[str, Any]] = []
    for row in in_processes(args.processes, work_of, deadline + 60):
        rows.append(row)
        failed = row.get("outcome") not in ("refused", "accepted")
        report(f"damaged inputs: {len(rows)} of {args.mutations}", row if failed else None)
    return mutation_figures(rows)


OUTCOMES = ("refused", "accepted", "traceback", "hang", "no sentence", "other values")


def mutation_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return counts for each reader, and examples of problems."""
    broken = [row["broken"] for row in rows if "broken" in row]
    rows = [row for row in rows if "broken" not in row]
    table = []
    for name in dict.fromkeys(row["reader"] for row in rows):
        outcomes = [row["outcome"] for row in rows if row["reader"] == name]
        counts = {outcome.replace(" ", "_"): outcomes.count(outcome) for outcome in OUTCOMES}
        table.append({"reader": name, "tries": len(outcomes), **counts})
    columns = ["tries", *(outcome.replace(" ", "_") for outcome in OUTCOMES)]
    return {
        "totals": {column: sum(row[column] for row in table) for column in columns},
        "rows": table,
        "examples": [row for row in rows if row["outcome"] not in OUTCOMES[:2]][:EXAMPLES],
        "broken_processes": broken,
    }


def run_sessions(args: argparse.Namespace, work: Path, _deadline: float) -> dict[str, Any]:
    """Open sessions of the dashboard on a copy of a workspace, and return their times and memory."""
    from benchmarks.reliability import sessions

    place = work / "sessions"
    if args.workspace is None:
        command = [sys.executable, "-m", "puma_engine.cli", "demo", "-w", str(place)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    else:
        # The socket of a what-if process is not a file to copy.
        shutil.copytree(args.workspace, place, ignore=shutil.ignore_patterns("whatif"))
    return {"rows": sessions.measure(place, args.sessions)}


Part = Callable[[argparse.Namespace, Path, float], dict[str, Any]]
PARTS: dict[str, Part] = {
    "kills": run_kills,
    "power_loss": run_power_losses,
    "mutations": run_mutations,
    "sessions": run_sessions,
}
TITLES = {"power_loss": "power_losses"}
# Relative shares of the time.
SHARES = {"kills": 3.0, "mutations": 2.0, "power_loss": 2.0, "sessions": 1.0}
